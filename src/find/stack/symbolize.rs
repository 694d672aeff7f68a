// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Addresses of traced processes as stack frames, also for processes that have exited.
//!
//! The cached memory map of the process gives the file and the offset of an address, and the cached file gives the
//! symbol. A map is read from `/proc` when a process is first seen, and again when an address is not in it; a tool that
//! follows processes through the kernel's records reports the changes instead. The code of a program is still known
//! after its process has executed another one. Files stay open, so that they can be read after they were removed or
//! their mount namespace is gone.

mod frame;
mod memory;
mod object;
mod process;

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use memory::{CodeBacking, CodeMap, CodeMapping, FileKey, MappedFile, TRAMPOLINE};
use object::{ObjectCache, object_name, open_mapped};
use process::{CachedProcess, PAGE_BYTES, ProcessIdentity};

use crate::find::host::clock::monotonic_ns;
use crate::find::host::proc::Proc;

pub use frame::{StackFrame, certain, is_complete};

/// Exited processes whose maps are kept, for events that are read late.
const MAX_EXITED: usize = 1024;
/// When more processes than this are cached, all are dropped and read again as they occur.
const MAX_PROCESSES: usize = 1 << 14;
/// The usual addresses of the kernel's return probe page: x86-64 with 4 and 5 levels of page tables, arm64.
const TRAMPOLINE_PAGES: [u64; 3] = [0x7fff_ffff_e000, 0xff_ffff_ffff_e000, 0xffff_ffff_f000];

/// Turns addresses into stack frames.
pub struct Symbolizer {
    proc_root: PathBuf,
    objects: ObjectCache,
    processes: HashMap<u32, CachedProcess>,
    /// Exited processes, oldest first, each with the value of `exits` then.
    exited: VecDeque<(u32, u64)>,
    exits: u64,
    /// The kernel's records of processes are read, so that the time of each exec will be known.
    is_followed: bool,
}

/// A process at a time.
#[derive(Clone, Copy, Debug)]
pub struct ProcessAt {
    /// A thread group ID.
    pub pid: u32,
    /// CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
}

/// The code of a process at a time.
struct KnownCode {
    memory: Rc<CodeMap>,
    /// The process has executed another program since.
    is_earlier: bool,
}

impl Default for Symbolizer {
    fn default() -> Symbolizer {
        Symbolizer::new()
    }
}

impl Symbolizer {
    pub fn new() -> Symbolizer {
        Symbolizer::with_debug_dir("/usr/lib/debug".into())
    }

    /// With debug files from another directory, laid out like `/usr/lib/debug`.
    pub fn with_debug_dir(debug_dir: PathBuf) -> Symbolizer {
        Symbolizer {
            proc_root: "/proc".into(),
            objects: ObjectCache::new(debug_dir),
            processes: HashMap::new(),
            exited: VecDeque::new(),
            exits: 0,
            is_followed: false,
        }
    }

    /// Appends the frames of a stack that process `at` had, innermost first. Addresses are return addresses, which
    /// belong to the call before them; with `starts_exact` the first is the address of an instruction. One address
    /// gives several frames if functions are inlined there. False if the code of the process at that time is not known.
    pub fn frames(
        &mut self,
        at: ProcessAt,
        addresses: &[u64],
        starts_exact: bool,
        out: &mut Vec<StackFrame>,
    ) -> bool {
        let is_return = |index: usize| index > 0 || !starts_exact;
        let code = self.code(at, addresses, is_return);
        for (index, &address) in addresses.iter().enumerate() {
            self.frame(at.pid, &code, address, is_return(index), out);
        }
        !code.memory.is_empty()
    }

    /// Whether the instruction at an address is one with which functions begin to set up their frame on x86-64:
    /// `push %rbp`, or `endbr64` before it. True if it cannot be read.
    pub fn begins_frame(&mut self, at: ProcessAt, address: u64) -> bool {
        let code = self.code(at, &[address], |_| false);
        let Some(mapping) = code.memory.find(address) else {
            return true;
        };
        let CodeBacking::File(file) = &mapping.backing else {
            return true;
        };
        let offset = (address - mapping.start).wrapping_add(mapping.offset);
        self.objects.begins_frame(file.key, offset).unwrap_or(true)
    }

    /// Reads the memory map of a process and opens the files in it, so that its addresses have names even if it exits
    /// before they are looked up. Does nothing for a process that has exited.
    pub fn observe(&mut self, pid: u32) {
        let thread = self.shown_thread(pid);
        let (now_ns, is_followed) = (monotonic_ns(), self.is_followed);
        let identity = ProcessIdentity::read(&self.proc_root, thread);
        let maps = fs::read(self.proc_root.join(thread.to_string()).join("maps")).unwrap_or_default();
        let memory = CodeMap::parse(&maps);
        // A process that is exiting has an empty map; the cached one is better.
        if memory.is_empty() {
            return;
        }
        self.open_files(thread, &memory);
        let process = self.process(pid);
        if is_followed && process.has_executed(identity) {
            process.exec(now_ns);
        }
        // An exited process has no map, so this is another one with the same PID.
        if process.exited.is_some() || process.is_other(identity) {
            *process = CachedProcess::default();
        }
        if process.memory.is_empty() {
            process.read_ns = now_ns;
        }
        process.identity = identity.or(process.identity);
        Rc::make_mut(&mut process.memory).renew(memory);
    }

