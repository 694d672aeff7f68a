// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The sections of one file, and the addresses that its units refer to.

use std::cell::OnceCell;
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
    pub info: LazySection,
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
