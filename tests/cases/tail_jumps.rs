// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Calls that end with a jump to another function, whose end is theirs.

use super::commands::trace_command;
use crate::harness::{AttachMode, each_mode_with_session, program};

each_mode_with_session! { calls_that_end_with_a_virtual_call_return }

/// tests/targets/forwards.cc: about half of the calls end with a jump through a pointer, the others with a return
/// instruction.
fn calls_that_end_with_a_virtual_call_return(mode: AttachMode) {
    let forwards = program("forwards");
    for options in [&["--ret"][..], &["--ret", "--returns", "instructions"]] {
        let run = trace_command("functrace", mode, &forwards, &["forward"], options);
        assert_eq!(run.rows.len(), 23, "{options:?}: {}", run.stderr);
        assert_eq!(run.summary["unmatched"], 0, "{options:?}: {}", run.stderr);
    }
    let run = trace_command("funclatency", mode, &forwards, &["forward"], &["-F"]);
    assert_eq!(run.rows[0]["count"], 23, "{}", run.stderr);
}
