// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The sections of one file, and the addresses that its units refer to.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;
use gimli::{AttributeValue, SectionId};

use super::section::LazySection;
use super::unit::{EntryValue, Unit};
use crate::find::elf::sections::SectionReader;

/// The sections that describe functions. `.debug_line`, often half of the debug information, is not one of them.
pub struct DebugSections {
    pub abbrev: LazySection,
    addr: LazySection,
    pub aranges: LazySection,
    info: LazySection,
    /// Type units of DWARF 4.
    types: LazySection,
    pub line_str: LazySection,
    pub loc: LazySection,
    pub loclists: LazySection,
    pub ranges: LazySection,
    pub rnglists: LazySection,
    pub str: LazySection,
    pub str_offsets: LazySection,
    /// The content of `addr`, once it is needed.
    addresses: OnceCell<Vec<u8>>,
}

impl DebugSections {
    /// Subtracts the sizes of the sections from `budget`.
    pub fn open(file: SectionReader, budget: &mut u64) -> Result<DebugSections> {
        let file = Rc::new(file);
        let mut open = |id: SectionId| LazySection::open(&file, id.name(), budget);
        Ok(DebugSections {
            abbrev: open(SectionId::DebugAbbrev)?,
            addr: open(SectionId::DebugAddr)?,
            aranges: open(SectionId::DebugAranges)?,
            info: open(SectionId::DebugInfo)?,
            types: open(SectionId::DebugTypes)?,
            line_str: open(SectionId::DebugLineStr)?,
            loc: open(SectionId::DebugLoc)?,
            loclists: open(SectionId::DebugLocLists)?,
            ranges: open(SectionId::DebugRanges)?,
            rnglists: open(SectionId::DebugRngLists)?,
            str: open(SectionId::DebugStr)?,
            str_offsets: open(SectionId::DebugStrOffsets)?,
            addresses: OnceCell::new(),
        })
    }

    /// Bytes of all units. Offsets of those in `.debug_types` follow those in `.debug_info`.
    pub fn units_size(&self) -> usize {
        self.info.size() + self.types.size()
    }

    /// Whether the unit at this offset is in `.debug_types`.
    pub fn is_in_types(&self, at: usize) -> bool {
        at >= self.info.size()
    }

    /// The end of the section with the unit at this offset.
    pub fn unit_section_end(&self, at: usize) -> usize {
        match self.is_in_types(at) {
            true => self.units_size(),
            false => self.info.size(),
        }
    }

    /// `None` unless all of the range is inside one section.
    pub fn read_units(&self, range: Range<usize>) -> Option<Vec<u8>> {
        match range.start.checked_sub(self.info.size()) {
            Some(start) => self.types.read(start..range.end.checked_sub(self.info.size())?),
            None => self.info.read(range),
        }
    }

    /// At most `most` bytes from `start` on: fewer at the end of a section.
    pub fn read_units_up_to(&self, start: usize, most: usize) -> Option<Vec<u8>> {
        let end = start.saturating_add(most).min(self.unit_section_end(start));
        self.read_units(start..end)
    }

    /// The address that range lists and location lists of a unit start from; 0 if the unit does not say.
    pub fn low_pc(&self, unit: &Unit) -> u64 {
        let low = unit.root.low_pc.as_ref();
        low.and_then(|value| self.address(unit, value)).unwrap_or(0)
    }

    /// An address of an entry of `unit`. `None` if the value is not an address.
    pub fn address(&self, unit: &Unit, value: &EntryValue) -> Option<u64> {
        match value {
            AttributeValue::Addr(addr) => Some(*addr),
            AttributeValue::DebugAddrIndex(index) => {
                let at = unit.root.addr_base.checked_add(index.0.checked_mul(8)?)?;
                let bytes = self.address_bytes().get(at..at.checked_add(8)?)?;
                bytes.try_into().ok().map(u64::from_le_bytes)
            }
            _ => None,
        }
    }

    /// The content of `.debug_addr`.
    pub fn address_bytes(&self) -> &[u8] {
        let size = self.addr.size();
        self.addresses
            .get_or_init(|| self.addr.read(0..size).unwrap_or_default())
    }
}
