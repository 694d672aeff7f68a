// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs that do all their calls at once, under a tool.

use std::path::Path;

use crate::harness::{AttachMode, Run, Tool};

/// Runs `TOOL PROGRAM:FUNCTION... OPTIONS... -- PROGRAM`.
#[track_caller]
pub fn trace_command(
    tool: &str,
    mode: AttachMode,
    program: &Path,
    functions: &[&str],
    options: &[&str],
) -> Run {
    let path = program.to_str().expect("UTF-8");
    let specs = functions.iter().map(|function| format!("{path}:{function}"));
    let options = options.iter().map(|option| option.to_string());
    let args: Vec<String> = specs.chain(options).chain(["--".into(), path.into()]).collect();
    let run = Tool::start(tool, mode, &args).finish();
    assert!(run.status.success(), "{}", run.stderr);
    run
}
