// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Latency of function calls: histograms and percentiles.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::bpf::funclatency::{FunclatencyMaps, FunclatencySkelBuilder};
use crate::cli::{CommandArgs, CommonArgs, FunctionArgs, parse_duration};
use crate::find::code::placement::Needs;
use crate::output::distribution::{Distribution, range};
use crate::output::escape::printable;
use crate::output::histogram::{self, Bucket, without_empty_ends};
use crate::output::{Column, Output, Table, Value};
use crate::probe::group_by::{GroupBy, GroupLabel, GroupLabels};
use crate::probe::point::Ends;
use crate::probe::search::functions::FunctionFinder;
use crate::run::{Event, EventHandler, Run, RunState, SessionNeeds};

use slots::{IntervalNumber, SlotValues, max_slots, read_all, read_each};

mod slots;

const EXAMPLES: &str = "\
EXAMPLES:
    funclatency libc:getaddrinfo                # lookups of every process
    funclatency libc:read --unit us -i 5s       # microseconds, every five seconds
    funclatency -F 'libssl:SSL_*' -p 1234       # one histogram per function
    funclatency libc:malloc -- ls /             # a command from its first call";

const LONG_HELP: &str = "\
A call that does not return (longjmp, an exception, exit) is counted as unmatched and is in no histogram. \
Where return probes could hurt the program, the return instructions are probed instead; a call that ends with a jump \
to a function of another file, or through a pointer, is then timed up to that jump. Percentiles are exact to 1.6 %.

EXAMPLES:
    funclatency libc:getaddrinfo                # lookups of every process
    funclatency libc:read --unit us -i 5s       # microseconds, every five seconds
    funclatency -F 'libssl:SSL_*' -p 1234       # one histogram per function
    funclatency libc:fsync --by process         # one histogram per process
    funclatency libc:poll --unit ms --linear 10 # buckets of 10 ms
    funclatency libc:malloc -- ls /             # a command from its first call";

/// Measure the latency of function calls as histograms.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP, mut_arg("user", |user| user.short(None)))]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Print one histogram per function
    #[arg(short = 'F', long)]
    per_function: bool,
    /// Group by process, thread, user or container
    #[arg(long, value_name = "GROUP", hide_possible_values = true)]
    by: Option<GroupBy>,
    /// Show times in ns, us, ms or s [default: ns]
    ///
    /// In JSON and CSV, only the buckets are in this unit.
    #[arg(
        long,
        value_name = "UNIT",
        default_value = "ns",
        hide_default_value = true,
        hide_possible_values = true
    )]
    unit: TimeUnit,
    /// An older spelling of `--unit us`
    #[arg(short = 'u', long, hide = true, conflicts_with_all = ["unit", "milliseconds"])]
    microseconds: bool,
    /// An older spelling of `--unit ms`
    #[arg(short = 'm', long, hide = true, conflicts_with = "unit")]
    milliseconds: bool,
    /// Use linear buckets WIDTH wide instead of powers of two
    ///
    /// WIDTH is in the unit shown. The last of 1000 buckets takes all larger values.
    #[arg(long, value_name = "WIDTH", value_parser = clap::value_parser!(u64).range(1..))]
    linear: Option<u64>,
    /// Buckets per power of two: 1, 2, 4, 8, 16 or 32
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        conflicts_with = "linear",
        hide_possible_values = true
    )]
    steps: Steps,
    /// Set which recursive calls count [default: all]
    #[arg(
        long,
        value_name = "all|outermost",
        default_value = "all",
        hide_default_value = true,
        hide_possible_values = true
    )]
    recursion: Recursion,
    /// Print and reset the histograms every INTERVAL
    #[arg(short, long, value_name = "INTERVAL", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Print timestamps
    #[arg(short = 'T', long)]
    timestamp: bool,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub command: CommandArgs,
}

impl Args {
    fn unit(&self) -> TimeUnit {
        match (self.microseconds, self.milliseconds) {
            (true, _) => TimeUnit::Us,
            (_, true) => TimeUnit::Ms,
            _ => self.unit,
        }
    }
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

/// The unit of times in text.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TimeUnit {
    Ns,
    Us,
    Ms,
    S,
}

