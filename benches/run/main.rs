// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Measures what tracing costs, next to a floor: an empty BPF program on the same function, whose cost is that of the
//! kernel's breakpoint. Prints Markdown.
//!
//! ```text
//! cargo bench                              # everything, as root
//! cargo bench -- 'mallocsnoop -p PID'      # only rows whose name contains this
//! cargo bench -- --quick                   # only check that it works
//! ```
//!
//! Absolute times are only valid for one machine and one hour. Costs are therefore ratios of bursts within a round, in
//! CPU time of the traced thread, which excludes other load on the machine. All figures are medians, with their range.

mod cases;
mod costs;
mod floor;
mod programs;
mod report;
mod scenarios;
mod starts;
mod tracer;

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::unistd::geteuid;

use cases::{Case, available_cases, has_bpftrace};
use programs::{LoopProgram, compile_loop};

/// How much to measure.
struct Effort {
    /// Calls of a burst.
    calls: u64,
    /// Rounds through all cases.
    rounds: usize,
    /// Repetitions of measurements that are not bursts.
    repetitions: usize,
    /// How long to watch an idle tracer.
    idle: Duration,
    /// Measure only rows whose name contains one of these; all rows if empty.
    filters: Vec<String>,
}

impl Effort {
    fn from_arguments() -> Self {
        // Cargo passes `--bench`.
        let (options, filters): (Vec<String>, Vec<String>) = std::env::args()
            .skip(1)
            .partition(|argument| argument.starts_with("--"));
        let quick = options.iter().any(|option| option == "--quick");
        let (calls, rounds, repetitions, idle) = match quick {
            false => (1_000_000, 5, 20, Duration::from_secs(3)),
            true => (20_000, 1, 2, Duration::from_millis(200)),
        };
        Self {
            calls,
            rounds,
            repetitions,
            idle,
            filters,
        }
    }

    fn includes(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

fn main() -> Result<()> {
    let effort = Effort::from_arguments();
    ensure!(geteuid().is_root(), "failed to measure: tracing needs root");
    let program = compile_loop()?;
    let mut target = LoopProgram::start(&program, 1)?;
    report::print_machine(&target.libc_version)?;
    if !has_bpftrace() {
        println!("\nbpftrace is not installed: no comparison with it.");
    }
    let cases: Vec<Case> = available_cases(&effort);
    if !cases.is_empty() {
        costs::print(&cases, &costs::measure(&cases, &mut target, &effort)?, &effort);
    }
    println!("\n| what | median (from - to) | n | goal |\n|---|--:|--:|---|");
    starts::print(&target, &effort)?;
    scenarios::print_idle(&mut target, &effort)?;
    scenarios::print_two_threads(&program, &effort)?;
    scenarios::print_entries(&program, &effort)?;
    scenarios::print_bystander(&program, &mut target, &effort)?;
    scenarios::print_many_functions(&effort)
}
