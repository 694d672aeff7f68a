// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--summary`: the requests of each process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use libbpf_rs::{MapCore, MapFlags, MapMut};
use plain::Plain;

use super::Args;
use super::allocators::Allocators;
use crate::bpf::mallocsnoop::types;
use crate::output::{Column, Output, Table, Value, histogram};
use crate::probe::event::until_nul;
use crate::run::{Event, EventHandler, RunState, SessionNeeds};

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
pub const USAGE_THREADS: u32 = 16384;
const SIZE_SLOTS: usize = types::usage_layout::SIZE_SLOTS.0 as usize;

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
pub struct UsageSummary {
    table: Table,
    threads: &'static MapMut<'static>,
    interval: Option<Duration>,
    exited: BTreeMap<u32, ProcessUsage>,
    /// Threads in the map.
    entries: u32,
}

impl UsageSummary {
    pub fn new(args: &Args, threads: &'static MapMut<'static>) -> Self {
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
