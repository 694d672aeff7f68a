// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Recursion that is deeper than the number of return probes that the kernel keeps for a thread.

use std::process::Command;

use crate::funccount::{calls, flow, of_flow};
use crate::harness::{AttachMode, Target, Tool, best_mode, each_mode, program};

each_mode! { returns_of_deep_recursion_are_counted }

/// The kernel has at most 64 pending return probes in a thread. Calls of a function by itself are known on x86-64.
fn returns_of_deep_recursion_are_counted(mode: AttachMode) {
    let policies = ["safe", "instructions", "kernel"];
    for policy in &policies[..if cfg!(target_arch = "x86_64") { 3 } else { 2 }] {
        let mut target = flow();
        let pid = target.pid().to_string();
        let recursing = of_flow("recursing");
        let at_return = format!("r:{recursing}");
        let args = [&*at_return, &*recursing, "--returns", *policy, "-p", &*pid];
        let tool = Tool::start("funccount", mode, args);
        target.ask("recurse 7 201");
        let run = tool.stop();
        let found = ["recursing", "r:recursing"].map(|function| calls(&run, function));
        assert_eq!(found, [7 * 201; 2], "{policy}: {}", run.stderr);
    }
}

best_mode! { results_that_are_not_seen_are_reported }

/// The kernel has at most 64 pending return probes in a thread.
fn results_that_are_not_seen_are_reported(mode: AttachMode) {
    let mut target = Target::start(Command::new(program("flow")));
    let spec = format!("r:{}:recursing", program("flow").display());
    let args = [&*spec, "--returns", "kernel", "-p", &*target.pid().to_string()];
    let tool = Tool::start("functrace", mode, args);
    target.ask("recurse 7 201");
    let run = tool.stop();
    let missing = 7 * 201 - run.rows.len();
    assert_eq!(run.summary["unmatched"], missing);
    let remark = format!("{missing} calls did not return while traced");
    assert_eq!(run.stderr.contains(&remark), missing > 0, "{}", run.stderr);
}
