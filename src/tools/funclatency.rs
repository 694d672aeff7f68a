//! How long calls of functions take: histograms and percentiles.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use libbpf_rs::skel::SkelBuilder;
use libbpf_rs::{MapCore, MapFlags, MapMut};
use plain::Plain;

use crate::bpf::funclatency::{FunclatencySkelBuilder, types};
use crate::cli::{CommandArgs, FilterArgs, FunctionArgs, OutputArgs, RunArgs, parse_duration};
use crate::find::code::placement::Needs;
use crate::output::distribution::{Distribution, range};
use crate::output::escape::printable;
use crate::output::histogram::{self, Bucket, without_empty_ends};
use crate::output::{Column, Output, Table, Value};
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, Ends, loaded};
use crate::probe::event::copied;
use crate::probe::follow::Follow;
use crate::probe::group_by::{By, Groups, Member};
use crate::probe::search::functions::{Functions, Scope};
use crate::run::session::{Parts, Session, Step, attach_all, configure, load, make_room_for_calls};

const EXAMPLES: &str = "\
A call that never returns (longjmp, an exception, exit) is counted as unmatched and in no histogram. Where exceptions, \
panics or Go would make a return probe end the program, returns are seen at the instructions that end a call; one that \
ends with a jump to another function is timed up to that jump. Percentiles are at most 1.6 % off.

EXAMPLES:
    funclatency libc:getaddrinfo                # look-ups of every process, until Ctrl-C
    funclatency -u libc:read -p 1234 -i 5       # in microseconds, every five seconds
    funclatency -F 'libssl:SSL_*' -p 1234       # each function apart
    funclatency -m libc:fsync --by process      # each process apart
    funclatency -m libc:poll --linear 10        # steps of 10 ms
    funclatency libc:malloc -- ls /             # a command from its first call on";

/// Show how long calls of functions take.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES, mut_arg("user", |user| user.short(None)))]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Each function apart
    #[arg(short = 'F', long)]
    per_function: bool,
    /// Each of these apart
    #[arg(long, value_name = "WHOM")]
    by: Option<By>,
    /// In microseconds
    #[arg(short = 'u', long, conflicts_with = "milliseconds")]
    microseconds: bool,
    /// In milliseconds
    #[arg(short = 'm', long)]
    milliseconds: bool,
    /// Steps of this width, in the unit, instead of powers of two; the last has all that is above 1000 steps
    #[arg(long, value_name = "WIDTH", value_parser = clap::value_parser!(u64).range(1..))]
    linear: Option<u64>,
    /// Bars for each power of two
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "linear")]
    steps: Steps,
    /// Of calls that are nested in one of the same function
    #[arg(long, value_name = "WHICH", default_value = "all")]
    recursion: Recursion,
    /// Print and begin anew every so often
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Print the time
    #[arg(short = 'T', long)]
    timestamp: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    command: CommandArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Recursion {
    /// Only the outermost call
    Outermost,
    /// Each call
    All,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Steps {
    #[value(name = "1")]
    One = 1,
    #[value(name = "2")]
    Two = 2,
    #[value(name = "4")]
    Four = 4,
    #[value(name = "8")]
    Eight = 8,
    #[value(name = "16")]
    Sixteen = 16,
    #[value(name = "32")]
    ThirtyTwo = 32,
}

/// What times are shown in.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    ns: u64,
}

impl Unit {
    fn of(args: &Args) -> Unit {
        match (args.microseconds, args.milliseconds) {
            (true, _) => Unit {
                name: "usecs",
                ns: 1_000,
            },
            (_, true) => Unit {
                name: "msecs",
                ns: 1_000_000,
            },
            _ => Unit { name: "nsecs", ns: 1 },
        }
    }

    /// `12.345 usecs`; nanoseconds without decimals.
    fn show(self, ns: u64) -> String {
        let (whole, rest) = (ns / self.ns, ns % self.ns);
        match self.ns {
            1 => format!("{whole} {}", self.name),
            _ => format!("{whole}.{:03} {}", rest / (self.ns / 1000), self.name),
        }
    }
}

