// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Go runs the start of a function again after it has moved a stack that was too small.

use crate::harness::{AttachMode, each_mode_with_session};
use crate::real::calls;
use crate::real::go::run;

each_mode_with_session! { calls_that_grow_the_stack_count_once }

/// A function whose stack has to grow is restarted. The number of calls is the same with and without returns.
fn calls_that_grow_the_stack_count_once(mode: AttachMode) {
    let orders = ["threads 8 fill 7 50", "threads 3 fill 13 60"];
    let expected = 8 * 7 * 50 + 3 * 13 * 60;
    for options in [&["main.filling"][..], &["main.filling", "--placement", "entry"]] {
        let Some(run) = run("funccount", mode, "hello-go", options, &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.filling"), expected, "{options:?}");
    }
    for options in [&["main.filling"][..], &["main.filling", "--ret"]] {
        let Some(run) = run("functrace", mode, "hello-go", options, &orders) else {
            return;
        };
        assert_eq!(run.rows.len() as u64, expected, "{options:?}");
    }
}
