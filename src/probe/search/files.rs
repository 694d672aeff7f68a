// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which files get probes: files in use when the run starts, and files that are mapped later.
//!
//! Searching and attaching are two steps, because the maps of the BPF object are sized in between.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::copies::unmapped;
use super::errors::{
    no_process, no_such_program, nothing_in_file, nothing_in_process, own_program, process_warnings,
    skipped_names, writable_code,
};
use super::finder::{Finder, SearchPlace, Uncalled, open_path};
use super::placing::PlacementPolicy;
use crate::error::Failure;
use crate::find::elf::ElfFile;
use crate::find::host::loader;
use crate::find::host::object_file::{ChangeTime, FileId, FileSet, ObjectFile};
use crate::find::host::proc::{Proc, ProcMapping};
use crate::probe::attach::Attacher;
use crate::probe::called::CalledFunctions;
use crate::probe::mmap_events::FileMapping;
use crate::probe::point::{Cookie, Ends, ProbePoint, count_stepped_returns, share_exits};
use crate::probe::scope::filter::{ProcessFilter, TraceScope};
use crate::probe::signals::SignalHandlers;
use crate::wording::counted;

mod dropped;

/// What has been attached so far.
#[derive(Default, Debug)]
pub struct AttachedProbes {
    /// Files, as their processes name them.
    pub files: Vec<PathBuf>,
    pub probes: usize,
    /// Functions of which the kernel refused points, by index.
    pub refused: BTreeSet<u32>,
    /// How often a process mapped a new file and exited before it could be examined.
    pub missed: u64,
    /// Why files have no probes although they should.
    pub failed: Vec<String>,
    /// Probes on instructions that the kernel single-steps.
    pub stepped: usize,
    /// Functions whose returns are observed at such instructions.
    pub stepped_returns: usize,
}

impl AttachedProbes {
    /// Removes functions that the kernel refused after they were counted.
    pub fn refuse(&mut self, functions: &BTreeSet<u32>) {
        let known = self.refused.len();
        self.refused.extend(functions);
        self.probes = self.probes.saturating_sub(self.refused.len() - known);
    }
}

/// Finds files and the points in them, and remembers what it has examined.
pub struct FileSearch<F> {
    pub finder: F,
    pub attached: AttachedProbes,
    place: SearchPlace,
    placing: PlacementPolicy,
    /// Children are traced too, so the files of all processes are examined.
    follow: bool,
    proc: Proc,
    /// Files with points, by what identifies them to the kernel.
    seen: FileSet,
    examined: ExaminedFiles,
    /// Files with points but without probes.
    found: Vec<(ObjectFile, Vec<ProbePoint>)>,
    /// Processes whose object is already chosen ([`Finder::first_object_only`]).
    settled: HashSet<u32>,
    /// Where probes were placed, as text for `--verbose`, if it is wanted.
    details: Option<Vec<String>>,
    warnings: Vec<String>,
}

/// What is known of files that were looked at.
#[derive(Default)]
struct ExaminedFiles {
    /// Breakpoints are placed in one process only: no program that starts later gets them.
    only_running: bool,
    /// The program of this tool. It would hit its own probes, and place the next ones ever more slowly.
    own: Option<FileId>,
    /// Parsed by the plan: taken out when the search comes to them.
    opened: Vec<(FileId, Rc<ElfFile>)>,
    /// Whether a file has points, at the time of its last change.
    answers: HashMap<(FileId, ChangeTime), bool>,
    /// Change times by the identity that mmap events report, so that unchanged files are not opened
    /// again.
    by_event: HashMap<ReportedId, ChangeTime>,
    /// The inode numbers of files with probes. While they have these, the numbers are not reused.
    probed: HashSet<u64>,
}

impl<F: Finder> FileSearch<F> {
    pub fn new(finder: F, place: SearchPlace, placing: PlacementPolicy, filter: &ProcessFilter) -> Self {
        let examined = ExaminedFiles {
            only_running: filter.only_pid().is_some() && filter.scope != Some(TraceScope::All),
            own: File::open("/proc/self/exe").and_then(|exe| FileId::of(&exe)).ok(),
            ..ExaminedFiles::default()
        };
        Self {
            finder,
            attached: AttachedProbes::default(),
            place,
            placing,
            follow: filter.follow,
            proc: Proc::host(),
            seen: FileSet::default(),
            examined,
            found: Vec::new(),
            settled: HashSet::new(),
            details: None,
            warnings: Vec::new(),
        }
    }