/// For JSON and CSV: text shows histograms.
const COLUMNS: &[Column] = &[
    Column::left("", "time", 0).data_only(),
    Column::left("", "pid", 0).data_only(),
    Column::left("", "tid", 0).data_only(),
    Column::left("", "user", 0).data_only(),
    Column::left("", "container", 0).data_only(),
    Column::left("", "comm", 0).data_only(),
    Column::left("", "function", 0).data_only(),
    Column::left("", "file", 0).data_only(),
    Column::left("", "count", 0).data_only(),
    Column::left("", "total_ns", 0).data_only(),
    Column::left("", "avg_ns", 0).data_only(),
    Column::left("", "p50_ns", 0).data_only(),
    Column::left("", "p90_ns", 0).data_only(),
    Column::left("", "p99_ns", 0).data_only(),
    Column::left("", "p999_ns", 0).data_only(),
    Column::left("", "max_ns", 0).data_only(),
    Column::left("", "unit", 0).data_only(),
    Column::left("", "buckets", 0).data_only(),
];

/// `DRAWN` of funclatency.bpf.c.
const DRAWN: u32 = 1 << 31;
/// `FINE_SLOTS` of histogram.bpf.h.
const FINE_SLOTS: u32 = 1920;
/// Of one histogram: those of nanoseconds, and those that are drawn.
const ALL_SLOTS: u32 = 2 * FINE_SLOTS;
/// Slots that have values: a function has some dozens.
const MOST_SLOTS: usize = 65536;
/// Bytes that they may take on all CPUs.
const SLOTS_BYTES: usize = 64 << 20;
/// Only groups are announced through the ring; without --by there are none.
const NO_RING_BYTES: u32 = 1 << 16;

// SAFETY: integers, every bit pattern is valid.
unsafe impl Plain for types::slot_key {}
// SAFETY: as above.
unsafe impl Plain for types::slot_value {}

pub fn run(args: Args) -> Result<u8> {
    privileges::require_privileges()?;
    let mut out = args.output.open()?;
    let mut filter = args.filter.resolve()?;
    filter.follow = args.functions.follow;
    let command = args.command.hold(&mut filter)?;
    let way = AttachMode::choose(args.run.attach)?;
    let scope = Scope {
        filter: &filter,
        command: command.as_ref().map(|held| (&args.command.command[..], held)),
        placing: args.run.placement,
    };
    let (functions, targets) = Functions::resolve(
        args.functions.specs()?,
        &scope,
        |_| Ends::Both,
        Box::new(|_, _, _, _| Needs::NOTHING),
    )?;

    let one_histogram = args.by.is_none() && !args.per_function;
    let ring_bytes = if args.by.is_some() {
        args.run.ring_bytes()
    } else {
        NO_RING_BYTES
    };
    let mut storage = MaybeUninit::uninit();
    let mut open = FunclatencySkelBuilder::default().open(&mut storage)?;
    if let Some(rodata) = open.maps.rodata_data.as_mut() {
        configure!(rodata, &filter, ring_bytes, way);
        rodata.group_by = By::number(args.by);
        rodata.per_function = args.per_function;
        rodata.one_histogram = one_histogram;
        rodata.outermost = args.recursion == Recursion::Outermost;
        rodata.unit_ns = Unit::of(&args).ns;
        rodata.linear_width = args.linear.unwrap_or(0);
    }
    open.maps.events.set_max_entries(ring_bytes)?;
    open.maps.pids.set_max_entries(filter.map_entries())?;
    make_room_for_calls!(open.maps, true);
    open.maps
        .all_slots
        .set_max_entries(if one_histogram { ALL_SLOTS } else { 1 })?;
    open.maps
        .slots
        .set_max_entries(if one_histogram { 1 } else { most_slots() })?;
    open.maps.groups.set_max_entries(By::map_entries(args.by))?;
    let sessions = way.has_sessions();
    // Sessions are for return probes.
    let two_programs = !sessions || functions.borrow().may_return_at_instructions(&targets);
    open.progs.latency_session.set_autoload(sessions);
    open.progs.latency_entry.set_autoload(two_programs);
    open.progs.latency_return.set_autoload(two_programs);
    way.prepare([&mut open.progs.latency_entry, &mut open.progs.latency_return]);
    let skel = load(open)?;
    filter.fill(&skel.maps.pids, &skel.maps.cgroups)?;
    let follow = args
        .functions
        .follow
        .then(|| Follow::start(&skel.maps.pids))
        .transpose()?;
    let _ends = attach_all([&skel.progs.thread_exit, &skel.progs.thread_exec])?;

    let programs = loaded([
        (sessions, &skel.progs.latency_session, Ends::Both),
        (two_programs, &skel.progs.latency_return, Ends::Return),
        (two_programs, &skel.progs.latency_entry, Ends::Entry),
    ]);
    let bss = skel
        .maps
        .bss_data
        .as_ref()
        .context("the BPF object has no counters")?;
    let mut session = Session::start(
        Parts {
            events: skel.maps.events.as_fd(),
            ring_bytes,
            lost: &bss.lost,
            unmatched: &bss.unmatched,
            hits: &bss.hits,
            targets,
            attacher: Attacher::new(way, &filter, programs)?,
            command,
            follow,
            symbolizer: None,
            inspects: args.by.is_some(),
            reads_maps: true,
            limits: args.run.limits(&args.output, args.interval),
        },
        &mut out,
    )?;
    let mut latencies = Latencies {
        args: &args,
        unit: Unit::of(&args),
        functions,
        groups: args.by.map(Groups::new),
        table: By::hidden_columns(args.by).fold(Table::new("latency", COLUMNS), Table::without),
        before: HashMap::new(),
    };
    let read = || match one_histogram {
        true => read_all(&skel.maps.all_slots),
        false => read_apart(&skel.maps.slots),
    };
    while let Some(step) = session.next(&mut out)? {
        match step {
            Step::Event(record) => latencies
                .groups
                .iter_mut()
                .for_each(|groups| groups.learn(record)),
            Step::Tick => latencies.print(read()?, &mut out),
        }
    }
    latencies.print(read()?, &mut out);
    session.finish(&mut out)
}

