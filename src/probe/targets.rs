//! Which files get the probes: those in use when the run begins, and those that appear while it lasts.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::attach::{Attacher, Point, close_all};
use super::watch::Mapped;
use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::loader;
use crate::find::target::{FileSet, Mapping, Object, Proc};
use crate::sys::{FAILED, Failure};

/// Finds the points of a file.
pub type FindPoints = dyn Fn(&Object, &ElfFile) -> Result<Vec<Point>>;

/// What a tool looks for in files.
pub struct Wanted {
    /// What it is, for messages: "an allocator".
    pub what: &'static str,
    /// The names that were looked for, for messages.
    pub names: Vec<&'static str>,
    /// Could a file of this path be one? Spares opening every file of the host; a process's own files are all opened.
    pub may_hold: fn(&Path) -> bool,
    /// The points of a file, none when it is not what is wanted.
    pub points: Box<FindPoints>,
    /// Only the first object that has points, in the order in which the loader looks symbols up, is the one that a
    /// process calls.
    pub first_only: bool,
    /// Files that are worth having although nobody runs them yet.
    pub likely: Vec<PathBuf>,
}

/// Where to look.
#[derive(Debug)]
pub enum Place {
    /// Every process, and those to come.
    Everywhere,
    /// These processes.
    Processes(Vec<u32>),
    /// This file and no other.
    File(PathBuf),
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
}

/// Attaches to what is wanted and remembers what it has seen.
pub struct Targets<'a> {
    wanted: Wanted,
    place: Place,
    /// Children count as well: then files are looked for as everywhere.
    follow: bool,
    attacher: Attacher<'a>,
    proc: Proc,
    /// Files that were looked at, by what identifies them to the kernel.
    seen: FileSet,
    /// The same by what reports of new mappings say, and when they last changed then: neither a known file nor one that
    /// has another program written over it is opened in vain.
    known: HashMap<Reported, (i64, i64)>,
    /// Processes whose object is already chosen (`first_only`).
    settled: HashSet<u32>,
    pub attached: Attached,
}

impl<'a> Targets<'a> {
    pub fn new(wanted: Wanted, place: Place, follow: bool, attacher: Attacher<'a>) -> Self {
        Self {
            wanted,
            place,
            follow,
            attacher,
            proc: Proc::host(),
            seen: FileSet::default(),
            known: HashMap::new(),
            settled: HashSet::new(),
            attached: Attached::default(),
        }
    }

    /// Can files appear that this run is about?
    pub fn may_grow(&self) -> bool {
        !matches!(self.place, Place::File(_))
    }

    /// Attaches to what is there. Finding nothing is an error, unless more may come.
    pub fn attach_present(&mut self) -> Result<()> {
        match &self.place {
            Place::Everywhere => self.attach_everywhere(),
            Place::Processes(pids) => self.attach_processes(&pids.clone()),
            Place::File(path) => self.attach_file(&path.clone()),
            Place::Command(argv, pid) => self.attach_command(&argv.clone(), *pid),
        }
    }

    /// Attaches to a file that has just been mapped, if it is one. True when probes were added.
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
        let before = self.attached.probes;
        if self.attach_object(&object)? {
            self.settled.insert(mapped.pid);
        }
        Ok(self.attached.probes > before)
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

    /// Takes the probes out.
    pub fn detach(&mut self) {
        close_all(self.attacher.take_links());
    }

    /// Takes the probes out while the caller goes on. None where no thread can be had: then
    /// they are out now.
    pub fn detach_in_background(&mut self) -> Option<JoinHandle<()>> {
        let links = self.attacher.take_links();
        std::thread::Builder::new().spawn(move || close_all(links)).ok()
    }

