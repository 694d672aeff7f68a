// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs and libraries that were replaced while they run, as by an upgrade.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::funccount::calls;
use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, is_in_state, program, skip, wait_until,
};

best_mode! {
    replaced_file_of_a_process_is_counted
    replaced_program_that_starts_later_is_counted
    replaced_program_of_a_name_is_counted
    replaced_library_that_is_opened_again_is_counted
    only_a_new_version_that_has_exited_is_missed
}

/// As after an upgrade: the path leads to a new file, and the process runs the old one.
fn replaced_file_of_a_process_is_counted(mode: AttachMode) {
    let folder = Folder::new();
    let path = folder.copy_of(program("flow"), "upgraded");
    let mut target = Target::start(Command::new(&path));
    let new = folder.copy_of(program("flow"), "new");
    fs::rename(new, &path).expect("a replaced file");
    let spec = format!("{}:counted", path.display());
    let tool = Tool::start("funccount", mode, [&spec, "-p", &target.pid().to_string()]);
    target.ask("count 7");
    assert_eq!(calls(&tool.stop(), "counted"), 7);
}

/// Programs that start from the same path, before and after it was replaced, and one that another mount namespace shows
/// there. Only the first ones are meant.
fn count_replaced_program(mode: AttachMode, options: &[&str]) {
    let folder = Folder::new();
    let path = folder.copy_of(program("flow"), "upgraded");
    let new = folder.copy_of(program("flow"), "new");
    let foreign = folder.copy_of(program("flow"), "foreign");
    let specs = ["counted", "nested_outer"].map(|function| format!("{}:{function}", path.display()));
    let args = specs.iter().map(String::as_str).chain(options.iter().copied());
    let mut tool = Tool::start("funccount", mode, args.chain(["--by", "process", "-i", "0.1"]));
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$0\" && exec \"$0\"";
    command
        .args(["--mount", "sh", "-c", script])
        .args([&path, &foreign]);
    let mut foreign = Target::start(command);
    let mut old = Target::start(Command::new(&path));
    fs::rename(new, &path).expect("a replaced file");
    let mut new = Target::start(Command::new(&path));
    tool.until_row_of(new.pid(), || _ = new.ask("count 1"));
    new.ask("nest 7");
    old.ask("nest 11");
    foreign.ask("nest 13");
    let run = tool.stop();
    let count = |pid| -> u64 {
        let rows = run.with("pid", pid).into_iter();
        let rows = rows.filter(|row| row["function"] == "nested_outer");
        rows.filter_map(|row| row["count"].as_u64()).sum()
    };
    assert_eq!(
        [&new, &old, &foreign].map(|target| count(target.pid())),
        [7, 11, 0]
    );
    assert_late(&run, &path, new.pid());
}

#[track_caller]
fn assert_late(run: &Run, path: &Path, pid: u32) {
    let [late] = &run.late[..] else {
        panic!("{:?}", run.late)
    };
    assert_eq!(late["file"], path.display().to_string());
    assert_eq!(late["pid"], pid);
    let remark = format!("probed 1 file ({}) late, by at most ", path.display());
    assert!(run.stderr.contains(&remark), "{}", run.stderr);
    assert_eq!(run.summary["missed"], 0, "{}", run.stderr);
}

fn replaced_program_that_starts_later_is_counted(mode: AttachMode) {
    count_replaced_program(mode, &[]);
}

fn replaced_program_of_a_name_is_counted(mode: AttachMode) {
    count_replaced_program(mode, &["--comm", "upgraded", "--scope", "all"]);
}

/// `open PATH` opens a library anew, and `FUNCTION COUNT` calls one of its functions.
const OPENER: &str = "
import _ctypes, ctypes, os
library = None
while True:
    words = os.read(0, 4096).decode().split()
    if not words: break
    if words[0] == 'open':
        if library: _ctypes.dlclose(library._handle)
        library = ctypes.CDLL(words[1])
    elif library:
        for _ in range(int(words[1])): library[words[0]]()
    os.write(1, b'.\\n')";

/// The function of the library that is called.
const FUNCTION: &str = "bump_calls";

fn replaced_library_that_is_opened_again_is_counted(mode: AttachMode) {
    if !Path::new("/usr/bin/python3").exists() {
        return skip("/usr/bin/python3 is not installed");
    }
    for named in [false, true] {
        let folder = Folder::new();
        let path = folder.copy_of(program("libbump.so"), "libreopened.so");
        let new = folder.copy_of(program("libbump.so"), "new");
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", OPENER]);
        let mut opener = Target::start(command);
        let open = format!("open {}", path.display());
        opener.ask(&open);
        let mut args = vec![format!("{}:{FUNCTION}", path.display())];
        if named {
            args.extend(["-p".to_owned(), opener.pid().to_string()]);
        }
        let mut tool = Tool::start("funccount", mode, args);
        opener.ask(&format!("{FUNCTION} 17"));
        fs::rename(new, &path).expect("a replaced file");
        opener.ask(&open);
        tool.wait_for(|record| record["type"] == "late");
        opener.ask(&format!("{FUNCTION} 19"));
        let run = tool.stop();
        assert_eq!(calls(&run, FUNCTION), 17 + 19);
        assert_late(&run, &path, opener.pid());
    }
}

/// The tool looks at the mapping of a program with probes, or at that of its new version, after it has exited.
fn only_a_new_version_that_has_exited_is_missed(mode: AttachMode) {
    let folder = Folder::new();
    let path = folder.copy_of(program("flow"), "upgraded");
    let new = folder.copy_of(program("flow"), "new");
    let tool = Tool::start("funccount", mode, [format!("{}:counted", path.display())]);
    tool.signal(Signal::SIGSTOP);
    wait_until("the tool to stop", || is_in_state(tool.pid(), 'T'));
    let run_once = || {
        let mut target = Target::start(Command::new(&path));
        target.ask("count 23");
        assert!(target.end().success());
    };
    run_once();
    fs::rename(&new, &path).expect("a replaced file");
    run_once();
    tool.signal(Signal::SIGCONT);
    let run = tool.stop();
    assert_eq!(calls(&run, "counted"), 23);
    assert_eq!(run.summary["missed"], 1, "{}", run.stderr);
    let remark = "1 process exited before its probes were attached: its calls are not shown";
    assert!(run.stderr.contains(remark), "{}", run.stderr);
}
