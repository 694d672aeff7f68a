// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Real programs: interpreters, servers, other languages, stripped binaries. Each does something a known number of
//! times, and the tools must report exactly that number.

mod cpp;
pub mod go;
mod postgresql;
mod python;
mod rust;
mod system;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::harness::{AttachMode, Run, Target, Tool};

/// The sum of the values of `key` in the rows of a function.
fn sum(run: &Run, function: &str, key: &str) -> u64 {
    run.with("function", function)
        .iter()
        .filter_map(|row| row[key].as_u64())
        .sum()
}

/// The number of calls of a function in a run of funccount or funclatency.
pub fn calls(run: &Run, function: &str) -> u64 {
    sum(run, function, "count")
}

/// Traces a process while it carries out orders. Asserts that the run is clean and the process still answers.
#[track_caller]
pub fn trace_orders(
    tool: &str,
    mode: AttachMode,
    specs: &[&str],
    program: &mut Target,
    orders: &[&str],
) -> Run {
    let pid = program.pid().to_string();
    let mut args = specs.to_vec();
    args.extend(["-p", &pid]);
    if tool == "funclatency" {
        args.push("-F");
    }
    let tool = Tool::start(tool, mode, args);
    for order in orders {
        program.ask(order);
    }
    let run = tool.stop();
    run.assert_clean();
    // The process must survive the removal of the probes.
    program.ask("spin 1");
    run
}

/// Runs a command to completion under funccount.
#[track_caller]
pub fn count_in_command<S: AsRef<OsStr>>(
    mode: AttachMode,
    specs: &[&str],
    command: impl IntoIterator<Item = S>,
) -> Run {
    let mut tool = crate::harness::tool_command("funccount", mode, specs);
    tool.arg("--").args(command);
    let run = Tool::start_as(tool).finish();
    run.assert_clean();
    run
}

/// `FILE:FUNCTION`
pub fn spec(file: &Path, function: &str) -> String {
    format!("{}:{function}", file.display())
}

pub fn start(program: &Path) -> Target {
    Target::start(Command::new(program))
}
