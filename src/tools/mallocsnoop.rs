// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Memory allocations of C programs: process, function and size; result and latency with `--ret`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use libbpf_rs::{MapCore, MapFlags, MapMut};
use plain::Plain;

use crate::bpf::mallocsnoop::{MallocsnoopSkelBuilder, types};
use crate::cli::{CommandArgs, CommonArgs, parse_duration, parse_size};
use crate::find::code::placement::Needs;
use crate::find::elf::ElfFile;
use crate::find::host::loader;
use crate::find::host::object_file::ObjectFile;
use crate::find::returns::{EntryMatching, ReturnMethod, ReturnPolicy, ReturnWatcher};
use crate::output::{Column, Output, Table, Value, histogram};
use crate::probe::event::{Header, RawStack, decode, until_nul};
use crate::probe::point::{Cookie, ProbePoint};
use crate::probe::search::finder::{Finder, SearchPlan, SearchRequest, SearchSubject, WatchedEnds};
use crate::probe::search::spec_target::find_file;
use crate::run::{Event, EventHandler, Run, RunState, SessionNeeds};

const EXAMPLES: &str = "\
EXAMPLES:
    mallocsnoop --comm python3 --min-size 1M    # large allocations of every python3
    mallocsnoop -p 1234 --stack -M 10           # ten allocations with their stacks
    mallocsnoop --calls malloc,free -- ls /     # a command from its first allocation";

const LONG_HELP: &str = "\
Allocators call themselves: glibc's reallocarray calls realloc, musl's calloc calls malloc. \
Each call is a row and counts in --summary. free has no size, so --min-size and --max-size do not apply to it.

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
    /// Trace only these functions: malloc, calloc, free, ...
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

/// A function of the allocator.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum AllocCall {
    Malloc = types::alloc_call::CALL_MALLOC.0,
    Calloc = types::alloc_call::CALL_CALLOC.0,
    Realloc = types::alloc_call::CALL_REALLOC.0,
    Reallocarray = types::alloc_call::CALL_REALLOCARRAY.0,
    PosixMemalign = types::alloc_call::CALL_POSIX_MEMALIGN.0,
    AlignedAlloc = types::alloc_call::CALL_ALIGNED_ALLOC.0,
    Memalign = types::alloc_call::CALL_MEMALIGN.0,
    Valloc = types::alloc_call::CALL_VALLOC.0,
    Pvalloc = types::alloc_call::CALL_PVALLOC.0,
    Free = types::alloc_call::CALL_FREE.0,
}

/// The functions, by cookie.
const CALLS: [(AllocCall, &str); 10] = [
    (AllocCall::Malloc, "malloc"),
    (AllocCall::Calloc, "calloc"),
    (AllocCall::Realloc, "realloc"),
    (AllocCall::Reallocarray, "reallocarray"),
    (AllocCall::PosixMemalign, "posix_memalign"),
    (AllocCall::AlignedAlloc, "aligned_alloc"),
    (AllocCall::Memalign, "memalign"),
    (AllocCall::Valloc, "valloc"),
    (AllocCall::Pvalloc, "pvalloc"),
    (AllocCall::Free, "free"),
];

/// Prefixes of allocators linked into a program: jemalloc, jemalloc in Rust programs, tcmalloc, mimalloc. The first one
/// with a malloc in the file is used.
const PREFIXES: [&str; 5] = ["", "je_", "_rjem_", "tc_", "mi_"];

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("TID", "tid", 7).data_only(),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 15),
    Column::left("CALL", "call", 14),
    Column::right("SIZE", "size_bytes", 12),
    Column::left("ADDR", "addr", 14).text_only(),
    Column::left("ADDR", "addr", 14).data_only(),
    Column::left("FAILED", "failed", 6).data_only(),
    Column::right("LATus", "lat_ns", 9),
    Column::below("stack"),
];

const SUMMARY_COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 15),
    Column::right("CALLS", "calls", 12),
    Column::right("BYTES", "bytes", 16),
    Column::right("LARGEST", "largest_bytes", 12),
    Column::right("SIZES", "sizes", 0).data_only(),
];

/// Threads in the map of --summary at a time; entries of exited threads are removed.
const USAGE_THREADS: u32 = 16384;
const SIZE_SLOTS: usize = types::usage_layout::SIZE_SLOTS.0 as usize;

// SAFETY: integers and arrays of integers, written whole by the BPF program; every bit pattern is valid.
unsafe impl Plain for types::alloc_event {}
// SAFETY: as above.
unsafe impl Plain for types::alloc_stack_event {}
// SAFETY: as above.
unsafe impl Plain for types::alloc_usage {}

