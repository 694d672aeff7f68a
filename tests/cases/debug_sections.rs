// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Debug information in several forms: compressed, in parts, in another file, without types. tests/targets/sections.c.

use serde_json::{Value, json};

use super::commands::trace_command;
use crate::harness::{AttachMode, Run, best_mode, in_guest, program, skip};

best_mode! {
    parameters_are_found_in_each_form
    functions_without_types_show_results
}

const CALLS: usize = 101;

fn trace(mode: AttachMode, name: &str, function: &str, options: &[&str]) -> Run {
    let run = trace_command("functrace", mode, &program(name), &[function], options);
    assert_eq!(run.rows.len(), CALLS, "{name} {function}");
    assert!(!run.stderr.contains("warning"), "{name}: {}", run.stderr);
    run
}

fn parameters_are_found_in_each_form(mode: AttachMode) {
    let forms = [
        "sections-zlib",
        "sections-zlib-gnu",
        "sections-types4",
        "sections-types5",
        "sections-split",
    ];
    for name in forms {
        if in_guest() && name == "sections-split" {
            skip("the program names a file of the host");
            continue;
        }
        for (number, row) in trace(mode, name, "add", &[]).rows.iter().enumerate() {
            assert_eq!(row["args"], json!({"a": number, "b": 2}), "{name}");
        }
        for (number, row) in trace(mode, name, "total", &[]).rows.iter().enumerate() {
            assert_eq!(row["args"], json!({"point": {"x": number, "y": 2}}), "{name}");
        }
    }
}

/// Such as those of `gcc -g1`. They were taken for functions that return nothing.
fn functions_without_types_show_results(mode: AttachMode) {
    for options in [&["--ret"][..], &["--args", "retval"]] {
        let run = trace(mode, "sections-lines", "add", options);
        for (number, row) in run.rows.iter().enumerate() {
            let shown: &Value = match options {
                ["--ret"] => &row["retval"],
                _ => &row["args"]["retval"],
            };
            assert_eq!(*shown, number + 2, "{options:?}: {row:#}");
        }
    }
}