    fn concerns(&self, mapped: &Mapped) -> bool {
        let listed = match &self.place {
            Place::Processes(pids) => pids.contains(&mapped.pid),
            Place::Command(_, pid) => *pid == mapped.pid,
            Place::Everywhere | Place::File(_) => false,
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

    fn attach_everywhere(&mut self) -> Result<()> {
        let may_hold = self.wanted.may_hold;
        let objects = self.proc.all_objects(|mapping| may_hold(&mapping.path));
        self.attach_tolerant(objects)?;
        let likely = std::mem::take(&mut self.wanted.likely);
        self.attach_tolerant(likely.iter().filter_map(|path| open_path(path).ok()).collect())
    }

    fn attach_processes(&mut self, pids: &[u32]) -> Result<()> {
        for &pid in pids {
            let objects = self
                .proc
                .link_order(pid)
                .map_err(|error| self.no_process(pid, error))?;
            let looked_at: Vec<PathBuf> = objects.iter().map(|object| object.path.clone()).collect();
            let mut found = false;
            for object in &objects {
                found |= self.attach_object(object)?;
                if found && self.wanted.first_only {
                    break;
                }
            }
            if !found {
                return Err(self.nothing_in_process(pid, &objects, &looked_at));
            }
            self.settled.insert(pid);
        }
        Ok(())
    }

    fn attach_file(&mut self, path: &Path) -> Result<()> {
        let object = open_path(path)?;
        let elf = ElfFile::open(object.file.try_clone()?, path)?;
        if self.attach_object(&object)? {
            return Ok(());
        }
        Err(Failure::new(
            FAILED,
            format!(
                "failed to find {} in {}: no function {}",
                self.wanted.what,
                path.display(),
                self.names()
            ),
        )
        .hint(near(&elf, path, self.wanted.names.first().copied()))
        .into())
    }

    fn attach_command(&mut self, argv: &[OsString], pid: u32) -> Result<()> {
        let name = argv.first().context("no command")?;
        let program = loader::find_program(&name.to_string_lossy()).ok_or_else(|| {
            Failure::new(
                FAILED,
                format!("failed to run {}: no such program", name.display()),
            )
            .hint("give its path, or look at PATH: sudo changes it")
        })?;
        let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let files = loader::closure(&program, &env)?;
        for path in &files {
            let Ok(object) = open_path(path) else { continue };
            if self.attach_object(&object)? && self.wanted.first_only {
                break;
            }
        }
        if self.follow {
            // The command may be a shell that runs programs of another C library.
            self.attach_everywhere()?;
        }
        self.settled.remove(&pid);
        Ok(())
    }

    /// Many files of many owners: one that cannot be traced does not end the run, but is told of.
    fn attach_tolerant(&mut self, objects: Vec<Object>) -> Result<()> {
        let mut last = None;
        for object in objects {
            if let Err(error) = self.attach_object(&object) {
                self.attached.failed.push(format!("{error:#}"));
                last = Some(error);
            }
        }
        match last {
            Some(error) if self.attached.probes == 0 => Err(error),
            _ => Ok(()),
        }
    }

    /// True when the object is what is wanted, whether or not its probes are in already.
    fn attach_object(&mut self, object: &Object) -> Result<bool> {
        let elf = match ElfFile::open(object.file.try_clone()?, &object.path) {
            Ok(elf) => elf,
            Err(error) if matches!(self.place, Place::File(_)) => return Err(error),
            Err(_) => return Ok(false),
        };
        let points = (self.wanted.points)(object, &elf)?;
        if points.is_empty() {
            return Ok(false);
        }
        if !self.seen.insert(object)? {
            return Ok(true);
        }
        let refused = self
            .attacher
            .attach(&object.file, &points)
            .with_context(|| format!("failed to trace {}", object.path.display()))?;
        self.attached.files.push(object.path.clone());
        self.attached.probes += points.len() - refused;
        self.attached.refused += refused;
        Ok(true)
    }

    fn names(&self) -> String {
        self.wanted.names.join(", ")
    }

    fn no_process(&self, pid: u32, error: std::io::Error) -> anyhow::Error {
        if !self.proc.exists(pid) {
            return Failure::new(FAILED, format!("failed to trace pid {pid}: no such process")).into();
        }
        if error.kind() == std::io::ErrorKind::NotFound {
            return Failure::new(FAILED, format!("failed to trace pid {pid}: it has no program"))
                .hint("it is a kernel thread, or has just ended")
                .into();
        }
        anyhow::Error::new(error).context(format!("failed to read the memory map of pid {pid}"))
    }

    fn nothing_in_process(&self, pid: u32, objects: &[Object], looked_at: &[PathBuf]) -> anyhow::Error {
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
        let first = objects.first().and_then(|object| {
            let elf = ElfFile::open(object.file.try_clone().ok()?, &object.path).ok()?;
            Some((elf, &object.path))
        });
        let hint = match first {
            Some((elf, _)) if elf.is_static() => {
                "the program is linked statically, and its symbols are stripped or have other names"
                    .to_owned()
            }
            Some((elf, path)) => near(&elf, path, self.wanted.names.first().copied()),
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

impl Drop for Targets<'_> {
    /// Many at a time: one after the other they take seconds, and the descriptors' own drop would do so.
    fn drop(&mut self) {
        self.detach();
    }
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
