// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A Go program, with symbols and without: tests/targets/hello.go. Go moves stacks and reads return addresses off them,
//! so that a return probe ends the program.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{beside, calls, spec, start};
use crate::funclist::rows;
use crate::harness::{
    Run, Way, each_way, each_way_of_calls, program_if_built, run_to_end, skip, tool_command,
};

fn hello(name: &str) -> Option<PathBuf> {
    let program = program_if_built(name);
    if program.is_none() {
        skip("there was no go to build with");
    }
    program
}

/// `args` are functions and options.
fn run(tool: &str, way: Way, name: &str, args: &[&str], orders: &[&str]) -> Option<Run> {
    let hello = hello(name)?;
    let is_function = |text: &str| text.starts_with("main.");
    let specs: Vec<String> = args
        .iter()
        .map(|text| {
            if is_function(text) {
                spec(&hello, text)
            } else {
                (*text).to_owned()
            }
        })
        .collect();
    let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
    Some(beside(tool, way, &specs, &mut start(&hello), orders))
}

each_way! {
    entries_are_counted returns_are_seen_at_their_instructions arguments_and_results_are_found
}

each_way_of_calls! { stacks_may_move_and_panics_pass }

fn entries_are_counted(way: Way) {
    for name in ["hello-go", "hello-go-stripped"] {
        let orders = ["count 1009", "threads 8 count 503"];
        let Some(run) = run("funccount", way, name, &["main.counted"], &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.counted"), 1009 + 8 * 503, "{name}");
    }
}

fn returns_are_seen_at_their_instructions(way: Way) {
    for name in ["hello-go", "hello-go-stripped"] {
        let functions = ["main.counted", "main.recovering"];
        let orders = ["count 1009", "threads 8 count 503"];
        let Some(run) = run("funclatency", way, name, &functions, &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.counted"), 1009 + 8 * 503, "{name}");
        assert_eq!(run.summary["unmatched"], 0, "{name}");
    }
}

fn stacks_may_move_and_panics_pass(way: Way) {
    // A function whose stack has to grow begins anew: its entry is seen again, and is one call all the same.
    let functions = ["main.filling", "main.recovering"];
    let orders = ["threads 8 fill 7 50", "threads 8 fill 101 5"];
    let Some(run) = run("funclatency", way, "hello-go", &functions, &orders) else {
        return;
    };
    assert_eq!(
        calls(&run, "main.filling"),
        8 * (7 * 50 + 101 * 5),
        "{:?}",
        run.rows
    );
    assert_eq!(run.summary["unmatched"], 0);
    let all = ["panic 211", "threads 4 panic 13", "fill 3 5000"];
    let Some(run) = self::run("funclatency", way, "hello-go", &["main.*"], &all) else {
        return;
    };
    assert!(calls(&run, "main.recovering") >= 211, "{:?}", run.rows);
    assert_eq!(calls(&run, "main.panicking"), 0);
}

/// Neither arguments nor results are where C has them.
fn arguments_and_results_are_found(way: Way) {
    let Some(run) = run(
        "functrace",
        way,
        "hello-go",
        &["main.joined", "--ret"],
        &["join 7"],
    ) else {
        return;
    };
    assert_eq!(run.rows.len(), 7);
    for (number, row) in run.rows.iter().enumerate() {
        let args = &row["args"];
        let found = (
            &args["text"],
            &args["number"],
            &args["all"]["len"],
            &row["retval"],
        );
        let result = format!("join{}", number + 3);
        assert_eq!(
            found,
            (&json!("join"), &json!(number), &json!(3), &json!(result)),
            "{row}"
        );
    }
    let specs = [
        "main.joined",
        "--args",
        "arg1",
        "--where",
        "arg0 == \"join\" && arg1 >= 5",
    ];
    let Some(run) = self::run("functrace", way, "hello-go", &specs, &["join 7"]) else {
        return;
    };
    let found: Vec<&Value> = run.rows.iter().map(|row| &row["args"]["arg1"]).collect();
    assert_eq!(found, [5, 6]);
}

#[test]
fn arguments_of_a_stripped_program_are_not_made_up() {
    let Some(stripped) = hello("hello-go-stripped") else {
        return;
    };
    let joined = spec(&stripped, "main.joined");
    let ended = run_to_end(&mut tool_command(
        "functrace",
        Way::best(),
        [&joined, "--args", "arg0"],
    ));
    let is_said = ended
        .stderr
        .starts_with("error: --args, column 1: the location of arg0 of main.joined is unknown\n");
    assert!(is_said && ended.status.code() == Some(2), "{ended:?}");
}

#[test]
fn a_stripped_program_still_has_its_names() {
    let (Some(whole), Some(stripped)) = (hello("hello-go"), hello("hello-go-stripped")) else {
        return;
    };
    let names = |program| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let rows = rows(&[&spec(program, "main.*")]);
        rows.iter()
            .map(|row| (text(&row["function"]), text(&row["addr"])))
            .collect()
    };
    assert!(names(&whole).len() > 6);
    assert_eq!(names(&whole), names(&stripped));
}
