// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What a run says about processes that it may not have seen.

use crate::harness::{AttachMode, Tool, best_mode, in_guest, program, tool_command};

best_mode! { threads_are_not_taken_for_processes }

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
