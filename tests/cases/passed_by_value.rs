// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! C++ objects that are passed and returned by value, in memory or in registers: tests/targets/by_value.cc.

use serde_json::json;

use super::commands::trace_command;
use crate::harness::{AttachMode, best_mode, program, skip};

best_mode! { objects_are_shown_wherever_they_are_passed }

fn objects_are_shown_wherever_they_are_passed(mode: AttachMode) {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("results in memory have no address at the return on this machine");
    }
    let expected = [
        (
            "in_memory",
            json!({"object": {"id": 1234}, "k": 5}),
            json!({"id": 1234}),
        ),
        (
            "in_registers",
            json!({"object": {"id": 7, "x": 8}, "k": 5}),
            json!({"id": 7, "x": 8}),
        ),
        (
            "twice",
            json!({"time": {"__r": 250}, "k": 5}),
            json!({"__r": 500}),
        ),
    ];
    for name in ["by_value-O0", "by_value-O2"] {
        for (function, args, result) in &expected {
            let run = trace_command("functrace", mode, &program(name), &[function], &["--ret"]);
            assert_eq!(run.rows.len(), 7, "{name} {function}");
            for row in &run.rows {
                assert_eq!((&row["args"], &row["retval"]), (args, result), "{name}: {row:#}");
            }
        }
    }
}
