// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! functrace --indent without --ret: rows come when calls begin, so functions need not return.

use std::process::Command;

use crate::harness::{AttachMode, Target, Tool, each_mode_with_session, program};

each_mode_with_session! { functions_without_known_returns_are_shown calls_that_do_not_return_are_shown }

/// `_start` never returns, and the size of `_init` is unknown.
fn functions_without_known_returns_are_shown(mode: AttachMode) {
    let turns = program("turns").display().to_string();
    let specs = ["_start", "_init", "main", "last"].map(|function| format!("{turns}:{function}"));
    let args = specs.iter().map(String::as_str);
    let run = Tool::start("functrace", mode, args.chain(["--indent", "--", &turns])).finish();
    run.assert_clean();
    for (function, count, depth) in [("_start", 1, 0), ("_init", 1, 0), ("main", 1, 0), ("last", 11, 1)] {
        let rows = run.with("function", function);
        assert_eq!(rows.len(), count, "{function}: {}", run.stderr);
        assert!(rows.iter().all(|row| row["depth"] == depth), "{rows:?}");
    }
    assert_eq!(run.summary["unmatched"], 0);
    assert!(!run.stderr.contains("skipped"), "{}", run.stderr);
}

fn calls_that_do_not_return_are_shown(mode: AttachMode) {
    let mut target = Target::start(Command::new(program("flow")));
    let pid = target.pid().to_string();
    let functions = ["jumping", "jumped_over", "landed", "leaving", "counted"];
    let specs = functions.map(|function| format!("{}:{function}", program("flow").display()));
    let args = specs.iter().map(String::as_str);
    let tool = Tool::start("functrace", mode, args.chain(["--indent", "-p", &pid]));
    for order in ["jump 101", "leave 11", "count 1"] {
        target.ask(order);
    }
    let run = tool.stop();
    let found = functions.map(|function| run.with("function", function).len());
    assert_eq!(found, [101, 101, 101, 11, 102], "{}", run.stderr);
    assert_eq!(run.summary["unmatched"], 2 * 101 + 11);
    assert!(!run.stderr.contains("not shown"), "{}", run.stderr);
}
