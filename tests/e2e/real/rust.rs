// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A Rust program with debug information: tests/targets/flow.rs.

use std::path::PathBuf;

use serde_json::json;

use super::{beside, calls, spec, start};
use crate::funclist::rows;
use crate::harness::{Way, each_way, each_way_of_calls, program_if_built, skip};

fn flow() -> Option<PathBuf> {
    let program = program_if_built("flow-rust");
    if program.is_none() {
        skip("there was no rustc to build with");
    }
    program
}

each_way! { names_are_those_of_the_source strings_are_read }

each_way_of_calls! { panics_do_not_end_the_program }

fn names_are_those_of_the_source(way: Way) {
    let Some(flow) = flow() else { return };
    let specs = ["flow::inner::*", "*::Shape>::area"].map(|name| spec(&flow, name));
    let specs = specs.each_ref().map(String::as_str);
    let orders = ["count 1009", "shape 211"];
    let run = beside("funccount", way, &specs, &mut start(&flow), &orders);
    let names = [
        "flow::inner::counted",
        // Both kinds of it.
        "flow::inner::generic",
        "<flow::inner::Circle as flow::inner::Shape>::area",
        "flow::inner::catching",
    ];
    assert_eq!(
        names.map(|name| calls(&run, name)),
        [1009, 422, 211, 0],
        "{:?}",
        run.rows
    );
}

/// Return probes would: a panic unwinds by return addresses, and finds the kernel's.
fn panics_do_not_end_the_program(way: Way) {
    let Some(flow) = flow() else { return };
    let specs = [spec(&flow, "flow::inner::*")];
    let specs = specs.each_ref().map(String::as_str);
    let orders = ["panic 103", "count 211", "panic 4"];
    let run = beside("funclatency", way, &specs, &mut start(&flow), &orders);
    let names = ["panicking", "passing", "catching", "counted"].map(|name| format!("flow::inner::{name}"));
    assert_eq!(
        names.map(|name| calls(&run, &name)),
        [0, 0, 107, 211],
        "{:?}",
        run.rows
    );
    assert_eq!(run.summary["unmatched"], 2 * 107);
}

fn strings_are_read(way: Way) {
    let Some(flow) = flow() else { return };
    let specs = [&spec(&flow, "flow::inner::greeting"), "--ret"];
    let run = beside("functrace", way, &specs, &mut start(&flow), &["greet 7"]);
    assert_eq!(run.rows.len(), 7);
    for (number, row) in run.rows.iter().enumerate() {
        let owned = format!("number {number}");
        assert_eq!(row["args"], json!({"text": "greet", "owned": owned, "mark": "ß"}));
        // A function on arm64 does not tell where in memory it has put its result.
        let result = match cfg!(target_arch = "x86_64") {
            true => json!(format!("greet, {owned}ß")),
            false => json!(null),
        };
        assert_eq!(row["retval"], result);
    }
}

#[test]
fn parameters_have_names_and_types() {
    let Some(flow) = flow() else { return };
    let row = rows(&[&spec(&flow, "flow::inner::counted")]).remove(0);
    assert_eq!(row["params"], json!(["u64 number", "&str name"]), "{row}");
    assert_eq!(row["returns"], "u64", "{row}");
}
