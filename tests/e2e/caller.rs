// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs that call any function of a library, see tests/targets/caller.c.

use std::process::Command;

use crate::funclist::funclist;
use crate::harness::{Target, in_guest, program, skip};

/// Starts a program that calls the function of a spec `LIBRARY:FUNCTION`. None in a guest without that
/// library.
#[track_caller]
pub fn start_caller(spec: &str) -> Option<Target> {
    let found = funclist(["-j", spec]);
    if !found.status.success() && in_guest() {
        skip(found.stderr.trim_end());
        return None;
    }
    let row = found.stdout.lines().next().unwrap_or_default();
    let row: serde_json::Value =
        serde_json::from_str(row).unwrap_or_else(|_| panic!("{spec}: {}", found.stderr));
    let (_, function) = spec.rsplit_once(':').expect("LIBRARY:FUNCTION");
    let mut command = Command::new(program("caller"));
    command.args([row["file"].as_str().expect("a path"), function]);
    Some(Target::start(command))
}

#[test]
fn caller_answers_with_the_result_of_each_call() {
    let Some(mut caller) = start_caller("libc:labs") else {
        return;
    };
    let worker = caller.ask("2 0xffffffffffffffef").remove(0);
    assert_eq!(
        (worker.tid, worker.addresses),
        (caller.pid(), vec!["0x11".to_owned(); 2])
    );
}
