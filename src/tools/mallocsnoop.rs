//! Each allocation of C programs: who, which call, how much; with `--ret` the outcome, with `--stack` from where.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use libbpf_rs::skel::SkelBuilder;
use libbpf_rs::{MapCore, MapFlags, MapMut};
use plain::Plain;

use crate::bpf::load;
use crate::bpf::mallocsnoop::{MallocsnoopSkelBuilder, types};
use crate::cli::{CommandArgs, FilterArgs, OutputArgs, RunArgs, named_file, parse_duration, parse_size};
use crate::find::code::placement::Needs;
use crate::find::elf::ElfFile;
use crate::find::host::loader;
use crate::find::stack::symbolize::Symbolizer;
use crate::output::{Column, Output, Table, Value, histogram};
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, Ends, ProbePoint, loaded};
use crate::probe::command::TracedCommand;
use crate::probe::event::{Header, callers, decode, until_nul};
use crate::probe::follow::ChildFollower;
use crate::probe::scope::filter::ProcessFilter;
use crate::probe::search::files::{Place, Targets, Wanted};
use crate::run::session::{Parts, Session, Step, attach_all, configure, make_room_for_calls};

const EXAMPLES: &str = "\
Allocators call themselves: glibc's reallocarray calls realloc, musl's calloc calls malloc. \
Each call is a row, and counts in --summary. free has no size, so --min-size does not hold it back.

EXAMPLES:
    mallocsnoop --comm python3 --min-size 1M    # who asks for big blocks, in every python3
    mallocsnoop -p 1234 --ret                   # one process, with addresses and durations
    mallocsnoop -p 1234 --stack -M 10           # the next ten calls, and where they come from
    mallocsnoop --summary -d 10s -u postgres    # calls, bytes and sizes per process of a user
    mallocsnoop --calls malloc,free -- ls /     # a command from its first allocation on";

/// Show each allocation: who, which call, how much.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only these calls
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    calls: Vec<Call>,
    /// Also free, with the address of the block
    #[arg(long)]
    free: bool,
    /// Add the address that came back and how long the call took
    #[arg(long)]
    ret: bool,
    /// Add the stack of the caller
    #[arg(long)]
    stack: bool,
    /// Only blocks of at least this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    min_size: Option<u64>,
    /// Only blocks of at most this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,
    /// Add up per process instead: calls, bytes, largest, and a histogram of sizes
    #[arg(long, conflicts_with_all = ["ret", "stack", "max_rows"])]
    summary: bool,
    /// With --summary: print it every so often
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, requires = "summary")]
    interval: Option<Duration>,
    /// The library or program whose allocator is meant: a path, or a name such as libjemalloc
    #[arg(short, long, value_name = "PATH|NAME")]
    library: Option<PathBuf>,
    /// Children that -p PID or COMMAND starts are seen as well
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    command: CommandArgs,
}

/// A function of the allocator, numbered as in `enum alloc_call` of mallocsnoop.bpf.c.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Call {
    Malloc,
    Calloc,
    Realloc,
    Reallocarray,
    PosixMemalign,
    AlignedAlloc,
    Memalign,
    Valloc,
    Pvalloc,
    Free,
}

/// The functions in the order of their cookies.
const CALLS: [(Call, &str); 10] = [
    (Call::Malloc, "malloc"),
    (Call::Calloc, "calloc"),
    (Call::Realloc, "realloc"),
    (Call::Reallocarray, "reallocarray"),
    (Call::PosixMemalign, "posix_memalign"),
    (Call::AlignedAlloc, "aligned_alloc"),
    (Call::Memalign, "memalign"),
    (Call::Valloc, "valloc"),
    (Call::Pvalloc, "pvalloc"),
    (Call::Free, "free"),
];

/// Allocators that are linked into a program often carry a prefix: jemalloc, jemalloc in Rust programs, tcmalloc,
/// mimalloc. A file's functions are taken from the first family that has a malloc in it.
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

