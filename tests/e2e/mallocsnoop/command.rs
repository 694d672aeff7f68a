// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `-- COMMAND`: seen from its first call, and its exit status is returned.

use std::ffi::OsStr;

use super::*;
use crate::harness::{best_mode, each_mode, run_to_end, tool_command};

each_mode! {
    command_is_traced_from_its_first_call
    rows_match_the_count_of_the_command
    children_of_a_command_are_traced_only_with_follow
    children_of_a_traced_process_are_followed
}

best_mode! {
    exit_status_of_the_command_is_returned
}

/// Runs the tool with a command that carries out these orders.
fn run_with(mode: AttachMode, options: &[&str], orders: &[&str]) -> Run {
    let program = calls_program();
    let words = options
        .iter()
        .map(OsStr::new)
        .chain([OsStr::new("--"), program.as_os_str()]);
    let command = tool_command("mallocsnoop", mode, words.chain(orders.iter().map(OsStr::new)));
    Tool::start_as(command).finish()
}

fn command_is_traced_from_its_first_call(mode: AttachMode) {
    let run = run_with(mode, &[], &["malloc 97 4099", "calloc 89 7 601"]);
    run.assert_clean();
    assert_eq!(
        run.rows[0]["comm"], "calls",
        "the first row is from the child before it executed the command: {}",
        run.rows[0]
    );
    assert_eq!(
        (
            count(&run, FIRST_CALL_BYTES),
            count(&run, BLOCK),
            count(&run, 7 * 601)
        ),
        (1, 97, 89)
    );
}

fn rows_match_the_count_of_the_command(mode: AttachMode) {
    let program = calls_program();
    let args = [
        "--free",
        "--",
        program.to_str().expect("a path"),
        "malloc 97 4099",
        "calloc 89 7 601",
        "total",
        "exit 0",
    ];
    let mut command = tool_command("mallocsnoop", mode, args);
    // The tool is statically linked, so this affects the command only.
    command.env("LD_PRELOAD", bump_library());
    let run = Tool::start_as(command).finish();
    run.assert_clean();
    assert!(run.rows.len() > 2 * (97 + 89));
    assert!(
        run.stderr.contains(&format!("\n{} calls\n", run.rows.len())),
        "{} rows: {}",
        run.rows.len(),
        run.stderr
    );
}

fn exit_status_of_the_command_is_returned(mode: AttachMode) {
    for (order, status) in [
        ("exit 7", 7),
        ("raise 15", 128 + 15),
        ("raise 9", 128 + 9),
        ("exit 0", 0),
    ] {
        let run = run_with(mode, &[], &["malloc 97 4099", order]);
        assert_eq!(
            (run.status.code(), count(&run, BLOCK)),
            (Some(status), 97),
            "{order}: {}",
            run.stderr
        );
    }
    let missing = run_to_end(&mut tool_command("mallocsnoop", mode, ["--", "no-such-program"]));
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
}

/// Orders with 97 + 2 * 79 calls in the process itself, 89 in a forked child and 83 in an executed one.
const FAMILY: [&str; 4] = [
    "malloc 97 4099",
    "fork malloc 89 4099",
    "exec malloc 83 4099",
    "threads 2 malloc 79 4099",
];

fn children_of_a_command_are_traced_only_with_follow(mode: AttachMode) {
    let alone = run_with(mode, &[], &FAMILY);
    alone.assert_clean();
    assert_eq!(count(&alone, BLOCK), 97 + 2 * 79);

    let family = run_with(mode, &["--follow"], &FAMILY);
    family.assert_clean();
    assert_eq!(count(&family, BLOCK), 97 + 89 + 83 + 2 * 79);
    assert_eq!(
        count(&family, FIRST_CALL_BYTES),
        2,
        "the program was started twice"
    );
}

fn children_of_a_traced_process_are_followed(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--follow"]);
    for order in FAMILY {
        target.ask(order);
    }
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97 + 89 + 83 + 2 * 79);
    assert_eq!(count(&run, FIRST_CALL_BYTES), 1);
}
