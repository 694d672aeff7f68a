// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! mallocsnoop: every call once, with the right size, process and outcome, and nobody else's.
//!
//! The blocks have sizes that nothing else asks for, and are counted in prime numbers, so that a sum of wrong counts is
//! not right by chance.

mod calls;
mod command;
pub mod ends;
mod errors;
pub mod filters;
mod losses;
mod output;
mod places;
mod python;
mod quiet;
mod stacks;
mod summary;
mod ways;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::harness::{Run, Target, Tool, Way, program};

/// Given to every block by tests that need no other size; nobody asks for that much by accident.
pub const BLOCK: u64 = 4099;
/// What tests/targets/calls.c asks for before its main.
pub const FIRST_CALL_BYTES: u64 = 104729;

/// tests/targets/calls.c against the C library of this machine.
pub fn calls_program() -> PathBuf {
    program("calls")
}

/// tests/targets/bump.c as a library.
pub fn bump_library() -> PathBuf {
    program("libbump.so")
}

fn target() -> Target {
    Target::start(Command::new(calls_program()))
}

/// A target that uses an allocator of its own, which is also in the run's own words a file that no other test traces.
fn bump_target() -> Target {
    let mut command = Command::new(calls_program());
    command.env("LD_PRELOAD", bump_library());
    Target::start(command)
}

/// A target that is the only one of this name.
fn named_target() -> (Target, String) {
    let mut target = target();
    let name = unique("e2e");
    target.ask(&format!("name {name}"));
    (target, name)
}

/// A name that no other test has, and fits a thread.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}{}x{}",
        std::process::id() % 100_000,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn trace(way: Way, args: &[&str]) -> Tool {
    Tool::start("mallocsnoop", way, args)
}

/// Traces one process, with options beside that.
fn trace_pid(way: Way, target: &Target, args: &[&str]) -> Tool {
    let pid = target.pid().to_string();
    trace(way, &[&["-p", pid.as_str()], args].concat())
}

/// How many rows there are of blocks of this size.
pub fn count(run: &Run, size: u64) -> usize {
    run.with("size_bytes", size).len()
}

/// The rows of blocks of this size that were asked for by one of these functions. What an allocator calls of itself is
/// a row too: glibc's reallocarray calls realloc, musl's calloc calls malloc.
fn with_call<'a>(run: &'a Run, names: &[&str], size: u64) -> Vec<&'a Value> {
    let mut rows = run.with("size_bytes", size);
    rows.retain(|row| names.contains(&row["call"].as_str().unwrap_or_default()));
    rows
}

/// The values of one column, in the order of the rows.
fn column<'a>(rows: &[&'a Value], key: &str) -> Vec<&'a str> {
    rows.iter()
        .map(|row| row[key].as_str().unwrap_or("null"))
        .collect()
}
