// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions in DWARF debug information, versions 4 and 5: their parameters, with types and locations.
//!
//! Only the units that a question leads to are read: the unit of a function by `.debug_aranges` or by the
//! addresses that units give for themselves, and other units when a reference leads there. A class
//! that a unit only declares has no members, nor has one in a type unit of a package of split DWARF (`.dwp`).
//!
//! The file is untrusted: references are followed to a limited depth, and the number of bytes and entries that are read
//! in total is limited by the size of the file.

mod addresses;
mod entries;
mod files;
mod index;
mod inlined;
mod lists;
mod location;
mod member_list;
mod package;
mod section;
mod sections;
mod signature;
mod split;
#[cfg(test)]
mod tests;
mod text_types;
mod type_entries;
mod type_kinds;
mod type_layouts;
mod type_names;
mod type_passing;
mod unit;
mod unit_walk;
mod units;

use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use gimli::SectionId;

use super::types::FunctionSignature;
use crate::find::elf::sections::SectionReader;
use files::DebugFiles;
use sections::DebugSections;
use signature::SignatureDecoder;
use split::SplitUnits;
use units::UnitTable;

/// Most bytes of debug information, decompressed. Browsers have less.
const MAX_BYTES: u64 = 1 << 30;

/// The debug information of one file.
pub struct DebugInfo {
    files: Rc<DebugFiles>,
    signatures: SignatureDecoder,
    split: Option<SplitUnits>,
}

impl DebugInfo {
    /// Opens `file`: the program or library itself, or its separate debug file. `shared` is the supplementary
    /// file that `.gnu_debugaltlink` names, in which `dwz` put what several debug files have in common;
    /// without it, types from there are unknown. `None` if the file has no debug information. The files stay
    /// open and are read as needed.
    ///
    /// # Errors
    /// A file cannot be read, its sections are damaged or too large, or compressed with something other than
    /// zlib and zstd. Damage inside a section is not an error: what it affects is missing, and once it was met,
    /// [`DebugInfo::met_damage`] is true.
    pub fn open(file: &File, shared: Option<&File>) -> Result<Option<DebugInfo>> {
        let mut budget = MAX_BYTES;
        let main = open_units(file, &mut budget).context("failed to read debug information")?;
        let Some(main) = main else {
            return Ok(None);
        };
        let shared = match shared {
            Some(file) => open_units(file, &mut budget).context("failed to read shared debug information")?,
            None => None,
        };
        let files = Rc::new(DebugFiles::new(main, shared));
        let signatures = SignatureDecoder::new(Rc::clone(&files));
        Ok(Some(DebugInfo {
            files,
            signatures,
            split: None,
        }))
    }

    /// With what is in the package `path.dwp`, and in `.dwo` files, which are looked for where the compiler wrote them
    /// and beside the program at `path`.
    pub fn with_split_files(self, path: &Path) -> DebugInfo {
        let split = SplitUnits::new(Rc::clone(&self.files), path.to_owned());
        DebugInfo {
            split: Some(split),
            ..self
        }
    }

    /// Begins to decompress what signatures are read from, if that takes long.
    pub fn read_ahead(&self) {
        self.files.main.sections.read_ahead();
    }

    /// The signature of the function whose first instruction has the virtual address `addr` in the file. `None` if the
    /// debug information has no such function, or has no types.
    pub fn signature(&self, addr: u64) -> Option<FunctionSignature> {
        let split = || self.split.as_ref()?.signature(addr);
        self.signatures.signature(addr).or_else(split)
    }

    /// The name of the `.dwo` file that has the debug information of the function at `addr`, if it cannot be read.
    pub fn missing_file(&self, addr: u64) -> Option<String> {
        self.split.as_ref()?.missing(addr)
    }

    /// Whether something that the answers so far depend on could not be read.
    pub fn met_damage(&self) -> bool {
        self.files.met_damage() || self.split.as_ref().is_some_and(SplitUnits::met_damage)
    }

    /// Whether a function of that name was inlined into all of its callers, and so has no address. `name` is the plain
    /// name, the name with its namespaces, or the mangled one. Reads all units.
    pub fn inlined(&self, name: &str) -> bool {
        self.files.inlined(name)
    }
}

/// `None` if the file has no debug information. Subtracts the size of its sections from `budget`.
fn open_units(file: &File, budget: &mut u64) -> Result<Option<UnitTable>> {
    let file = SectionReader::open(file.try_clone()?)?;
    if file.find(SectionId::DebugInfo.name())?.is_none() {
        return Ok(None);
    }
    DebugSections::open(file, budget).map(UnitTable::new).map(Some)
}
