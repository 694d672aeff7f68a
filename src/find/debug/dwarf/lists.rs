// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Range lists and location lists, of which only the bytes of one list are read.

use std::ops::Range;

use gimli::{
    AttributeValue, DebugAddr, DebugAddrBase, DebugLoc, DebugLocLists, DebugRanges, DebugRngLists,
    EndianSlice, Format, LittleEndian, LocationLists, LocationListsOffset, RangeLists, RangeListsOffset,
};

use super::section::LazySection;
use super::sections::DebugSections;
use super::unit::{EntryValue, Unit};

/// Bytes of a list that are read at first, and at most.
const FIRST_BYTES: usize = 512;
const MAX_BYTES: usize = 1 << 20;
/// Entries of a location list in which that of the first instruction is looked for.
const MAX_LOCATIONS: usize = 64;

/// Calls `parse` with more and more bytes from `start` on, until it finds what it needs or there are no more. `parse`
/// returns `None` when an entry is cut off. It cannot see a cut between two entries, which looks like the end of the
/// list, so it must also find the same without the last byte: no entry but the last is that short.
fn with_list<T>(
    section: &LazySection,
    start: usize,
    parse: impl Fn(EndianSlice<'_, LittleEndian>) -> Option<T>,
) -> Option<T> {
    let mut most = FIRST_BYTES;
    loop {
        let bytes = section.read_up_to(start, most)?;
        let is_all = bytes.len() < most || most >= MAX_BYTES;
        let parse = |bytes| parse(EndianSlice::new(bytes, LittleEndian));
        let is_whole = is_all
            || bytes
                .split_last()
                .is_some_and(|(_, before)| parse(before).is_some());
        match is_whole.then(|| parse(&bytes)).flatten() {
            None if !is_all => most *= 8,
            found => return found,
        }
    }
}

/// Where list number `index` of a unit begins, by the table of offsets at `base`.
fn list_at(section: &LazySection, unit: &Unit, base: Option<usize>, index: usize) -> Option<usize> {
    let base = base?;
    let offset = match unit.encoding().format {
        Format::Dwarf32 => section.read_u32(base.checked_add(index.checked_mul(4)?)?)? as usize,
        Format::Dwarf64 => section
            .read_u64(base.checked_add(index.checked_mul(8)?)?)?
            .try_into()
            .ok()?,
    };
    base.checked_add(offset)
}

impl DebugSections {
    /// The first `most` ranges of addresses of an entry of `unit` that are not empty. `None` if the list is damaged or
    /// longer than [`MAX_BYTES`].
    pub fn address_ranges(&self, unit: &Unit, value: &EntryValue, most: usize) -> Option<Vec<Range<u64>>> {
        let (old, new) = (&self.ranges, &self.rnglists);
        let version = unit.encoding().version;
        if !self.has_lists_of(version) {
            return None;
        }
        let is_new = version >= 5;
        let section = if is_new { new } else { old };
        let start = match value {
            AttributeValue::RangeListsRef(at) => at.0,
            AttributeValue::DebugRngListsIndex(index) => {
                list_at(new, unit, unit.root.rnglists_base, index.0)?
            }
            _ => return None,
        };
        let addresses = DebugAddr::from(EndianSlice::new(self.address_bytes(), LittleEndian));
        let base = DebugAddrBase(unit.root.addr_base);
        let low = self.low_pc(unit);
        with_list(section, start, |bytes| {
            let lists = RangeLists::new(DebugRanges::from(bytes), DebugRngLists::from(bytes));
            let mut ranges = lists
                .ranges(RangeListsOffset(0), unit.encoding(), low, &addresses, base)
                .ok()?;
            let mut found = Vec::new();
            while found.len() < most {
                match ranges.next() {
                    Ok(Some(range)) if range.begin < range.end => found.push(range.begin..range.end),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return None,
                }
            }
            Some(found)
        })
    }

    /// The location description that a list has for the instruction at `addr`.
    pub fn location(&self, unit: &Unit, value: &EntryValue, addr: u64) -> Option<Vec<u8>> {
        let (old, new) = (&self.loc, &self.loclists);
        let version = unit.encoding().version;
        if !self.has_lists_of(version) {
            return None;
        }
        let is_new = version >= 5;
        let section = if is_new { new } else { old };
        let start = match value {
            AttributeValue::LocationListsRef(at) => at.0,
            AttributeValue::DebugLocListsIndex(index) => {
                list_at(new, unit, unit.root.loclists_base, index.0)?
            }
            _ => return None,
        };
        let addresses = DebugAddr::from(EndianSlice::new(self.address_bytes(), LittleEndian));
        let base = DebugAddrBase(unit.root.addr_base);
        let low = self.low_pc(unit);
        with_list(section, start, |bytes| {
            let lists = LocationLists::new(DebugLoc::from(bytes), DebugLocLists::from(bytes));
            let mut locations = lists
                .locations(LocationListsOffset(0), unit.encoding(), low, &addresses, base)
                .ok()?;
            for _ in 0..MAX_LOCATIONS {
                match locations.next() {
                    Ok(Some(entry)) if (entry.range.begin..entry.range.end).contains(&addr) => {
                        return Some(Some(entry.data.0.slice().to_vec()));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return None,
                }
            }
            Some(None)
        })?
    }
}