/// Threads that --summary keeps apart at a time; those that have ended make room.
const USAGE_THREADS: u32 = 16384;
/// `SIZE_SLOTS` of mallocsnoop.bpf.c.
const SIZE_SLOTS: usize = 65;

// SAFETY: integers and arrays of integers, written whole by the BPF program; every bit pattern is valid.
unsafe impl Plain for types::alloc_event {}
// SAFETY: as above.
unsafe impl Plain for types::alloc_stack_event {}
// SAFETY: as above.
unsafe impl Plain for types::alloc_usage {}

pub fn run(args: Args) -> Result<u8> {
    privileges::require_privileges()?;
    let mut out = args.output.open()?;
    let mut filter = args.filter.resolve()?;
    filter.follow = args.follow;
    let library = args
        .library
        .as_deref()
        .map(|name| named_file(name, &filter.pids))
        .transpose()?;
    let command = args.command.hold(&mut filter)?;
    let way = AttachMode::choose(args.run.attach)?;

    let mut storage = MaybeUninit::uninit();
    let mut open = MallocsnoopSkelBuilder::default().open(&mut storage)?;
    if let Some(rodata) = open.maps.rodata_data.as_mut() {
        configure!(rodata, &filter, args.run.ring_bytes(), way);
        rodata.min_size = args.min_size.unwrap_or(0);
        rodata.max_size = args.max_size.unwrap_or(u64::MAX);
        rodata.with_return = args.ret;
        rodata.with_stack = args.stack;
        rodata.summary = args.summary;
    }
    open.maps.events.set_max_entries(args.run.ring_bytes())?;
    open.maps.pids.set_max_entries(filter.map_entries())?;
    make_room_for_calls!(open.maps, args.ret);
    open.maps
        .usage
        .set_max_entries(if args.summary { USAGE_THREADS } else { 1 })?;
    let sessions = args.ret && way.has_sessions();
    let two_probes = args.ret && !sessions;
    open.progs.alloc_session.set_autoload(sessions);
    open.progs.alloc_entry.set_autoload(!sessions);
    open.progs.alloc_return.set_autoload(two_probes);
    open.progs.thread_exit.set_autoload(args.ret);
    open.progs.thread_exec.set_autoload(args.ret);
    way.prepare([&mut open.progs.alloc_entry, &mut open.progs.alloc_return]);
    let skel = load(open)?;
    filter.fill(&skel.maps.pids, &skel.maps.cgroups)?;
    let follow = args
        .follow
        .then(|| ChildFollower::start(&skel.maps.pids))
        .transpose()?;

    let _ends = args
        .ret
        .then(|| attach_all([&skel.progs.thread_exit, &skel.progs.thread_exec]))
        .transpose()?;
    let programs = loaded([
        (sessions, &skel.progs.alloc_session, Ends::Both),
        (two_probes, &skel.progs.alloc_return, Ends::Return),
        (!sessions, &skel.progs.alloc_entry, Ends::Entry),
    ]);
    let attacher = Attacher::new(way, &filter, programs)?;
    let place = place(&args, library, &filter, &command);
    let targets = Targets::new(wanted(&args), place, args.run.placement, args.follow);
    let bss = skel
        .maps
        .bss_data
        .as_ref()
        .context("the BPF object has no counters")?;
    let mut session = Session::start(
        Parts {
            events: skel.maps.events.as_fd(),
            ring_bytes: args.run.ring_bytes(),
            lost: &bss.lost,
            unmatched: &bss.unmatched,
            hits: &bss.hits,
            targets,
            attacher,
            command,
            follow,
            symbolizer: args.stack.then(Symbolizer::new),
            inspects: false,
            reads_maps: args.summary,
            limits: args.run.limits(&args.output, args.interval),
        },
        &mut out,
    )?;
    match args.summary {
        true => summarize(&mut session, &skel.maps.usage, &mut out)?,
        false => list(&args, &mut session, &mut out)?,
    }
    session.finish(&mut out)
}

