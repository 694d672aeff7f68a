// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Loops that lead back to the first instruction of a function (tests/targets/turns.c): a turn is not a call.

use crate::harness::{AttachMode, Run, Tool, best_mode, each_mode_with_session, program};

/// Calls of each function.
const CALLS: [(&str, u64); 4] = [("last", 11), ("down", 13 + 7 * 3), ("either", 17), ("nested", 7)];

fn trace(tool: &str, mode: AttachMode, functions: &[&str], options: &[&str]) -> Run {
    let program = program("turns").display().to_string();
    let specs = functions.iter().map(|function| format!("{program}:{function}"));
    let options = options.iter().map(ToString::to_string);
    let command = ["--".to_owned(), program.clone()];
    let args: Vec<String> = specs.chain(options).chain(command).collect();
    let run = Tool::start(tool, mode, args).finish();
    run.assert_clean();
    run
}

each_mode_with_session! { turns_are_not_counted turns_are_not_shown durations_include_all_turns }

fn turns_are_not_counted(mode: AttachMode) {
    let functions = CALLS.map(|(function, _)| function);
    let options: [&[&str]; 3] = [&[], &["--placement", "entry"], &["--by", "process"]];
    for options in options {
        let run = trace("funccount", mode, &functions, options);
        for (function, calls) in CALLS {
            let rows = run.with("function", function);
            assert_eq!(rows.len(), 1, "{function}: {:?}", run.rows);
            assert_eq!(rows[0]["count"], calls, "{function} {options:?}");
        }
    }
}

fn turns_are_not_shown(mode: AttachMode) {
    let functions = CALLS.map(|(function, _)| function);
    let ways: [&[&str]; 4] = [
        &[],
        &["--ret"],
        &["--ret", "--returns", "kernel"],
        &["--ret", "--returns", "instructions"],
    ];
    for options in ways {
        let run = trace("functrace", mode, &functions, options);
        for (function, calls) in CALLS {
            let rows = run.with("function", function).len() as u64;
            assert_eq!(rows, calls, "{function} {options:?}");
        }
        assert_eq!(run.summary["unmatched"], 0, "{options:?}");
    }
}

fn durations_include_all_turns(mode: AttachMode) {
    let run = trace("funclatency", mode, &["last", "nested"], &["-F"]);
    for (function, calls) in [("last", 11), ("nested", 7)] {
        assert_eq!(
            run.with("function", function)[0]["count"],
            calls,
            "{:?}",
            run.rows
        );
    }
    // Each of 50 turns meets two probes, at 100 ns or more.
    let last = &run.with("function", "last")[0];
    let least = last["p50_ns"].as_u64().expect("a number");
    assert!(least >= 50 * 200, "{last}");
}

best_mode! { turns_that_cannot_be_told_are_said }

fn turns_that_cannot_be_told_are_said(mode: AttachMode) {
    let warning = |function: &str| {
        format!("warning: each turn of the loop at the start of {function} is taken for a call")
    };
    let run = trace("funccount", mode, &["counted", "last"], &[]);
    assert_eq!(run.with("function", "counted")[0]["count"], 250);
    assert_eq!(run.with("function", "last")[0]["count"], 11);
    assert!(run.stderr.contains(&warning("counted")), "{}", run.stderr);
    assert_eq!(run.stderr.matches("warning").count(), 1, "{}", run.stderr);
}
