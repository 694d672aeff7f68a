// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs as people have them: interpreters, servers, other languages, stripped ones. Each is made to do something a
//! known number of times, and the tools have to say exactly that number.

mod cpp;
mod go;
mod late;
mod postgresql;
mod python;
mod rust;
mod system;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::harness::{Run, Target, Tool, Way};

/// The numbers of `key` in the rows of a function, added up.
fn sum(run: &Run, function: &str, key: &str) -> u64 {
    run.with("function", function)
        .iter()
        .filter_map(|row| row[key].as_u64())
        .sum()
}

/// How often a run has seen a function: a row of funccount and one of funclatency say so alike.
fn calls(run: &Run, function: &str) -> u64 {
    sum(run, function, "count")
}

/// Runs a tool beside a process while that follows orders; both have to end well.
#[track_caller]
fn beside(tool: &str, way: Way, specs: &[&str], program: &mut Target, orders: &[&str]) -> Run {
    let pid = program.pid().to_string();
    let mut args = specs.to_vec();
    args.extend(["-p", &pid]);
    if tool == "funclatency" {
        args.push("-F");
    }
    let tool = Tool::start(tool, way, args);
    for order in orders {
        program.ask(order);
    }
    let run = tool.stop();
    run.assert_clean();
    // It is as well as before.
    program.ask("spin 1");
    run
}

/// Counts calls of functions in a command that runs to its end.
#[track_caller]
fn count_in_command<S: AsRef<OsStr>>(way: Way, specs: &[&str], command: impl IntoIterator<Item = S>) -> Run {
    let mut tool = crate::harness::tool_command("funccount", way, specs);
    tool.arg("--").args(command);
    let run = Tool::start_as(tool).finish();
    run.assert_clean();
    run
}

/// `FILE:FUNCTION`
fn spec(file: &Path, function: &str) -> String {
    format!("{}:{function}", file.display())
}

fn start(program: &Path) -> Target {
    Target::start(Command::new(program))
}
