// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What a run says about processes that it may not have seen.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::funccount::calls;
use crate::harness::{
    AttachMode, Target, Tool, best_mode, in_guest, is_in_state, program, tool_command, wait_until,
};

best_mode! {
    threads_are_not_taken_for_processes
    exit_after_the_calls_is_not_missed
}

/// Thousands of threads, one after the other, in one program.
fn threads_are_not_taken_for_processes(mode: AttachMode) {
    let orders = if in_guest() { 31 } else { 499 };
    let args = ["--summary", "--min-size", "4321", "--max-size", "4321", "--"];
    let mut command = tool_command("mallocsnoop", mode, args);
    command
        .arg(program("calls"))
        .args(vec!["threads 16 malloc 3 4321"; orders]);
    let run = Tool::start_as(command).finish();
    assert!(run.status.success(), "{}", run.stderr);
    assert_eq!(run.with("type", "process")[0]["calls"], orders * 16 * 3);
    assert_eq!(run.summary["missed"], 0, "{}", run.stderr);
    assert!(!run.stderr.contains("exited before"), "{}", run.stderr);
}

/// At the first call, the kernel may map code of its own into a process. The tool sees that once the process is gone.
fn exit_after_the_calls_is_not_missed(mode: AttachMode) {
    for (others, options) in [(0, &[][..]), (0, &["--follow"]), (1, &[])] {
        let start = || Target::start(Command::new(program("flow")));
        let mut targets: Vec<Target> = (0..=others).map(|_| start()).collect();
        let pids: Vec<String> = targets.iter().map(|target| target.pid().to_string()).collect();
        let spec = format!("{}:counted", program("flow").display());
        let pids = pids.join(",");
        let args = [&spec, "-p", &pids];
        let tool = Tool::start("funccount", mode, args.iter().chain(options));
        tool.signal(Signal::SIGSTOP);
        wait_until("the tool to stop", || is_in_state(tool.pid(), 'T'));
        for target in &mut targets {
            target.ask("count 67");
        }
        for target in targets {
            assert!(target.end().success());
        }
        tool.signal(Signal::SIGCONT);
        let run = tool.finish();
        assert_eq!(calls(&run, "counted"), 67 * (others + 1), "{options:?}");
        assert_eq!(run.summary["missed"], 0, "{options:?}: {}", run.stderr);
        assert!(
            !run.stderr.contains("exited before"),
            "{options:?}: {}",
            run.stderr
        );
    }
}