/// How many slots there may be on a machine of so many CPUs.
fn most_slots() -> u32 {
    let cpus = libbpf_rs::num_possible_cpus().unwrap_or(1);
    (SLOTS_BYTES / (cpus * size_of::<types::slot_value>())).clamp(4096, MOST_SLOTS) as u32
}

/// A group, or 0, and the function and its file; None for all functions together.
type Key = (u64, Option<(Rc<str>, Rc<str>)>);

/// What is known of the calls of a key.
#[derive(Default)]
struct Latency {
    times: Distribution,
    /// Slots that are drawn, where those of nanoseconds do not serve.
    drawn: BTreeMap<u32, u64>,
}

/// Calls, their time, the longest.
type SlotValue = (u64, u64, u64);
/// What a slot held at some time, by group, function and slot.
type Slots = HashMap<(u64, u32, u32), SlotValue>;

struct Latencies<'a> {
    args: &'a Args,
    unit: Unit,
    functions: Rc<RefCell<Functions>>,
    groups: Option<Groups>,
    table: Table,
    /// What was counted before this interval.
    before: Slots,
}

impl Latencies<'_> {
    /// Prints what returned since the last time, the most time first.
    fn print(&mut self, now: Slots, out: &mut Output) {
        let mut latencies: Vec<(Key, Latency)> = self.since_last(&now).into_iter().collect();
        latencies.sort_by(|(a_key, a), (b_key, b)| {
            (Reverse(a.times.total), a_key).cmp(&(Reverse(b.times.total), b_key))
        });
        self.before = now;
        let time = out.wall_now();
        out.header(&self.table);
        if self.args.timestamp {
            out.time(time);
        }
        for (key, latency) in &latencies {
            self.print_one(key, latency, time, out);
        }
    }

    fn since_last(&self, now: &Slots) -> HashMap<Key, Latency> {
        let mut latencies: HashMap<Key, Latency> = HashMap::new();
        for (&(group, func, slot), &(count, total, max)) in now {
            let (count_before, total_before, _) =
                self.before.get(&(group, func, slot)).copied().unwrap_or_default();
            let (count, total) = (count - count_before, total - total_before);
            if count == 0 {
                continue;
            }
            let latency = latencies.entry((group, self.function(func))).or_default();
            match slot & DRAWN {
                0 => latency.times.add(slot, count, total, max),
                _ => *latency.drawn.entry(slot & !DRAWN).or_default() += count,
            }
        }
        latencies
    }

    /// Name and file of a function, if functions are kept apart or there is one only.
    fn function(&self, func: u32) -> Option<(Rc<str>, Rc<str>)> {
        let functions = self.functions.borrow();
        let alone = self.args.per_function || functions.sites().len() == 1;
        let site = functions.site(func as usize).filter(|_| alone)?;
        Some((site.name(), Rc::clone(&site.module)))
    }

    fn print_one(&self, (group, function): &Key, latency: &Latency, time: u64, out: &mut Output) {
        let member = self
            .groups
            .as_ref()
            .map_or_else(Member::default, |groups| groups.member(*group));
        let buckets = self.buckets(latency);
        let times = &latency.times;
        let name = function.as_ref().map(|(name, _)| name.as_bytes());
        let file = function.as_ref().map(|(_, file)| file.as_bytes());
        out.row(
            &self.table,
            &[
                Value::Time(time),
                Value::U64(member.pid.into()),
                Value::U64(member.tid.into()),
                Value::Bytes(member.user.as_bytes()),
                Value::Bytes(member.container.as_bytes()),
                Value::Bytes(&member.comm),
                name.map_or(Value::Null, Value::Bytes),
                file.map_or(Value::Null, Value::Bytes),
                Value::U64(times.count),
                Value::U64(times.total),
                Value::U64(times.average()),
                Value::U64(times.percentile(500)),
                Value::U64(times.percentile(900)),
                Value::U64(times.percentile(990)),
                Value::U64(times.percentile(999)),
                Value::U64(times.max),
                Value::Str(self.unit.name),
                Value::Buckets(&buckets),
            ],
        );
        out.text(|text| self.draw(text, &member, name, times, &buckets));
    }

    fn buckets(&self, latency: &Latency) -> Vec<Bucket> {
        if let Some(width) = self.args.linear {
            let last = latency.drawn.keys().next_back().map_or(0, |last| last + 1);
            let bucket = |slot: u32| {
                let lo = u64::from(slot).saturating_mul(width);
                let count = latency.drawn.get(&slot).copied().unwrap_or(0);
                Bucket {
                    lo,
                    hi: lo.saturating_add(width - 1),
                    count,
                }
            };
            return without_empty_ends((0..last).map(bucket).collect());
        }
        if self.unit.ns == 1 {
            return latency.times.buckets(self.args.steps as u64);
        }
        let mut drawn = Distribution::default();
        latency
            .drawn
            .iter()
            .for_each(|(&slot, &count)| drawn.add(slot, count, 0, range(slot).1));
        drawn.buckets(self.args.steps as u64)
    }

    fn draw(
        &self,
        text: &mut Vec<u8>,
        member: &Member,
        name: Option<&[u8]>,
        times: &Distribution,
        buckets: &[Bucket],
    ) {
        let mut title = Vec::new();
        title.extend(
            name.filter(|_| self.args.per_function)
                .map(|name| format!("Function = {}", printable(name))),
        );
        let comm = printable(&member.comm);
        title.extend(self.args.by.map(|by| match by {
            By::Process => format!("Process = {} {comm}", member.pid),
            By::Thread => format!("Thread = {} {comm}", member.tid),
            By::User => format!("User = {}", printable(member.user.as_bytes())),
            By::Container => format!("Container = {}", printable(member.container.as_bytes())),
        }));
        let show = |ns| self.unit.show(ns);
        // Nothing can go wrong when a Vec is written to.
        if !title.is_empty() {
            let _ = writeln!(text, "{}", title.join(", "));
        }
        histogram::push(text, self.unit.name, buckets);
        let (average, total) = (show(times.average()), show(times.total));
        let _ = writeln!(text, "avg = {average}, total: {total}, count: {}", times.count);
        let [p50, p90, p99, p999] = [500, 900, 990, 999].map(|permille| show(times.percentile(permille)));
        let _ = writeln!(
            text,
            "p50 = {p50}, p90 = {p90}, p99 = {p99}, p99.9 = {p999}, max = {}\n",
            show(times.max)
        );
    }
}

