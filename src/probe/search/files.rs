//! Which files get the probes: those in use when the run begins, and those that appear while it lasts.
//!
//! Finding and attaching are two steps, so that a tool can size its maps by what was found before it loads them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::error::{FAILED, Failure};
use crate::find::code::instructions::MISDECODED;
use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::host::loader;
use crate::find::host::proc::{FileId, FileSet, Mapping, Object, Proc};
use crate::output::escape::printable;
use crate::probe::attach::{Attacher, Ends, ProbePoint};
use crate::probe::mmap_events::Mapped;
use crate::probe::search::placing::{Placed, Placing};

/// Finds the points of a file.
pub type FindPoints = dyn Fn(&Object, &ElfFile) -> Result<Vec<ProbePoint>>;

/// What a tool looks for in files.
pub struct Wanted {
    /// What it is, for messages: "an allocator".
    pub what: &'static str,
    /// The names that were looked for, for messages. None where the tool itself says what it does not find.
    pub names: Vec<&'static str>,
    /// Could a file of this path be one? Spares opening every file of the host; a process's own files are all opened.
    pub may_hold: Box<dyn Fn(&Path) -> bool>,
    /// The points of a file, none when it is not what is wanted.
    pub points: Box<FindPoints>,
    /// Only the first object that has points, in the order in which the loader looks symbols up, is the one that a
    /// process calls.
    pub first_only: bool,
    /// Files that are worth having although nobody runs them yet, when the place is everywhere.
    pub likely: Vec<PathBuf>,
    /// Files that were named, whatever the place.
    pub named: Vec<PathBuf>,
    /// What the function with this cookie is called.
    pub name: Box<dyn Fn(u64) -> Rc<str>>,
}

/// Where to look.
#[derive(Debug)]
pub enum Place {
    /// Every process, and those to come.
    Everywhere,
    /// These processes.
    Processes(Vec<u32>),
    /// These files and no other.
    Files(Vec<PathBuf>),
    /// What this command will run, in the process that waits to become it.
    Command(Vec<OsString>, u32),
}

/// What has been attached so far.
#[derive(Default, Debug)]
pub struct Attached {
    /// Files, as their processes name them.
    pub files: Vec<PathBuf>,
    pub probes: usize,
    /// Points that the kernel refused.
    pub refused: usize,
    /// Why files have no probes although they should.
    pub failed: Vec<String>,
    /// Probes on instructions that the kernel has to step over.
    pub stepped: usize,
}

impl Attached {
    /// So many points have turned out to be refused.
    pub fn refuse(&mut self, points: usize) {
        self.probes = self.probes.saturating_sub(points);
        self.refused += points;
    }
}

/// Finds what is wanted, and remembers what it has seen.
pub struct Targets {
    wanted: Wanted,
    place: Place,
    placing: Placing,
    /// Children count as well: then files are looked for as everywhere.
    follow: bool,
    proc: Proc,
    /// Files that are wanted, by what identifies them to the kernel.
    seen: FileSet,
    /// Whether a file that was looked at is wanted, as it was when it had last changed then.
    answers: HashMap<(FileId, (i64, i64)), bool>,
    /// Wanted files that have no probes yet.
    found: Vec<(Object, Vec<ProbePoint>)>,
    /// The same by what reports of new mappings say, and when they last changed then: neither a known file nor one that
    /// has another program written over it is opened in vain.
    known: HashMap<Reported, (i64, i64)>,
    /// Processes whose object is already chosen (`first_only`).
    settled: HashSet<u32>,
    /// Where probes went in the files found last.
    placed: Vec<Placed>,
    pub attached: Attached,
}

impl Targets {
    pub fn new(wanted: Wanted, place: Place, placing: Placing, follow: bool) -> Self {
        Self {
            wanted,
            place,
            placing,
            follow,
            proc: Proc::host(),
            seen: FileSet::default(),
            answers: HashMap::new(),
            found: Vec::new(),
            known: HashMap::new(),
            settled: HashSet::new(),
            placed: Vec::new(),
            attached: Attached::default(),
        }
    }

    /// Can files appear that this run is about?
    pub fn may_grow(&self) -> bool {
        !matches!(self.place, Place::Files(_))
    }

