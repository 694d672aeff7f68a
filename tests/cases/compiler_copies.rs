// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Copies of functions that the optimizer makes without some parameters or without the result.

use super::commands::trace_command;
use crate::functrace::trace;
use crate::harness::{AttachMode, best_mode, each_mode_with_session, program};

each_mode_with_session! { results_that_may_have_been_removed_are_doubtful }

best_mode! { copies_have_no_wrong_arguments }

fn results_that_may_have_been_removed_are_doubtful(mode: AttachMode) {
    for (options, is_doubtful) in [
        (&["--ret"][..], true),
        (&["--args", "retval"], true),
        (&["--args", "number"], false),
    ] {
        let run = trace(mode, &["unused.isra.0"], options, &["unused 7"]);
        run.assert_clean();
        assert_eq!(run.rows.len(), 7);
        let warning = "warning: the result of unused.isra.0 may be what was left";
        assert_eq!(run.stderr.contains(warning), is_doubtful, "{}", run.stderr);
    }
}

/// A parameter that the copy does not have is shown with the right value or not at all: tests/targets/specialized.c.
fn copies_have_no_wrong_arguments(mode: AttachMode) {
    let run = trace_command("functrace", mode, &program("specialized"), &["scaled"], &[]);
    assert_eq!(run.rows.len(), 101, "{}", run.stderr);
    for (number, row) in run.rows.iter().enumerate() {
        let args = &row["args"];
        let is_right = |name: &str, value: usize| args[name].is_null() || args[name] == value;
        assert!(is_right("unused", number) && is_right("by", 3), "{row:#}");
    }
}