/// The functions of this run, with their cookies.
fn chosen(args: &Args) -> Vec<(usize, &'static str)> {
    let wants = |call: Call| match args.calls.is_empty() {
        true => call != Call::Free || args.free,
        false => args.calls.contains(&call) || (call == Call::Free && args.free),
    };
    CALLS
        .iter()
        .enumerate()
        .filter(|(_, (call, _))| wants(*call))
        .map(|(cookie, (_, name))| (cookie, *name))
        .collect()
}

fn wanted(args: &Args) -> Wanted {
    let chosen = chosen(args);
    let stack = if args.ret || args.stack {
        Needs::STACK
    } else {
        Needs::NOTHING
    };
    Wanted {
        what: "an allocator",
        names: chosen.iter().map(|(_, name)| *name).collect(),
        may_hold: Box::new(is_c_library),
        points: Box::new(move |_, elf| allocator_points(elf, &chosen, stack)),
        first_only: true,
        likely: loader::find_library("libc").into_iter().collect(),
        named: Vec::new(),
        name: Box::new(|cookie| CALLS.get(cookie as usize).map_or("?", |(_, name)| name).into()),
    }
}

/// Where to look: what is said first counts.
fn place(
    args: &Args,
    library: Option<PathBuf>,
    filter: &ProcessFilter,
    command: &Option<TracedCommand>,
) -> Place {
    if let Some(path) = library {
        return Place::Files(vec![path]);
    }
    match command {
        Some(command) => Place::Command(args.command.command.clone(), command.pid()),
        None if !filter.pids.is_empty() => Place::Processes(filter.pids.clone()),
        None => Place::Everywhere,
    }
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

/// What the probe of a call reads to know how much is asked for.
fn needs(call: Call) -> Needs {
    Needs::arguments(match call {
        Call::Malloc | Call::Valloc | Call::Pvalloc | Call::Free => 1,
        Call::Calloc | Call::Realloc | Call::AlignedAlloc | Call::Memalign => 2,
        Call::Reallocarray | Call::PosixMemalign => 3,
    })
}

/// Where the chosen functions are in a file; none when it has no malloc of its own. Each address once.
fn allocator_points(elf: &ElfFile, chosen: &[(usize, &str)], others: Needs) -> Result<Vec<ProbePoint>> {
    // The loader has a malloc for its own start (glibc before 2.34), which no program calls.
    if elf.soname().is_some_and(|name| name.starts_with("ld-linux")) {
        return Ok(Vec::new());
    }
    for prefix in PREFIXES {
        let names: Vec<String> = chosen.iter().map(|(_, name)| format!("{prefix}{name}")).collect();
        let malloc = format!("{prefix}malloc");
        let mut asked: Vec<&str> = names.iter().map(String::as_str).collect();
        asked.push(&malloc);
        let mut found = elf.lookup(&asked)?;
        if found.pop().flatten().is_none() {
            continue;
        }
        let mut points: Vec<ProbePoint> = Vec::new();
        for (function, (cookie, _)) in found.iter().zip(chosen) {
            if let Some(function) = function
                && !function.ifunc
                && points.iter().all(|point| point.offset != function.offset)
            {
                points.push(ProbePoint::function(
                    function,
                    *cookie as u64,
                    needs(CALLS[*cookie].0).and(others),
                ));
            }
        }
        return Ok(points);
    }
    Ok(Vec::new())
}

fn list(args: &Args, session: &mut Session<'_>, out: &mut Output) -> Result<()> {
    let with_free = chosen(args).iter().any(|(_, name)| *name == "free");
    let mut table = Table::new("event", COLUMNS);
    if !args.ret {
        table = table.without("lat_ns").without("failed");
    }
    if !args.ret && !with_free {
        table = table.without("addr");
    }
    if !args.stack {
        table = table.without("stack");
    }
    out.header(&table);
    let mut frames = Vec::new();
    while let Some(step) = session.next(out)? {
        let Step::Event(record) = step else { continue };
        let Some(&header) = decode::<Header>(record) else {
            continue;
        };
        if args.stack {
            let Some(event) = decode::<types::alloc_stack_event>(record) else {
                continue;
            };
            let alloc = event.alloc;
            let callers = callers(event.stack.caller, event.stack.bytes, &event.stack.frames);
            session.name_frames(header.pid, &callers, &mut frames);
            print(out, &table, args.ret, &header, &alloc, &frames);
        } else if let Some(alloc) = decode::<types::alloc_event>(record) {
            print(out, &table, args.ret, &header, alloc, &frames);
        }
    }
    Ok(())
}

fn print(
    out: &mut Output,
    table: &Table,
    returned: bool,
    header: &Header,
    event: &types::alloc_event,
    stack: &[Rc<str>],
) {
    let (call, name) = CALLS
        .get(usize::from(header.func))
        .copied()
        .unwrap_or((Call::Malloc, "?"));
    let freed = call == Call::Free;
    let failed = returned && !freed && event.addr == 0 && event.size != 0;
    let addr = if (returned && !failed) || freed {
        Value::Hex(event.addr)
    } else {
        Value::Null
    };
    out.row(
        table,
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
                Value::U64(event.size)
            },
            if failed { Value::Str("failed") } else { addr },
            addr,
            Value::Bool(failed),
            Value::Micros(event.lat_ns),
            Value::Lines(stack),
        ],
    );
}

