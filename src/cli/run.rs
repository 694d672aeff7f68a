// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Options of a run, and the command that it starts.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::units::{parse_duration, parse_percentage, parse_size};
use crate::error::Failure;
use crate::find::returns::ReturnPolicy;
use crate::probe::attach::AttachMode;
use crate::probe::command::TracedCommand;
use crate::probe::ring::page_size;
use crate::probe::scope::filter::ProcessFilter;
use crate::probe::search::placing::PlacementPolicy;

/// Default of `--buffer-size`.
pub const DEFAULT_BUFFER_SIZE: &str = "8M";

/// How long a run lasts, and how it attaches.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Stop after TIME: 10s, 500ms, 2m
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Stop after N rows
    #[arg(short = 'M', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_rows: Option<u64>,
    /// Size of the event buffer
    ///
    /// Events that find the buffer full are lost, counted and reported. Rounded up to a power of two, at most 1G.
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_BUFFER_SIZE, value_parser = parse_size)]
    pub buffer_size: u64,
    /// Set which instruction of a function is probed [default: best]
    ///
    /// `entry`: the first. `best`: the first one that the kernel can emulate and at which arguments and stack are the
    /// same; single-stepped instructions cost several times as much.
    #[arg(
        long,
        value_name = "entry|best",
        default_value = "best",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub placement: PlacementPolicy,
    /// Observe returns: safe, kernel or instructions [default: safe]
    ///
    /// `safe`: by the kernel's return probe where the code of the function shows that it can hurt signal handlers only,
    /// else by probes on the instructions that return, which cost several times as much. `kernel`: by return probes,
    /// which crash programs that unwind, switch stacks or cancel threads. `instructions`: never by return probes, for
    /// programs whose signal handlers run on stacks of their own, throw, cancel threads or look at stacks.
    #[arg(
        long,
        value_name = "HOW",
        default_value = "safe",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub returns: ReturnPolicy,
    /// Report what the probes cost the traced processes
    #[arg(long)]
    pub cost: bool,
    /// Stop if probes use more than PERCENT of the CPU time: 5%
    #[arg(long, value_name = "PERCENT", value_parser = parse_percentage)]
    pub max_overhead: Option<f64>,
    /// How to attach, for tests
    #[arg(long, hide = true)]
    pub attach: Option<AttachMode>,
}

impl RunArgs {
    /// Bytes of the ring: a power of two and whole pages, as the kernel requires; at most 1 GiB.
    pub fn ring_bytes(&self) -> u32 {
        const MAX: u64 = 1 << 30;
        self.buffer_size
            .clamp(page_size() as u64, MAX)
            .next_power_of_two() as u32
    }
}

/// A command to run and trace, and whether its children are traced.
#[derive(Args, Debug, Default)]
pub struct CommandArgs {
    /// Also trace children of -p PID or COMMAND
    ///
    /// The run ends when all of them have exited. Unless --scope targeted is given, other processes that use a traced
    /// file are slowed down as well.
    #[arg(long, help_heading = "Filters (all must match)")]
    pub follow: bool,
    /// Run COMMAND and trace it from its first call
    ///
    /// The exit status is that of COMMAND. Signals that end the tool are passed on to it.
    #[arg(last = true, value_name = "COMMAND", help_heading = "Run")]
    pub command: Vec<OsString>,
}

impl CommandArgs {
    /// Forks the command, which waits to be started, and adds it to the filter. None if no command was given.
    ///
    /// # Errors
    /// -p was given too, or fork fails.
    pub fn hold(&self, filter: &mut ProcessFilter) -> Result<Option<TracedCommand>> {
        if self.command.is_empty() {
            return Ok(None);
        }
        if !filter.pids.is_empty() {
            return Err(Failure::usage("-p cannot be used with a command").into());
        }
        let command = TracedCommand::hold(&self.command)?;
        filter.pids.push(command.pid());
        Ok(Some(command))
    }
}
