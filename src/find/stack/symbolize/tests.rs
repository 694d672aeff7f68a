// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use super::object::is_bottom;
use super::process::{CHECK_INTERVAL, MAX_READS, READ_INTERVAL};
use super::*;
use crate::find::elf::image::MACHINE;

/// The address of the code of the test's ELF files, and its offset in the file.
const CODE_ADDRESS: u64 = 0x40_1000;
const CODE_OFFSET: u64 = 0x1000;
/// Where the test's processes have it loaded.
const LOADED: u64 = 0x7f00_0000_0000;
const CODE_BYTES: u64 = 0x1000;
/// Larger than any PID.
const NO_PID: u32 = 1 << 30;

/// A directory for ELF files and a fake `/proc`, removed at the end.
struct TestDir(PathBuf);

impl TestDir {
    fn new(test: &str) -> TestDir {
        let root = std::env::temp_dir().join(format!("ubpf-symbolize-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        TestDir(root)
    }

    fn symbolizer(&self) -> Symbolizer {
        Symbolizer {
            proc_root: self.0.join("proc"),
            ..Symbolizer::with_debug_dir(self.0.join("debug"))
        }
    }

    /// An ELF file with functions: name, offset from the start of the code, size.
    fn elf(&self, name: &str, functions: &[(&str, u64, u64)]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, elf(functions)).unwrap();
        path
    }

    /// A process with the files mapped from `LOADED` on, `CODE_BYTES` of each.
    fn process(&self, pid: u32, started: u64, files: &[&Path]) {
        let directory = self.0.join("proc").join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let zeros = |count| "0 ".repeat(count);
        let stat = format!("{pid} (a) b) S {}{started} {}5 6 7 8", zeros(18), zeros(3));
        fs::write(directory.join("stat"), stat).unwrap();
        let line = |(index, path): (usize, &&Path)| {
            let start = LOADED + index as u64 * CODE_BYTES;
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

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The smallest ELF file that has code and a symbol table.
fn elf(functions: &[(&str, u64, u64)]) -> Vec<u8> {
    let section_names = b"\0.symtab\0.strtab\0";
    let (mut names, mut symbols) = (section_names.to_vec(), vec![0; 24]);
    for &(name, start, size) in functions {
        // Marks for code and data on arm64 are local and have no type.
        let info = if name.starts_with('$') { 0 } else { 0x12 };
        symbols.extend_from_slice(&(names.len() as u32).to_le_bytes());
        symbols.extend_from_slice(&[info, 0, 1, 0]);
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
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0".to_vec();
    file.extend(MACHINE.0.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
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

fn at(pid: u32, time_ns: u64) -> ProcessAt {
    ProcessAt { pid, time_ns }
}

fn texts(symbolizer: &mut Symbolizer, pid: u32, addresses: &[u64]) -> Vec<String> {
    let mut frames = Vec::new();
    symbolizer.frames(at(pid, u64::MAX), addresses, true, &mut frames);
    frames.iter().map(|frame| frame.text.to_string()).collect()
}

fn map(symbolizer: &mut Symbolizer, pid: u32, start: u64, path: &Path) {
    let inode = fs::metadata(path).unwrap().ino();
    symbolizer.mapped(pid, start, start + CODE_BYTES, CODE_OFFSET, path, (1, inode));
}

#[test]
fn frames_have_names_and_offsets() {
    let dir = TestDir::new("names");
    let file = dir.elf(
        "libx.so",
        &[("first", 0x100, 0x20), ("_ZN3net5Proxy4readEi", 0x120, 0x20)],
    );
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &file);
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
    // The second time they are cached.
    for _ in 0..2 {
        assert_eq!(texts(&mut symbolizer, NO_PID, &stack), expected);
    }
}

/// Where funclist finds the names of a stripped program, stacks do.
#[test]
fn stripped_program_has_the_names_of_its_debug_file() {
    const SOURCE: &str =
        "int main(void) { return 0; }\n__attribute__((noinline)) int visit(int n) { return n * 3; }\n";
    const SCRIPT: &str = "cc -O1 -g -Wl,--build-id=none -o app app.c
        nm app | sed -n 's/ . visit$//p'
        objcopy --only-keep-debug app app.debug
        strip -o stripped app
        cp stripped linked
        objcopy --add-gnu-debuglink=app.debug linked";
    let dir = TestDir::new("stripped");
    fs::write(dir.0.join("app.c"), SOURCE).unwrap();
    let mut shell = Command::new("sh");
    let built = shell.args(["-ec", SCRIPT]).current_dir(&dir.0).output().unwrap();
    if !built.status.success() {
        return eprintln!("skipped: no C compiler");
    }
    let address = u64::from_str_radix(String::from_utf8_lossy(&built.stdout).trim(), 16).unwrap();
    let mut symbolizer = dir.symbolizer();
    for (file, expected) in [
        ("linked", "visit+0x1"),
        ("stripped", &format!("fn_{address:#x}+0x1")),
    ] {
        let path = dir.0.join(file);
        let elf = crate::find::elf::ElfFile::open(fs::File::open(&path).unwrap(), &path).unwrap();
        let offset = elf.offset_of(address).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        symbolizer.mapped(NO_PID, LOADED, LOADED + CODE_BYTES, offset, &path, (1, inode));
        let expected = [format!("{expected} [{file}]")];
        assert_eq!(texts(&mut symbolizer, NO_PID, &[LOADED + 1]), expected);
    }
}

#[test]
fn labels_do_not_hide_their_function() {
    let dir = TestDir::new("labels");
    let functions = [
        ("copy", 0, 0x100),
        ("$d", 0x40, 0),
        ("$x", 0x48, 0),
        ("entry", 0x200, 0),
        ("$x", 0x300, 0),
        ("next", 0x400, 0x10),
    ];
    let file = dir.elf("libx.so", &functions);
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &file);
    for (distance, expected) in [
        (0x20, "copy+0x20 [libx.so]"),
        (0x50, "copy+0x50 [libx.so]"),
        (0x150, "0x401150 [libx.so]"),
        (0x210, "entry+0x10 [libx.so]"),
        (0x310, "entry+0x110 [libx.so]"),
        (0x410, "0x401410 [libx.so]"),
    ] {
        assert_eq!(texts(&mut symbolizer, NO_PID, &[LOADED + distance]), [expected]);
    }
}

#[test]
fn missing_or_non_elf_file_gives_addresses() {
    let dir = TestDir::new("odd");
    let (text, gone) = (dir.0.join("notes.txt"), dir.0.join("gone.so (deleted)"));
    fs::write(&text, "no code").unwrap();
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &text);
    symbolizer.mapped(
        NO_PID,
        LOADED + CODE_BYTES,
        LOADED + 2 * CODE_BYTES,
        0,
        &gone,
        (1, 1),
    );
    let stack = [LOADED + 5, LOADED + CODE_BYTES + 6];
    assert_eq!(
        texts(&mut symbolizer, NO_PID, &stack),
        ["0x1005 [notes.txt]", "0x7f0000001006 [gone.so]"]
    );
}

#[test]
fn another_file_at_the_same_path_is_not_used() {
    let dir = TestDir::new("replaced");
    let file = dir.elf("libx.so", &[("wrong", 0, CODE_BYTES)]);
    let mut symbolizer = dir.symbolizer();
    symbolizer.mapped(
        NO_PID,
        LOADED,
        LOADED + CODE_BYTES,
        CODE_OFFSET,
        &file,
        (1, u64::MAX),
    );
    assert_eq!(
        texts(&mut symbolizer, NO_PID, &[LOADED]),
        ["0x7f0000000000 [libx.so]"]
    );
}

#[test]
fn removed_file_and_exited_process_keep_their_names() {
    let dir = TestDir::new("ended");
    let file = dir.elf("prog", &[("main", 0, 0x40)]);
    dir.process(7, 100, &[&file]);
    let mut symbolizer = dir.symbolizer();
    symbolizer.observe(7);
    dir.end(7);
    fs::remove_file(&file).unwrap();
    symbolizer.exited(7);
    assert_eq!(texts(&mut symbolizer, 7, &[LOADED + 4]), ["main+0x4 [prog]"]);
}

#[test]
fn map_is_read_again_for_a_new_library() {
    let dir = TestDir::new("later");
    let (program, library) = (
        dir.elf("prog", &[("main", 0, 64)]),
        dir.elf("liby.so", &[("plugin", 0, 64)]),
    );
    dir.process(7, 100, &[&program]);
    let mut symbolizer = dir.symbolizer();
    assert_eq!(texts(&mut symbolizer, 7, &[LOADED]), ["main+0x0 [prog]"]);
    dir.process(7, 100, &[&program, &library]);
    let stack = [LOADED + CODE_BYTES, LOADED + 8];
    assert_eq!(
        texts(&mut symbolizer, 7, &stack),
        ["plugin+0x0 [liby.so]", "main+0x8 [prog]"]
    );
    // Unloaded code is still known, for events that are read late.
    dir.process(7, 100, &[&program]);
    symbolizer.observe(7);
    assert_eq!(
        texts(&mut symbolizer, 7, &stack),
        ["plugin+0x0 [liby.so]", "main+0x8 [prog]"]
    );
}

#[test]
fn unmapped_addresses_read_the_map_at_a_limited_rate() {
    let dir = TestDir::new("nowhere");
    let program = dir.elf("prog", &[("main", 0, 64)]);
    dir.process(7, 100, &[&program]);
    let mut symbolizer = dir.symbolizer();
    symbolizer.observe(7);
    let now = Instant::now();
    let process = symbolizer.process(7);
    process.refilled = now;
    let reads = (0..1000).filter(|_| process.may_read(now)).count();
    assert_eq!(reads, MAX_READS as usize);
    assert!(process.may_read(now + READ_INTERVAL));
    assert!(!process.may_read(now + READ_INTERVAL));
}

#[test]
fn reused_pid_is_another_process() {
    let dir = TestDir::new("reuse");
    let (old, new) = (
        dir.elf("old", &[("old", 0, 64)]),
        dir.elf("new", &[("new", 0, 64)]),
    );
    let mut symbolizer = dir.symbolizer();
    dir.process(7, 100, &[&old]);
    assert_eq!(texts(&mut symbolizer, 7, &[LOADED]), ["old+0x0 [old]"]);
    dir.process(7, 200, &[&new]);
    symbolizer.process(7).checked -= CHECK_INTERVAL;
    assert_eq!(texts(&mut symbolizer, 7, &[LOADED]), ["new+0x0 [new]"]);
}

#[test]
fn fork_exec_and_exit_are_followed() {
    let dir = TestDir::new("fork");
    let (shell, tool) = (
        dir.elf("sh", &[("fork", 0, 64)]),
        dir.elf("tool", &[("work", 0, 64)]),
    );
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &shell);
    symbolizer.forked(NO_PID, NO_PID + 1);
    assert_eq!(texts(&mut symbolizer, NO_PID + 1, &[LOADED]), ["fork+0x0 [sh]"]);
    symbolizer.exec(at(NO_PID + 1, 100));
    assert_eq!(texts(&mut symbolizer, NO_PID + 1, &[LOADED]), ["0x7f0000000000"]);
    map(&mut symbolizer, NO_PID + 1, LOADED, &tool);
    symbolizer.exited(NO_PID + 1);
    assert_eq!(texts(&mut symbolizer, NO_PID + 1, &[LOADED]), ["work+0x0 [tool]"]);
    assert_eq!(texts(&mut symbolizer, NO_PID, &[LOADED]), ["fork+0x0 [sh]"]);
}

#[test]
fn events_before_an_exec_have_the_code_of_their_time() {
    let dir = TestDir::new("exec");
    let (first, second) = (
        dir.elf("first", &[("one", 0, 64)]),
        dir.elf("second", &[("two", 0, 64)]),
    );
    let mut symbolizer = dir.symbolizer();
    let named = |symbolizer: &mut Symbolizer, pid, time_ns| {
        let mut frames = Vec::new();
        let is_known = symbolizer.frames(at(pid, time_ns), &[LOADED], true, &mut frames);
        (is_known, frames.first().map(|frame| frame.text.to_string()))
    };
    map(&mut symbolizer, NO_PID, LOADED, &first);
    symbolizer.exec(at(NO_PID, 100));
    map(&mut symbolizer, NO_PID, LOADED, &second);
    for (time_ns, expected) in [(99, "one+0x0 [first]"), (100, "two+0x0 [second]")] {
        assert_eq!(
            named(&mut symbolizer, NO_PID, time_ns),
            (true, Some(expected.to_owned()))
        );
    }
    // Of many programs, the first are not known any more, like one of which only the exec is known.
    for time_ns in 101..110 {
        symbolizer.exec(at(NO_PID, time_ns));
    }
    symbolizer.exec(at(NO_PID + 1, 100));
    for pid in [NO_PID, NO_PID + 1] {
        let unknown = (false, Some("0x7f0000000000".to_owned()));
        assert_eq!(named(&mut symbolizer, pid, 99), unknown);
    }
}

#[test]
fn exited_processes_are_kept_up_to_a_limit() {
    let dir = TestDir::new("many");
    let file = dir.elf("prog", &[("main", 0, 64)]);
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &file);
    for child in NO_PID + 1..=NO_PID + MAX_EXITED as u32 + 1 {
        symbolizer.forked(NO_PID, child);
        symbolizer.exited(child);
    }
    assert_eq!(symbolizer.processes.len(), MAX_EXITED + 1);
    assert_eq!(texts(&mut symbolizer, NO_PID + 1, &[LOADED]), ["0x7f0000000000"]);
    assert_eq!(texts(&mut symbolizer, NO_PID + 2, &[LOADED]), ["main+0x0 [prog]"]);
}

#[test]
fn files_beyond_the_limit_are_closed() {
    let dir = TestDir::new("files");
    let mut symbolizer = dir.symbolizer();
    let count = object::MAX_OPEN as u64 + 10;
    for number in 0..count {
        let file = dir.elf(&format!("lib{number}.so"), &[(&format!("f{number}"), 0, 64)]);
        map(&mut symbolizer, NO_PID, LOADED + number * CODE_BYTES, &file);
        texts(&mut symbolizer, NO_PID, &[LOADED + number * CODE_BYTES]);
    }
    let links = fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    assert_eq!(
        links.filter(|link| link.starts_with(&dir.0)).count(),
        object::MAX_OPEN
    );
    // An evicted file is opened again if it is unchanged.
    let last = LOADED + (count - 1) * CODE_BYTES;
    let expected = [
        "f0+0x0 [lib0.so]".to_owned(),
        format!("f{0}+0x3 [lib{0}.so]", count - 1),
    ];
    assert_eq!(texts(&mut symbolizer, NO_PID, &[LOADED, last + 3]), expected);
}

#[test]
fn kernel_code_has_the_name_of_its_mapping() {
    let mut symbolizer = TestDir::new("kernel").symbolizer();
    let page = |symbolizer: &mut Symbolizer, start, name| {
        symbolizer.mapped(NO_PID, start, start + PAGE_BYTES, 0, Path::new(name), (0, 0));
    };
    page(&mut symbolizer, 0x1000_0000, "[vdso]");
    page(&mut symbolizer, 0x2000_0000, "[uprobes]");
    page(&mut symbolizer, 0x3000_0000, "//anon");
    let stack = [0x1000_0010, 0x2000_0000, 0x3000_0010, 0x7fff_ffff_e000, 0x10];
    let expected = ["[vdso]", "[uprobes]", "0x30000010", "[uprobes]", "0x10"];
    assert_eq!(texts(&mut symbolizer, NO_PID, &stack), expected);
}

#[test]
fn stack_is_complete_if_it_reaches_the_start_of_its_thread() {
    let dir = TestDir::new("whole");
    let names = [
        ("work", 0, 16),
        ("main", 16, 16),
        ("__libc_start_call_main", 32, 16),
        ("start", 48, 16),
    ];
    let file = dir.elf("prog", &names);
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &file);
    let mut reaches_start = |addresses: &[u64]| {
        let mut frames = Vec::new();
        symbolizer.frames(at(NO_PID, u64::MAX), addresses, true, &mut frames);
        is_complete(&frames)
    };
    assert!(reaches_start(&[LOADED, LOADED + 20, LOADED + 40]));
    assert!(reaches_start(&[LOADED, LOADED + 20, LOADED + 40, 1]));
    for cut in [
        &[LOADED, LOADED + 20][..],
        &[LOADED, 1],
        &[LOADED, LOADED + 50],
        &[],
    ] {
        assert!(!reaches_start(cut), "{cut:x?}");
    }
    assert!(
        is_bottom("__GI___clone3", "libc.so.6") && is_bottom("__libc_start_main@@GLIBC_2.34", "libc.so.6")
    );
    assert!(is_bottom("start", "ld-musl-x86_64.so.1"));
}

#[test]
fn names_are_not_escaped() {
    let dir = TestDir::new("hostile");
    let long = "x".repeat(4000);
    let file = dir.elf(
        "li\u{1b}b\u{202e}.so",
        &[("a\x1b[2J\u{2066}b\u{9b}", 0, 16), (&long, 16, 16)],
    );
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &file);
    let expected = [
        "a\u{1b}[2J\u{2066}b\u{9b}+0x0 [li\u{1b}b\u{202e}.so]".to_owned(),
        format!("{long}+0x4 [{}]", "li\u{1b}b\u{202e}.so"),
    ];
    assert_eq!(texts(&mut symbolizer, NO_PID, &[LOADED, LOADED + 20]), expected);
}

#[test]
fn huge_name_is_truncated() {
    let dir = TestDir::new("huge");
    let file = dir.elf("libx.so", &[(&"x".repeat(5000), 0, 16)]);
    let mut symbolizer = dir.symbolizer();
    map(&mut symbolizer, NO_PID, LOADED, &file);
    let expected = format!("{}...+0x4 [libx.so]", "x".repeat(4096));
    assert_eq!(texts(&mut symbolizer, NO_PID, &[LOADED + 4]), [expected]);
}

/// The code of a real process has the same names while it runs and after it has exited.
#[test]
fn real_process_running_and_exited() {
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    // An answer shows that the program runs and its libraries are loaded.
    let (mut stdin, mut answer) = (child.stdin.take().unwrap(), [0]);
    stdin.write_all(b"!").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    let mut symbolizer = Symbolizer::new();
    symbolizer.observe(pid);
    let is_file = |mapping: &&CodeMapping| matches!(mapping.backing, CodeBacking::File(_));
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
