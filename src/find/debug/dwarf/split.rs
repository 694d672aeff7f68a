// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Split DWARF: the entries of a unit are in a file of their own, `.dwo`, or in a package of many such files, `.dwp`.
//! Its addresses are in the main file.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::files::DebugFiles;
use super::package::Package;
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
    /// `None` if it is missing or damaged.
    package: OnceCell<Option<Package>>,
    /// By the offset of the unit in the main file. `None` if its file is missing or damaged.
    opened: RefCell<HashMap<usize, Option<Rc<SignatureDecoder>>>>,
}

impl SplitUnits {
    pub fn new(main: Rc<DebugFiles>, path: PathBuf) -> SplitUnits {
        SplitUnits {
            main,
            path,
            package: OnceCell::new(),
            opened: RefCell::default(),
        }
    }

    /// The signature of the function whose first instruction is at `addr`.
    pub fn signature(&self, addr: u64) -> Option<FunctionSignature> {
        let mut units = self.main.main.units_with_code_at(addr);
        units.find_map(|unit| self.decoder(&unit)?.signature(addr))
    }

    /// The name of the file that has the debug information of the code at `addr`, if it cannot be read, and why not if
    /// it exists.
    pub fn missing(&self, addr: u64) -> Option<String> {
        let mut units = self.main.main.units_with_code_at(addr);
        units.find_map(|unit| {
            let name = self.main.unit_text(&unit, unit.root.split.name.as_ref()?)?;
            if self.decoder(&unit).is_some() {
                return None;
            }
            let package = self.package_path();
            match self.package().is_none() && package.exists() {
                true => Some(package.display().to_string()),
                false if self.paths_of(&unit, &name).iter().any(|path| path.is_file()) => Some(format!(
                    "{name}, which is of another compilation, or damaged, or has compressed type units"
                )),
                false => Some(name),
            }
        })
    }

    /// Whether something in the opened files could not be read.
    pub fn met_damage(&self) -> bool {
        let opened = self.opened.borrow();
        opened.values().flatten().any(|decoder| decoder.met_damage())
    }

    fn decoder(&self, unit: &Unit) -> Option<Rc<SignatureDecoder>> {
        let name = unit.root.split.name.as_ref()?;
        if let Some(known) = self.opened.borrow().get(&unit.start) {
            return known.clone();
        }
        if self.opened.borrow().len() >= MAX_FILES {
            return None;
        }
        let found = self
            .in_package(unit)
            .or_else(|| self.in_file(unit, &self.main.unit_text(unit, name)?));
        self.opened.borrow_mut().insert(unit.start, found.clone());
        found
    }

    /// Beside the program, where `dwp` and debuggers expect it.
    fn package_path(&self) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(".dwp");
        path.into()
    }

    fn package(&self) -> Option<&Package> {
        let open = || Package::open(open_regular(&self.package_path()).ok()?);
        self.package.get_or_init(open).as_ref()
    }

    fn in_package(&self, unit: &Unit) -> Option<Rc<SignatureDecoder>> {
        let sections = self.package()?.unit(&self.main.main.sections, unit)?;
        self.decoder_for(unit, sections)
    }

    fn in_file(&self, unit: &Unit, name: &str) -> Option<Rc<SignatureDecoder>> {
        let paths = self.paths_of(unit, name);
        paths
            .iter()
            .find_map(|path| self.open(unit, open_regular(path).ok()?))
    }

    fn paths_of(&self, unit: &Unit, name: &str) -> Vec<PathBuf> {
        let directory = unit.root.split.directory.as_ref();
        let directory = directory.and_then(|value| self.main.unit_text(unit, value));
        self.paths(Path::new(name), directory.as_deref().map(Path::new))
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
        self.decoder_for(unit, sections.ok()?)
    }

    fn decoder_for(&self, unit: &Unit, sections: DebugSections) -> Option<Rc<SignatureDecoder>> {
        let units = UnitTable::new(sections);
        let id = unit.root.split.id?;
        // None has it if another compilation wrote a file of the same name. GCC puts type units first.
        units.all().find(|split| split.root.split.id == Some(id))?;
        let files = Rc::new(DebugFiles::new(units, None));
        Some(Rc::new(SignatureDecoder::new(files)))
    }
}
