// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Literals of `--where` that are as long as they may be.

use crate::functrace::trace;
use crate::harness::{AttachMode, best_mode};

best_mode! { literal_of_the_longest_length_is_compared_to_its_end }

/// Longer text that begins with the literal is not equal to it.
fn literal_of_the_longest_length_is_compared_to_its_end(mode: AttachMode) {
    let literal = "l".repeat(127);
    let orders = ["long 126 3", "long 127 5", "long 128 7", "long 300 11"];
    for (operator, rows) in [("==", 5), ("!=", 3 + 7 + 11), ("^=", 5 + 7 + 11)] {
        let condition = format!("text {operator} \"{literal}\"");
        let run = trace(mode, &["pass"], &["--where", &condition], &orders);
        run.assert_clean();
        assert_eq!(run.rows.len(), rows, "{operator}");
    }
}