/// All that was counted since the run began, where functions or groups are kept apart.
fn read_apart(map: &MapMut<'_>) -> Result<Slots> {
    let mut slots = Slots::new();
    for bytes in map.keys() {
        let Some(key) = copied::<types::slot_key>(&bytes) else {
            continue;
        };
        slots.insert((key.group, key.func, key.slot), read_slot(map, &bytes)?);
    }
    Ok(slots)
}

/// The same where there is one histogram of all.
fn read_all(map: &MapMut<'_>) -> Result<Slots> {
    let mut slots = Slots::new();
    for index in 0..ALL_SLOTS {
        let value = read_slot(map, &index.to_ne_bytes())?;
        let slot = if index < FINE_SLOTS {
            index
        } else {
            DRAWN | (index - FINE_SLOTS)
        };
        if value.0 > 0 {
            slots.insert((0, 0, slot), value);
        }
    }
    Ok(slots)
}

/// What all CPUs have in a slot.
fn read_slot(map: &MapMut<'_>, key: &[u8]) -> Result<SlotValue> {
    let values = map
        .lookup_percpu(key, MapFlags::ANY)
        .context("failed to read the histograms")?
        .unwrap_or_default();
    let values = values
        .iter()
        .filter_map(|value| copied::<types::slot_value>(value));
    Ok(values.fold((0, 0, 0), |(count, total, max), value| {
        (count + value.count, total + value.total_ns, value.max_ns.max(max))
    }))
}
