//! Addresses of traced processes as lines of a stack, also for a process that is gone.
//!
//! There is one way from an address to a function: the remembered memory map of the process gives file and
//! offset, and the remembered file gives the symbol. A map is read from `/proc` when a process is first seen,
//! and again when an address is not in it; a tool that follows processes through the kernel's records feeds
//! it what happens instead. Files stay open, so that they can be read when they were removed or when their
//! mount namespace is gone.

mod memory;
mod object;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use memory::{Backing, FileKey, MappedFile, Mapping, Memory};
use object::{Objects, object_name, open_mapped};

/// Ended processes whose maps are kept, for events that are read late.
const MAX_GONE: usize = 1024;
/// When more processes than this are known, all are forgotten and read again as they are met.
const MAX_PROCESSES: usize = 1 << 14;
/// Whether a number still belongs to the same program is asked no more often than this. Numbers are given out
/// in turn, so one does not come back within such a time.
const CHECK_PAUSE: Duration = Duration::from_millis(100);
/// A process's map is read again this often in a row, for addresses that are not in it, ...
const MAX_READS: u32 = 16;
/// ... and then once in this time: a stack walked without frame pointers is full of addresses that are in no
/// map.
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
    /// `symbol+0x1f [object]`, `symbol [inlined]`, `0x1234 [object]` with an address of that file where there
    /// is no symbol, `[vdso]`, `[uprobes]`, or the bare address. Fit to be printed: what a traced program
    /// could have put into a name to disturb a terminal is escaped.
    pub text: Rc<str>,
    /// Has no call of its own: the compiler put it into the function of the next frame.
    pub inlined: bool,
    /// Lies in a file or a part of the kernel that the process has mapped. Where it does not, the walk has gone astray,
    /// and what follows means nothing.
    pub mapped: bool,
    /// Nothing calls this function, so a stack that reaches it is whole.
    bottom: bool,
}

impl Frame {
    fn new(text: impl Into<Rc<str>>) -> Frame {
        Frame {
            text: text.into(),
            inlined: false,
            mapped: true,
            bottom: false,
        }
    }
}

