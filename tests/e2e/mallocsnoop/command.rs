// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `-- COMMAND`: from its first call to its exit status.

use std::ffi::OsStr;

use super::*;
use crate::harness::{best_way, each_way, run_to_end, tool_command};

each_way! {
    every_call_of_a_command_is_seen_from_the_first_on
    a_command_that_counts_its_calls_agrees
    its_children_are_seen_with_follow_only
    children_of_a_process_are_followed_too
}

best_way! {
    its_exit_status_is_handed_on
}

/// Runs the tool with a command that obeys these orders.
fn run_with(way: Way, options: &[&str], orders: &[&str]) -> Run {
    let program = calls_program();
    let words = options
        .iter()
        .map(OsStr::new)
        .chain([OsStr::new("--"), program.as_os_str()]);
    let command = tool_command("mallocsnoop", way, words.chain(orders.iter().map(OsStr::new)));
    Tool::start_as(command).finish()
}

fn every_call_of_a_command_is_seen_from_the_first_on(way: Way) {
    let run = run_with(way, &[], &["malloc 97 4099", "calloc 89 7 601"]);
    run.assert_clean();
    assert_eq!(
        run.rows[0]["comm"], "calls",
        "the tool's own child is not the command yet: {}",
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

fn a_command_that_counts_its_calls_agrees(way: Way) {
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
    let mut command = tool_command("mallocsnoop", way, args);
    // The tool is a static program, to which this means nothing.
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

fn its_exit_status_is_handed_on(way: Way) {
    for (order, status) in [
        ("exit 7", 7),
        ("raise 15", 128 + 15),
        ("raise 9", 128 + 9),
        ("exit 0", 0),
    ] {
        let run = run_with(way, &[], &["malloc 97 4099", order]);
        assert_eq!(
            (run.status.code(), count(&run, BLOCK)),
            (Some(status), 97),
            "{order}: {}",
            run.stderr
        );
    }
    let missing = run_to_end(&mut tool_command("mallocsnoop", way, ["--", "no-such-program"]));
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.contains("no-such-program"), "{}", missing.stderr);
}

const FAMILY: [&str; 4] = [
    "malloc 97 4099",
    "fork malloc 89 4099",
    "exec malloc 83 4099",
    "threads 2 malloc 79 4099",
];

fn its_children_are_seen_with_follow_only(way: Way) {
    let alone = run_with(way, &[], &FAMILY);
    alone.assert_clean();
    assert_eq!(count(&alone, BLOCK), 97 + 2 * 79);

    let family = run_with(way, &["--follow"], &FAMILY);
    family.assert_clean();
    assert_eq!(count(&family, BLOCK), 97 + 89 + 83 + 2 * 79);
    assert_eq!(
        count(&family, FIRST_CALL_BYTES),
        2,
        "the program was started twice"
    );
}

fn children_of_a_process_are_followed_too(way: Way) {
    let mut target = target();
    let tool = trace_pid(way, &target, &["--follow"]);
    for order in FAMILY {
        target.ask(order);
    }
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97 + 89 + 83 + 2 * 79);
    assert_eq!(count(&run, FIRST_CALL_BYTES), 1);
}
