// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions are found by each way to write their names, and no others with them. tests/targets/names.cc calls each a
//! known number of times.

use std::path::Path;

use serde_json::Value;

use super::commands::trace_command;
use crate::funclist::funclist;
use crate::harness::{AttachMode, Run, Tool, program};

fn traced(tool: &str, program: &Path, specs: &[&str], options: &[&str]) -> Run {
    trace_command(tool, AttachMode::best(), program, specs, options)
}

/// The calls of all functions that a spec finds.
fn calls(spec: &str) -> u64 {
    let run = traced("funccount", &program("names"), &[spec], &[]);
    run.rows.iter().filter_map(|row| row["count"].as_u64()).sum()
}

#[test]
fn names_mean_their_function_and_no_other() {
    for (spec, expected) in [
        ("app::greet", 97),
        ("app::greet(int)", 97),
        ("app::greet[abi:cxx11]", 97),
        ("len(std::string)", 97),
        ("len(std::*)", 97),
        ("A::operator*", 89),
        (r"A::operator\*", 89),
        ("A::operator*=", 7),
        ("A::operator+", 3),
        ("A::operator*?", 89 + 7 + 3),
        ("f", 11 + 13),
        ("f(char*)", 11),
        ("f(const char *, int)", 13),
        ("scale", 83),
        ("scale(int, int, int)", 83),
        ("untyped", 79),
        ("unsized", 79),
        ("un{typed,sized}", 2 * 79),
        ("uns[h-j]zed", 79),
        ("own", 67),
        ("thrice", 61),
        ("thrice<long>(long)", 61),
        ("twice", 59),
        ("twice<long>", 59),
        ("long twice<long>(long)", 59),
        ("pack", 53 + 47),
        ("pack<int, long>(int, long)", 53),
        ("pack<>()", 47),
        ("loops", 73),
        ("chosen", 71),
    ] {
        assert_eq!(calls(spec), expected, "{spec}");
    }
    let ended = funclist([format!("{}:inside", program("names").display())]);
    assert!(!ended.status.success(), "a label of a loop: {ended:?}");
}

#[test]
fn functions_without_a_size_return() {
    for name in ["untyped", "unsized"] {
        let run = traced("functrace", &program("names"), &[name], &["--ret"]);
        assert_eq!(
            (run.rows.len(), &run.summary["unmatched"]),
            (79, &Value::from(0)),
            "{name}"
        );
    }
}

#[test]
fn specs_of_returns_show_results() {
    for prefix in ["r:", "uretprobe:"] {
        let path = program("names");
        let path = path.to_str().expect("UTF-8");
        let spec = format!("{prefix}{path}:untyped");
        let run = Tool::start("functrace", AttachMode::best(), [&spec, "--", path]).finish();
        assert_eq!(run.rows.len(), 79);
        assert!(
            run.rows.iter().all(|row| row.get("retval").is_some()),
            "{:?}",
            run.rows[0]
        );
    }
}

#[test]
fn rows_have_the_names_that_were_asked_for() {
    for (specs, name) in [
        (&["untyped"][..], "untyped"),
        (&["same"], "same"),
        (&["same", "untyped", "same"], "same/untyped"),
    ] {
        let run = traced("funccount", &program("names"), specs, &[]);
        let rows: Vec<_> = run
            .rows
            .iter()
            .map(|row| (&row["function"], &row["count"]))
            .collect();
        assert_eq!(rows, [(&Value::from(name), &Value::from(79))]);
    }
}

#[test]
fn rows_have_all_global_names_of_the_function() {
    for (spec, name) in [
        ("first_name", "first_name/second_name"),
        ("second_name", "second_name/first_name"),
        ("local_name", "local_name/first_name/second_name"),
        ("second_n*", "second_name/first_name"),
    ] {
        let options: [(&str, &[&str]); 3] = [
            ("funccount", &[]),
            ("funclatency", &["-F"]),
            ("functrace", &["--ret"]),
        ];
        for (tool, options) in options {
            let run = traced(tool, &program("names"), &[spec], options);
            let names: Vec<&Value> = run.rows.iter().map(|row| &row["function"]).collect();
            let count = match tool {
                "functrace" => run.rows.len() as u64,
                _ => run.rows[0]["count"].as_u64().expect("a count"),
            };
            assert!(
                names.iter().all(|&found| *found == name),
                "{tool} {spec}: {names:?}"
            );
            assert_eq!(count, 17 + 2 * 19, "{tool} {spec}");
        }
    }
}
