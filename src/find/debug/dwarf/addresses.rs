// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which units have code at an address.

use std::ops::Range;

use gimli::{DebugAranges, EndianSlice, LittleEndian};

/// Ranges that are looked at for one address: more than one holds it only where they overlap.
const MAX_OVERLAPS: usize = 64;

/// Ranges of addresses, with the offset of the unit that each belongs to.
#[derive(Default)]
pub struct AddressTable {
    /// By start.
    ranges: Vec<UnitRange>,
    /// Offsets in order, also those of units without a range.
    units: Vec<usize>,
    /// Units that do not say where their code is.
    anywhere: Vec<usize>,
}

struct UnitRange {
    start: u64,
    end: u64,
    unit: usize,
    /// The highest `end` of this range and all before it.
    reach: u64,
}

impl AddressTable {
    /// The table of `.debug_aranges`. Damage ends it.
    pub fn parse(section: &[u8]) -> AddressTable {
        let mut table = AddressTable::default();
        let mut headers = DebugAranges::from(EndianSlice::new(section, LittleEndian)).headers();
        while let Ok(Some(header)) = headers.next() {
            let mut entries = header.entries();
            let ranges = std::iter::from_fn(|| entries.next().ok()?);
            table.add(
                header.debug_info_offset().0,
                ranges.map(|entry| {
                    let start = entry.address();
                    start..start.saturating_add(entry.length())
                }),
            );
        }
        table.finish();
        table
    }

    /// Adds the ranges of the unit at offset `unit`. Needs [`AddressTable::finish`] after the last unit.
    pub fn add(&mut self, unit: usize, ranges: impl IntoIterator<Item = Range<u64>>) {
        self.units.push(unit);
        self.ranges.extend(ranges.into_iter().map(|range| UnitRange {
            start: range.start,
            end: range.end,
            unit,
            reach: range.end,
        }));
    }

    /// Adds a unit that does not say where its code is.
    pub fn add_anywhere(&mut self, unit: usize) {
        self.units.push(unit);
        self.anywhere.push(unit);
    }

    pub fn finish(&mut self) {
        self.units.sort_unstable();
        self.ranges
            .sort_unstable_by_key(|range| (range.start, range.unit));
        let mut reach = 0;
        for range in &mut self.ranges {
            reach = reach.max(range.end);
            range.reach = reach;
        }
    }

    /// The offsets of the units with code at `addr`, in order, and then of those that may have.
    pub fn units_with(&self, addr: u64) -> Vec<usize> {
        let after = self.ranges.partition_point(|range| range.start <= addr);
        let before = self.ranges.get(..after).unwrap_or_default();
        let reaching = before
            .iter()
            .rev()
            .take(MAX_OVERLAPS)
            .take_while(|range| range.reach > addr);
        let mut units: Vec<usize> = reaching
            .filter(|range| range.end > addr)
            .map(|range| range.unit)
            .collect();
        units.sort_unstable();
        units.dedup();
        units.extend_from_slice(&self.anywhere);
        units
    }

    pub fn has_unit(&self, unit: usize) -> bool {
        self.units.binary_search(&unit).is_ok()
    }

    /// The offset of the last unit that begins at `at` or before.
    pub fn unit_before(&self, at: usize) -> Option<usize> {
        let after = self.units.partition_point(|&unit| unit <= at);
        self.units.get(after.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_in_overlapping_ranges_has_all_units() {
        let mut table = AddressTable::default();
        table.add(300, [0x1000..0x2000, 0x5000..0x5001]);
        table.add(100, std::iter::once(0x1800..0x1900));
        table.add(200, []);
        table.finish();
        assert_eq!(table.units_with(0x17ff), [300]);
        assert_eq!(table.units_with(0x1800), [100, 300]);
        assert_eq!(table.units_with(0x1900), [300]);
        for outside in [0, 0xfff, 0x2000, 0x5001, u64::MAX] {
            assert!(table.units_with(outside).is_empty(), "{outside:#x}");
        }
        assert!(table.has_unit(200) && !table.has_unit(201));
        assert_eq!(
            [99, 100, 250, 999].map(|at| table.unit_before(at)),
            [None, Some(100), Some(200), Some(300)]
        );
    }

    #[test]
    fn damaged_section_is_an_empty_table() {
        for section in [&[][..], &[0xff; 40], &[40, 0, 0, 0, 2, 0]] {
            assert!(AddressTable::parse(section).units_with(0).is_empty());
        }
    }
}
