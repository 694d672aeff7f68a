// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Files that are overwritten while they are traced: the programs that map them then run the new code, and other files
//! stay traced.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use object::{Object, ObjectSection, ObjectSymbol};

use crate::harness::{
    AttachMode, Folder, Owned, Run, Target, Tool, best_mode, copy, each_mode, is_in_state, program,
    wait_until,
};

/// The function that is traced. Without a probe, its new code returns 42; with the old first instruction, it returns
/// the number of calls.
const FUNCTION: &str = "bump_calls";
const NEW_RESULT: &str = "0x2a";

/// Code that returns 42.
const NEW_CODE: &[u8] = if cfg!(target_arch = "x86_64") {
    &[0xb8, 42, 0, 0, 0, 0xc3]
} else {
    &[0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6]
};

/// A library, and a version of it with other code.
struct Library {
    path: PathBuf,
    new: PathBuf,
    folder: Folder,
}

impl Library {
    fn new() -> Library {
        let folder = Folder::new();
        let path = folder.copy_of(program("libbump.so"), "libtraced.so");
        let mut code = fs::read(&path).expect("a library");
        let at = offset_of(&code, FUNCTION);
        code[at..][..NEW_CODE.len()].copy_from_slice(NEW_CODE);
        let new = folder.path.join("new.so");
        fs::write(&new, code).expect("a new library");
        Library { path, new, folder }
    }

    fn spec(&self) -> String {
        spec(&self.path)
    }

    fn overwrite(&self) {
        copy(&self.new, &self.path);
    }

    fn caller(&self) -> Target {
        caller(&self.path)
    }
}

fn spec(library: &Path) -> String {
    format!("{}:{FUNCTION}", library.display())
}

fn caller(library: &Path) -> Target {
    let mut command = Command::new(program("caller"));
    command.arg(library).arg(FUNCTION);
    Target::start(command)
}

/// File offset of a function.
fn offset_of(elf: &[u8], function: &str) -> usize {
    let file = object::File::parse(elf).expect("an ELF file");
    let symbol = file
        .dynamic_symbols()
        .find(|symbol| symbol.name() == Ok(function))
        .expect("the function");
    let index = symbol.section_index().expect("a section");
    let section = file.section_by_index(index).expect("a section");
    let (start, _) = section.file_range().expect("code in the file");
    (start + symbol.address() - section.address()) as usize
}

/// Calls the function a number of times, and asserts that its new code ran.
#[track_caller]
fn assert_new_code(caller: &mut Target, calls: usize) {
    let worker = caller.ask(&calls.to_string()).remove(0);
    assert_eq!(worker.addresses, vec![NEW_RESULT; calls]);
}

fn is_detached(record: &serde_json::Value) -> bool {
    record["type"] == "detached"
}

fn count(run: &Run) -> u64 {
    run.rows.iter().filter_map(|row| row["count"].as_u64()).sum()
}

/// The record of a file that is written.
pub fn detached_record() -> serde_json::Value {
    let library = Library::new();
    let mut tool = Tool::start("funccount", AttachMode::best(), [library.spec()]);
    library.overwrite();
    tool.wait_for(is_detached)
}

each_mode! {
    new_programs_run_the_new_code
    members_run_the_new_code
}

fn new_programs_run_the_new_code(mode: AttachMode) {
    let library = Library::new();
    let mut tool = Tool::start("funccount", mode, [library.spec()]);
    let mut old = library.caller();
    old.ask("7");
    library.overwrite();
    // The copy is complete, so the probes must be gone.
    assert_new_code(&mut library.caller(), 5);
    assert_new_code(&mut old, 3);
    let detached = tool.wait_for(is_detached);
    assert_eq!(detached["file"], library.path.display().to_string());
    // Nothing is left to trace.
    let run = tool.finish();
    assert!(run.status.success(), "{}", run.stderr);
    assert_eq!(count(&run), 7, "{:?}", run.rows);
    let warning = format!(
        "removed the probes of {}, which is being written",
        library.path.display()
    );
    assert_eq!(run.stderr.matches(&warning).count(), 1, "{}", run.stderr);
}

fn members_run_the_new_code(mode: AttachMode) {
    let library = Library::new();
    let mut old = library.caller();
    let args = [&library.spec(), "--comm", "caller", "--scope", "targeted"];
    let mut tool = Tool::start("funccount", mode, args);
    old.ask("7");
    library.overwrite();
    tool.wait_for(is_detached);
    // It matches, and gets no probes.
    assert_new_code(&mut library.caller(), 5);
    assert_new_code(&mut old, 3);
    let run = tool.finish();
    assert!(run.status.success(), "{}", run.stderr);
    assert_eq!(count(&run), 7, "{:?}", run.rows);
}

best_mode! {
    other_files_stay_traced
    writer_goes_on_when_the_tool_is_killed
    file_that_was_open_for_writing_is_noticed
    command_is_waited_for
    program_that_is_started_later_is_leased
}