impl TimeUnit {
    fn name(self) -> &'static str {
        match self {
            Self::Ns => "nsecs",
            Self::Us => "usecs",
            Self::Ms => "msecs",
            Self::S => "secs",
        }
    }

    fn ns(self) -> u64 {
        match self {
            Self::Ns => 1,
            Self::Us => 1_000,
            Self::Ms => 1_000_000,
            Self::S => 1_000_000_000,
        }
    }

    /// `12.345 usecs`; nanoseconds without decimals.
    fn show(self, ns: u64) -> String {
        let (name, unit) = (self.name(), self.ns());
        let (whole, rest) = (ns / unit, ns % unit);
        match self {
            Self::Ns => format!("{whole} {name}"),
            _ => format!("{whole}.{:03} {name}", rest / (unit / 1000)),
        }
    }
}

/// For JSON and CSV; text shows histograms.
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

pub fn run(run: Run, args: Args) -> Result<u8> {
    let found = run.search(FunctionFinder::new(
        args.functions.specs()?,
        |_| Ends::Both,
        Needs::NOTHING,
    ))?;
    let mut open = found.open::<FunclatencySkelBuilder>()?;
    let one_histogram = has_one_histogram(&args);
    let rodata = open.rodata()?;
    rodata.group_by = GroupBy::constant(args.by);
    rodata.per_function = args.per_function;
    rodata.one_histogram = one_histogram;
    rodata.outermost = args.recursion == Recursion::Outermost;
    rodata.unit_ns = args.unit().ns();
    rodata.linear_width = args.linear.unwrap_or(0);
    let maps = &mut open.skel.maps;
    maps.groups.set_max_entries(GroupBy::map_entries(args.by))?;
    match one_histogram {
        true => maps.all_slots.set_max_entries(slots::FINE_SLOTS)?,
        false => maps.slots.set_max_entries(max_slots())?,
    }
    if args.by.is_none() {
        open.without_events();
    }
    let loaded = open.load()?;
    let interval = IntervalNumber::of(loaded.skel)?;
    let handler = LatencyHandler::new(&args, &loaded.skel.maps, interval);
    loaded.run(handler)
}

/// Whether all calls are in one histogram of nanoseconds, an array.
fn has_one_histogram(args: &Args) -> bool {
    args.by.is_none() && !args.per_function && args.linear.is_none() && args.unit().ns() == 1
}

/// Group (0 without --by), and function and file; None for all functions together.
type LatencyKey = (u64, Option<(Rc<str>, Rc<str>)>);

type Latencies = HashMap<LatencyKey, Latency>;

/// The calls of a key.
#[derive(Default)]
struct Latency {
    times: Distribution,
    /// Drawn slots, for units and steps that slots of nanoseconds cannot show.
    drawn: BTreeMap<u32, u64>,
}

struct LatencyHandler<'a> {
    args: &'a Args,
    maps: &'a FunclatencyMaps<'static>,
    unit: TimeUnit,
    groups: Option<GroupLabels>,
    table: Table,
    /// What was read at the ends of the last even and the last odd interval.
    before: [SlotValues; 2],
    interval: IntervalNumber,
}

impl<'a> LatencyHandler<'a> {
    fn new(args: &'a Args, maps: &'a FunclatencyMaps<'static>, interval: IntervalNumber) -> Self {
        Self {
            args,
            maps,
            unit: args.unit(),
            groups: args.by.map(GroupLabels::new),
            table: GroupBy::hidden_columns(args.by).fold(Table::new("latency", COLUMNS), Table::without),
            before: <[SlotValues; 2]>::default(),
            interval,
        }
    }

    /// Adds the calls that were counted in this interval, or late in the one two before it.
    fn add_new(
        &mut self,
        interval: u64,
        functions: &FunctionFinder,
        latencies: &mut Latencies,
    ) -> Result<()> {
        let now = match has_one_histogram(self.args) {
            true => read_all(&self.maps.all_slots, interval)?,
            false => read_each(&self.maps.slots, interval)?,
        };
        let before = mem::take(&mut self.before[(interval & 1) as usize]);
        for (key, value) in &now {
            let &(group, func, slot, drawn) = key;
            let (count_before, total_before) = before
                .get(key)
                .map_or((0, 0), |before| (before.count, before.total_ns));
            let count = value.count - count_before;
            if count == 0 {
                continue;
            }
            let latency = latencies
                .entry((group, self.function(func, functions)))
                .or_default();
            let total = value.total_ns.wrapping_sub(total_before);
            let seen = match value.min_ns <= value.max_ns {
                true => value.min_ns..=value.max_ns,
                false => range(slot),
            };
            latency.times.add(slot, count, total, seen);
            *latency.drawn.entry(drawn).or_default() += count;
        }
        self.before[(interval & 1) as usize] = now;
        Ok(())
    }

