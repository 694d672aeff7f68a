// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Packages of split DWARF: the units of many `.dwo` files, joined by `dwp`, with an index of which part of each
//! section belongs to which unit.

use std::fs::File;

use gimli::{DebugCuIndex, LittleEndian, SectionId, UnitIndex};

use super::section::LazySection;
use super::sections::DebugSections;
use super::unit::{Unit, UnitBytes};
use crate::find::elf::sections::SectionReader;

/// Most bytes of the index: those of 200,000 units.
const MAX_INDEX: u64 = 16 << 20;
/// Most bytes of all sections, of which only parts are read.
const MAX_BYTES: u64 = 16 << 30;

/// An open package.
pub struct Package {
    file: File,
    index: UnitIndex<UnitBytes>,
}

impl Package {
    /// `None` if the file is not a package, or is damaged.
    pub fn open(file: File) -> Option<Package> {
        let sections = SectionReader::open(file.try_clone().ok()?).ok()?;
        let mut budget = MAX_INDEX;
        let index = LazySection::open(&sections.into(), SectionId::DebugCuIndex.name(), &mut budget).ok()?;
        let bytes = UnitBytes::new(index.read(0..index.size())?.into(), LittleEndian);
        let index = DebugCuIndex::from(bytes).index().ok()?;
        (index.unit_count() > 0).then_some(Package { file, index })
    }

    /// The sections of the unit whose `skeleton` is in `main`. `None` if the package does not have it.
    pub fn unit(&self, main: &DebugSections, skeleton: &Unit) -> Option<DebugSections> {
        let row = self.index.find(skeleton.root.split.id?)?;
        let parts: Vec<_> = self.index.sections(row).ok()?.collect();
        let mut budget = MAX_BYTES;
        let file = SectionReader::open(self.file.try_clone().ok()?).ok()?;
        DebugSections::open_split(file, &mut budget, main, skeleton)
            .ok()?
            .into_parts(&parts)
    }
}
