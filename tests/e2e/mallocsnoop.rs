// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! mallocsnoop: every call is shown once, with the right size, process and outcome, and calls of other processes are
//! not.
//!
//! Blocks have sizes that no other code requests. Their counts are primes, so that wrong counts are unlikely to add up
//! to the expected sum.

mod attach_mode;
mod calls;
mod command;
pub mod discovery;
pub mod ends;
mod errors;
pub mod filters;
mod idle;
mod losses;
mod output;
mod python;
mod stacks;
mod summary;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::harness::{AttachMode, Run, Target, Tool, program};

/// The block size in bytes where a test needs no particular one. No other code requests blocks of this size.
pub const BLOCK: u64 = 4099;
/// The size of the block that tests/targets/calls.c allocates before main.
pub const FIRST_CALL_BYTES: u64 = 104729;

/// tests/targets/calls.c linked against the system's C library.
pub fn calls_program() -> PathBuf {
    program("calls")
}

/// tests/targets/bump.c as a shared library.
pub fn bump_library() -> PathBuf {
    program("libbump.so")
}

fn target() -> Target {
    Target::start(Command::new(calls_program()))
}

/// A target that preloads its own allocator, a file that no other test traces.
fn bump_target() -> Target {
    let mut command = Command::new(calls_program());
    command.env("LD_PRELOAD", bump_library());
    Target::start(command)
}

/// A target with a unique comm.
fn named_target() -> (Target, String) {
    let mut target = target();
    let name = unique("e2e");
    target.ask(&format!("name {name}"));
    (target, name)
}

/// A name unique to this test, short enough for a comm.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}{}x{}",
        std::process::id() % 100_000,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn trace(mode: AttachMode, args: &[&str]) -> Tool {
    Tool::start("mallocsnoop", mode, args)
}

/// Traces one process with additional options.
pub fn trace_pid(mode: AttachMode, target: &Target, args: &[&str]) -> Tool {
    let pid = target.pid().to_string();
    trace(mode, &[&["-p", pid.as_str()], args].concat())
}

/// The number of rows for blocks of `size` bytes.
pub fn count(run: &Run, size: u64) -> usize {
    run.with("size_bytes", size).len()
}

/// The rows for blocks of `size` bytes allocated by one of these functions.
pub fn with_call<'a>(run: &'a Run, names: &[&str], size: u64) -> Vec<&'a Value> {
    let mut rows = run.with("size_bytes", size);
    rows.retain(|row| names.contains(&row["call"].as_str().unwrap_or_default()));
    rows
}

/// The values of one column, in row order.
fn column<'a>(rows: &[&'a Value], key: &str) -> Vec<&'a str> {
    rows.iter()
        .map(|row| row[key].as_str().unwrap_or("null"))
        .collect()
}