pub fn run(run: Run, args: Args) -> Result<u8> {
    let found = run.search(Allocators::new(&args))?;
    let mut open = found.open::<MallocsnoopSkelBuilder>()?;
    let rodata = open.rodata()?;
    rodata.min_size = args.min_size.unwrap_or(0);
    rodata.max_size = args.max_size.unwrap_or(u64::MAX);
    rodata.with_return = args.ret;
    rodata.with_stack = args.stack;
    rodata.summary = args.summary;
    if args.summary {
        open.skel.maps.usage.set_max_entries(USAGE_THREADS)?;
    }
    match args.summary {
        true => open.run(|skel| UsageSummary::new(&args, &skel.maps.usage)),
        false => open.run(|_| AllocPrinter::new(&args)),
    }
}

/// Finds the allocator that a process calls: the first in the loader's lookup order.
struct Allocators {
    library: Option<PathBuf>,
    /// Indices into [`CALLS`], which are the cookies.
    calls: Vec<usize>,
    /// What probes read beside the size.
    needs: Needs,
    matches_returns: bool,
    returns: ReturnPolicy,
    /// Some returns are observed at return instructions.
    at_instructions: bool,
    warnings: Vec<String>,
}

impl Allocators {
    fn new(args: &Args) -> Self {
        Self {
            library: args.library.clone(),
            calls: (0..CALLS.len())
                .filter(|&index| args.traces(CALLS[index].0))
                .collect(),
            needs: match args.ret || args.stack {
                true => Needs::STACK,
                false => Needs::NOTHING,
            },
            matches_returns: args.ret,
            returns: ReturnPolicy::default(),
            at_instructions: false,
            warnings: Vec::new(),
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.calls.iter().map(|&index| CALLS[index].1).collect()
    }

    /// The chosen functions with this prefix in a file, each address once. None if it has no malloc with that prefix.
    fn points_with(
        &mut self,
        prefix: &str,
        object: &ObjectFile,
        elf: &ElfFile,
    ) -> Result<Option<Vec<ProbePoint>>> {
        let names: Vec<String> = self
            .names()
            .iter()
            .map(|name| format!("{prefix}{name}"))
            .collect();
        let malloc = format!("{prefix}malloc");
        let mut lookup: Vec<&str> = names.iter().map(String::as_str).collect();
        lookup.push(&malloc);
        let mut found = elf.lookup(&lookup)?;
        if found.pop().flatten().is_none() {
            return Ok(None);
        }
        let mut watcher = ReturnWatcher::new(object, elf, self.returns);
        let mut points: Vec<ProbePoint> = Vec::new();
        for (function, &index) in found.iter().zip(&self.calls) {
            if let Some(function) = function
                && !function.ifunc
                && points.iter().all(|point| point.offset != function.offset)
            {
                let needs = needs(CALLS[index].0).and(self.needs);
                let point = ProbePoint::function(function, Cookie::of_function(index as u32), needs);
                let returns = match self.matches_returns {
                    true => watcher.method(function, EntryMatching::Matched),
                    false => Ok(ReturnMethod::Unwatched),
                };
                let returns = match returns {
                    Ok(returns) if returns.has_results() => returns,
                    // glibc's calloc ends with a jump to memset. Allocators in C do not unwind.
                    Ok(_) if !elf.may_unwind() => ReturnMethod::ReturnProbe,
                    Ok(_) => {
                        self.warnings.push(jumps_away(&function.name));
                        continue;
                    }
                    Err(error) => {
                        self.warnings.push(format!("skipped 1 function: {error:#}"));
                        continue;
                    }
                };
                self.at_instructions |= matches!(returns, ReturnMethod::Instructions(..));
                points.extend(point.with_returns(&returns));
            }
        }
        Ok(Some(points))
    }
}

impl Finder for Allocators {
    fn plan(&mut self, request: &SearchRequest<'_>) -> Result<SearchPlan> {
        self.returns = request.returns;
        match &self.library {
            Some(name) => SearchPlan::file(&find_file(name, &request.filter.pids)?),
            None => Ok(SearchPlan::new(request.place()).likely(loader::find_library("libc"))),
        }
    }

    fn may_hold(&self, path: &Path) -> bool {
        is_c_library(path)
    }