/// Whether a stack reaches the function where its thread began. Where it does not, the walk was cut, mostly
/// by a function without frame pointer.
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

    /// Appends the frames of a stack of process `pid` (a thread group), innermost first. Addresses are return
    /// addresses, which belong to the call before them; with `starts_exact` the first is that of an instruction. An
    /// address can be several frames, because of inlining.
    pub fn frames(&mut self, pid: u32, addresses: &[u64], starts_exact: bool, out: &mut Vec<Frame>) {
        let is_return = |place: usize| place > 0 || !starts_exact;
        self.meet(pid, addresses, is_return);
        for (place, &address) in addresses.iter().enumerate() {
            self.frame(pid, address, is_return(place), out);
        }
    }

    /// Reads the memory map of a process now, and opens the files in it, so that its addresses have names
    /// even if it ends before they are looked up. Without effect for a process that is gone already.
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

    /// A process has mapped code: the bytes from `file_offset` of a file are at `start..end`.
    /// `device_and_inode` are those of the kernel's record, the device as `makedev` puts it together.
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

    /// A process has ended. It is remembered until many others have ended, or until its number is in use
    /// again.
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

    /// Makes sure that the map of a process is known, is its own, and holds the addresses, as far as that can
    /// be had.
    fn meet(&mut self, pid: u32, addresses: &[u64], is_return: impl Fn(usize) -> bool) {
        if !self.processes.contains_key(&pid) {
            self.observe(pid);
        }
        let now = Instant::now();
        let seen = match self.process(pid).is_check_due(now) {
            true => Identity::read(&self.proc_root, pid),
            false => None,
        };
        let process = self.process(pid);
        let mut addresses = addresses.iter().enumerate();
        let has_unknown = addresses.any(|(place, &address)| process.is_unknown(address, is_return(place)));
        let must_read = process.is_other(seen) || (has_unknown && process.may_read(now));
        if must_read {
            self.observe(pid);
        }
    }

    fn frame(&mut self, pid: u32, address: u64, is_return: bool, out: &mut Vec<Frame>) {
        let process = self.processes.get(&pid);
        let mapping = process
            .and_then(|process| process.find(address, is_return))
            .cloned();
        match mapping.as_ref().map(|mapping| (mapping, &mapping.backing)) {
            Some((mapping, Backing::File(file))) => {
                match self.file_frames(pid, mapping, file, address, is_return) {
                    Some(frames) => out.extend_from_slice(&frames),
                    None => out.push(Frame::new(format!("{address:#x} [{}]", object_name(&file.path)))),
                }
            }
            Some((_, Backing::Kernel(name))) => out.push(Frame::new(*name)),
            _ if TRAMPOLINE_PAGES.contains(&(address & !(PAGE_BYTES - 1))) => {
                out.push(Frame::new(TRAMPOLINE))
            }
            _ => out.push(Frame {
                mapped: false,
                ..Frame::new(format!("{address:#x}"))
            }),
        }
    }

    /// `None` where the file cannot be had: it made room for others, or it was gone before it could be
    /// opened.
    fn file_frames(
        &mut self,
        pid: u32,
        mapping: &Mapping,
        file: &MappedFile,
        address: u64,
        is_return: bool,
    ) -> Option<Rc<[Frame]>> {
        let distance = address
            .wrapping_sub(mapping.start)
            .wrapping_sub(u64::from(is_return));
        let offset = distance.wrapping_add(mapping.offset);
        if !self.objects.is_open(file.key) {
            self.open_file(pid, mapping);
        }
        self.objects.frames(file.key, offset, is_return)
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
    /// The mapping of an address. A return address belongs to the byte before it, unless it was put there by
    /// the kernel: that of return probes is the first in its page.
    fn find(&self, address: u64, is_return: bool) -> Option<&Mapping> {
        let before = address.checked_sub(u64::from(is_return))?;
        self.memory.find(before).or_else(|| self.memory.find(address))
    }

    /// Whether an address that may well be one is in no mapping.
    fn is_unknown(&self, address: u64, is_return: bool) -> bool {
        address > PAGE_BYTES && self.find(address, is_return).is_none()
    }

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

/// What tells one program from another that has its process number later on: when the process began, and
/// where the kernel put its code and its stack, which is elsewhere after each exec.
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
        "start_thread"
        | "clone"
        | "__clone"
        | "clone3"
        | "__clone3"
        | "runtime.goexit"
        | "runtime.goexit.abi0" => true,
        // Names that a program might well give to functions of its own.
        "start" | "start_c11" => object.starts_with("ld-musl") || object.starts_with("libc.musl"),
        _ => name.starts_with("__libc_start_main") || name.starts_with("__libc_start_call_main"),
    }
}