    /// Keeps details of files that are searched from now on.
    pub fn keep_details(&mut self) {
        self.details.get_or_insert_default();
    }

    /// Whether files may appear later.
    pub fn may_grow(&self) -> bool {
        !matches!(self.place, SearchPlace::Files)
    }

    /// Whether only files that the user named are searched, and those that replace them.
    pub fn has_paths_only(&self) -> bool {
        matches!(self.place, SearchPlace::Files | SearchPlace::Paths)
    }

    /// Looks at the files that exist now.
    ///
    /// # Errors
    /// Nothing was found and nothing may appear later, or a file that the user named cannot be traced.
    pub fn search(&mut self, named: Vec<ObjectFile>, likely: &[PathBuf]) -> Result<()> {
        for object in &named {
            self.examined.opened.push((object.id, object.elf()?));
        }
        match &self.place {
            SearchPlace::Files | SearchPlace::Paths => {
                self.search_named(named)?;
                self.examined.opened.clear();
                return Ok(());
            }
            SearchPlace::Processes(pids) => self.search_processes(&pids.clone())?,
            SearchPlace::Command(argv, pid) => self.search_command(&argv.clone(), *pid, likely)?,
            SearchPlace::Everywhere => self.search_everywhere(likely),
        }
        for object in named {
            self.examine_tolerantly(object);
        }
        self.examined.opened.clear();
        let may_grow = self.may_grow();
        self.finder.finish(may_grow)
    }