    fn points(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<ProbePoint>> {
        // Before 2.34, glibc's loader has a malloc for its own start, which no program calls.
        if elf.soname().is_some_and(|name| name.starts_with("ld-linux")) {
            return Ok(Vec::new());
        }
        for prefix in PREFIXES {
            if let Some(points) = self.points_with(prefix, object, elf)? {
                return Ok(points);
            }
        }
        Ok(Vec::new())
    }

    fn name(&self, cookie: Cookie) -> Rc<str> {
        CALLS
            .get(cookie.function() as usize)
            .map_or("?", |(_, name)| name)
            .into()
    }

    fn ends(&self) -> WatchedEnds {
        WatchedEnds {
            entry: !self.matches_returns,
            both: self.matches_returns,
            instructions: self.at_instructions,
            ..WatchedEnds::default()
        }
    }

    fn matches_calls(&self) -> bool {
        self.matches_returns
    }

    fn first_object_only(&self) -> bool {
        true
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn sought(&self) -> Option<SearchSubject> {
        Some(SearchSubject {
            what: "an allocator",
            functions: self.names(),
        })
    }
}

fn jumps_away(name: &str) -> String {
    format!("skipped 1 function: {name} ends with a jump to another file, before which its result is unknown")
}

/// glibc (`libc.so.6`, once `libc-2.31.so`), musl (`ld-musl-x86_64.so.1`, `libc.musl-...`), uClibc.
fn is_c_library(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    ["libc.so", "libc-", "libc.musl-", "ld-musl-", "libuClibc"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// What a probe reads to know the requested size.
fn needs(call: AllocCall) -> Needs {
    Needs::arguments(match call {
        AllocCall::Malloc | AllocCall::Valloc | AllocCall::Pvalloc | AllocCall::Free => 1,
        AllocCall::Calloc | AllocCall::Realloc | AllocCall::AlignedAlloc | AllocCall::Memalign => 2,
        AllocCall::Reallocarray | AllocCall::PosixMemalign => 3,
    })
}

/// Prints a row for each call.
struct AllocPrinter {
    table: Table,
    with_return: bool,
    with_stack: bool,
}

impl AllocPrinter {
    fn new(args: &Args) -> Self {
        let mut table = Table::new("event", COLUMNS);
        if !args.ret {
            table = table.without("lat_ns").without("failed");
        }
        if !args.ret && !args.traces(AllocCall::Free) {
            table = table.without("addr");
        }
        if !args.stack {
            table = table.without("stack");
        }
        Self {
            table,
            with_return: args.ret,
            with_stack: args.stack,
        }
    }
}

impl EventHandler<Allocators> for AllocPrinter {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            stacks: self.with_stack,
            ..SessionNeeds::default()
        }
    }

    fn begin(&mut self, out: &mut Output) {
        out.header(&self.table);
    }

    fn event(&mut self, event: Event<'_, Allocators>) {
        let (Some(header), Some(alloc)) = (
            decode::<Header>(event.record),
            decode::<types::alloc_event>(event.record),
        ) else {
            return;
        };
        let stack = match decode::<types::alloc_stack_event>(event.record).filter(|_| self.with_stack) {
            Some(types::alloc_stack_event { stack, .. }) => {
                let stack = RawStack {
                    caller: stack.caller,
                    bytes: stack.bytes,
                    frames: &stack.frames,
                };
                event.stacks.name(header.pid, &stack)
            }
            None => &[],
        };
        let (call, name) = CALLS
            .get(usize::from(header.func))
            .copied()
            .unwrap_or((AllocCall::Malloc, "?"));
        let freed = call == AllocCall::Free;
        let failed = self.with_return && !freed && alloc.addr == 0 && alloc.size != 0;
        let addr = if (self.with_return && !failed) || freed {
            Value::Hex(alloc.addr)
        } else {
            Value::Null
        };
        let out = event.out;
        out.row(
            &self.table,
            &[
                Value::Time(out.wall(header.time_ns)),
                Value::U64(header.pid.into()),
                Value::U64(header.tid.into()),
                Value::U64(header.uid.into()),
                Value::Bytes(header.comm()),
                Value::Str(name),
                if freed {
                    Value::Null
                } else {
                    Value::U64(alloc.size)
                },
                if failed { Value::Str("failed") } else { addr },
                addr,
                Value::Bool(failed),
                Value::Micros(alloc.lat_ns),
                Value::Lines(stack),
            ],
        );
    }
}

/// The requests of a process since the run started.
#[derive(Clone)]
struct ProcessUsage {
    uid: u32,
    comm: [u8; 16],
    calls: u64,
    bytes: u64,
    largest: u64,
    sizes: [u64; SIZE_SLOTS],
}

impl ProcessUsage {
    fn add(&mut self, thread: &types::alloc_usage) {
        self.uid = thread.uid;
        self.comm = thread.comm.map(|byte| byte as u8);
        self.calls += thread.calls;
        self.bytes = self.bytes.saturating_add(thread.bytes);
        self.largest = self.largest.max(thread.largest);
        for (sum, count) in self.sizes.iter_mut().zip(thread.sizes) {
            *sum += count;
        }
    }
}

impl Default for ProcessUsage {
    fn default() -> Self {
        Self {
            uid: 0,
            comm: [0; 16],
            calls: 0,
            bytes: 0,
            largest: 0,
            sizes: [0; SIZE_SLOTS],
        }
    }
}

/// Sums up the threads of each process. Threads that have exited are removed before the map is full.
struct UsageSummary {
    table: Table,
    threads: &'static MapMut<'static>,
    interval: Option<Duration>,
    exited: BTreeMap<u32, ProcessUsage>,
    /// Threads in the map.
    entries: u32,
}

impl UsageSummary {
    fn new(args: &Args, threads: &'static MapMut<'static>) -> Self {
        Self {
            table: Table::new("process", SUMMARY_COLUMNS),
            threads,
            interval: args.interval,
            exited: BTreeMap::new(),
            entries: 0,
        }
    }
}

impl EventHandler<Allocators> for UsageSummary {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            interval: self.interval,
            reads_maps: true,
            ..SessionNeeds::default()
        }
    }

