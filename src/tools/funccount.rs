//! How often functions are called.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::skel::SkelBuilder;
use libbpf_rs::{MapCore, MapFlags, MapMut};

use crate::bpf::funccount::FunccountSkelBuilder;
use crate::cli::{CommandArgs, FilterArgs, FunctionArgs, OutputArgs, RunArgs, parse_duration};
use crate::find::code::placement::Needs;
use crate::find::spec::ProbeMoment;
use crate::output::{Column, Output, Table, Value};
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, Ends, loaded};
use crate::probe::follow::Follow;
use crate::probe::group_by::{By, Groups, Member};
use crate::probe::search::functions::{Functions, Scope};
use crate::run::session::{Parts, Session, Step, configure, load};

const EXAMPLES: &str = "\
EXAMPLES:
    funccount libc:malloc libc:free             # two functions of every process, until Ctrl-C
    funccount 'libc:mem*' -p 1234 -i 1          # in one process, every second
    funccount -r 'libssl:^SSL_(read|write)' --by process
    funccount '*' -p 1234 -d 10s --top 20       # the busiest functions of a process
    funccount 'app:tokio::runtime::*' -d 10s    # Rust and C++ functions as their authors wrote them
    funccount usdt:python3:function__entry      # USDT probes
    funccount libc:malloc libc:free -- ls /     # a command from its first call on";

/// Count calls of functions.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Print and begin anew every so often
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Only the most called functions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    /// Count for each of these apart
    #[arg(long, value_name = "WHOM")]
    by: Option<By>,
    /// Add a column with the time
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

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8).data_only(),
    Column::right("PID", "pid", 7),
    Column::right("TID", "tid", 7),
    Column::left("USER", "user", 8),
    Column::left("CONTAINER", "container", 12),
    Column::left("COMM", "comm", 15),
    Column::left("FUNC", "function", 40),
    Column::left("", "file", 0).data_only(),
    Column::right("COUNT", "count", 12),
];