    /// Looks for what is there; what a former look has found is not looked at again. Finding nothing is an error,
    /// unless more may come.
    pub fn find(&mut self) -> Result<()> {
        match &self.place {
            Place::Everywhere => self.find_everywhere(),
            Place::Processes(pids) => self.find_in_processes(&pids.clone())?,
            Place::Files(paths) => self.find_in_files(&paths.clone())?,
            Place::Command(argv, pid) => self.find_in_command(&argv.clone(), *pid)?,
        }
        self.consider_paths(&self.wanted.named.clone());
        Ok(())
    }

    /// Puts probes into the files that were found. Of many files of many owners, one that cannot be traced does not end
    /// the run, but is told of.
    pub fn attach(&mut self, attacher: &mut Attacher) -> Result<()> {
        let tolerant = matches!(self.place, Place::Everywhere) || self.follow;
        let mut last = None;
        for (object, points) in std::mem::take(&mut self.found) {
            let result = attacher
                .attach(&object.file, &points)
                .with_context(|| format!("failed to trace {}", object.path.display()));
            match result {
                Ok(refused) => {
                    self.attached.files.push(object.path);
                    self.attached.probes += functions_at(&points).saturating_sub(refused);
                    self.attached.refused += refused;
                    self.attached.stepped += points.iter().filter(|point| point.stepped).count();
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

    /// Looks at a file that has just been mapped. True when it is to have probes.
    pub fn appeared(&mut self, mapped: &Mapped) -> Result<bool> {
        if !self.concerns(mapped) {
            return Ok(false);
        }
        let mapping = Mapping {
            start: mapped.start,
            end: mapped.end,
            offset: mapped.offset,
            exec: true,
            dev: mapped.dev,
            inode: mapped.inode,
            path: mapped.path.clone(),
            deleted: false,
        };
        // A process that is gone already takes nothing with it: the file is looked at when it is mapped again.
        let Ok(file) = self.proc.open(mapped.pid, &mapping) else {
            return Ok(false);
        };
        let Ok(object) = Object::new(file, mapped.path.clone()) else {
            return Ok(false);
        };
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        if let Ok(meta) = object.file.metadata() {
            self.known
                .insert(reported(mapped), (meta.ctime(), meta.ctime_nsec()));
        }
        if self.consider(object)? {
            self.settled.insert(mapped.pid);
        }
        Ok(!self.found.is_empty())
    }

    /// Where the probes of functions went since the last call, as lines of text.
    pub fn take_placed(&mut self) -> Vec<String> {
        let placed = std::mem::take(&mut self.placed).into_iter();
        placed
            .map(|placed| format!("{}{}", (self.wanted.name)(placed.cookie), placed.placement))
            .collect()
    }

    /// The process runs another program from now on.
    pub fn replaced(&mut self, pid: u32) {
        self.settled.remove(&pid);
    }

    /// The processes that were named.
    pub fn processes(&self) -> &[u32] {
        match &self.place {
            Place::Processes(pids) => pids,
            _ => &[],
        }
    }

    fn concerns(&self, mapped: &Mapped) -> bool {
        let listed = match &self.place {
            Place::Processes(pids) => pids.contains(&mapped.pid),
            Place::Command(_, pid) => *pid == mapped.pid,
            Place::Everywhere | Place::Files(_) => false,
        };
        if listed {
            return !(self.wanted.first_only && self.settled.contains(&mapped.pid));
        }
        let everywhere = matches!(self.place, Place::Everywhere) || self.follow;
        everywhere && (self.wanted.may_hold)(&mapped.path) && !self.is_known(mapped)
    }

    fn is_known(&self, mapped: &Mapped) -> bool {
        self.known.get(&reported(mapped)).is_some_and(|known| {
            let now = self.proc.changed(mapped.pid, mapped.start, mapped.end);
            now.is_none_or(|now| now == *known)
        })
    }

    fn find_everywhere(&mut self) {
        let may_hold = &self.wanted.may_hold;
        for object in self.proc.all_objects(|mapping| may_hold(&mapping.path)) {
            self.consider_tolerantly(object);
        }
        self.consider_paths(&self.wanted.likely.clone());
    }

    fn find_in_processes(&mut self, pids: &[u32]) -> Result<()> {
        for &pid in pids {
            let objects = self
                .proc
                .link_order(pid)
                .map_err(|error| no_process(&self.proc, pid, error))?;
            let looked_at: Vec<PathBuf> = objects.iter().map(|object| object.path.clone()).collect();
            let mut found = false;
            for object in objects {
                found |= self.consider(object)?;
                if found && self.wanted.first_only {
                    break;
                }
            }
            if !found && !self.wanted.names.is_empty() {
                return Err(self.nothing_in_process(pid, &looked_at));
            }
            self.settled.insert(pid);
        }
        Ok(())
    }

    fn find_in_files(&mut self, paths: &[PathBuf]) -> Result<()> {
        for path in paths {
            let object = open_path(path)?;
            let elf = ElfFile::open(object.file.try_clone()?, path)?;
            if !self.consider(object)? && !self.wanted.names.is_empty() {
                return Err(self.nothing_in_file(path, &elf));
            }
        }
        Ok(())
    }

    fn find_in_command(&mut self, argv: &[OsString], pid: u32) -> Result<()> {
        let name = argv.first().context("no command")?;
        let program = loader::find_program(&name.to_string_lossy()).ok_or_else(|| {
            Failure::new(
                FAILED,
                format!("failed to run {}: no such program", name.display()),
            )
            .hint("give its path, or look at PATH: sudo changes it")
        })?;
        let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        for path in loader::closure(&program, &env)? {
            let Ok(object) = open_path(&path) else { continue };
            if self.consider(object)? && self.wanted.first_only {
                break;
            }
        }
        if self.follow {
            // The command may be a shell that runs programs of another C library.
            self.find_everywhere();
        }
        self.settled.remove(&pid);
        Ok(())
    }

    fn consider_paths(&mut self, paths: &[PathBuf]) {
        for object in paths.iter().filter_map(|path| open_path(path).ok()) {
            self.consider_tolerantly(object);
        }
    }

    fn consider_tolerantly(&mut self, object: Object) {
        if let Err(error) = self.consider(object) {
            self.attached.failed.push(format!("{error:#}"));
        }
    }

    /// True when the object is what is wanted, whether or not it was met before.
    fn consider(&mut self, object: Object) -> Result<bool> {
        let meta = object.file.metadata()?;
        let key = (object.id, (meta.ctime(), meta.ctime_nsec()));
        if let Some(&answer) = self.answers.get(&key) {
            return Ok(answer);
        }
        if self.answers.len() >= MOST_KNOWN {
            self.answers.clear();
        }
        let elf = match ElfFile::open(object.file.try_clone()?, &object.path) {
            Ok(elf) => elf,
            Err(error) if matches!(self.place, Place::Files(_)) => return Err(error),
            Err(_) => return Ok(false),
        };
        let mut points = (self.wanted.points)(&object, &elf)?;
        self.answers.insert(key, !points.is_empty());
        if points.is_empty() {
            return Ok(false);
        }
        if self.seen.insert(&object)? {
            let placed = self.placing.place(&elf, &mut points);
            self.leave_out_mistaken(&object, &placed, &mut points)?;
            self.placed.extend(placed);
            self.found.push((object, points));
        }
        Ok(true)
    }

    /// Functions whose first instruction the kernel would mistake, and whose probe cannot be elsewhere, get none. An error
    /// when these are all.
    fn leave_out_mistaken(
        &self,
        object: &Object,
        placed: &[Placed],
        points: &mut Vec<ProbePoint>,
    ) -> Result<()> {
        let mistaken = placed.iter().filter(|placed| placed.placement.is_misdecoded());
        let mistaken: HashSet<u32> = mistaken.map(|placed| placed.cookie as u32).collect();
        let Some(&first) = mistaken.iter().min() else {
            return Ok(());
        };
        points.retain(|point| !mistaken.contains(&(point.cookie as u32)));
        let name = (self.wanted.name)(first.into());
        if points.is_empty() {
            let file = object.path.display();
            let message = format!("failed to trace {name} in {file}: {MISDECODED}");
            return Err(Failure::new(FAILED, message)
                .hint("trace a function that calls it")
                .into());
        }
        eprintln!(
            "warning: {} functions are left out: failed to trace {}: {MISDECODED}",
            mistaken.len(),
            printable(name.as_bytes())
        );
        Ok(())
    }

    fn names(&self) -> String {
        self.wanted.names.join(", ")
    }

    fn nothing_in_file(&self, path: &Path, elf: &ElfFile) -> anyhow::Error {
        let (what, names) = (self.wanted.what, self.names());
        Failure::new(
            FAILED,
            format!("failed to find {what} in {}: no function {names}", path.display()),
        )
        .hint(near(elf, path, self.wanted.names.first().copied()))
        .into()
    }

    fn nothing_in_process(&self, pid: u32, looked_at: &[PathBuf]) -> anyhow::Error {
        let files: Vec<String> = looked_at
            .iter()
            .take(4)
            .map(|path| path.display().to_string())
            .collect();
        let more = if looked_at.len() > 4 {
            format!(" and {} more", looked_at.len() - 4)
        } else {
            String::new()
        };
        let message = format!(
            "failed to find {} in pid {pid}: no function {} in {}{more}",
            self.wanted.what,
            self.names(),
            if files.is_empty() {
                "any file".to_owned()
            } else {
                files.join(", ")
            },
        );
        let program = self.proc.executable(pid).ok();
        let first = program.and_then(|object| {
            let elf = ElfFile::open(object.file, &object.path).ok()?;
            Some((elf, object.path))
        });
        let hint = match first {
            Some((elf, _)) if elf.is_static() => {
                "the program is linked statically, and its symbols are stripped or have other names"
                    .to_owned()
            }
            Some((elf, path)) => near(&elf, &path, self.wanted.names.first().copied()),
            None => "a kernel thread, or a process that has just ended".to_owned(),
        };
        Failure::new(FAILED, message).hint(hint).into()
    }
}

/// Files that need not be opened again; more are forgotten, and looked at once more.
const MOST_KNOWN: usize = 1 << 16;

/// Device, inode and generation, which tells an inode from an earlier one of the same number.
type Reported = ((u32, u32), u64, u64);

fn reported(mapped: &Mapped) -> Reported {
    (mapped.dev, mapped.inode, mapped.generation)
}

/// Does the error say something of one file, so that others may do?
fn is_about_one_file(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_none()
}

/// How many functions the points are about: of one whose returns alone are watched, each instruction that returns is one.
fn functions_at(points: &[ProbePoint]) -> usize {
    let is_leaving = |point: &&ProbePoint| point.ends == Ends::Leaving;
    let number = |point: &ProbePoint| point.cookie as u32;
    let entered: HashSet<u32> = points
        .iter()
        .filter(|point| !is_leaving(point))
        .map(number)
        .collect();
    let mut left: HashSet<u32> = points.iter().filter(is_leaving).map(number).collect();
    left.retain(|number| !entered.contains(number));
    points.iter().filter(|point| !is_leaving(point)).count() + left.len()
}

/// Why the files of a process cannot be found.
pub fn no_process(proc: &Proc, pid: u32, error: std::io::Error) -> anyhow::Error {
    if !proc.exists(pid) {
        return Failure::new(FAILED, format!("failed to trace pid {pid}: no such process")).into();
    }
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::new(FAILED, format!("failed to trace pid {pid}: it has no program"))
            .hint("it is a kernel thread, or has just ended")
            .into();
    }
    anyhow::Error::new(error).context(format!("failed to read the memory map of pid {pid}"))
}

/// What a person may have meant.
fn near(elf: &ElfFile, path: &Path, name: Option<&str>) -> String {
    let names = name
        .map(|name| functions::nearest(elf, path, name, 3))
        .unwrap_or_default();
    match names.is_empty() {
        true => "no function of that file has a similar name".to_owned(),
        false => format!("similar functions there: {}", names.join(", ")),
    }
}

/// Opens a file named by a person.
fn open_path(path: &Path) -> Result<Object> {
    Object::at(path).with_context(|| format!("failed to open {}", path.display()))
}