    /// A thread has its first entry in the map.
    fn event(&mut self, _: Event<'_, Allocators>) {
        self.entries += 1;
        if self.entries > USAGE_THREADS / 2 {
            self.entries = retire(&mut self.exited, self.threads);
        }
    }

    fn interval(&mut self, state: RunState<'_, Allocators>) -> Result<()> {
        print_usage(state.out, &self.table, &self.exited, self.threads);
        Ok(())
    }
}

/// Moves the requests of exited threads out of the map. Returns how many entries remain.
fn retire(ended: &mut BTreeMap<u32, ProcessUsage>, threads: &MapMut<'_>) -> u32 {
    let mut left = 0;
    for (key, pid, usage) in usages(threads) {
        let tid = u32::from_ne_bytes([key[0], key[1], key[2], key[3]]);
        // PID 0: a process outside this PID namespace, whose threads cannot be looked up.
        if pid == 0 || Path::new(&format!("/proc/{pid}/task/{tid}")).exists() {
            left += 1;
        } else if threads.delete(&key).is_ok() {
            ended.entry(pid).or_default().add(&usage);
        }
    }
    left
}

/// The entries of the map: key, PID, and the requests of the thread.
fn usages(threads: &MapMut<'_>) -> impl Iterator<Item = (Vec<u8>, u32, types::alloc_usage)> {
    threads.keys().filter_map(|key| {
        let thread = u64::from_ne_bytes(key.as_slice().try_into().ok()?);
        let value = threads.lookup(&key, MapFlags::ANY).ok()??;
        let mut usage = types::alloc_usage::default();
        usage.copy_from_bytes(&value).ok()?;
        Some((key, (thread >> 32) as u32, usage))
    })
}

fn print_usage(out: &mut Output, table: &Table, ended: &BTreeMap<u32, ProcessUsage>, threads: &MapMut<'_>) {
    let mut processes = ended.clone();
    for (_, pid, usage) in usages(threads) {
        processes.entry(pid).or_default().add(&usage);
    }
    let mut processes: Vec<(u32, ProcessUsage)> = processes.into_iter().collect();
    processes.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.bytes));
    let now = out.wall_now();
    out.header(table);
    for (pid, usage) in &processes {
        let sizes = histogram::powers_of_two(&usage.sizes);
        out.row(
            table,
            &[
                Value::Time(now),
                Value::U64((*pid).into()),
                Value::U64(usage.uid.into()),
                Value::Bytes(until_nul(&usage.comm)),
                Value::U64(usage.calls),
                Value::U64(usage.bytes),
                Value::U64(usage.largest),
                Value::Buckets(&sizes),
            ],
        );
        out.text(|text| histogram::push(text, "bytes", &sizes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_libraries_are_recognized_by_file_name() {
        for path in [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/libc-2.31.so",
            "/lib/ld-musl-x86_64.so.1",
        ] {
            assert!(is_c_library(Path::new(path)), "{path}");
        }
        for path in [
            "/usr/lib/libcap.so.2",
            "/usr/lib/libcrypto.so.3",
            "/usr/bin/libc",
            "/usr/lib/libcurl.so.4",
        ] {
            assert!(!is_c_library(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn call_is_its_cookie() {
        for (index, (call, name)) in CALLS.iter().enumerate() {
            assert_eq!(*call as usize, index);
            assert_eq!(
                call.to_possible_value()
                    .map(|value| value.get_name().to_owned())
                    .as_deref(),
                Some(*name)
            );
        }
    }
}
