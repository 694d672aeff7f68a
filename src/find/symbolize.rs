//! Addresses of traced processes as lines of a stack, also for a process that is gone.
//!
//! There is one way from an address to a function: the remembered memory map of the process gives file and offset, and
//! the remembered file gives the symbol. A map is read from `/proc` when a process is first seen, and again when an
//! address is not in it; a tool that follows processes through the kernel's records feeds it what happens instead.
//! Files stay open, so that they can be read when they were removed or when their mount namespace is gone.

mod memory;
mod object;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use memory::{Backing, FileKey, Mapping, Memory};
use object::{Objects, object_name, open_mapped};

/// Ended processes whose maps are kept, for events that are read late.
const MAX_GONE: usize = 1024;
/// When more processes than this are known, all are forgotten and read again as they are met.
const MAX_PROCESSES: usize = 1 << 14;
/// Whether a number still belongs to the same program is asked no more often than this. Numbers are given out in turn,
/// so one does not come back within such a time.
const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// A process's map is read again this often in a row, for addresses that are not in it, ...
const MAX_READS: u32 = 16;
/// ... and then once in this time: a stack walked without frame pointers is full of addresses that are in no map.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// Characters of a symbol's name that are shown.
const MAX_NAME: usize = 512;
/// The name of the kernel's page of return probes in a memory map, and its frame.
const TRAMPOLINE: &str = "[uprobes]";
/// Where that page usually is: x86-64 with 4 and 5 levels of page tables, arm64.
const TRAMPOLINE_PAGES: [u64; 3] = [0x7fff_ffff_e000, 0xff_ffff_ffff_e000, 0xffff_ffff_f000];
const PAGE_BYTES: u64 = 0x1000;

/// One line of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// `symbol+0x1f [object]`, `symbol [inlined]`, `0x1234 [object]` with an address of that file where there is no
    /// symbol, `[vdso]`, `[uprobes]`, or the bare address. Fit to be printed: what a traced program could have put
    /// into a name to disturb a terminal is escaped.
    pub text: Rc<str>,
    /// Has no call of its own: the compiler put it into the function of the next frame.
    pub inlined: bool,
    /// Nothing calls this function, so a stack that reaches it is whole.
    bottom: bool,
}

impl Frame {
    fn new(text: impl Into<Rc<str>>) -> Frame {
        Frame {
            text: text.into(),
            inlined: false,
            bottom: false,
        }
    }
}

/// Whether a stack reaches the function where its thread began. Where it does not, the walk was cut, mostly by a
/// function without frame pointer.
pub fn ends_whole(frames: &[Frame]) -> bool {
    // What follows the bottom is what registers happened to hold, so it need not be the last.
    frames.iter().any(|frame| frame.bottom)
}

/// Turns addresses into frames.
pub struct Symbolizer {
    proc_root: PathBuf,
    objects: Objects,
    processes: HashMap<u32, Process>,
    /// Ended processes, the first to end in front, each with the number of its end.
    gone: VecDeque<(u32, u64)>,
    ends: u64,
}

impl Default for Symbolizer {
    fn default() -> Symbolizer {
        Symbolizer::new()
    }
}

impl Symbolizer {
    /// A symbolizer that knows no process yet.
    pub fn new() -> Symbolizer {
        Symbolizer::with_debug_dir("/usr/lib/debug".into())
    }

    /// Takes debug files from another directory, laid out like `/usr/lib/debug`.
    pub fn with_debug_dir(debug_dir: PathBuf) -> Symbolizer {
        Symbolizer {
            proc_root: "/proc".into(),
            objects: Objects::new(debug_dir),
            processes: HashMap::new(),
            gone: VecDeque::new(),
            ends: 0,
        }
    }

    /// Appends the frames of a stack of process `pid` (a thread group), innermost first. The first address is taken as
    /// it is and all others as return addresses, which belong to the call before them. An address can be several
    /// frames, because of inlining.
    pub fn frames(&mut self, pid: u32, addresses: &[u64], out: &mut Vec<Frame>) {
        self.meet(pid, addresses);
        for (place, &address) in addresses.iter().enumerate() {
            self.frame(pid, address, place > 0, out);
        }
    }

