// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A C++ program with debug information: tests/targets/strings.cc.

use std::process::Command;

use serde_json::{Value, json};

use super::{beside, calls, spec, start};
use crate::harness::{Run, TOOLS, Way, each_way, program, run_to_end};

/// Runs a tool on functions of the program while it follows orders.
fn run(tool: &str, way: Way, functions: &[&str], options: &[&str], orders: &[&str]) -> Run {
    let program = program("strings");
    let specs: Vec<String> = functions
        .iter()
        .map(|function| spec(&program, function))
        .collect();
    let args: Vec<&str> = specs
        .iter()
        .map(String::as_str)
        .chain(options.iter().copied())
        .collect();
    beside(tool, way, &args, &mut start(&program), orders)
}

each_way! { strings_are_read_however_they_are_passed results_are_read_or_said_to_be_elsewhere names_are_those_of_the_source }

fn strings_are_read_however_they_are_passed(way: Way) {
    let run = run("functrace", way, &["shop::greet"], &["--ret"], &["greet 7"]);
    assert_eq!(run.rows.len(), 7);
    for (number, row) in run.rows.iter().enumerate() {
        let (short, long) = (
            format!("short {number}"),
            format!("a text that does not fit in the object {number}"),
        );
        let color = if number % 2 == 1 { "GREEN" } else { "RED" };
        let expected =
            json!({"reference": short, "value": "", "pointer": long, "color": color, "loud": number == 2});
        assert_eq!(row["args"], expected);
        // A function on arm64 does not tell where in memory it has put its result.
        let result = match cfg!(target_arch = "x86_64") {
            true => json!(format!("{short}, , {long}")),
            false => Value::Null,
        };
        assert_eq!(row["retval"], result);
    }
    let condition = "reference == \"short 3\" || pointer ^= \"a text that does not fit in the object 5\" && color == GREEN";
    let run = self::run(
        "functrace",
        way,
        &["shop::greet"],
        &["--where", condition],
        &["greet 7"],
    );
    let found: Vec<&Value> = run.rows.iter().map(|row| &row["args"]["reference"]).collect();
    assert_eq!(found, ["short 3", "short 5"]);
}

/// A number that is in another register must not be made up from this one.
fn results_are_read_or_said_to_be_elsewhere(way: Way) {
    let functions = ["shop::half", "shop::Basket::weight"];
    let run = run("functrace", way, &functions, &["--ret"], &["half 5", "label 3"]);
    let results = |function| -> Vec<&Value> {
        run.with("function", function)
            .into_iter()
            .map(|row| &row["retval"])
            .collect()
    };
    assert_eq!(results("shop::half(int)"), [&Value::Null; 5]);
    assert_eq!(
        results("shop::Basket::weight() const"),
        [&json!(0), &json!(2), &json!(4)]
    );
}

fn names_are_those_of_the_source(way: Way) {
    let functions = ["shop::Basket::label", "shop::h?lf(int)", "shop::Basket::weight"];
    let run = run("funccount", way, &functions, &[], &["label 211", "half 13"]);
    let names = [
        "shop::Basket::label(int) const &",
        "shop::half(int)",
        "shop::Basket::weight() const",
    ];
    assert_eq!(
        names.map(|name| calls(&run, name)),
        [211, 13, 211],
        "{:?}",
        run.rows
    );
}

#[test]
fn what_is_part_of_its_callers_cannot_be_traced() {
    let nowhere = spec(&program("strings"), "shop::Basket::nowhere");
    for tool in ["funclist", "funccount", "funclatency", "functrace"] {
        let ended = run_to_end(Command::new(&*TOOLS).args([tool, &nowhere]));
        let is_said =
            ["inlined everywhere", "put it into all of its callers"].map(|part| ended.stderr.contains(part));
        assert!(
            is_said.contains(&true) && ended.status.code() == Some(1),
            "{tool}: {ended:?}"
        );
    }
}