/// A name out of a traced program, with everything escaped that could move a cursor or turn text around, and
/// cut to a bearable length.
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Where a made-up ELF file wants its code, and where that is in the file.
    const CODE_ADDRESS: u64 = 0x40_1000;
    const CODE_OFFSET: u64 = 0x1000;
    /// Where made-up processes have it.
    const LOADED: u64 = 0x7f00_0000_0000;
    const CODE_BYTES: u64 = 0x1000;
    /// Greater than any process number.
    const NOBODY: u32 = 1 << 30;

    /// A directory for made-up files and a made-up `/proc`, removed at the end.
    struct World(PathBuf);

    impl World {
        fn new(test: &str) -> World {
            let root = std::env::temp_dir().join(format!("ubpf-symbolize-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            World(root)
        }

        fn symbolizer(&self) -> Symbolizer {
            Symbolizer {
                proc_root: self.0.join("proc"),
                ..Symbolizer::with_debug_dir(self.0.join("debug"))
            }
        }

        /// A file with functions: name, distance from the start of the code, size.
        fn elf(&self, name: &str, functions: &[(&str, u64, u64)]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, elf(functions)).unwrap();
            path
        }

        /// A process that has files loaded, one after the other from `LOADED`, each for `CODE_BYTES`.
        fn process(&self, pid: u32, started: u64, files: &[&Path]) {
            let directory = self.0.join("proc").join(pid.to_string());
            fs::create_dir_all(&directory).unwrap();
            let zeros = |count| "0 ".repeat(count);
            let stat = format!("{pid} (a) b) S {}{started} {}5 6 7 8", zeros(18), zeros(3));
            fs::write(directory.join("stat"), stat).unwrap();
            let line = |(place, path): (usize, &&Path)| {
                let start = LOADED + place as u64 * CODE_BYTES;
                let (end, inode) = (start + CODE_BYTES, fs::metadata(path).unwrap().ino());
                format!(
                    "{start:x}-{end:x} r-xp {CODE_OFFSET:x} 08:01 {inode}    {}\n",
                    path.display()
                )
            };
            fs::write(
                directory.join("maps"),
                files.iter().enumerate().map(line).collect::<String>(),
            )
            .unwrap();
        }

        fn end(&self, pid: u32) {
            fs::remove_dir_all(self.0.join("proc").join(pid.to_string())).unwrap();
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The smallest ELF file that has code and a symbol table.
    fn elf(functions: &[(&str, u64, u64)]) -> Vec<u8> {
        let section_names = b"\0.symtab\0.strtab\0";
        let (mut names, mut symbols) = (section_names.to_vec(), vec![0; 24]);
        for &(name, start, size) in functions {
            symbols.extend_from_slice(&(names.len() as u32).to_le_bytes());
            symbols.extend_from_slice(&[0x12, 0, 1, 0]);
            symbols.extend(
                [CODE_ADDRESS + start, size]
                    .into_iter()
                    .flat_map(u64::to_le_bytes),
            );
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        let (symbols_at, names_at) = (0x2000, 0x2000 + symbols.len() as u64);
        let sections_at = (names_at + names.len() as u64).next_multiple_of(8);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
        file.extend([0, 64, sections_at].into_iter().flat_map(u64::to_le_bytes));
        file.extend([0, 0, 64, 56, 1, 64, 3, 2].into_iter().flat_map(u16::to_le_bytes));
        // One segment to load, readable and executable.
        file.extend_from_slice(b"\x01\0\0\0\x05\0\0\0");
        let segment = [
            CODE_OFFSET,
            CODE_ADDRESS,
            CODE_ADDRESS,
            CODE_BYTES,
            CODE_BYTES,
            0x1000,
        ];
        file.extend(segment.into_iter().flat_map(u64::to_le_bytes));
        file.resize(symbols_at, 0);
        file.extend_from_slice(&symbols);
        file.extend_from_slice(&names);
        file.resize(sections_at as usize + 64, 0);
        let sections = [
            (1_u32, 2_u32, symbols_at as u64, symbols.len(), 2_u32, 24),
            (9, 3, names_at, names.len(), 0, 0),
        ];
        for (name, kind, at, size, link, entry) in sections {
            file.extend([name, kind].into_iter().flat_map(u32::to_le_bytes));
            file.extend([0, 0, at, size as u64].into_iter().flat_map(u64::to_le_bytes));
            file.extend([link, 1].into_iter().flat_map(u32::to_le_bytes));
            file.extend([8_u64, entry].into_iter().flat_map(u64::to_le_bytes));
        }
        file
    }

    fn texts(symbolizer: &mut Symbolizer, pid: u32, addresses: &[u64]) -> Vec<String> {
        let mut frames = Vec::new();
        symbolizer.frames(pid, addresses, true, &mut frames);
        frames.iter().map(|frame| frame.text.to_string()).collect()
    }

    fn map(symbolizer: &mut Symbolizer, pid: u32, start: u64, path: &Path) {
        let inode = fs::metadata(path).unwrap().ino();
        symbolizer.mapped(pid, start, start + CODE_BYTES, CODE_OFFSET, path, (1, inode));
    }

    #[test]
    fn names_offsets_and_return_addresses() {
        let world = World::new("names");
        let file = world.elf(
            "libx.so",
            &[("first", 0x100, 0x20), ("_ZN3net5Proxy4readEi", 0x120, 0x20)],
        );
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &file);
        let stack = [
            LOADED + 0x120,
            LOADED + 0x120,
            LOADED + 0x125,
            LOADED + 0x800,
            LOADED + CODE_BYTES + 1,
        ];
        let expected = [
            "net::Proxy::read(int)+0x0 [libx.so]",
            "first+0x20 [libx.so]",
            "net::Proxy::read(int)+0x5 [libx.so]",
            "0x401800 [libx.so]",
            "0x7f0000001001",
        ];
        // The second time they are remembered.
        for _ in 0..2 {
            assert_eq!(texts(&mut symbolizer, NOBODY, &stack), expected);
        }
    }

    #[test]
    fn labels_do_not_hide_their_function() {
        let world = World::new("labels");
        let functions = [
            ("copy", 0, 0x100),
            ("$d", 0x40, 0),
            ("$x", 0x48, 0),
            ("entry", 0x200, 0),
            ("$x", 0x300, 0),
        ];
        let file = world.elf("libx.so", &functions);
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &file);
        for (distance, expected) in [
            (0x20, "copy+0x20 [libx.so]"),
            (0x50, "copy+0x50 [libx.so]"),
            (0x150, "0x401150 [libx.so]"),
            (0x210, "entry+0x10 [libx.so]"),
            (0x310, "0x401310 [libx.so]"),
        ] {
            assert_eq!(texts(&mut symbolizer, NOBODY, &[LOADED + distance]), [expected]);
        }
    }

    #[test]
    fn a_file_that_is_not_elf_or_not_there() {
        let world = World::new("odd");
        let (text, gone) = (world.0.join("notes.txt"), world.0.join("gone.so (deleted)"));
        fs::write(&text, "no code").unwrap();
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &text);
        symbolizer.mapped(
            NOBODY,
            LOADED + CODE_BYTES,
            LOADED + 2 * CODE_BYTES,
            0,
            &gone,
            (1, 1),
        );
        let stack = [LOADED + 5, LOADED + CODE_BYTES + 6];
        assert_eq!(
            texts(&mut symbolizer, NOBODY, &stack),
            ["0x1005 [notes.txt]", "0x7f0000001006 [gone.so]"]
        );
    }

    #[test]
    fn another_file_under_the_same_path_is_not_taken() {
        let world = World::new("replaced");
        let file = world.elf("libx.so", &[("wrong", 0, CODE_BYTES)]);
        let mut symbolizer = world.symbolizer();
        symbolizer.mapped(
            NOBODY,
            LOADED,
            LOADED + CODE_BYTES,
            CODE_OFFSET,
            &file,
            (1, u64::MAX),
        );
        assert_eq!(
            texts(&mut symbolizer, NOBODY, &[LOADED]),
            ["0x7f0000000000 [libx.so]"]
        );
    }

    #[test]
    fn a_removed_file_and_an_ended_process_keep_their_names() {
        let world = World::new("ended");
        let file = world.elf("prog", &[("main", 0, 0x40)]);
        world.process(7, 100, &[&file]);
        let mut symbolizer = world.symbolizer();
        symbolizer.observe(7);
        world.end(7);
        fs::remove_file(&file).unwrap();
        symbolizer.exited(7);
        assert_eq!(texts(&mut symbolizer, 7, &[LOADED + 4]), ["main+0x4 [prog]"]);
    }

    #[test]
    fn the_map_is_read_again_for_a_library_that_was_loaded_later() {
        let world = World::new("later");
        let (program, library) = (
            world.elf("prog", &[("main", 0, 64)]),
            world.elf("liby.so", &[("plugin", 0, 64)]),
        );
        world.process(7, 100, &[&program]);
        let mut symbolizer = world.symbolizer();
        assert_eq!(texts(&mut symbolizer, 7, &[LOADED]), ["main+0x0 [prog]"]);
        world.process(7, 100, &[&program, &library]);
        let stack = [LOADED + CODE_BYTES, LOADED + 8];
        assert_eq!(
            texts(&mut symbolizer, 7, &stack),
            ["plugin+0x0 [liby.so]", "main+0x8 [prog]"]
        );
        // What was unloaded is still known, for events that are read late.
        world.process(7, 100, &[&program]);
        symbolizer.observe(7);
        assert_eq!(
            texts(&mut symbolizer, 7, &stack),
            ["plugin+0x0 [liby.so]", "main+0x8 [prog]"]
        );
    }

    #[test]
    fn addresses_that_are_nowhere_do_not_cost_a_look_each() {
        let world = World::new("nowhere");
        let program = world.elf("prog", &[("main", 0, 64)]);
        world.process(7, 100, &[&program]);
        let mut symbolizer = world.symbolizer();
        symbolizer.observe(7);
        let now = Instant::now();
        let process = symbolizer.process(7);
        process.refilled = now;
        let reads = (0..1000).filter(|_| process.may_read(now)).count();
        assert_eq!(reads, MAX_READS as usize);
        assert!(process.may_read(now + READ_PAUSE));
        assert!(!process.may_read(now + READ_PAUSE));
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let world = World::new("reuse");
        let (old, new) = (
            world.elf("old", &[("old", 0, 64)]),
            world.elf("new", &[("new", 0, 64)]),
        );
        let mut symbolizer = world.symbolizer();
        world.process(7, 100, &[&old]);
        assert_eq!(texts(&mut symbolizer, 7, &[LOADED]), ["old+0x0 [old]"]);
        world.process(7, 200, &[&new]);
        symbolizer.process(7).checked -= CHECK_PAUSE;
        assert_eq!(texts(&mut symbolizer, 7, &[LOADED]), ["new+0x0 [new]"]);
    }

    #[test]
    fn fork_exec_and_exit() {
        let world = World::new("fork");
        let (shell, tool) = (
            world.elf("sh", &[("fork", 0, 64)]),
            world.elf("tool", &[("work", 0, 64)]),
        );
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &shell);
        symbolizer.forked(NOBODY, NOBODY + 1);
        assert_eq!(texts(&mut symbolizer, NOBODY + 1, &[LOADED]), ["fork+0x0 [sh]"]);
        symbolizer.exec(NOBODY + 1);
        assert_eq!(texts(&mut symbolizer, NOBODY + 1, &[LOADED]), ["0x7f0000000000"]);
        map(&mut symbolizer, NOBODY + 1, LOADED, &tool);
        symbolizer.exited(NOBODY + 1);
        assert_eq!(texts(&mut symbolizer, NOBODY + 1, &[LOADED]), ["work+0x0 [tool]"]);
        assert_eq!(texts(&mut symbolizer, NOBODY, &[LOADED]), ["fork+0x0 [sh]"]);
    }

    #[test]
    fn few_of_many_ended_processes_are_remembered() {
        let world = World::new("many");
        let file = world.elf("prog", &[("main", 0, 64)]);
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &file);
        for child in NOBODY + 1..=NOBODY + MAX_GONE as u32 + 1 {
            symbolizer.forked(NOBODY, child);
            symbolizer.exited(child);
        }
        assert_eq!(symbolizer.processes.len(), MAX_GONE + 1);
        assert_eq!(texts(&mut symbolizer, NOBODY + 1, &[LOADED]), ["0x7f0000000000"]);
        assert_eq!(texts(&mut symbolizer, NOBODY + 2, &[LOADED]), ["main+0x0 [prog]"]);
    }

    #[test]
    fn files_beyond_the_limit_are_closed() {
        let world = World::new("files");
        let mut symbolizer = world.symbolizer();
        let count = object::MAX_OPEN as u64 + 10;
        for number in 0..count {
            let file = world.elf(&format!("lib{number}.so"), &[(&format!("f{number}"), 0, 64)]);
            map(&mut symbolizer, NOBODY, LOADED + number * CODE_BYTES, &file);
            texts(&mut symbolizer, NOBODY, &[LOADED + number * CODE_BYTES]);
        }
        let links = fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        // Ours and blazesym's.
        assert_eq!(
            links.filter(|link| link.starts_with(&world.0)).count(),
            2 * object::MAX_OPEN
        );
        // One that made room is opened again, where it still is what it was.
        let last = LOADED + (count - 1) * CODE_BYTES;
        let expected = [
            "f0+0x0 [lib0.so]".to_owned(),
            format!("f{0}+0x3 [lib{0}.so]", count - 1),
        ];
        assert_eq!(texts(&mut symbolizer, NOBODY, &[LOADED, last + 3]), expected);
    }

    #[test]
    fn kernel_code_is_marked() {
        let mut symbolizer = World::new("kernel").symbolizer();
        let page = |symbolizer: &mut Symbolizer, start, name| {
            symbolizer.mapped(NOBODY, start, start + PAGE_BYTES, 0, Path::new(name), (0, 0));
        };
        page(&mut symbolizer, 0x1000_0000, "[vdso]");
        page(&mut symbolizer, 0x2000_0000, "[uprobes]");
        page(&mut symbolizer, 0x3000_0000, "//anon");
        let stack = [0x1000_0010, 0x2000_0000, 0x3000_0010, 0x7fff_ffff_e000, 0x10];
        let expected = ["[vdso]", "[uprobes]", "0x30000010", "[uprobes]", "0x10"];
        assert_eq!(texts(&mut symbolizer, NOBODY, &stack), expected);
    }

    #[test]
    fn a_stack_is_whole_where_its_thread_began() {
        let world = World::new("whole");
        let names = [
            ("work", 0, 16),
            ("main", 16, 16),
            ("__libc_start_call_main", 32, 16),
            ("start", 48, 16),
        ];
        let file = world.elf("prog", &names);
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &file);
        let mut is_whole = |addresses: &[u64]| {
            let mut frames = Vec::new();
            symbolizer.frames(NOBODY, addresses, true, &mut frames);
            ends_whole(&frames)
        };
        assert!(is_whole(&[LOADED, LOADED + 20, LOADED + 40]));
        assert!(is_whole(&[LOADED, LOADED + 20, LOADED + 40, 1]));
        for cut in [
            &[LOADED, LOADED + 20][..],
            &[LOADED, 1],
            &[LOADED, LOADED + 50],
            &[],
        ] {
            assert!(!is_whole(cut), "{cut:x?}");
        }
        assert!(
            is_bottom("__GI___clone3", "libc.so.6")
                && is_bottom("__libc_start_main@@GLIBC_2.34", "libc.so.6")
        );
        assert!(is_bottom("start", "ld-musl-x86_64.so.1"));
    }

    #[test]
    fn names_cannot_disturb_a_terminal() {
        let world = World::new("hostile");
        let long = "x".repeat(10_000);
        let file = world.elf(
            "li\u{1b}b\u{202e}.so",
            &[("a\x1b[2J\u{2066}b\u{9b}", 0, 16), (&long, 16, 16)],
        );
        let mut symbolizer = world.symbolizer();
        map(&mut symbolizer, NOBODY, LOADED, &file);
        let found = texts(&mut symbolizer, NOBODY, &[LOADED, LOADED + 20]);
        assert_eq!(
            found[0],
            "a\\u{1b}[2J\\u{2066}b\\u{9b}+0x0 [li\\u{1b}b\\u{202e}.so]"
        );
        assert!(
            found[1].starts_with(&format!("{}...+0x4", "x".repeat(MAX_NAME))),
            "{}",
            found[1]
        );
    }

    /// A real process: what its C library's or its own code is called is the same while it runs and when it
    /// is gone.
    #[test]
    fn a_real_process_alive_and_gone() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        // An answer shows that the program has begun, and that its libraries are there.
        let (mut stdin, mut answer) = (child.stdin.take().unwrap(), [0]);
        stdin.write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        let mut symbolizer = Symbolizer::new();
        symbolizer.observe(pid);
        let is_file = |mapping: &&Mapping| matches!(mapping.backing, Backing::File(_));
        let starts: Vec<u64> = symbolizer
            .process(pid)
            .memory
            .iter()
            .filter(is_file)
            .map(|mapping| mapping.start + 0x100)
            .collect();
        let alive = texts(&mut symbolizer, pid, &starts);
        assert!(
            !alive.is_empty() && alive.iter().all(|text| text.ends_with(']')),
            "{alive:?}"
        );
        drop(stdin);
        child.wait().unwrap();
        symbolizer.exited(pid);
        assert_eq!(texts(&mut symbolizer, pid, &starts), alive);
        assert_eq!(
            texts(&mut Symbolizer::new(), pid, &starts[..1]),
            [format!("{:#x}", starts[0])]
        );
    }
}
