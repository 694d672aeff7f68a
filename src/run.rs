// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One run of a tool, from its options to the summary.
//!
//! ```text
//! let run = Run::begin(&args.common, &args.command)?;   // privileges, output, filter, command, attach mode;
//!                                                       // src/tools.rs does this, and calls the tool
//! let found = run.search(finder)?;                      // mmap events, then files and functions
//! let mut open = found.open::<SkelBuilder>()?;          // the tool sets its own constants and map sizes
//! open.run(|skel| handler)                              // load, attach, start the command, drop privileges; rows;
//!                                                       // detach, summary, exit status
//! ```

mod builder;
mod cost_report;
pub mod counters;
mod maps;
mod objects;
mod probes;
mod processes;
mod programs;
mod report;
mod schedule;
mod session;
mod stacks;
mod wakeups;

pub use builder::{FoundFunctions, LoadedObject, Run};
pub use session::{Event, EventHandler, RunState, SessionNeeds};