/// Pairs of group and function that are counted with --by.
const MOST_COUNTS: u32 = 65536;
/// Only groups are announced through the ring; without --by there are none.
const NO_RING_BYTES: u32 = 1 << 16;

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
        moment,
        Box::new(|_, _, _, _| Needs::NOTHING),
    )?;

    let ring_bytes = if args.by.is_some() {
        args.run.ring_bytes()
    } else {
        NO_RING_BYTES
    };
    let mut storage = MaybeUninit::uninit();
    let mut open = FunccountSkelBuilder::default().open(&mut storage)?;
    if let Some(rodata) = open.maps.rodata_data.as_mut() {
        configure!(rodata, &filter, ring_bytes, way);
        rodata.group_by = By::number(args.by);
    }
    open.maps.events.set_max_entries(ring_bytes)?;
    open.maps.pids.set_max_entries(filter.map_entries())?;
    open.maps.counts.set_max_entries(if args.by.is_none() {
        functions.borrow().capacity()
    } else {
        1
    })?;
    open.maps
        .group_counts
        .set_max_entries(if args.by.is_some() { MOST_COUNTS } else { 1 })?;
    open.maps.groups.set_max_entries(By::map_entries(args.by))?;
    let (at_entry, at_return) = (
        functions.borrow().watch(Ends::Entry),
        functions.borrow().watch(Ends::Return),
    );
    open.progs.count_entry.set_autoload(at_entry);
    open.progs.count_return.set_autoload(at_return);
    way.prepare([&mut open.progs.count_entry, &mut open.progs.count_return]);
    let skel = load(open)?;
    filter.fill(&skel.maps.pids, &skel.maps.cgroups)?;
    let follow = args
        .functions
        .follow
        .then(|| Follow::start(&skel.maps.pids))
        .transpose()?;

    let programs = loaded([
        (at_entry, &skel.progs.count_entry, Ends::Entry),
        (at_return, &skel.progs.count_return, Ends::Return),
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
    let mut counts = Counts {
        functions,
        groups: args.by.map(Groups::new),
        table: table(&args),
        top: args.top.map_or(usize::MAX, |top| top as usize),
        before: HashMap::new(),
    };
    let map = if args.by.is_some() {
        &skel.maps.group_counts
    } else {
        &skel.maps.counts
    };
    while let Some(step) = session.next(&mut out)? {
        match step {
            Step::Event(record) => counts.groups.iter_mut().for_each(|groups| groups.learn(record)),
            Step::Tick => counts.print(map, &mut out)?,
        }
    }
    counts.print(map, &mut out)?;
    session.finish(&mut out)
}

fn moment(at: ProbeMoment) -> Ends {
    match at {
        ProbeMoment::Return => Ends::Return,
        ProbeMoment::Any | ProbeMoment::Entry => Ends::Entry,
    }
}

fn table(args: &Args) -> Table {
    let table = Table::new("count", COLUMNS).in_text("time", args.timestamp);
    By::hidden_columns(args.by).fold(table, Table::without)
}

/// A group, or 0, and a row of the output: calls of functions that have one name in files of one name are one row.
type Row = (u64, Rc<str>, Rc<str>);

struct Counts {
    functions: Rc<RefCell<Functions>>,
    groups: Option<Groups>,
    table: Table,
    top: usize,
    /// What was counted before this interval.
    before: HashMap<Row, u64>,
}

impl Counts {
    /// Prints what was called since the last time, the most called first.
    fn print(&mut self, map: &MapMut<'_>, out: &mut Output) -> Result<()> {
        let now = self.read(map)?;
        let mut rows: Vec<(&Row, u64)> = now
            .iter()
            .map(|(row, &count)| (row, count - self.before.get(row).copied().unwrap_or(0)))
            .filter(|&(_, count)| count > 0)
            .collect();
        rows.sort_by(|(a, a_count), (b, b_count)| (Reverse(a_count), a).cmp(&(Reverse(b_count), b)));
        let time = out.wall_now();
        out.header(&self.table);
        for ((group, function, file), count) in rows.into_iter().take(self.top) {
            let member = self
                .groups
                .as_ref()
                .map_or_else(Member::default, |groups| groups.member(*group));
            out.row(
                &self.table,
                &[
                    Value::Time(time),
                    Value::U64(member.pid.into()),
                    Value::U64(member.tid.into()),
                    Value::Bytes(member.user.as_bytes()),
                    Value::Bytes(member.container.as_bytes()),
                    Value::Bytes(&member.comm),
                    Value::Bytes(function.as_bytes()),
                    Value::Bytes(file.as_bytes()),
                    Value::U64(count),
                ],
            );
        }
        self.before = now;
        Ok(())
    }

    /// All that was counted since the run began.
    fn read(&self, map: &MapMut<'_>) -> Result<HashMap<Row, u64>> {
        let functions = self.functions.borrow();
        let mut counts = HashMap::new();
        let mut add = |group: u64, cookie: usize, count: u64| {
            if let Some(site) = functions.site(cookie).filter(|_| count > 0) {
                *counts
                    .entry((group, site.name(), Rc::clone(&site.module)))
                    .or_default() += count;
            }
        };
        match self.groups {
            None => {
                for cookie in 0..functions.sites().len() {
                    add(0, cookie, sum(map, &(cookie as u32).to_ne_bytes())?);
                }
            }
            Some(_) => {
                for key in map.keys() {
                    let [group, cookie] =
                        [0, 8].map(|at| key.get(at..at + 8).and_then(|half| half.try_into().ok()));
                    let (Some(group), Some(cookie)) = (group, cookie) else {
                        continue;
                    };
                    add(
                        u64::from_ne_bytes(group),
                        u64::from_ne_bytes(cookie) as usize,
                        sum(map, &key)?,
                    );
                }
            }
        }
        Ok(counts)
    }
}

/// The numbers that all CPUs have for a key.
fn sum(map: &MapMut<'_>, key: &[u8]) -> Result<u64> {
    let values = map
        .lookup_percpu(key, MapFlags::ANY)
        .context("failed to read the counts")?
        .unwrap_or_default();
    let numbers = values
        .iter()
        .filter_map(|value| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?)));
    Ok(numbers.sum())
}
