// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Files mapped after the tool has attached, matched by a short name.
//!
//! Calls between the mapping of a file and the insertion of its probes are missed. So the tests call one function until
//! the tool shows it, and then another one a known number of times.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::funclist::{funclist, rows};
use crate::harness::{
    AttachMode, Folder, Target, Tool, best_mode, each_mode, each_mode_with_session, program, skip,
};
use crate::mallocsnoop::{BLOCK, count, trace_pid};
use crate::real::calls;

/// Loads a library, or calls one of its functions: `load PATH` or `FUNCTION COUNT`.
const LOADER: &str = "
import ctypes, os
library = None
while True:
    words = os.read(0, 4096).decode().split()
    if not words: break
    if words[0] == 'load':
        library = ctypes.CDLL(words[1])
    elif library:
        for _ in range(int(words[1])): library[words[0]]()
    os.write(1, b'.\\n')";

/// Runs a builtin of bash: `BUILTIN COUNT`.
const SHELL: &str = "
while read -r what times; do
    for ((i = 0; i < times; i++)); do $what >/dev/null; done
    echo .
done";

fn loader() -> Option<(Target, PathBuf)> {
    const FUNCTION: &str = "libsqlite3:sqlite3_threadsafe";
    if !Path::new("/usr/bin/python3").exists() {
        skip("/usr/bin/python3 is not installed");
        return None;
    }
    let ended = funclist([FUNCTION]);
    if ended.stderr.contains("failed to find libsqlite3") {
        skip("libsqlite3 is not installed");
        return None;
    }
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", LOADER]);
    let library = rows(&[FUNCTION])[0]["file"].as_str().expect("a path").into();
    Some((Target::start(command), library))
}

fn trace_libsqlite3(mode: AttachMode, pid: u32) -> Tool {
    let functions = ["libversion_number", "threadsafe"].map(|name| format!("libsqlite3:sqlite3_{name}"));
    let pid = pid.to_string();
    Tool::start(
        "funccount",
        mode,
        [&functions[0], &functions[1], "-p", &pid, "-i", "0.1"],
    )
}

each_mode! {
    copy_of_a_library_loaded_later_is_traced
    copy_of_a_program_started_later_is_traced
    allocator_of_a_program_executed_later_is_traced
}

fn copy_of_a_library_loaded_later_is_traced(mode: AttachMode) {
    let Some((mut loader, library)) = loader() else {
        return;
    };
    let mut tool = trace_libsqlite3(mode, loader.pid());
    let folder = Folder::new();
    let copy = folder.copy_of(library, "libsqlite3.so.0");
    loader.ask(&format!("load {}", copy.display()));
    tool.until_row(|| {
        loader.ask("sqlite3_libversion_number 1");
    });
    loader.ask("sqlite3_threadsafe 1009");
    let run = tool.stop();
    assert_eq!(calls(run.assert_clean(), "sqlite3_threadsafe"), 1009);
}

fn copy_of_a_program_started_later_is_traced(mode: AttachMode) {
    let folder = Folder::new();
    let bash = folder.copy_of("/bin/bash", "bash");
    let functions = ["bash:times_builtin", "bash:umask_builtin"];
    let args = functions.iter().chain(&["--by", "process", "-i", "0.1"]);
    let mut tool = Tool::start("funccount", mode, args);
    let mut command = Command::new(bash);
    command.args(["-c", SHELL]);
    let mut shell = Target::start(command);
    // Other tests run their own bash.
    tool.until_row_of(shell.pid(), || {
        shell.ask("times 1");
    });
    shell.ask("umask 1009");
    let run = tool.stop();
    let own = run.with("pid", shell.pid());
    let counts = own.iter().filter(|row| row["function"] == "umask_builtin");
    let count: u64 = counts.filter_map(|row| row["count"].as_u64()).sum();
    assert_eq!(count, 1009, "{:?}", run.rows);
}

each_mode_with_session! { later_file_with_exceptions_is_traced }

/// Returns in a file that throws are probed at instructions. Programs for them are loaded when the first such file
/// appears.
fn later_file_with_exceptions_is_traced(mode: AttachMode) {
    let folders = [Folder::new(), Folder::new()];
    let name = format!("late-{}", mode.name());
    let plain = folders[0].copy_of(program("flow"), &name);
    let throws = folders[1].copy_of(program("flow-throws"), &name);
    let mut first = Target::start(Command::new(plain));
    let mut tool = Tool::start("functrace", mode, [&format!("{name}:counted"), "--ret"]);
    let mut second = Target::start(Command::new(&throws));
    tool.until_row(|| _ = second.ask("count 1"));
    second.ask("count 7");
    first.ask("count 5");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.with("pid", first.pid()).len(), 5);
    let rows = run.with("pid", second.pid());
    assert!(rows.len() >= 8, "{rows:?}");
    assert!(rows.iter().all(|row| row["retval"].is_number()), "{rows:?}");
    let [late] = &run.late[..] else {
        panic!("{:?}", run.late)
    };
    assert_eq!(late["pid"], second.pid());
    assert_eq!(late["file"], throws.display().to_string());
    assert_eq!(late["late_ns"], run.summary["late_max_ns"]);
    assert_eq!(run.summary["late_files"], 1);
    let remark = format!("probed 1 file ({}) late, by at most ", throws.display());
    assert!(run.stderr.contains(&remark), "{}", run.stderr);
}

best_mode! { library_resolved_from_its_name_is_traced_from_its_first_call }

fn library_resolved_from_its_name_is_traced_from_its_first_call(mode: AttachMode) {
    let Some((mut loader, library)) = loader() else {
        return;
    };
    let tool = trace_libsqlite3(mode, loader.pid());
    loader.ask(&format!("load {}", library.display()));
    loader.ask("sqlite3_libversion_number 503");
    let run = tool.stop();
    assert_eq!(calls(run.assert_clean(), "sqlite3_libversion_number"), 503);
}

fn allocator_of_a_program_executed_later_is_traced(mode: AttachMode) {
    // exec replaces the allocator of the traced process.
    let mut command = Command::new("sh");
    let script = "while read -r order; do case $order in go) exec \"$0\";; *) echo .;; esac; done";
    command.args(["-c", script]).arg(program("calls-static"));
    let mut target = Target::start(command);
    let mut tool = trace_pid(mode, &target, &["--min-size", "4099", "--max-size", "5003"]);
    target.tell("go");
    tool.until_row(|| _ = target.ask("malloc 1 5003"));
    target.ask("malloc 97 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}
