// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Memory allocations of C and C++ programs: process, function and size; result and latency with `--ret`.

mod allocators;
mod functions;
mod rows;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use libbpf_rs::MapHandle;
use plain::Plain;

use crate::bpf::mallocsnoop::{MallocsnoopSkelBuilder, types};
use crate::cli::{CommandArgs, CommonArgs, parse_duration, parse_size};
use crate::error::Failure;
use crate::run::Run;

use allocators::{Allocators, SiteMaps};
use functions::AllocCall;
use rows::AllocPrinter;
use summary::{USAGE_THREADS, UsageSummary};

const EXAMPLES: &str = "\
EXAMPLES:
    mallocsnoop --comm python3 --min-size 1M    # large allocations of every python3
    mallocsnoop -p 1234 --stack -M 10           # ten allocations with their stacks
    mallocsnoop --calls malloc,free -- ls /     # a command from its first allocation";

const LONG_HELP: &str = "\
Allocators call themselves: glibc's reallocarray calls realloc, musl's calloc calls malloc. \
Only the outermost call counts. delete is shown as free. free has no size, so --min-size and --max-size do not apply to it.

EXAMPLES:
    mallocsnoop --comm python3 --min-size 1M    # large allocations of every python3
    mallocsnoop -p 1234 --ret                   # one process, with addresses and latencies
    mallocsnoop -p 1234 --stack -M 10           # ten allocations with their stacks
    mallocsnoop --summary -d 10s -u postgres    # calls, bytes and sizes per process of a user
    mallocsnoop --calls malloc,free -- ls /     # a command from its first allocation";

/// Trace memory allocations.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub struct Args {
    /// Trace only these functions: malloc, calloc, new, free, ...
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    calls: Vec<AllocCall>,
    /// Also trace free, with the address of the block
    #[arg(long)]
    free: bool,
    /// Add the returned address and the latency
    #[arg(long)]
    ret: bool,
    /// Add the user stack
    #[arg(long)]
    stack: bool,
    /// Show only requests of at least SIZE bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    min_size: Option<u64>,
    /// Show only requests of at most SIZE bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Summarize per process: calls, bytes, and a size histogram
    #[arg(long, conflicts_with_all = ["ret", "stack", "max_rows"])]
    summary: bool,
    /// Print the summary every INTERVAL
    #[arg(short, long, value_name = "INTERVAL", value_parser = parse_duration, requires = "summary")]
    interval: Option<Duration>,
    /// Also show calls that allocator functions make to one another
    #[arg(long)]
    nested: bool,
    /// Trace the allocator in this file: a path or libjemalloc
    #[arg(short, long, value_name = "PATH|NAME")]
    library: Option<PathBuf>,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub command: CommandArgs,
}

impl Args {
    fn traces(&self, call: AllocCall) -> bool {
        match self.calls.is_empty() {
            true => call != AllocCall::Free || self.free,
            false => self.calls.contains(&call) || (call == AllocCall::Free && self.free),
        }
    }
}

// SAFETY: integers and arrays of integers, written whole by the BPF program; every bit pattern is valid.
unsafe impl Plain for types::alloc_event {}
// SAFETY: as above.
unsafe impl Plain for types::alloc_stack_event {}
// SAFETY: as above.
unsafe impl Plain for types::alloc_usage {}
// SAFETY: integers without padding.
unsafe impl Plain for types::alloc_site {}
// SAFETY: as above.
unsafe impl Plain for types::inner_code {}

pub fn run(run: Run, args: Args) -> Result<u8> {
    if let (Some(least), Some(most)) = (args.min_size, args.max_size)
        && least > most
    {
        let message = format!("--min-size {least} is larger than --max-size {most}: no call can match");
        return Err(Failure::usage(message).into());
    }
    let mut found = run.search(Allocators::new(&args))?;
    let may_grow = found.may_grow();
    let sizes = found.finder().limit(may_grow);
    let mut open = found.open::<MallocsnoopSkelBuilder>()?;
    let rodata = open.rodata()?;
    rodata.min_size = args.min_size.unwrap_or(0);
    rodata.max_size = args.max_size.unwrap_or(u64::MAX);
    rodata.with_return = args.ret;
    rodata.with_stack = args.stack;
    rodata.summary = args.summary;
    let maps = &mut open.skel.maps;
    maps.sites.set_max_entries(sizes.sites)?;
    maps.inner_code.set_max_entries(sizes.files)?;
    if !args.nested {
        maps.jumps
            .set_max_entries(types::alloc_limits::JUMPING_THREADS.0)?;
    }
    if args.summary {
        maps.usage.set_max_entries(USAGE_THREADS)?;
    }
    let mut loaded = open.load()?;
    let maps = &loaded.skel.maps;
    let usage = &maps.usage;
    let maps = SiteMaps {
        sites: MapHandle::try_from(&maps.sites)?,
        inner_code: MapHandle::try_from(&maps.inner_code)?,
    };
    loaded.finder().use_maps(maps)?;
    match args.summary {
        true => loaded.run(UsageSummary::new(&args, usage)),
        false => loaded.run(AllocPrinter::new(&args)),
    }
}
