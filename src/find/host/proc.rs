// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Processes, what they map, and the files behind it, each once.
//!
//! Paths in `/proc/PID/maps` are names in the mount namespace of the process, and the file may have been
//! replaced since it was mapped. Files are therefore opened through `/proc/PID/map_files`, which leads to the
//! mapped inode itself. The path is the fallback, and used only if the inode number agrees.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::object_file::{ObjectFile, open_regular, reopen};
pub use mapping::ProcMapping;
use mapping::{DELETED, mapping_at};
pub use memory::ProcMemory;
use memory::{MAX_HEADERS, MAX_LINKS};

mod mapping;
mod memory;
mod query;
#[cfg(test)]
mod tests;

/// A `proc` file system.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

impl Proc {
    /// This machine's processes.
    pub fn host() -> Proc {
        Proc::at("/proc")
    }

    /// Processes described by a directory with the layout of `/proc`.
    pub fn at(root: impl Into<PathBuf>) -> Proc {
        Proc { root: root.into() }
    }

    /// Change time (ctime, in seconds and nanoseconds) of the file mapped at `start..end`. `None` if the
    /// process is gone.
    pub fn changed(&self, pid: u32, start: u64, end: u64) -> Option<(i64, i64)> {
        let meta = std::fs::metadata(self.path(pid, &format!("map_files/{start:x}-{end:x}"))).ok()?;
        Some((meta.ctime(), meta.ctime_nsec()))
    }

    /// The PIDs of all processes, in ascending order.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids: Vec<u32> = std::fs::read_dir(&self.root)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// True if there is a process or thread with this ID.
    pub fn exists(&self, pid: u32) -> bool {
        self.path(pid, "status").exists()
    }