    /// Places probes in the files that were found. Of many files of many owners, one that cannot be traced is reported
    /// and does not end the run.
    ///
    /// # Errors
    /// No file can be traced; or one cannot, and only chosen files or processes are searched.
    pub fn attach(&mut self, attacher: &mut Attacher) -> Result<()> {
        let tolerant = matches!(self.place, SearchPlace::Everywhere) || self.follow;
        let found = std::mem::take(&mut self.found);
        attacher.require_few(found.iter().flat_map(|(_, points)| points))?;
        let mut last = None;
        for (object, points) in found {
            let result = attacher
                .attach_watched(&object, &points)
                .with_context(|| format!("failed to trace {}", object.path.display()));
            match result {
                Ok(refused) => {
                    self.attached.files.push(object.path);
                    self.attached.probes += count_functions(&points);
                    self.attached.refuse(&refused);
                    self.attached.stepped += points.iter().filter(|point| point.stepped).count();
                    self.attached.stepped_returns += count_stepped_returns(&points);
                }
                Err(error) if tolerant && is_about_one_file(&error) => {
                    self.attached.failed.push(format!("{error:#}"));
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(error) if self.attached.probes == 0 => Err(error),
            _ => Ok(()),
        }
    }

    /// The names of functions, by index.
    pub fn names(&self, functions: impl IntoIterator<Item = u32>) -> Vec<Rc<str>> {
        let name = |function| self.finder.name(Cookie::of_function(function));
        functions.into_iter().map(name).collect()
    }

    /// What was not called of that which the user named.
    pub fn uncalled(&self, called: &CalledFunctions<'_>) -> Option<Uncalled> {
        self.finder.uncalled(called, &self.attached.refused)
    }

    /// Looks at a file that a process has just mapped. True if it is to get probes.
    pub fn on_mapped(&mut self, mapped: &FileMapping) -> Result<bool> {
        if !self.concerns(mapped) {
            return Ok(false);
        }
        let mapping = ProcMapping {
            start: mapped.start,
            end: mapped.end,
            offset: mapped.offset,
            exec: true,
            dev: mapped.dev,
            inode: mapped.inode,
            path: mapped.path.clone(),
            deleted: false,
        };
        // If the process has exited, the file is looked at when it is mapped again.
        let Ok(file) = self.proc.open(mapped.pid, &mapping) else {
            // The kernel also reports its own mappings, such as the one in which it steps instructions at probes.
            let is_new = mapping.is_code() && !self.examined.is_known(mapped);
            self.attached.missed += u64::from(is_new && !self.proc.exists(mapped.pid));
            return Ok(false);
        };
        let Ok(object) = ObjectFile::new(file, mapped.path.clone()) else {
            return Ok(false);
        };
        self.examined.report(mapped, object.changed);
        let id = object.id;
        if self.examine(object)? && self.finder.is_final(id) {
            self.settled.insert(mapped.pid);
        }
        Ok(!self.found.is_empty())
    }

    /// Where probes were placed since the last call, and the details of the finder, as lines of text.
    pub fn take_details(&mut self) -> Vec<String> {
        let mut details = self.details.as_mut().map(std::mem::take).unwrap_or_default();
        details.extend(self.finder.take_details());
        details
    }

    /// Warnings since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(self.finder.take_warnings());
        warnings
    }

    /// The process runs another program now.
    pub fn on_exec(&mut self, pid: u32) {
        self.settled.remove(&pid);
    }

    /// The processes that the user named.
    pub fn processes(&self) -> &[u32] {
        match &self.place {
            SearchPlace::Processes(pids) => pids,
            _ => &[],
        }
    }

    fn concerns(&self, mapped: &FileMapping) -> bool {
        let listed = match &self.place {
            SearchPlace::Processes(pids) => pids.contains(&mapped.pid),
            SearchPlace::Command(_, pid) => *pid == mapped.pid,
            SearchPlace::Everywhere | SearchPlace::Files | SearchPlace::Paths => false,
        };
        if listed {
            return !(self.finder.first_object_only() && self.settled.contains(&mapped.pid));
        }
        let everywhere = matches!(self.place, SearchPlace::Everywhere | SearchPlace::Paths) || self.follow;
        everywhere && self.finder.may_hold(&mapped.path) && !self.is_examined(mapped)
    }

    fn is_examined(&self, mapped: &FileMapping) -> bool {
        let known = self.examined.by_event.get(&reported_id(mapped));
        known.is_some_and(|known| {
            let now = self.proc.changed(mapped.pid, mapped.start, mapped.end);
            now.is_none_or(|now| now == *known)
        })
    }

    fn search_everywhere(&mut self, likely: &[PathBuf]) {
        let finder = &self.finder;
        for object in self.proc.all_objects(|mapping| finder.may_hold(&mapping.path)) {
            self.examine_tolerantly(object);
        }
        for object in likely.iter().filter_map(|path| open_path(path).ok()) {
            self.examine_tolerantly(object);
        }
    }

    fn search_processes(&mut self, pids: &[u32]) -> Result<()> {
        for &pid in pids {
            let objects = self.proc.link_order(pid);
            let objects = objects.map_err(|error| no_process(&self.proc, pid, error))?;
            self.warnings.extend(process_warnings(&self.proc, pid));
            let ids: Vec<FileId> = objects.iter().map(|object| object.id).collect();
            let looked_at: Vec<PathBuf> = objects.iter().map(|object| object.path.clone()).collect();
            let mut found = false;
            for object in objects {
                let id = object.id;
                let has_points = self.examine(object)?;
                found |= has_points;
                if has_points && self.ends_with(id) {
                    break;
                }
            }
            if let Some(sought) = self.finder.sought().filter(|_| !found) {
                return Err(nothing_in_process(&sought, &self.proc, pid, &looked_at));
            }
            self.warn_unmapped(pid, &ids);
            self.settled.insert(pid);
        }
        Ok(())
    }

    /// Warns of functions in these files of a process that it has copied elsewhere, and calls there.
    fn warn_unmapped(&mut self, pid: u32, ids: &[FileId]) {
        let mappings = self.proc.mappings(pid).unwrap_or_default();
        let found = self.found.iter().filter(|(object, _)| ids.contains(&object.id));
        for (object, points) in found {
            let functions = unmapped(object, points, &mappings);
            if let Some(&first) = functions.first() {
                let name = self.finder.name(Cookie::of_function(first));
                let count = counted(functions.len() as u64, "function");
                self.warnings.push(format!(
                    "PID {pid} does not run {count} of {} from that file, such as {name}, but probably a copy in memory: \
                     calls are not shown",
                    object.path.display()
                ));
            }
        }
    }

    fn search_named(&mut self, objects: Vec<ObjectFile>) -> Result<()> {
        for object in objects {
            let path = object.path.clone();
            if !self.examine(object)?
                && let Some(sought) = self.finder.sought()
            {
                return Err(nothing_in_file(&sought, &path));
            }
        }
        self.finder.finish(self.may_grow())
    }

    fn search_command(&mut self, argv: &[OsString], pid: u32, likely: &[PathBuf]) -> Result<()> {
        let name = argv.first().context("no command")?;
        let program = loader::find_program(&name.to_string_lossy()).ok_or_else(|| no_such_program(name))?;
        let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        for object in loader::closure(&program, &env)? {
            let id = object.id;
            if self.examine(object)? && self.ends_with(id) {
                break;
            }
        }
        if self.follow {
            // The command may be a shell that runs programs of another C library.
            self.search_everywhere(likely);
        }
        self.settled.remove(&pid);
        Ok(())
    }

    /// Whether a process calls no other object than this one, which has points, and those before it.
    fn ends_with(&self, object: FileId) -> bool {
        self.finder.first_object_only() && self.finder.is_final(object)
    }

    fn examine_tolerantly(&mut self, object: ObjectFile) {
        if let Err(error) = self.examine(object) {
            self.attached.failed.push(format!("{error:#}"));
        }
    }

    /// True if the file has points, whether or not it was examined before.
    fn examine(&mut self, object: ObjectFile) -> Result<bool> {
        let key = (object.id, object.changed);
        if let Some(&answer) = self.examined.answers.get(&key) {
            return Ok(answer);
        }
        if self.examined.own == Some(object.id) {
            ensure!(!self.has_paths_only(), own_program(&object.path));
            return Ok(false);
        }
        // The caller of the search ends the run.
        if SignalHandlers::count() > 0 {
            return Ok(false);
        }
        let elf = match self.examined.parse(&object) {
            Ok(elf) => elf,
            Err(error) if self.has_paths_only() => return Err(error),
            Err(_) => return Ok(false),
        };
        let points = self.finder.points(&object, &elf);
        // Code that was not read is missing from the proofs that probes are harmless.
        elf.check_budget()?;
        if elf.has_skipped_names() {
            self.warnings.push(skipped_names(&object.path));
        }
        let mut points = points?;
        share_exits(&mut points);
        self.examined.answer(key, !points.is_empty());
        if points.is_empty() {
            return Ok(false);
        }
        if let Some(warning) = self.copying_program(&object, &elf) {
            self.warnings.push(warning);
        } else if self.seen.insert(&object)? {
            self.drop_unknown_starts(&object, &elf, &mut points)?;
            let mistaken = self.place(&elf, &mut points);
            elf.check_budget()?;
            self.drop_mistaken(&object, mistaken, &mut points)?;
            self.warnings
                .extend(writable_code(&self.finder, &object.path, &elf, &points));
            self.finder.on_placed(&elf, &points)?;
            self.examined.probed.insert(object.file.metadata()?.ino());
            self.found.push((object, points));
        }
        Ok(true)
    }
}

impl ExaminedFiles {
    /// Beyond this many files, all are forgotten and examined once more.
    const MAX_FILES: usize = 1 << 16;

