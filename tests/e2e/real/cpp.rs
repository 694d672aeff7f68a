// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A C++ program with debug info: tests/targets/strings.cc.

use std::process::Command;

use serde_json::{Value, json};

use super::{calls, spec, start, trace_orders};
use crate::harness::{AttachMode, Run, TOOLS, each_mode, program, run_to_end};

/// Traces functions of the program while it carries out orders.
fn run(tool: &str, mode: AttachMode, functions: &[&str], options: &[&str], orders: &[&str]) -> Run {
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
    trace_orders(tool, mode, &args, &mut start(&program), orders)
}

each_mode! { std_strings_are_read_by_value_reference_and_pointer return_values_outside_integer_registers_are_null functions_have_demangled_names }

fn std_strings_are_read_by_value_reference_and_pointer(mode: AttachMode) {
    let run = run("functrace", mode, &["shop::greet"], &["--ret"], &["greet 7"]);
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
        // On arm64 a function does not return the address of a result in memory.
        let result = match cfg!(target_arch = "x86_64") {
            true => json!(format!("{short}, , {long}")),
            false => Value::Null,
        };
        assert_eq!(row["retval"], result);
    }
    let condition = "reference == \"short 3\" || pointer ^= \"a text that does not fit in the object 5\" && color == GREEN";
    let run = self::run(
        "functrace",
        mode,
        &["shop::greet"],
        &["--where", condition],
        &["greet 7"],
    );
    let found: Vec<&Value> = run.rows.iter().map(|row| &row["args"]["reference"]).collect();
    assert_eq!(found, ["short 3", "short 5"]);
}

/// A floating-point result is in another register and must not be replaced by the integer register's value.
fn return_values_outside_integer_registers_are_null(mode: AttachMode) {
    let functions = ["shop::half", "shop::Basket::weight"];
    let run = run("functrace", mode, &functions, &["--ret"], &["half 5", "label 3"]);
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

fn functions_have_demangled_names(mode: AttachMode) {
    let functions = ["shop::Basket::label", "shop::h?lf(int)", "shop::Basket::weight"];
    let run = run("funccount", mode, &functions, &[], &["label 211", "half 13"]);
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
fn inlined_function_cannot_be_traced() {
    let nowhere = spec(&program("strings"), "shop::Basket::nowhere");
    for tool in ["funclist", "funccount", "funclatency", "functrace"] {
        let ended = run_to_end(Command::new(&*TOOLS).args([tool, &nowhere]));
        let explained =
            ["inlined everywhere", "put it into all of its callers"].map(|part| ended.stderr.contains(part));
        assert!(
            explained.contains(&true) && ended.status.code() == Some(1),
            "{tool}: {ended:?}"
        );
    }
}
