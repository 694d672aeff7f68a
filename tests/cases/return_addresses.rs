// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Return probes replace return addresses, which others read: unwinders of exceptions and of cancelled threads, and
//! functions that ask who calls them. tests/targets/hazards.cc dies or prints something else if they find the
//! kernel's.

use crate::harm::run_traced;
use crate::harness::{AttachMode, each_mode_with_session};

each_mode_with_session! {
    exceptions_pass_a_c_function
    cancelled_threads_run_their_destructors
    caller_of_dlsym_is_recognized
}

fn exceptions_pass_a_c_function(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:qsort", &["throw", "31"], "caught 31");
    // The last call is still on the list when the program ends.
    assert_eq!(returned, 0);
    assert_eq!(unmatched, 31);
}

fn cancelled_threads_run_their_destructors(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:read", &["cancel", "13"], "destroyed 13");
    assert_eq!(unmatched, 13);
    // Those of the loader are not calls of libc's read.
    assert_eq!(returned, 0);
}

fn caller_of_dlsym_is_recognized(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:dlsym", &["next"], "found 1");
    assert_eq!(returned + unmatched, 1);
}