    /// Prints latencies, most time first.
    fn print(&self, latencies: Latencies, out: &mut Output) {
        let mut latencies: Vec<(LatencyKey, Latency)> = latencies.into_iter().collect();
        latencies.sort_by(|(a_key, a), (b_key, b)| {
            (Reverse(a.times.total), a_key).cmp(&(Reverse(b.times.total), b_key))
        });
        let time = out.wall_now();
        out.header(&self.table);
        if self.args.timestamp {
            out.time(time);
        }
        for (key, latency) in &latencies {
            self.print_one(key, latency, time, out);
        }
    }

    /// Name and file of a function, with --per-function or if there is only one.
    fn function(&self, func: u32, functions: &FunctionFinder) -> Option<(Rc<str>, Rc<str>)> {
        let alone = self.args.per_function || functions.all().len() == 1;
        let traced = functions.get(func as usize).filter(|_| alone)?;
        Some((Rc::clone(&traced.name), Rc::clone(&traced.file_name)))
    }

    fn print_one(&self, (group, function): &LatencyKey, latency: &Latency, time: u64, out: &mut Output) {
        let label = self
            .groups
            .as_ref()
            .map_or_else(GroupLabel::default, |groups| groups.label(*group));
        let buckets = self.buckets(latency);
        let times = &latency.times;
        let name = function.as_ref().map(|(name, _)| name.as_bytes());
        let file = function.as_ref().map(|(_, file)| file.as_bytes());
        out.row(
            &self.table,
            &[
                Value::Time(time),
                Value::U64(label.pid.into()),
                Value::U64(label.tid.into()),
                Value::Bytes(label.user.as_bytes()),
                Value::Bytes(label.container.as_bytes()),
                Value::Bytes(&label.comm),
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
                Value::Str(self.unit.name()),
                Value::Buckets(&buckets),
            ],
        );
        out.text(|text| self.draw(text, &label, name, times, &buckets));
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
        if self.unit.ns() == 1 {
            return latency.times.buckets(self.args.steps as u64);
        }
        let mut drawn = Distribution::default();
        latency
            .drawn
            .iter()
            .for_each(|(&slot, &count)| drawn.add(slot, count, 0, range(slot)));
        drawn.buckets(self.args.steps as u64)
    }

    fn draw(
        &self,
        text: &mut Vec<u8>,
        label: &GroupLabel,
        name: Option<&[u8]>,
        times: &Distribution,
        buckets: &[Bucket],
    ) {
        let mut title = Vec::new();
        title.extend(
            name.filter(|_| self.args.per_function)
                .map(|name| format!("Function = {}", printable(name))),
        );
        let comm = printable(&label.comm);
        title.extend(self.args.by.map(|by| match by {
            GroupBy::Process => format!("Process = {} {comm}", label.pid),
            GroupBy::Thread => format!("Thread = {} {comm}", label.tid),
            GroupBy::User => format!("User = {}", printable(label.user.as_bytes())),
            GroupBy::Container => format!("Container = {}", printable(label.container.as_bytes())),
        }));
        let show = |ns| self.unit.show(ns);
        // Writing to a Vec cannot fail.
        if !title.is_empty() {
            let _ = writeln!(text, "{}", title.join(", "));
        }
        histogram::push(text, self.unit.name(), buckets);
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

impl EventHandler<FunctionFinder> for LatencyHandler<'_> {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            interval: self.args.interval,
            reads_maps: true,
            inspects: self.groups.is_some(),
            ..SessionNeeds::default()
        }
    }

    /// Describes a group.
    fn event(&mut self, event: Event<'_, FunctionFinder>) {
        if let Some(groups) = &mut self.groups {
            groups.learn(event.record);
        }
    }

    /// Prints the calls that returned in the interval.
    fn interval(&mut self, state: RunState<'_, FunctionFinder>) -> Result<()> {
        let mut latencies = Latencies::new();
        self.add_new(self.interval.end(), state.finder, &mut latencies)?;
        self.print(latencies, state.out);
        Ok(())
    }

    /// Prints the last interval, and calls that were counted late in the one before it.
    fn end(&mut self, state: RunState<'_, FunctionFinder>) -> Result<()> {
        let last = self.interval.get();
        let mut latencies = Latencies::new();
        for interval in last.saturating_sub(1)..=last {
            self.add_new(interval, state.finder, &mut latencies)?;
        }
        self.print(latencies, state.out);
        Ok(())
    }
}