/// What a process has asked for since the run began.
#[derive(Clone)]
struct Usage {
    uid: u32,
    comm: [u8; 16],
    calls: u64,
    bytes: u64,
    largest: u64,
    sizes: [u64; SIZE_SLOTS],
}

impl Usage {
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

impl Default for Usage {
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

/// Adds the threads of each process up. Threads that have ended make room for others before the map is full.
fn summarize(session: &mut Session<'_>, threads: &MapMut<'_>, out: &mut Output) -> Result<()> {
    let table = Table::new("process", SUMMARY_COLUMNS);
    let mut ended: BTreeMap<u32, Usage> = BTreeMap::new();
    let mut entries = 0;
    while let Some(step) = session.next(out)? {
        match step {
            Step::Tick => print_usage(out, &table, &ended, threads),
            Step::Event(_) => {
                entries += 1;
                if entries > USAGE_THREADS / 2 {
                    entries = retire(&mut ended, threads);
                }
            }
        }
    }
    print_usage(out, &table, &ended, threads);
    Ok(())
}

/// Moves what threads that have ended asked for out of the map. Returns how many entries it still has.
fn retire(ended: &mut BTreeMap<u32, Usage>, threads: &MapMut<'_>) -> u32 {
    let mut left = 0;
    for (key, pid, usage) in usages(threads) {
        let tid = u32::from_ne_bytes([key[0], key[1], key[2], key[3]]);
        // Pid 0 is one that this pid namespace has no number for: nobody can tell whether its threads have ended.
        if pid == 0 || Path::new(&format!("/proc/{pid}/task/{tid}")).exists() {
            left += 1;
        } else if threads.delete(&key).is_ok() {
            ended.entry(pid).or_default().add(&usage);
        }
    }
    left
}

/// The entries of the map: key, process, and what the thread asked for.
fn usages(threads: &MapMut<'_>) -> impl Iterator<Item = (Vec<u8>, u32, types::alloc_usage)> {
    threads.keys().filter_map(|key| {
        let thread = u64::from_ne_bytes(key.as_slice().try_into().ok()?);
        let value = threads.lookup(&key, MapFlags::ANY).ok()??;
        let mut usage = types::alloc_usage::default();
        usage.copy_from_bytes(&value).ok()?;
        Some((key, (thread >> 32) as u32, usage))
    })
}

fn print_usage(out: &mut Output, table: &Table, ended: &BTreeMap<u32, Usage>, threads: &MapMut<'_>) {
    let mut processes = ended.clone();
    for (_, pid, usage) in usages(threads) {
        processes.entry(pid).or_default().add(&usage);
    }
    let mut processes: Vec<(u32, Usage)> = processes.into_iter().collect();
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
    fn c_libraries_are_known_by_the_names_of_their_files() {
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
    fn calls_are_numbered_in_the_order_of_their_cookies() {
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
