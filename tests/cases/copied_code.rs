// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs that run a copy of their code in anonymous memory.

use std::path::Path;
use std::process::Command;

use crate::harness::{AttachMode, Target, Tool, program, run_to_end, skip, tool_command};

#[test]
fn copy_that_a_process_has_made_is_reported() {
    let mut target = Target::start(Command::new(program("copies")));
    let spec = |function: &str| format!("{}:{function}", program("copies").display());
    let pid = target.pid().to_string();
    let args = [&spec("copied"), &spec("main"), "-p", &pid];
    let tool = Tool::start("funccount", AttachMode::best(), args);
    target.ask("call");
    let run = tool.stop();
    assert!(run.rows.is_empty(), "{:?}", run.rows);
    let warning = format!(
        "warning: PID {pid} does not run 1 function of {} from that file, such as copied, but probably a copy in memory: \
         calls are not shown\n",
        program("copies").display()
    );
    assert!(run.stderr.contains(&warning), "{}", run.stderr);
}

#[test]
fn process_that_runs_its_file_is_not_said_to_run_a_copy() {
    let mut target = Target::start(Command::new(program("flow")));
    let pid = target.pid().to_string();
    let tool = Tool::start("funccount", AttachMode::best(), [":count*", "-p", &pid]);
    target.ask("count 7");
    let run = tool.stop();
    assert_eq!(run.with("function", "counted")[0]["count"], 7);
    assert!(!run.stderr.contains("copy in memory"), "{}", run.stderr);
}

#[test]
fn node_is_not_traced_while_it_copies_its_code() {
    const NODE: &str = "/usr/bin/node";
    let spec = format!("{NODE}:uv_run");
    let run = |option: &str| {
        let args = [&spec, "--", NODE, option, "-e", "console.log(7)"];
        run_to_end(&mut tool_command("funccount", AttachMode::best(), args))
    };
    if !Path::new(NODE).exists() {
        return skip("node is not installed");
    }
    let skipped = run("--use-largepages=on");
    assert_eq!(skipped.status.code(), Some(0), "{skipped:?}");
    assert!(skipped.stdout.contains("\n7\n"), "{skipped:?}");
    assert!(skipped.stderr.contains("it may copy its code"), "{skipped:?}");
    let traced = run("--use-largepages=off");
    assert!(
        traced.status.success() && traced.stdout.contains("uv_run"),
        "{traced:?}"
    );
}

/// With a breakpoint in the copy, it would die of SIGTRAP.
#[test]
fn program_that_may_move_its_code_is_traced_only_while_it_runs() {
    let copies = program("copies").display().to_string();
    let spec = format!("{copies}:copied");
    let args = [&spec, "--", "sh", "-c", "echo call | $0", &copies];
    let ended = run_to_end(&mut tool_command("funccount", AttachMode::best(), args));
    assert!(ended.status.success(), "{ended:?}");
    assert!(
        ended.stderr.contains("with mremap, it may copy its code"),
        "{ended:?}"
    );
}
