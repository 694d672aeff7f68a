// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Function calls, counted in the kernel.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::{MapCore, MapFlags, MapMut};

use crate::bpf::funccount::FunccountSkelBuilder;
use crate::cli::{CommandArgs, CommonArgs, FunctionArgs, parse_duration};
use crate::find::code::placement::Needs;
use crate::find::spec::ProbeMoment;
use crate::output::{Column, Table, Value};
use crate::probe::group_by::{GroupBy, GroupLabel, GroupLabels};
use crate::probe::point::Ends;
use crate::probe::search::functions::FunctionFinder;
use crate::run::{Event, EventHandler, Run, RunState, SessionNeeds};

const EXAMPLES: &str = "\
EXAMPLES:
    funccount libc:malloc libc:free             # two functions in every process
    funccount 'libc:mem*' -p 1234 -i 1          # a pattern in one process, every second
    funccount '*' -p 1234 -d 10s --top 20       # the most called functions of a process
    funccount libc:malloc -- ls /               # a command from its first call";

const LONG_HELP: &str = "\
EXAMPLES:
    funccount libc:malloc libc:free             # two functions in every process
    funccount 'libc:mem*' -p 1234 -i 1          # a pattern in one process, every second
    funccount -r 'libssl:^SSL_(read|write)' --by process
    funccount '*' -p 1234 -d 10s --top 20       # the most called functions of a process
    funccount 'app:tokio::runtime::*' -d 10s    # Rust and C++ names as in their sources
    funccount usdt:python3:function__entry      # a USDT probe
    funccount libc:malloc libc:free -- ls /     # a command from its first call";

/// Count function calls.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Print and reset the counts every INTERVAL
    #[arg(short, long, value_name = "INTERVAL", value_parser = parse_duration)]
    interval: Option<Duration>,
    /// Show only the N most called functions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    /// Group by process, thread, user or container
    #[arg(long, value_name = "GROUP", hide_possible_values = true)]
    by: Option<GroupBy>,
    /// Add a timestamp column
    #[arg(short = 'T', long)]
    timestamp: bool,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub command: CommandArgs,
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

/// Pairs of group and function that --by can count.
const MAX_COUNTS: u32 = 65536;

pub fn run(run: Run, args: Args) -> Result<u8> {
    let mut found = run.search(FunctionFinder::new(args.functions.specs()?, ends, Needs::NOTHING))?;
    let functions = found.finder().capacity();
    let mut open = found.open::<FunccountSkelBuilder>()?;
    open.rodata()?.group_by = GroupBy::constant(args.by);
    open.skel
        .maps
        .groups
        .set_max_entries(GroupBy::map_entries(args.by))?;
    match args.by {
        Some(_) => open.skel.maps.group_counts.set_max_entries(MAX_COUNTS)?,
        None => {
            open.skel.maps.counts.set_max_entries(functions)?;
            open.without_events();
        }
    }
    open.run(|skel| match args.by {
        Some(_) => CallCounts::new(&args, &skel.maps.group_counts),
        None => CallCounts::new(&args, &skel.maps.counts),
    })
}

fn ends(at: ProbeMoment) -> Ends {
    match at {
        ProbeMoment::Return => Ends::Return,
        ProbeMoment::Any | ProbeMoment::Entry => Ends::Entry,
    }
}

fn table(args: &Args) -> Table {
    let table = Table::new("count", COLUMNS).in_text("time", args.timestamp);
    GroupBy::hidden_columns(args.by).fold(table, Table::without)
}

/// Group (0 without --by), function name and file name. Functions with equal names share a row.
type CountKey = (u64, Rc<str>, Rc<str>);

struct CallCounts {
    map: &'static MapMut<'static>,
    interval: Option<Duration>,
    groups: Option<GroupLabels>,
    table: Table,
    top: usize,
    /// The counts at the end of the last interval.
    before: HashMap<CountKey, u64>,
}

impl CallCounts {
    fn new(args: &Args, map: &'static MapMut<'static>) -> Self {
        Self {
            map,
            interval: args.interval,
            groups: args.by.map(GroupLabels::new),
            table: table(args),
            top: args.top.map_or(usize::MAX, |top| top as usize),
            before: HashMap::new(),
        }
    }

    /// The counts since the run started.
    fn read(&self, functions: &FunctionFinder) -> Result<HashMap<CountKey, u64>> {
        let mut counts = HashMap::new();
        let mut add = |group: u64, cookie: usize, count: u64| {
            if let Some(traced) = functions.get(cookie).filter(|_| count > 0) {
                *counts
                    .entry((group, Rc::clone(&traced.name), Rc::clone(&traced.file_name)))
                    .or_default() += count;
            }
        };
        match self.groups {
            None => {
                for cookie in 0..functions.all().len() {
                    add(0, cookie, sum(self.map, &(cookie as u32).to_ne_bytes())?);
                }
            }
            Some(_) => {
                for key in self.map.keys() {
                    let [group, cookie] =
                        [0, 8].map(|at| key.get(at..at + 8).and_then(|half| half.try_into().ok()));
                    let (Some(group), Some(cookie)) = (group, cookie) else {
                        continue;
                    };
                    add(
                        u64::from_ne_bytes(group),
                        u64::from_ne_bytes(cookie) as usize,
                        sum(self.map, &key)?,
                    );
                }
            }
        }
        Ok(counts)
    }
}

impl EventHandler<FunctionFinder> for CallCounts {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            interval: self.interval,
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

    /// Prints the calls of the interval, most called first.
    fn interval(&mut self, state: RunState<'_, FunctionFinder>) -> Result<()> {
        let out = state.out;
        let now = self.read(state.finder)?;
        let mut rows: Vec<(&CountKey, u64)> = now
            .iter()
            .map(|(row, &count)| (row, count - self.before.get(row).copied().unwrap_or(0)))
            .filter(|&(_, count)| count > 0)
            .collect();
        rows.sort_by(|(a, a_count), (b, b_count)| (Reverse(a_count), a).cmp(&(Reverse(b_count), b)));
        let time = out.wall_now();
        out.header(&self.table);
        for ((group, function, file), count) in rows.into_iter().take(self.top) {
            let label = self
                .groups
                .as_ref()
                .map_or_else(GroupLabel::default, |groups| groups.label(*group));
            out.row(
                &self.table,
                &[
                    Value::Time(time),
                    Value::U64(label.pid.into()),
                    Value::U64(label.tid.into()),
                    Value::Bytes(label.user.as_bytes()),
                    Value::Bytes(label.container.as_bytes()),
                    Value::Bytes(&label.comm),
                    Value::Bytes(function.as_bytes()),
                    Value::Bytes(file.as_bytes()),
                    Value::U64(count),
                ],
            );
        }
        self.before = now;
        Ok(())
    }
}

/// The sum over all CPUs for a key.
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
