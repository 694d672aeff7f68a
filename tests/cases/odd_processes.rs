// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Processes that /proc shows otherwise than most: without a main thread, with odd or missing paths, in namespaces.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::commands::trace_command;
use crate::funclist::rows;
use crate::harness::{
    AttachMode, Folder, Target, Tool, is_in_state, program, run_to_end, tool_command, wait_until,
};

/// As with `python3` of pyenv, which is a script that runs `python3.11`.
#[test]
fn a_script_is_not_the_program_that_it_runs() {
    let folder = Folder::new();
    let program = folder.copy_of(program("flow"), "wrapped1.5");
    let script = folder.path.join("wrapped");
    std::fs::write(&script, "#!/bin/sh\nexec wrapped1.5\n").expect("a script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("a mode");
    let path = format!(
        "{}:{}",
        folder.path.display(),
        std::env::var("PATH").expect("PATH")
    );
    let command = |args: &[&str]| {
        let mut command = tool_command("funccount", AttachMode::best(), args);
        command.env("PATH", &path);
        command
    };
    let mut target = Target::start(Command::new(&program));
    let pid = target.pid().to_string();
    let tool = Tool::start_as(command(&["wrapped:counted", "-p", &pid]));
    target.ask("count 97");
    assert_eq!(tool.stop().rows[0]["count"], 97);
    let ended = run_to_end(&mut command(&["wrapped:counted"]));
    assert!(
        ended
            .stderr
            .contains("a script has no functions that can be traced\nhint: name the program"),
        "{ended:?}"
    );
}

#[test]
fn libraries_in_a_namespace_of_their_own_are_found() {
    let library = program("libinterrupted.so");
    let mut command = Command::new(program("caller"));
    command.arg("-n").arg(&library).arg("inner");
    let mut caller = Target::start(command);
    let pid = caller.pid().to_string();
    for spec in ["libinterrupted:inner", "interrupted:inner", ":inner", "*:inner"] {
        let tool = Tool::start("funccount", AttachMode::best(), [spec, "-p", &pid]);
        caller.ask("13 1");
        let run = tool.stop();
        assert_eq!(run.rows[0]["count"], 13, "{spec}: {:?}", run.rows);
        assert_eq!(rows(&[spec, "-p", &pid]).len(), 1, "{spec}");
    }
}

/// /proc shows nothing of a main thread that has exited, and the kernel does not find the process by it.
#[test]
fn processes_without_main_thread_are_traced() {
    let library = program("libinterrupted.so");
    let mut command = Command::new(program("caller"));
    command.arg("-e").arg(&library).arg("inner");
    let mut caller = Target::start(command);
    let pid = caller.pid().to_string();
    wait_until("the main thread to exit", || is_in_state(caller.pid(), 'Z'));
    let path = format!("{}:inner", library.display());
    for spec in ["interrupted:inner", &path, ":inner"] {
        let tool = Tool::start("funccount", AttachMode::best(), [spec, "-p", &pid]);
        caller.ask("13 1");
        let run = tool.stop();
        assert_eq!(run.rows[0]["count"], 13, "{spec}: {:?}", run.rows);
        assert!(run.stderr.contains("main thread of PID"), "{}", run.stderr);
        assert_eq!(rows(&[spec, "-p", &pid]).len(), 1, "{spec}");
    }
    let mut tool = Tool::start("functrace", AttachMode::best(), [":inner", "--stack", "-p", &pid]);
    caller.ask("1 1");
    tool.wait_rows(1);
    let run = tool.stop();
    let stack = run.rows[0]["stack"].to_string();
    assert!(stack.contains("[caller]"), "{stack}");
}

#[test]
fn paths_may_have_colons() {
    let folder = Folder::new();
    let copy: PathBuf = folder.copy_of(program("names"), "a b:c+d");
    let run = trace_command("funccount", AttachMode::best(), &copy, &["loops"], &[]);
    assert_eq!(run.rows[0]["count"], 73);
    let quoted = format!("\"{}\":loops", copy.display());
    assert_eq!(rows(&[&quoted]).len(), 1);
}

/// The file of the process is removed, or is one that never had a path.
#[test]
fn programs_without_a_file_are_traced() {
    let folder = Folder::new();
    let removed = folder.copy_of(program("flow"), "removed");
    let target = Target::start(Command::new(&removed));
    std::fs::remove_file(removed).expect("a file");
    assert_counted(target, "flow in a removed file");
    let script = "import os, sys
file = os.memfd_create('flow')
os.write(file, open(sys.argv[1], 'rb').read())
os.execve(file, ['flow'], os.environ)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(program("flow"));
    assert_counted(Target::start(command), "flow in memory");
}

/// In /proc, these are escaped, or look like the name of a removed file.
#[test]
fn paths_may_have_any_name() {
    for name in ["new\nline", "here (deleted)", "back\\slash"] {
        let folder = Folder::new();
        let path = folder.copy_of(program("flow"), name);
        assert_counted(Target::start(Command::new(path)), name);
    }
}

/// Counts the calls of a function that is named without its file.
#[track_caller]
fn assert_counted(mut target: Target, what: &str) {
    let pid = target.pid().to_string();
    let tool = Tool::start("funccount", AttachMode::best(), [":counted", "-p", &pid]);
    target.ask("count 97");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows[0]["count"], 97, "{what}: {}", run.stderr);
}
