// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Options that tools share.

mod filter;
mod functions;
mod output;
mod run;
mod units;
mod usage;

use clap::Args;

pub use filter::{FilterArgs, process_of};
pub use functions::FunctionArgs;
pub use output::OutputArgs;
pub use run::{CommandArgs, DEFAULT_BUFFER_SIZE, RunArgs};
pub use units::{parse_duration, parse_latency, parse_size};
pub use usage::UsageError;

/// The options of every tool that traces.
#[derive(Args, Debug)]
pub struct CommonArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub run: RunArgs,
}