    /// The headers of a file. A process can map a file that the plan has opened already.
    fn parse(&self, object: &ObjectFile) -> Result<Rc<ElfFile>> {
        match self.opened.iter().find(|(id, _)| *id == object.id) {
            Some((_, elf)) => Ok(Rc::clone(elf)),
            None => object.elf(),
        }
    }

    /// Whether the mapped file has been looked at, perhaps in another version.
    fn is_known(&self, mapped: &FileMapping) -> bool {
        self.by_event.contains_key(&reported_id(mapped)) || self.probed.contains(&mapped.inode)
    }

    fn answer(&mut self, key: (FileId, ChangeTime), has_points: bool) {
        if self.answers.len() >= Self::MAX_FILES {
            self.answers.clear();
        }
        self.answers.insert(key, has_points);
    }

    fn report(&mut self, mapped: &FileMapping, changed: ChangeTime) {
        if self.by_event.len() >= Self::MAX_FILES {
            self.by_event.clear();
        }
        self.by_event.insert(reported_id(mapped), changed);
    }
}

/// Device, inode and generation. The generation tells an inode from an earlier one with the same number.
type ReportedId = ((u32, u32), u64, u64);

fn reported_id(mapped: &FileMapping) -> ReportedId {
    (mapped.dev, mapped.inode, mapped.generation)
}

/// Whether the error concerns one file only, so that others may work.
fn is_about_one_file(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_none()
}

/// How many functions the points belong to. A function of which only returns are watched can have several points, one
/// for each return instruction.
fn count_functions(points: &[ProbePoint]) -> usize {
    let is_leaving = |point: &&ProbePoint| point.ends == Ends::ReturnInstruction;
    let function = |point: &ProbePoint| point.cookie.function();
    let entered: HashSet<u32> = points
        .iter()
        .filter(|point| !is_leaving(point))
        .map(function)
        .collect();
    let mut left: HashSet<u32> = points
        .iter()
        .filter(|point| is_leaving(point) && !point.cookie.is_jumped())
        .map(function)
        .collect();
    left.retain(|function| !entered.contains(function));
    let begins = |point: &&ProbePoint| !is_leaving(point) && !point.cookie.is_repeat_jump();
    points.iter().filter(begins).count() + left.len()
}
