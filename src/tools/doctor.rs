// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Checks what works on this machine by trying it, and what that means for each tool.

mod check;
mod kernel;
mod machine;
mod processes;
mod settings;

use anyhow::Result;
use clap::Parser;

use crate::cli::OutputArgs;
use crate::error;
use crate::output::escape::push_text;
use crate::output::{Column, Output, Table, Value};
use crate::tools::{TOOLS, Tool};
use check::Check;
use machine::MachineChecks;

const EXAMPLES: &str = "\
EXAMPLES:
    doctor                             # what works here, and how to fix the rest
    doctor -j                          # the same as JSON
    doctor -q > /dev/null && echo yes  # can anything be traced?";

/// Check what works on this machine, and how to fix the rest.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

const CHECK_COLUMNS: &[Column] = &[
    Column::left("", "ok", 5),
    Column::left("CHECK", "name", 25),
    Column::left("DETAIL", "detail", 0),
    Column::left("", "hint", 0).data_only(),
];

const TOOL_COLUMNS: &[Column] = &[
    Column::left("", "works", 5),
    Column::left("TOOL", "name", 25),
    Column::left("DETAIL", "detail", 0),
    Column::left("", "hint", 0).data_only(),
];

pub fn run(args: Args) -> Result<u8> {
    let mut out = args.output.open(None)?;
    let machine = MachineChecks::test();
    let mut shown_hints = Vec::new();
    let checks = Table::new("check", CHECK_COLUMNS);
    print(&mut out, &checks, &machine.checks, &mut shown_hints);
    let others = TOOLS.iter().filter(|tool| !is_this(tool));
    let tools: Vec<Check> = others.map(|tool| machine.check_tool(tool)).collect();
    out.text(|buffer| buffer.push(b'\n'));
    print(
        &mut out,
        &Table::new("tool", TOOL_COLUMNS),
        &tools,
        &mut shown_hints,
    );
    out.flush()?;
    Ok(if machine.can_trace() { 0 } else { error::DENIED })
}

fn is_this(tool: &Tool) -> bool {
    tool.name == module_path!().rsplit("::").next().unwrap_or_default()
}

/// Prints the checks as rows. As text, each hint is printed once: `shown_hints` has the hints printed so far.
fn print<'a>(out: &mut Output, table: &Table, checks: &'a [Check], shown_hints: &mut Vec<&'a str>) {
    out.header(table);
    for check in checks {
        let hint = check.hint.as_deref();
        out.row(
            table,
            &[
                Value::Str(check.verdict.name()),
                Value::Str(check.name),
                Value::Bytes(check.detail.as_bytes()),
                hint.map_or(Value::Null, |hint| Value::Bytes(hint.as_bytes())),
            ],
        );
        if let Some(hint) = hint.filter(|hint| !shown_hints.contains(hint)) {
            shown_hints.push(hint);
            out.text(|buffer| push_hint(buffer, hint));
        }
    }
}

fn push_hint(buffer: &mut Vec<u8>, hint: &str) {
    buffer.extend_from_slice(b"      hint: ");
    push_text(buffer, hint.as_bytes());
    buffer.push(b'\n');
}
