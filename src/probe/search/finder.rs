// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What a tool looks for in ELF files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::find::elf::ElfFile;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::returns::ReturnPolicy;
use crate::probe::called::CalledFunctions;
use crate::probe::point::{Cookie, ProbePoint};
use crate::probe::scope::filter::ProcessFilter;

/// What a tool looks for. One search owns it and calls it for each file.
pub trait Finder {
    /// Where to look. Called once, before the search.
    ///
    /// # Errors
    /// A name matches no file.
    fn plan(&mut self, request: &SearchRequest<'_>) -> Result<SearchPlan>;

    /// Whether a file at this path could hold what is looked for. Spares opening every file of the host; the files of a
    /// process that the user named are all opened.
    fn may_hold(&self, path: &Path) -> bool;

    /// The points to probe in a file; empty if it does not hold what is looked for.
    fn points(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<ProbePoint>>;

    /// The name of the function with this cookie, for messages.
    fn name(&self, cookie: Cookie) -> Rc<str>;

    /// Which ends of calls are watched in the files found so far. Of these, a file that appears later can change only
    /// `instructions`.
    fn ends(&self) -> WatchedEnds;

    /// Whether calls may be matched with their returns. Known before the search.
    fn matches_calls(&self) -> bool {
        false
    }

    /// Whether a process calls only the first object that has points, in the loader's lookup order.
    fn first_object_only(&self) -> bool {
        false
    }

    /// Whether a process looks no further than this object, which has points, if it calls only the first.
    fn is_final(&self, _object: FileId) -> bool {
        true
    }

    /// Called with the points of a file when they are placed.
    ///
    /// # Errors
    /// There are too many.
    fn on_placed(&mut self, _elf: &ElfFile, _points: &[ProbePoint]) -> Result<()> {
        Ok(())
    }

    /// What was not called of that which the user named. None for a tool that chooses its functions itself.
    fn uncalled(&self, _called: &CalledFunctions<'_>, _refused: &BTreeSet<u32>) -> Option<Uncalled> {
        None
    }

    /// What the error names when a search found nothing. None if `finish` reports it.
    fn sought(&self) -> Option<SearchSubject> {
        None
    }

    /// Called once, when the first search is over.
    ///
    /// # Errors
    /// Something that the user named was not found.
    fn finish(&mut self, _may_grow: bool) -> Result<()> {
        Ok(())
    }

    /// Details about the functions found since the last call, for `--verbose`.
    fn take_details(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Warnings since the last call.
    fn take_warnings(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Specs and functions that have probes and were not called.
#[derive(Debug, Default, PartialEq)]
pub struct Uncalled {
    /// Untrusted.
    pub names: Vec<Rc<str>>,
    /// Others were called.
    pub others_called: bool,
}

/// A description of what is looked for, for errors: "failed to find an allocator: no function malloc, calloc".
pub struct SearchSubject {
    pub what: &'static str,
    pub functions: Vec<&'static str>,
}

/// Which ends of calls are watched in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchedEnds {
    /// Some functions only at their entry.
    pub entry: bool,
    /// Some functions only at their return.
    pub at_return: bool,
    /// Some functions at both, with entries matched to returns.
    pub both: bool,
    /// Some have probes on return instructions or on jumps to their first one, where session links do not serve.
    pub instructions: bool,
    /// All functions at both have their returns watched at return instructions.
    pub only_instructions: bool,
    /// Some functions have probes on jumps to their first instruction.
    pub repeats: bool,
}

/// What the options say about where to look.
pub struct SearchRequest<'a> {
    pub filter: &'a ProcessFilter,
    pub returns: ReturnPolicy,
    /// Details for `--verbose` are wanted.
    pub details: bool,
    /// The command to run, and the PID of the process that waits to become it.
    pub command: Option<(&'a [OsString], u32)>,
}

impl SearchRequest<'_> {
    /// The command if there is one, else the processes of `-p`, else every process.
    pub fn place(&self) -> SearchPlace {
        match self.command {
            Some((argv, pid)) => SearchPlace::Command(argv.to_vec(), pid),
            None if !self.filter.pids.is_empty() => SearchPlace::Processes(self.filter.pids.clone()),
            None => SearchPlace::Everywhere,
        }
    }
}

/// Where to look.
#[derive(Debug)]
pub enum SearchPlace {
    /// Every process, and those to come.
    Everywhere,
    /// These processes.
    Processes(Vec<u32>),
    /// The files of the plan and no other.
    Files,
    /// The files of the plan, and those that replace them.
    Paths,
    /// What this command will run, in the process that waits to become it.
    Command(Vec<OsString>, u32),
}

/// Where to look, and files to look at in any case.
pub struct SearchPlan {
    pub place: SearchPlace,
    /// Files that the user named.
    pub named: Vec<ObjectFile>,
    /// Files worth probing even if no process maps them yet. Only used with [`SearchPlace::Everywhere`].
    pub likely: Vec<PathBuf>,
    /// Warnings about names of libraries that are part of the C library now.
    pub moved: Vec<String>,
}

impl SearchPlan {
    pub fn new(place: SearchPlace) -> Self {
        Self {
            place,
            named: Vec::new(),
            likely: Vec::new(),
            moved: Vec::new(),
        }
    }

    /// This file and no other.
    ///
    /// # Errors
    /// It cannot be opened, or is not an ELF file.
    pub fn file(path: &Path) -> Result<Self> {
        let named = vec![open_named(path)?];
        Ok(Self {
            named,
            ..Self::new(SearchPlace::Files)
        })
    }

    /// Adds files worth probing even if no process maps them yet.
    pub fn likely(mut self, files: impl IntoIterator<Item = PathBuf>) -> Self {
        self.likely.extend(files);
        self
    }
}

/// Opens a file that the user named.
///
/// # Errors
/// It cannot be opened, or is not an ELF file.
pub fn open_named(path: &Path) -> Result<ObjectFile> {
    let object = open_path(path)?;
    object.elf()?;
    Ok(object)
}

/// Opens a file.
///
/// # Errors
/// It cannot be opened; the error has its path.
pub fn open_path(path: &Path) -> Result<ObjectFile> {
    ObjectFile::at(path).with_context(|| format!("failed to open {}", path.display()))
}
