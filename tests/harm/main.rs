// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs do the same under every tool as without one: each runs untraced, then with each tool on every function
//! of it and of its main libraries. Output and exit status must be equal. Needs root.
//!
//! usage: harm [--full] [FILTER...]
//!
//! Without --full, it takes less than a minute: only programs of tests/targets, and the tools with the least in common.
//! A FILTER selects the runs whose "PROGRAM TOOL" contains it.

mod programs;
#[path = "../targets/build.rs"]
mod targets;
mod traced;

use std::collections::BTreeSet;
use std::env;
use std::process::ExitCode;
use std::time::Instant;

use programs::{PROGRAMS, Program, remove_scratch};
use traced::{Outcome, TOOL_RUNS, ToolRun, run_traced, run_untraced};

/// What a full run without filters has to make.
const FULL_HITS: u64 = 100_000_000;

fn main() -> ExitCode {
    let (options, filters): (Vec<String>, Vec<String>) = env::args()
        .skip(1)
        .partition(|argument| argument.starts_with('-'));
    let full = options == ["--full"];
    if !full && !options.is_empty() {
        eprintln!("usage: harm [--full] [FILTER...]");
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let mut totals = Totals::default();
    for program in PROGRAMS.iter().filter(|program| full || program.short) {
        let tools: Vec<&ToolRun> = TOOL_RUNS
            .iter()
            .filter(|tool| full || tool.short)
            .filter(|tool| program.can_be_traced_by(tool) && is_selected(program, tool, &filters))
            .collect();
        if !tools.is_empty() {
            totals.add_runs_of(program, &tools, full);
        }
    }
    remove_scratch();
    totals.report(began);
    let enough = !full || !filters.is_empty() || totals.hits >= FULL_HITS || !totals.skipped.is_empty();
    if !enough {
        println!("FAILED: fewer than {FULL_HITS} hits");
    }
    ExitCode::from(u8::from(totals.different > 0 || !enough))
}

fn is_selected(program: &Program, tool: &ToolRun, filters: &[String]) -> bool {
    let name = format!("{} {}", program.name, tool.name());
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}

#[derive(Default)]
struct Totals {
    runs: u64,
    hits: u64,
    different: u64,
    skipped: BTreeSet<String>,
}

impl Totals {
    /// Runs a program untraced, and under each of the tools.
    fn add_runs_of(&mut self, program: &Program, tools: &[&ToolRun], full: bool) {
        if let Some(missing) = program.missing() {
            // For scripts/vmtest, which counts these lines.
            println!("SKIPPED: {}: {missing} is not installed", program.name);
            self.skipped.insert(program.name.to_owned());
            return;
        }
        program.prepare();
        for bulk in [true, false] {
            let bulk_tools = || tools.iter().filter(|tool| (tool.bulk && full) == bulk);
            if bulk_tools().next().is_none() {
                continue;
            }
            match run_untraced(program, bulk) {
                Ok(expected) => {
                    for tool in bulk_tools() {
                        self.add(program, &tool.name(), run_traced(program, tool, bulk, &expected));
                    }
                }
                Err(outcome) => self.add(program, "untraced", outcome),
            }
        }
    }

    fn add(&mut self, program: &Program, tool: &str, outcome: Outcome) {
        self.runs += 1;
        self.hits += outcome.hits;
        let verdict = if outcome.problems.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        println!(
            "{verdict:6} {:22} {:42} {:>11} hits {:6.1} s",
            program.name,
            tool,
            outcome.hits,
            outcome.took.as_secs_f64()
        );
        if !outcome.problems.is_empty() {
            self.different += 1;
            println!("{}", outcome.problems.join("\n"));
        }
    }

    fn report(&self, began: Instant) {
        println!(
            "test result: {}. {} passed; {} failed; {} hits in {} s",
            if self.different == 0 { "ok" } else { "FAILED" },
            self.runs - self.different,
            self.different,
            self.hits,
            began.elapsed().as_secs()
        );
        if !self.skipped.is_empty() {
            let names: Vec<&str> = self.skipped.iter().map(String::as_str).collect();
            println!("\n*** SKIPPED, not installed: {}\n", names.join(" "));
        }
    }
}
