// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Split DWARF: the entries of a unit are in a file of their own, `.dwo`, and its addresses in the main file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::files::DebugFiles;
use super::sections::DebugSections;
use super::signature::SignatureDecoder;
use super::unit::Unit;
use super::units::UnitTable;
use crate::find::debug::types::FunctionSignature;
use crate::find::elf::sections::SectionReader;
use crate::find::host::object_file::open_regular;

/// Most bytes of one file, decompressed.
const MAX_BYTES: u64 = 64 << 20;
/// Files that are opened for one main file.
const MAX_FILES: usize = 256;

/// The split units of one main file, which are opened as needed.
pub struct SplitUnits {
    main: Rc<DebugFiles>,
    /// Of the program or library.
    path: PathBuf,
    /// By the offset of the unit in the main file. `None` if its file is missing or damaged.
    opened: RefCell<HashMap<usize, Option<Rc<SignatureDecoder>>>>,
}

impl SplitUnits {
    pub fn new(main: Rc<DebugFiles>, path: PathBuf) -> SplitUnits {
        SplitUnits {
            main,
            path,
            opened: RefCell::default(),
        }
    }

    /// The signature of the function whose first instruction is at `addr`.
    pub fn signature(&self, addr: u64) -> Option<FunctionSignature> {
        let mut units = self.main.main.units_with_code_at(addr);
        units.find_map(|unit| self.decoder(&unit)?.signature(addr))
    }

    /// The name of the file that has the debug information of the code at `addr`, if it cannot be read.
    pub fn missing(&self, addr: u64) -> Option<String> {
        let mut units = self.main.main.units_with_code_at(addr);
        units.find_map(|unit| {
            let name = self.main.unit_text(&unit, unit.root.split.name.as_ref()?)?;
            self.decoder(&unit).is_none().then_some(name)
        })
    }

    fn decoder(&self, unit: &Unit) -> Option<Rc<SignatureDecoder>> {
        let name = unit.root.split.name.as_ref()?;
        if let Some(known) = self.opened.borrow().get(&unit.start) {
            return known.clone();
        }
        if self.opened.borrow().len() >= MAX_FILES {
            return None;
        }
        let name = self.main.unit_text(unit, name)?;
        let directory = unit.root.split.directory.as_ref();
        let directory = directory.and_then(|value| self.main.unit_text(unit, value));
        let paths = self.paths(Path::new(&name), directory.as_deref().map(Path::new));
        let found = paths
            .iter()
            .find_map(|path| self.open(unit, open_regular(path).ok()?));
        self.opened.borrow_mut().insert(unit.start, found.clone());
        found
    }

    /// Where the compiler wrote the file, in the root directory of the program, and beside the program.
    fn paths(&self, name: &Path, directory: Option<&Path>) -> Vec<PathBuf> {
        let parts: Vec<Component> = self.path.components().take(4).collect();
        let root: PathBuf = parts.iter().collect();
        let root = match root.starts_with("/proc") && root.ends_with("root") {
            true => root,
            false => "/".into(),
        };
        let written = directory.map(|directory| directory.join(name));
        let written = written.as_deref().unwrap_or(name);
        let beside = self.path.parent().unwrap_or(Path::new("/"));
        let written = written.strip_prefix("/").map(|below| root.join(below)).ok();
        let beside = name.file_name().map(|name| beside.join(name));
        written.into_iter().chain(beside).collect()
    }

    fn open(&self, unit: &Unit, file: File) -> Option<Rc<SignatureDecoder>> {
        let mut budget = MAX_BYTES;
        let main = &self.main.main.sections;
        let sections = DebugSections::open_split(SectionReader::open(file).ok()?, &mut budget, main, unit);
        let units = UnitTable::new(sections.ok()?);
        let split = units.unit(0)?;
        // Another compilation wrote a file of the same name.
        if split.root.split.id? != unit.root.split.id? {
            return None;
        }
        let files = Rc::new(DebugFiles::new(units, None));
        Some(Rc::new(SignatureDecoder::new(files)))
    }
}
