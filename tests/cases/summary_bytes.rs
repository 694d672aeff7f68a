// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `mallocsnoop --summary` adds the sizes of requested blocks, of which programs may request any number of bytes.

use crate::harness::{AttachMode, Target, best_mode, program};
use crate::mallocsnoop::trace_pid;
use std::process::Command;

best_mode! { sum_of_bytes_does_not_wrap_around }

/// Calls that fail are counted with the size that they asked for.
fn sum_of_bytes_does_not_wrap_around(mode: AttachMode) {
    let mut target = Target::start(Command::new(program("news")));
    let tool = trace_pid(mode, &target, &["--summary", "--min-size", "40000"]);
    target.ask("malloc 89 40013");
    target.ask("malloc 2 9223372036854775808");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), 1);
    assert_eq!(run.rows[0]["calls"], 89 + 2);
    assert_eq!(run.rows[0]["bytes"], u64::MAX);
}
