// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Probes without harm: programs whose return addresses others read, or that switch stacks, do the same
//! under each tool as without one. tests/targets/hazards.cc dies, hangs or prints something else under return probes.

use serde_json::Value;

use crate::harness::{
    AttachMode, best_mode, each_mode_with_session, program, program_if_built, run_to_end, skip, tool_command,
};

each_mode_with_session! {
    exceptions_pass_a_c_function
    cancelled_threads_run_their_destructors
    caller_of_dlsym_is_recognized
    cycles_of_tail_calls_are_counted
    coroutines_take_turns
}

/// Runs `hazards` with these arguments under tools that observe the returns of `spec`. It must print `expected`.
/// Returns how many calls funclatency saw return, and how many it did not.
fn run_traced(mode: AttachMode, spec: &str, arguments: &[&str], expected: &str) -> (u64, u64) {
    let traced = |tool: &str, options: &[&str]| {
        let mut command = tool_command(tool, mode, options.iter().copied().chain([spec, "--"]));
        let ended = run_to_end(command.arg(program("hazards")).args(arguments));
        let (rows, printed): (Vec<&str>, Vec<&str>) =
            ended.stdout.lines().partition(|line| line.starts_with('{'));
        assert_eq!(printed, [expected], "{tool} {spec}: {}", ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{tool} {spec}: {}", ended.stderr);
        rows.into_iter()
            .map(|row| serde_json::from_str(row).expect("a record"))
            .collect::<Vec<Value>>()
    };
    traced("functrace", &["--ret"]);
    let rows = traced("funclatency", &[]);
    let number = |kind: &str, key: &str| {
        let row = rows.iter().find(|row| row["type"] == kind);
        row.and_then(|row| row[key].as_u64()).unwrap_or(0)
    };
    (number("latency", "count"), number("summary", "unmatched"))
}

fn exceptions_pass_a_c_function(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:qsort", &["throw", "31"], "caught 31");
    // The last call is still on the list when the program ends.
    assert_eq!(returned, 0);
    assert_eq!(unmatched, 31);
}

fn cancelled_threads_run_their_destructors(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:read", &["cancel", "13"], "destroyed 13");
    assert_eq!(unmatched, 13);
    // Those of the loader are not calls of libc's read.
    assert_eq!(returned, 0);
}

fn caller_of_dlsym_is_recognized(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:dlsym", &["next"], "found 1");
    assert_eq!(returned + unmatched, 1);
}

fn cycles_of_tail_calls_are_counted(mode: AttachMode) {
    let spec = format!("{}:is_even", program("hazards").display());
    // is_even(i) is entered i / 2 + 1 times.
    let (returned, unmatched) = run_traced(mode, &spec, &["cycle", "17"], "even 9");
    assert_eq!((returned, unmatched), (81, 0));
}

fn coroutines_take_turns(mode: AttachMode) {
    let spec = format!("{}:take_turns", program("hazards").display());
    run_traced(mode, &spec, &["switch", "7"], "returned 7");
}

best_mode! {
    instructions_that_kernels_mistake_keep_their_meaning
}

fn instructions_that_kernels_mistake_keep_their_meaning(mode: AttachMode) {
    let Some(opcodes) = program_if_built("opcodes") else {
        skip("the instructions are those of x86-64");
        return;
    };
    for function in ["exchange", "swap_r8", "keep_below", "keep_below+0xa"] {
        let spec = format!("{}:{function}", opcodes.display());
        let mut command = tool_command("funccount", mode, [&spec, "--"]);
        let ended = run_to_end(command.arg(&opcodes).arg("997"));
        assert_eq!(ended.status.code(), Some(0), "{function}: {}", ended.stderr);
        let counted = format!("\"function\":\"{function}\",\"file\":\"opcodes\",\"count\":997}}");
        assert!(ended.stdout.contains(&counted), "{function}: {}", ended.stdout);
    }
}
