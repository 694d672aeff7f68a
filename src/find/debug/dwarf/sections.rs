// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The sections of one file, and the addresses that its units refer to.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use anyhow::Result;
use gimli::{AttributeValue, IndexSectionId, SectionId, UnitIndexSection};

use super::section::LazySection;
use super::unit::{EntryValue, Unit};
use crate::find::elf::sections::SectionReader;

/// A name that no section has: that of sections which are not split.
const NOT_SPLIT: &str = ".dwo";

/// The sections that describe functions. `.debug_line`, often half of the debug information, is not one of them.
pub struct DebugSections {
    pub abbrev: LazySection,
    pub aranges: LazySection,
    units: UnitSections,
    pub line_str: LazySection,
    pub loc: LazySection,
    pub loclists: LazySection,
    pub ranges: LazySection,
    pub rnglists: LazySection,
    pub str: LazySection,
    pub str_offsets: LazySection,
    addresses: UnitAddresses,
}

struct UnitSections {
    info: LazySection,
    /// Type units of DWARF 4.
    types: LazySection,
}

struct UnitAddresses {
    section: LazySection,
    /// The content of the section, once it is needed, or the part for a `.dwo` file.
    content: OnceCell<Vec<u8>>,
    /// In a `.dwo` file, the address that lists start from.
    skeleton_low_pc: Option<u64>,
}

impl DebugSections {
    /// Subtracts the sizes of the sections from `budget`.
    pub fn open(file: SectionReader, budget: &mut u64) -> Result<DebugSections> {
        DebugSections::open_named(file, budget, |id| id.name())
    }

    /// The sections of a `.dwo` file. `skeleton` is its unit in `main`, which has the addresses.
    pub fn open_split(
        file: SectionReader,
        budget: &mut u64,
        main: &DebugSections,
        skeleton: &Unit,
    ) -> Result<DebugSections> {
        let mut sections = DebugSections::open_named(file, budget, |id| id.dwo_name().unwrap_or(NOT_SPLIT))?;
        let addresses = main.address_bytes().get(skeleton.root.addr_base..);
        sections.addresses.content = OnceCell::from(addresses.unwrap_or_default().to_vec());
        sections.addresses.skeleton_low_pc = Some(main.low_pc(skeleton));
        Ok(sections)
    }

    /// Leaves of each section what belongs to one unit of a package. `None` if a part is not inside its section, or
    /// the section is compressed.
    pub fn into_parts(mut self, parts: &[UnitIndexSection]) -> Option<DebugSections> {
        // The units of types are parts of their own.
        self.units.types = self.units.types.part(0..0)?;
        for part in parts {
            let section = match part.section {
                IndexSectionId::DebugAbbrev => &mut self.abbrev,
                IndexSectionId::DebugInfo => &mut self.units.info,
                IndexSectionId::DebugLoc => &mut self.loc,
                IndexSectionId::DebugLocLists => &mut self.loclists,
                IndexSectionId::DebugRngLists => &mut self.rnglists,
                IndexSectionId::DebugStrOffsets => &mut self.str_offsets,
                _ => continue,
            };
            let start = part.offset as usize;
            *section = section.part(start..start.checked_add(part.size as usize)?)?;
        }
        Some(self)
    }

    fn open_named(
        file: SectionReader,
        budget: &mut u64,
        name: impl Fn(SectionId) -> &'static str,
    ) -> Result<DebugSections> {
        let file = Rc::new(file);
        let mut open = |id: SectionId| LazySection::open(&file, name(id), budget);
        Ok(DebugSections {
            abbrev: open(SectionId::DebugAbbrev)?,
            aranges: open(SectionId::DebugAranges)?,
            units: UnitSections {
                info: open(SectionId::DebugInfo)?,
                types: open(SectionId::DebugTypes)?,
            },
            line_str: open(SectionId::DebugLineStr)?,
            loc: open(SectionId::DebugLoc)?,
            loclists: open(SectionId::DebugLocLists)?,
            ranges: open(SectionId::DebugRanges)?,
            rnglists: open(SectionId::DebugRngLists)?,
            str: open(SectionId::DebugStr)?,
            str_offsets: open(SectionId::DebugStrOffsets)?,
            addresses: UnitAddresses {
                section: open(SectionId::DebugAddr)?,
                content: OnceCell::new(),
                skeleton_low_pc: None,
            },
        })
    }

    /// Begins to decompress the smaller sections that most questions lead to. Keeping all of `.debug_info` takes longer
    /// than waiting for the part that is needed.
    pub fn read_ahead(&self) {
        for section in [&self.loclists, &self.abbrev] {
            section.read_ahead();
        }
    }

    /// Bytes of all units. Offsets of those in `.debug_types` follow those in `.debug_info`.
    pub fn units_size(&self) -> usize {
        self.units.info.size() + self.units.types.size()
    }

    /// Whether the unit at this offset is in `.debug_types`.
    pub fn is_in_types(&self, at: usize) -> bool {
        at >= self.units.info.size()
    }

    /// The end of the section with the unit at this offset.
    pub fn unit_section_end(&self, at: usize) -> usize {
        match self.is_in_types(at) {
            true => self.units_size(),
            false => self.units.info.size(),
        }
    }

    /// `None` unless all of the range is inside one section.
    pub fn read_units(&self, range: Range<usize>) -> Option<Vec<u8>> {
        match range.start.checked_sub(self.units.info.size()) {
            Some(start) => self
                .units
                .types
                .read(start..range.end.checked_sub(self.units.info.size())?),
            None => self.units.info.read(range),
        }
    }

    /// At most `most` bytes from `start` on: fewer at the end of a section.
    pub fn read_units_up_to(&self, start: usize, most: usize) -> Option<Vec<u8>> {
        let end = start.saturating_add(most).min(self.unit_section_end(start));
        self.read_units(start..end)
    }

    /// Whether lists of this version can be read: those in the `.dwo` files of DWARF 4 have a format of their own.
    pub fn has_lists_of(&self, version: u16) -> bool {
        version >= 5 || self.addresses.skeleton_low_pc.is_none()
    }

    /// The address that range lists and location lists of a unit start from; 0 if the unit does not say.
    pub fn low_pc(&self, unit: &Unit) -> u64 {
        let low = unit.root.low_pc.as_ref();
        low.and_then(|value| self.address(unit, value))
            .or(self.addresses.skeleton_low_pc)
            .unwrap_or(0)
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
        let size = self.addresses.section.size();
        let read = || self.addresses.section.read(0..size).unwrap_or_default();
        self.addresses.content.get_or_init(read)
    }
}