    /// Reads the memory map of a process now, and opens the files in it, so that its addresses have names even if it
    /// ends before they are looked up. Without effect for a process that is gone already.
    pub fn observe(&mut self, pid: u32) {
        let identity = Identity::read(&self.proc_root, pid);
        let maps = fs::read(self.proc_root.join(pid.to_string()).join("maps")).unwrap_or_default();
        let memory = Memory::parse(&maps);
        // A process that is ending has no map any more; what is known of it is worth more.
        if memory.is_empty() {
            return;
        }
        self.open_files(pid, &memory);
        let process = self.process(pid);
        // One that has ended has no map, so this is the next one with its number.
        if process.end.is_some() || process.is_other(identity) {
            *process = Process::default();
        }
        process.identity = identity.or(process.identity);
        Rc::make_mut(&mut process.memory).renew(memory);
    }

    /// A process has mapped code: the bytes from `file_offset` of a file are at `start..end`. `device_and_inode` are
    /// those of the kernel's record, the device as `makedev` puts it together.
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
        let mapping = Mapping {
            start,
            end,
            offset: file_offset,
            backing,
        };
        self.open_file(pid, &mapping);
        Rc::make_mut(&mut self.process(pid).memory).insert(mapping);
    }

    /// A process has been made by another one, and has its memory.
    pub fn forked(&mut self, parent: u32, child: u32) {
        match self.processes.get(&parent) {
            Some(process) => {
                let memory = Rc::clone(&process.memory);
                *self.process(child) = Process {
                    memory,
                    ..Process::default()
                };
            }
            None => {
                self.processes.remove(&child);
                self.observe(child);
            }
        }
    }

    /// A process runs another program from now on.
    pub fn exec(&mut self, pid: u32) {
        *self.process(pid) = Process::default();
    }

    /// A process has ended. It is remembered until many others have ended, or until its number is in use again.
    pub fn exited(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        self.ends += 1;
        process.end = Some(self.ends);
        self.gone.push_back((pid, self.ends));
        if self.gone.len() > MAX_GONE {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((pid, end)) = self.gone.pop_front() else {
            return;
        };
        if self
            .processes
            .get(&pid)
            .is_some_and(|process| process.end == Some(end))
        {
            self.processes.remove(&pid);
        }
    }

    fn process(&mut self, pid: u32) -> &mut Process {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&pid) {
            self.processes.clear();
            self.gone.clear();
        }
        self.processes.entry(pid).or_default()
    }

    /// Makes sure that the map of a process is known, is its own, and holds the addresses, as far as that can be had.
    fn meet(&mut self, pid: u32, addresses: &[u64]) {
        if !self.processes.contains_key(&pid) {
            self.observe(pid);
        }
        let now = Instant::now();
        let seen = match self.process(pid).is_check_due(now) {
            true => Identity::read(&self.proc_root, pid),
            false => None,
        };
        let process = self.process(pid);
        let is_known = |address: u64| process.memory.find(address).is_some();
        // A return address may be the first byte after a mapping, and the first address the first byte in one.
        let unknown = |&address: &u64| address > PAGE_BYTES && !is_known(address) && !is_known(address - 1);
        let must_read = process.is_other(seen) || (addresses.iter().any(unknown) && process.may_read(now));
        if must_read {
            self.observe(pid);
        }
    }

    fn frame(&mut self, pid: u32, address: u64, is_return: bool, out: &mut Vec<Frame>) {
        let looked_up = address.wrapping_sub(u64::from(is_return));
        let mapping = self
            .processes
            .get(&pid)
            .and_then(|process| process.memory.find(looked_up))
            .cloned();
        match mapping {
            Some(Mapping {
                start,
                offset,
                backing: Backing::File(file),
                ..
            }) => {
                let offset = (looked_up - start).wrapping_add(offset);
                match self.objects.frames(file.key, offset, is_return) {
                    Some(frames) => out.extend_from_slice(&frames),
                    None => out.push(Frame::new(format!("{address:#x} [{}]", object_name(&file.path)))),
                }
            }
            Some(Mapping {
                backing: Backing::Kernel(name),
                ..
            }) => out.push(Frame::new(name)),
            _ if TRAMPOLINE_PAGES.contains(&(address & !(PAGE_BYTES - 1))) => {
                out.push(Frame::new(TRAMPOLINE))
            }
            _ => out.push(Frame::new(format!("{address:#x}"))),
        }
    }

    fn open_files(&mut self, pid: u32, memory: &Memory) {
        memory.iter().for_each(|mapping| self.open_file(pid, mapping));
    }

    fn open_file(&mut self, pid: u32, mapping: &Mapping) {
        let Backing::File(mapped) = &mapping.backing else {
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

/// What is remembered of a process.
struct Process {
    /// Shared with forked processes until one of them changes.
    memory: Rc<Memory>,
    /// `None` until the process was seen in `/proc`.
    identity: Option<Identity>,
    checked: Instant,
    /// How often the map may be read again, and since when.
    reads: u32,
    refilled: Instant,
    /// The number of its end, for a process that has ended.
    end: Option<u64>,
}

impl Default for Process {
    fn default() -> Process {
        let now = Instant::now();
        Process {
            memory: Rc::default(),
            identity: None,
            checked: now,
            reads: MAX_READS,
            refilled: now,
            end: None,
        }
    }
}

impl Process {
    fn is_check_due(&mut self, now: Instant) -> bool {
        let due = self.end.is_none() && now.duration_since(self.checked) >= CHECK_PAUSE;
        if due {
            self.checked = now;
        }
        due
    }

    /// Whether what was seen in `/proc` now is another program than the one that is known.
    fn is_other(&self, seen: Option<Identity>) -> bool {
        self.identity.is_some() && seen.is_some() && self.identity != seen
    }

    fn may_read(&mut self, now: Instant) -> bool {
        let refill = now.duration_since(self.refilled).as_millis() / READ_PAUSE.as_millis();
        if refill > 0 {
            self.reads = MAX_READS.min(self.reads.saturating_add(refill as u32));
            self.refilled = now;
        }
        let may = self.reads > 0;
        self.reads = self.reads.saturating_sub(1);
        may
    }
}

/// What tells one program from another that has its process number later on: when the process began, and where the
/// kernel put its code and its stack, which is elsewhere after each exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    started: u64,
    code: u64,
    stack: u64,
}

impl Identity {
    /// `None` for a process that is gone or ending, and where the kernel does not tell.
    fn read(proc_root: &Path, pid: u32) -> Option<Identity> {
        let stat = fs::read(proc_root.join(pid.to_string()).join("stat")).ok()?;
        // The name of the program is in brackets, and may hold blanks and brackets.
        let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
        let text = std::str::from_utf8(&stat[after_name..]).ok()?;
        // Counted from 1 in proc(5), where the first one after the name is the third.
        let field = |number: usize| text.split_ascii_whitespace().nth(number - 3)?.parse().ok();
        let identity = Identity {
            started: field(22)?,
            code: field(26)?,
            stack: field(28)?,
        };
        (identity.stack != 0).then_some(identity)
    }
}

/// Functions that nothing calls, by what they are called in glibc, musl and Go.
fn is_bottom(symbol: &str, object: &str) -> bool {
    let name = symbol.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("__GI_").unwrap_or(name);
    match name {
        "_start" | "_start_c" | "_dl_start" | "_dl_start_user" | "libc_start_main_stage2" => true,
        "start_thread" | "clone" | "__clone" | "clone3" | "__clone3" | "runtime.goexit" => true,
        // Names that a program might well give to functions of its own.
        "start" | "start_c11" => object.starts_with("ld-musl") || object.starts_with("libc.musl"),
        _ => name.starts_with("__libc_start_main") || name.starts_with("__libc_start_call_main"),
    }
}

/// A name out of a traced program, with everything escaped that could move a cursor or turn text around, and cut to a
/// bearable length.
fn printable(name: &str) -> Cow<'_, str> {
    let is_odd = |char: char| char.is_control() || is_bidirectional(char);
    if name.len() <= MAX_NAME && !name.contains(is_odd) {
        return Cow::Borrowed(name);
    }
    let mut text = String::with_capacity(MAX_NAME);
    for char in name.chars().take(MAX_NAME) {
        match is_odd(char) {
            true => text.extend(char.escape_unicode()),
            false => text.push(char),
        }
    }
    if name.chars().nth(MAX_NAME).is_some() {
        text.push_str("...");
    }
    Cow::Owned(text)
}

fn is_bidirectional(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
