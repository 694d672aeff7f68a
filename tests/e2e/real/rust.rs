// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A Rust program with debug info: tests/targets/flow.rs.

use std::path::PathBuf;

use serde_json::json;

use super::{calls, spec, start, trace_orders};
use crate::funclist::rows;
use crate::harness::{AttachMode, each_mode, each_mode_with_session, program_if_built, skip};

fn flow() -> Option<PathBuf> {
    let program = program_if_built("flow-rust");
    if program.is_none() {
        skip("rustc is not installed");
    }
    program
}

each_mode! { functions_have_demangled_names strings_and_chars_are_read }

each_mode_with_session! { panics_are_survived }

fn functions_have_demangled_names(mode: AttachMode) {
    let Some(flow) = flow() else { return };
    let specs = ["flow::inner::*", "*::Shape>::area"].map(|name| spec(&flow, name));
    let specs = specs.each_ref().map(String::as_str);
    let orders = ["count 1009", "shape 211"];
    let run = trace_orders("funccount", mode, &specs, &mut start(&flow), &orders);
    let names = [
        "flow::inner::counted",
        // Both instances.
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

/// Return probes would crash the program: a panic unwinds by return addresses and finds the trampoline of the kernel.
fn panics_are_survived(mode: AttachMode) {
    let Some(flow) = flow() else { return };
    let specs = [spec(&flow, "flow::inner::*")];
    let specs = specs.each_ref().map(String::as_str);
    let orders = ["panic 103", "count 211", "panic 4"];
    let run = trace_orders("funclatency", mode, &specs, &mut start(&flow), &orders);
    let names = ["panicking", "passing", "catching", "counted"].map(|name| format!("flow::inner::{name}"));
    assert_eq!(
        names.map(|name| calls(&run, &name)),
        [0, 0, 107, 211],
        "{:?}",
        run.rows
    );
    assert_eq!(run.summary["unmatched"], 2 * 107);
}

fn strings_and_chars_are_read(mode: AttachMode) {
    let Some(flow) = flow() else { return };
    let specs = [&spec(&flow, "flow::inner::greeting"), "--ret"];
    let run = trace_orders("functrace", mode, &specs, &mut start(&flow), &["greet 7"]);
    assert_eq!(run.rows.len(), 7);
    for (number, row) in run.rows.iter().enumerate() {
        let owned = format!("number {number}");
        assert_eq!(row["args"], json!({"text": "greet", "owned": owned, "mark": "ß"}));
        // On arm64 a function does not return the address of a result in memory.
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