    /// A process has mapped code: the bytes of a file from `file_offset` on are at `start..end`. Device (in the form of
    /// `makedev`) and inode are those of the kernel's record.
    pub fn mapped(
        &mut self,
        pid: u32,
        start: u64,
        end: u64,
        file_offset: u64,
        path: &Path,
        (dev, inode): (u64, u64),
    ) {
        if start >= end {
            return;
        }
        if !self.processes.contains_key(&pid) {
            self.observe(pid);
        }
        let backing = memory::backing(path, FileKey { dev, inode });
        let mapping = CodeMapping {
            start,
            end,
            offset: file_offset,
            backing,
        };
        self.open_file(pid, &mapping);
        Rc::make_mut(&mut self.process(pid).memory).insert(mapping);
    }

    /// A process has forked; the child has its memory.
    pub fn forked(&mut self, parent: u32, child: u32) {
        self.is_followed = true;
        match self.processes.get(&parent) {
            Some(process) => {
                let memory = Rc::clone(&process.memory);
                *self.process(child) = CachedProcess::with_memory(memory);
            }
            None => {
                self.processes.remove(&child);
                self.observe(child);
            }
        }
    }

    /// A process has executed another program. Events from before that are still named by the code of the one it ran.
    pub fn exec(&mut self, at: ProcessAt) {
        self.is_followed = true;
        self.process(at.pid).exec(at.time_ns);
    }

    /// A process has exited. It is kept until many others have exited, or until its PID is used again.
    pub fn exited(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        self.exits += 1;
        process.exited = Some(self.exits);
        self.exited.push_back((pid, self.exits));
        if self.exited.len() > MAX_EXITED {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((pid, exit)) = self.exited.pop_front() else {
            return;
        };
        if self
            .processes
            .get(&pid)
            .is_some_and(|process| process.exited == Some(exit))
        {
            self.processes.remove(&pid);
        }
    }

    fn process(&mut self, pid: u32) -> &mut CachedProcess {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&pid) {
            self.processes.clear();
            self.exited.clear();
        }
        self.processes.entry(pid).or_default()
    }

    /// See [`Proc::shown_thread`].
    fn shown_thread(&self, pid: u32) -> u32 {
        Proc::at(&self.proc_root).shown_thread(pid)
    }

    /// The code of a process, in which these addresses should be.
    fn code(&mut self, at: ProcessAt, addresses: &[u64], is_return: impl Fn(usize) -> bool) -> KnownCode {
        let earlier = |processes: &HashMap<u32, CachedProcess>| {
            let memory = processes.get(&at.pid)?.earlier_memory(at.time_ns)?;
            Some(KnownCode {
                memory,
                is_earlier: true,
            })
        };
        if let Some(code) = earlier(&self.processes) {
            return code;
        }
        self.refresh(at.pid, addresses, is_return);
        earlier(&self.processes).unwrap_or_else(|| KnownCode {
            memory: Rc::clone(&self.process(at.pid).memory),
            is_earlier: false,
        })
    }

    /// Makes sure, as far as possible, that the cached map belongs to this process and has the addresses.
    fn refresh(&mut self, pid: u32, addresses: &[u64], is_return: impl Fn(usize) -> bool) {
        if !self.processes.contains_key(&pid) {
            self.observe(pid);
        }
        let now = Instant::now();
        let seen = match self.process(pid).is_check_due(now) {
            true => ProcessIdentity::read(&self.proc_root, self.shown_thread(pid)),
            false => None,
        };
        let process = self.process(pid);
        let mut addresses = addresses.iter().enumerate();
        let has_unknown = addresses.any(|(index, &address)| process.is_unknown(address, is_return(index)));
        let must_read = process.is_other(seen) || (has_unknown && process.may_read(now));
        if must_read {
            self.observe(pid);
        }
    }

    fn frame(
        &mut self,
        pid: u32,
        code: &KnownCode,
        address: u64,
        is_return: bool,
        out: &mut Vec<StackFrame>,
    ) {
        let mapping = code.memory.find_called(address, is_return);
        match mapping.map(|mapping| (mapping, &mapping.backing)) {
            Some((mapping, CodeBacking::File(file))) => {
                // What an earlier program had mapped cannot be opened any more.
                if !code.is_earlier && !self.objects.is_open(file.key) {
                    self.open_file(pid, mapping);
                }
                match self.file_frames(mapping, file, address, is_return) {
                    Some(frames) => out.extend_from_slice(&frames),
                    None => out.push(StackFrame::new(format!(
                        "{address:#x} [{}]",
                        object_name(&file.path)
                    ))),
                }
            }
            Some((_, CodeBacking::Kernel(name))) => out.push(StackFrame::new(*name)),
            _ if TRAMPOLINE_PAGES.contains(&(address & !(PAGE_BYTES - 1))) => {
                out.push(StackFrame::new(TRAMPOLINE))
            }
            _ => out.push(StackFrame {
                mapped: false,
                ..StackFrame::new(format!("{address:#x}"))
            }),
        }
    }

    /// `None` if the file is not available: it was evicted, or removed before it could be opened.
    fn file_frames(
        &mut self,
        mapping: &CodeMapping,
        file: &MappedFile,
        address: u64,
        is_return: bool,
    ) -> Option<Rc<[StackFrame]>> {
        let distance = address
            .wrapping_sub(mapping.start)
            .wrapping_sub(u64::from(is_return));
        let offset = distance.wrapping_add(mapping.offset);
        self.objects.frames(file.key, offset, is_return)
    }

    fn open_files(&mut self, pid: u32, memory: &CodeMap) {
        memory.iter().for_each(|mapping| self.open_file(pid, mapping));
    }

    fn open_file(&mut self, pid: u32, mapping: &CodeMapping) {
        let CodeBacking::File(mapped) = &mapping.backing else {
            return;
        };
        if self.objects.is_open(mapped.key) {
            return;
        }
        if let Some(file) = open_mapped(&self.proc_root, pid, mapping, mapped) {
            self.objects.keep(mapped, file);
        }
    }
}

#[cfg(test)]
mod tests;