fn other_files_stay_traced(mode: AttachMode) {
    let library = Library::new();
    let other = library.folder.copy_of(&library.path, "other.so");
    let mut tool = Tool::start("funccount", mode, [library.spec(), spec(&other)]);
    let mut callers = [library.caller(), caller(&other)];
    callers.iter_mut().for_each(|caller| drop(caller.ask("7")));
    library.overwrite();
    tool.wait_for(is_detached);
    callers[0].ask("11");
    callers[1].ask("13");
    let run = tool.stop();
    assert!(run.status.success(), "{}", run.stderr);
    let of = |file: &str| {
        let rows = run.with("file", file);
        rows.iter().filter_map(|row| row["count"].as_u64()).sum::<u64>()
    };
    assert_eq!((of("libtraced.so"), of("other.so")), (7, 20), "{:?}", run.rows);
}

/// A stopped tool cannot remove its probes.
fn writer_goes_on_when_the_tool_is_killed(mode: AttachMode) {
    let library = Library::new();
    let mut old = library.caller();
    let tool = Tool::start("funccount", mode, [library.spec()]);
    old.ask("7");
    tool.signal(Signal::SIGSTOP);
    wait_until("the tool to stop", || is_in_state(tool.pid(), 'T'));
    let mut writer = Command::new("cp");
    writer.args([&library.new, &library.path]).stdin(Stdio::null());
    let mut writer = Owned(writer.spawn().expect("cp"));
    let old = fs::read(&library.path).expect("the library");
    wait_until("the writer to wait", || {
        let lease = lease_of(&library.path)?;
        lease.contains("BREAKING").then_some(())
    });
    assert!(
        old == fs::read(&library.path).expect("the library"),
        "the file changed"
    );
    tool.signal(Signal::SIGKILL);
    assert!(writer.wait().success());
    assert_new_code(&mut library.caller(), 5);
}

/// The line of a file's lease in /proc/locks.
fn lease_of(path: &Path) -> Option<String> {
    let inode = format!(":{}", fs::metadata(path).expect("a file").ino());
    let locks = fs::read_to_string("/proc/locks").expect("the locks of all files");
    let is_lease =
        |line: &&str| line.contains("LEASE") && line.split_whitespace().any(|word| word.ends_with(&inode));
    locks.lines().find(is_lease).map(str::to_owned)
}

/// Such a file has no lease.
fn file_that_was_open_for_writing_is_noticed(mode: AttachMode) {
    let library = Library::new();
    let script = "exec 3>>$1; read line; echo .; read line; cat $2 >$1; echo .; read line";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .args([&library.path, &library.new]);
    let mut writer = Target::start(command);
    // The kernel reads the instruction once a process has mapped it.
    let mut old = library.caller();
    let mut tool = Tool::start("funccount", mode, [library.spec()]);
    old.ask("7");
    writer.tell("write");
    tool.wait_for(is_detached);
    writer.answer();
    assert_new_code(&mut library.caller(), 5);
    let run = tool.finish();
    assert!(run.status.success(), "{}", run.stderr);
    assert_eq!(count(&run), 7, "{:?}", run.rows);
    // Nor does another run get the old instruction.
    let tool = Tool::start("funccount", mode, [library.spec()]);
    assert_new_code(&mut library.caller(), 5);
    assert_eq!(count(&tool.stop()), 5);
}

/// Most privileges are dropped by then.
fn program_that_is_started_later_is_leased(mode: AttachMode) {
    let folder = Folder::new();
    let bash = folder.copy_of("/bin/bash", "bash");
    let mut tool = Tool::start(
        "funccount",
        mode,
        ["bash:times_builtin", "--by", "process", "-i", "0.1"],
    );
    let mut command = Command::new(&bash);
    command.args(["-c", "while read -r line; do times >/dev/null; echo .; done"]);
    let mut shell = Target::start(command);
    tool.until_row_of(shell.pid(), || {
        shell.ask("call");
    });
    shell.end();
    assert!(lease_of(&bash).is_some(), "no lease");
    copy(&program("calls"), &bash);
    let detached = tool.wait_for(is_detached);
    assert_eq!(detached["file"], bash.display().to_string());
    // Another program may match.
    let run = tool.stop();
    assert!(run.status.success(), "{}", run.stderr);
}

fn command_is_waited_for(mode: AttachMode) {
    let library = Library::new();
    let script = "cp $1 $2; exit 17";
    let spec = library.spec();
    let paths = [&library.new, &library.path].map(|path| path.display().to_string());
    let run = Tool::start(
        "funccount",
        mode,
        [&spec, "--", "sh", "-c", script, "sh", &paths[0], &paths[1]],
    )
    .finish();
    assert_eq!(run.status.code(), Some(17), "{}", run.stderr);
    assert!(run.stderr.contains("which is being written"), "{}", run.stderr);
}
