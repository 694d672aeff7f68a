// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Files mapped after the tool has attached, matched by a short name.
//!
//! Calls between the mapping of a file and the insertion of its probes are missed. So the tests call one function until
//! the tool shows it, and then another one a known number of times.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::calls;
use crate::funclist::{funclist, rows};
use crate::harness::{AttachMode, Folder, Target, Tool, best_mode, each_mode, skip};

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

each_mode! { copy_of_a_library_loaded_later_is_traced copy_of_a_program_started_later_is_traced }

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