    /// Whether the main thread of a process has exited, while others are running.
    pub fn has_lost_main_thread(&self, pid: u32) -> bool {
        let stat = std::fs::read(self.path(pid, "stat")).unwrap_or_default();
        // The name before it may have any bytes.
        let state = stat.rsplitn(2, |&byte| byte == b')').next();
        let is_zombie = state.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"Z"));
        is_zombie && std::fs::read_dir(self.path(pid, "task")).is_ok_and(|threads| threads.count() > 1)
    }

    /// The thread in whose entries of `/proc` the memory of a process is shown: its main thread, or if that has exited,
    /// another one.
    pub fn shown_thread(&self, pid: u32) -> u32 {
        if !self.has_lost_main_thread(pid) {
            return pid;
        }
        let threads = std::fs::read_dir(self.path(pid, "task")).into_iter().flatten();
        let numbers = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let has_memory = |&tid: &u32| std::fs::read_link(self.path(tid, "exe")).is_ok();
        numbers.filter(|&tid| tid != pid).find(has_memory).unwrap_or(pid)
    }

    /// A link to the root directory of a process.
    pub fn root(&self, pid: u32) -> PathBuf {
        self.path(self.shown_thread(pid), "root")
    }

    /// The PID of the process that a thread belongs to; for a PID, the PID itself.
    ///
    /// # Errors
    /// The thread does not exist.
    pub fn tgid(&self, tid: u32) -> io::Result<u32> {
        let status = std::fs::read(self.path(tid, "status"))?;
        let line = status
            .split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(b"Tgid:"));
        let tgid = line.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
        tgid.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no Tgid line"))
    }

    /// All mappings of a process, in address order. Empty for kernel threads and exited processes.
    ///
    /// # Errors
    /// The process does not exist or may not be inspected.
    pub fn mappings(&self, pid: u32) -> io::Result<Vec<ProcMapping>> {
        let read = |task| {
            let mut mappings = Vec::new();
            read_mappings(File::open(self.path(task, "maps"))?, |mapping| {
                mappings.push(mapping)
            })?;
            Ok(mappings)
        };
        let mappings: Vec<ProcMapping> = read(pid)?;
        if !mappings.is_empty() {
            return Ok(mappings);
        }
        read(self.shown_thread(pid))
    }

    /// Visits the mappings of files for execution, some possibly twice.
    fn each_code_mapping(&self, pid: u32, mut visit: impl FnMut(ProcMapping)) -> io::Result<()> {
        let is_empty = Cell::new(true);
        let mut visit = |mapping| {
            is_empty.set(false);
            visit(mapping);
        };
        self.each_code_mapping_of(pid, &mut visit)?;
        match is_empty.get() {
            true => self.each_code_mapping_of(self.shown_thread(pid), visit),
            false => Ok(()),
        }
    }

    fn each_code_mapping_of(&self, thread: u32, mut visit: impl FnMut(ProcMapping)) -> io::Result<()> {
        let maps = File::open(self.path(thread, "maps"))?;
        if query::each_code_mapping(&maps, &mut visit) {
            return Ok(());
        }
        read_mappings(maps, |mapping| {
            if mapping.is_code() {
                visit(mapping);
            }
        })
    }

    /// Opens the mapped file itself.
    ///
    /// # Errors
    /// The process is gone, the file is not a regular one, or its path leads to another file by now.
    pub fn open(&self, pid: u32, mapping: &ProcMapping) -> io::Result<File> {
        let range = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        if let Ok(file) = open_regular(&self.path(pid, &range)) {
            return Ok(file);
        }
        let thread = self.shown_thread(pid);
        match open_regular(&self.path(thread, &range)) {
            Ok(file) => Ok(file),
            Err(error) if mapping.deleted => Err(error),
            Err(_) => self.open_by_path(thread, mapping),
        }
    }

    /// Opens the mapped file by its path, if it still is that file. The process controls the path, so no
    /// symbolic link in it may lead out of the root directory of the process.
    fn open_by_path(&self, pid: u32, mapping: &ProcMapping) -> io::Result<File> {
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(self.path(pid, "root"))?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = reopen(&File::from(openat2(&root, &mapping.path, how)?))?;
        let meta = file.metadata()?;
        if meta.ino() != mapping.inode || meta.size() <= mapping.offset {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                "the file was replaced after it was mapped",
            ));
        }
        Ok(file)
    }

    /// Whether a process runs a 32-bit program. False if its executable cannot be read, or is not ELF.
    pub fn is_32_bit(&self, pid: u32) -> bool {
        let mut ident = [0; 5];
        let read = open_regular(&self.path(pid, "exe")).and_then(|mut exe| exe.read_exact(&mut ident));
        read.is_ok() && ident == *b"\x7fELF\x01"
    }

    /// The executable of a process.
    ///
    /// # Errors
    /// The process is gone or is a kernel thread.
    pub fn executable(&self, pid: u32) -> io::Result<ObjectFile> {
        let thread = self.shown_thread(pid);
        let link = self.path(thread, "exe");
        let path = std::fs::read_link(&link)?.into_os_string().into_vec();
        let path = path.strip_suffix(DELETED).unwrap_or(&path);
        ObjectFile::new(open_regular(&link)?, OsString::from_vec(path.to_vec()).into())
    }

    /// Files with code of a process that this process may not read: not even root may read those in a FUSE file system
    /// that another user has mounted.
    pub fn unreadable_files(&self, pid: u32) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let mut unreadable = Vec::new();
        let visited = self.each_code_mapping(pid, |mapping| {
            if seen.insert(mapping.file_key())
                && let Err(error) = self.open(pid, &mapping)
                && error.kind() == ErrorKind::PermissionDenied
            {
                unreadable.push(mapping.path);
            }
        });
        // An error is a process that has exited.
        visited.map_or_else(|_| Vec::new(), |()| unreadable)
    }

    /// All files that a process maps for execution, each once, in address order. Files that cannot be opened
    /// are skipped.
    ///
    /// # Errors
    /// The process does not exist, or none of its files can be opened; the first error is returned.
    pub fn objects(&self, pid: u32) -> io::Result<Vec<ObjectFile>> {
        let mut seen = HashSet::new();
        let mut mappings = Vec::new();
        self.each_code_mapping(pid, |mapping| {
            if seen.insert(mapping.file_key()) {
                mappings.push(mapping);
            }
        })?;
        let opened: Vec<_> = mappings
            .into_iter()
            .map(|mapping| self.open_object(pid, mapping))
            .collect();
        if opened.iter().all(Result::is_err) {
            return opened.into_iter().collect();
        }
        Ok(unique(opened.into_iter().flatten()))
    }

    /// The first file that a process maps for execution from a path that `wanted` accepts.
    pub fn mapped_file(&self, pid: u32, wanted: impl Fn(&Path) -> bool) -> Option<ObjectFile> {
        let mappings = self.mappings(pid).ok()?;
        let mut code = mappings.into_iter().filter(ProcMapping::is_code);
        let mapping = code.find(|mapping| wanted(&mapping.path))?;
        self.open_object(pid, mapping).ok()
    }

    /// All files that any process maps for execution and that `wanted` accepts, each inode once. Processes
    /// that exit meanwhile and files that cannot be opened are skipped.
    ///
    /// Opening is the expensive part, so a file is opened once per mount namespace and name, not per process.
    /// The namespace is part of the key because device and inode number are not always unique: two subvolumes
    /// of btrfs share the device that `maps` shows.
    pub fn all_objects(&self, mut wanted: impl FnMut(&ProcMapping) -> bool) -> Vec<ObjectFile> {
        let mut seen = HashSet::new();
        let mut objects = Vec::new();
        for pid in self.pids().unwrap_or_default() {
            let namespace = std::fs::metadata(self.path(pid, "ns/mnt")).map_or(0, |meta| meta.ino());
            let mut new = Vec::new();
            // An error is a process that has exited.
            let _ = self.each_code_mapping(pid, |mapping| {
                if wanted(&mapping) && seen.insert((namespace, mapping.file_key())) {
                    new.push(mapping);
                }
            });
            objects.extend(new.into_iter().flat_map(|mapping| self.open_object(pid, mapping)));
        }
        unique(objects)
    }

    /// The files of a process in the order in which its dynamic loader searches them for symbols, the program
    /// first, and then other code, such as that of libraries in a namespace of their own (`dlmopen`). In address order
    /// after the program if there is no loader, it has not run yet, or the memory cannot be read.
    ///
    /// # Errors
    /// The process is gone, or its files cannot be opened.
    pub fn link_order(&self, pid: u32) -> io::Result<Vec<ObjectFile>> {
        let executable = match self.executable(pid) {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => return Err(error),
            executable => executable.ok(),
        };
        let mut mappings = self.mappings(pid)?;
        mappings.retain(ProcMapping::is_file);
        let addresses = self.linked_addresses(pid, executable.as_ref(), &mappings);
        let addresses = addresses.unwrap_or_default().into_iter();
        let listed: Vec<&ProcMapping> = addresses.filter_map(|addr| mapping_at(&mappings, addr)).collect();
        let mut known: HashSet<_> = listed.iter().map(|mapping| mapping.file_key()).collect();
        let others = mappings.iter().filter(|mapping| mapping.exec);
        let others: Vec<&ProcMapping> = others
            .filter(|mapping| known.insert(mapping.file_key()))
            .collect();
        let open = |mapping: &&ProcMapping| self.open_object(pid, (*mapping).clone()).ok();
        let mut linked: Vec<ObjectFile> = listed.iter().filter_map(open).collect();
        if !linked.is_empty() {
            linked.extend(others.iter().filter_map(open));
        }
        let Some(executable) = executable else {
            return match linked.is_empty() {
                true => self.objects(pid),
                false => Ok(unique(linked)),
            };
        };
        // A program started as an argument of the loader is not the executable: the loader is.
        if let Some(program) = linked.iter_mut().find(|object| object.id == executable.id) {
            // Its ELF headers are parsed already.
            *program = executable;
            return Ok(unique(linked));
        }
        let others = if linked.is_empty() {
            self.objects(pid)?
        } else {
            linked
        };
        Ok(unique(std::iter::once(executable).chain(others)))
    }

    /// Addresses of the dynamic sections in the loader's list. Each lies in a mapping of its file.
    fn linked_addresses(
        &self,
        pid: u32,
        executable: Option<&ObjectFile>,
        mappings: &[ProcMapping],
    ) -> Option<Vec<u64>> {
        let memory = self.memory(pid).ok()?;
        let dynamic = match executable {
            Some(executable) => self.program_dynamic(pid, executable),
            None => self.mapped_dynamic(pid, &memory),
        };
        let debug = dynamic
            .and_then(|dynamic| memory.debug_address(dynamic))
            .or_else(|| self.debug_of_any(pid, &memory, mappings))?;
        Some(memory.link_map(debug))
    }

    /// The address of the program's dynamic section in memory. The load address follows from its entry point.
    fn program_dynamic(&self, pid: u32, executable: &ObjectFile) -> Option<u64> {
        let elf = executable.elf().ok()?;
        let load_bias = self.auxv(pid, libc::AT_ENTRY)?.wrapping_sub(elf.entry());
        Some(elf.dynamic_address()?.wrapping_add(load_bias))
    }

    /// As above, from the program headers in memory, for a program whose file cannot be read.
    fn mapped_dynamic(&self, pid: u32, memory: &ProcMemory) -> Option<u64> {
        let headers = self.auxv(pid, libc::AT_PHDR)?;
        let count = self.auxv(pid, libc::AT_PHNUM)?.min(MAX_HEADERS);
        memory.dynamic_section(headers, count)
    }

    /// The address of `r_debug` for a program that was started as an argument of the loader (`ld.so
    /// PROGRAM`): the executable is the loader, and the program is one of the other files.
    fn debug_of_any(&self, pid: u32, memory: &ProcMemory, mappings: &[ProcMapping]) -> Option<u64> {
        let mut seen = HashSet::new();
        let code = mappings
            .iter()
            .filter(|mapping| mapping.exec && seen.insert(mapping.file_key()));
        code.take(MAX_LINKS)
            .filter_map(|mapping| {
                let elf = self.open_object(pid, mapping.clone()).ok()?.elf().ok()?;
                elf.interpreter()?;
                let load_bias = mapping.start.wrapping_sub(elf.address_of(mapping.offset)?);
                memory.debug_address(elf.dynamic_address()?.wrapping_add(load_bias))
            })
            .next()
    }

    /// An entry of the auxiliary vector.
    fn auxv(&self, pid: u32, wanted: u64) -> Option<u64> {
        let vector = ProcMemory(File::open(self.path(self.shown_thread(pid), "auxv")).ok()?);
        vector.entry(0, wanted)
    }

    /// Opens the memory of a process for reading.
    ///
    /// # Errors
    /// The process does not exist or may not be inspected.
    pub(in crate::find) fn memory(&self, pid: u32) -> io::Result<ProcMemory> {
        File::open(self.path(self.shown_thread(pid), "mem")).map(ProcMemory)
    }

    fn open_object(&self, pid: u32, mapping: ProcMapping) -> io::Result<ObjectFile> {
        ObjectFile::new(self.open(pid, &mapping)?, mapping.path)
    }

    fn path(&self, pid: u32, entry: &str) -> PathBuf {
        self.root.join(format!("{pid}/{entry}"))
    }
}

/// Reads line by line, because a hostile process can have tens of thousands of mappings with long names.
fn read_mappings(maps: File, mut visit: impl FnMut(ProcMapping)) -> io::Result<()> {
    let mut maps = BufReader::with_capacity(64 * 1024, maps);
    let mut line = Vec::new();
    while maps.read_until(b'\n', &mut line)? > 0 {
        if let Some(mapping) = ProcMapping::parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
            visit(mapping);
        }
        line.clear();
    }
    Ok(())
}

/// The first object of each identity.
fn unique(objects: impl IntoIterator<Item = ObjectFile>) -> Vec<ObjectFile> {
    let mut seen = HashSet::new();
    objects
        .into_iter()
        .filter(|object| seen.insert(object.id))
        .collect()
}
