// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The cost of a call: CPU time of the traced thread, rows delivered, CPU time and memory of the tracer.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Effort;
use crate::cases::{Case, FLOOR, FLOOR_WITH_RETURN, Rows};
use crate::floor::Floor;
use crate::programs::{LoopProgram, fresh_rows_file};
use crate::report::Spread;
use crate::tracer::Tracer;

/// The tools' default ring, whose data is mapped twice in a row. The kernel counts all pages of both mappings as
/// resident from the start, so the peak includes the ring twice.
const RING_TWICE_KIB: f64 = 2.0 * 8192.0;

/// The result of one burst.
#[derive(Clone, Copy)]
pub struct Sample {
    ns_per_call: f64,
    delivered: u64,
    /// CPU time of the tracer, less that of a run without events.
    cpu_us_per_line: f64,
    peak_kib: f64,
}

/// For each case, a sample from each round. Cases alternate, so that a noisy minute affects all of them.
pub fn measure(cases: &[Case], target: &mut LoopProgram, effort: &Effort) -> Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::new(); cases.len()];
    target.call(effort.calls)?;
    let idle: Vec<Duration> = cases
        .iter()
        .map(|case| idle_cpu(*case, target))
        .collect::<Result<_>>()?;
    for round in 0..effort.rounds {
        for ((case, idle), samples) in cases.iter().zip(&idle).zip(&mut samples) {
            let sample = measure_case(*case, *idle, target, effort.calls);
            samples.push(sample.with_context(|| format!("failed to measure {}", case.name()))?);
        }
        eprintln!("round {} of {}", round + 1, effort.rounds);
    }
    Ok(samples)
}

/// CPU time of the tracer to start and stop.
fn idle_cpu(case: Case, target: &LoopProgram) -> Result<Duration> {
    let tracer = case.start(target, &fresh_rows_file()?)?;
    case.settle();
    Ok(tracer.map(Tracer::stop).transpose()?.unwrap_or_default().cpu)
}

/// Measures again if another tracer had a probe on malloc meanwhile.
fn measure_case(case: Case, idle: Duration, target: &mut LoopProgram, calls: u64) -> Result<Sample> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        target.wait_for_breakpoint(false)?;
        let sample = measure_once(case, idle, target, calls)?;
        if !target.has_breakpoint()? {
            return Ok(sample);
        }
    }
    bail!("another tracer keeps probing malloc")
}

fn measure_once(case: Case, idle: Duration, target: &mut LoopProgram, calls: u64) -> Result<Sample> {
    let file = fresh_rows_file()?;
    let floor = match case {
        Case::Floor { with_return } => Some(Floor::attach(target, with_return)?),
        _ => None,
    };
    let tracer = case.start(target, &file)?;
    let burst = target.call(calls)?;
    drop(floor);
    if matches!(case, Case::Bpftrace(..)) {
        // It prints nothing after SIGINT, so wait until it has printed everything.
        wait_until_written(&file)?;
    }
    let usage = tracer.map(Tracer::stop).transpose()?.unwrap_or_default();
    let delivered = count(&file, case.rows())?;
    let cpu = usage.cpu.as_secs_f64() - idle.as_secs_f64();
    Ok(Sample {
        ns_per_call: burst.cpu_ns as f64 / calls as f64,
        delivered,
        cpu_us_per_line: cpu * 1e6 / delivered.max(1) as f64,
        peak_kib: usage.peak_kib,
    })
}

/// Waits until the file stops growing.
fn wait_until_written(file: &Path) -> Result<()> {
    let mut last = None;
    loop {
        sleep(Duration::from_millis(200));
        let size = Some(fs::metadata(file)?.len());
        if size == last {
            return Ok(());
        }
        last = size;
    }
}

/// The number of calls in the file. Reads line by line: a child's peak memory includes that of this process at the
/// fork.
pub fn count(file: &Path, rows: Rows) -> Result<u64> {
    let calls_in = |line: &str| -> Result<u64> {
        match rows {
            Rows::None => Ok(0),
            Rows::With(mark) => Ok(line.contains(mark).into()),
            Rows::Summed(kind, key) => {
                let record: serde_json::Value = serde_json::from_str(line)?;
                Ok(record[key]
                    .as_u64()
                    .filter(|_| record["type"] == kind)
                    .unwrap_or(0))
            }
        }
    };
    match rows {
        Rows::None => Ok(0),
        _ => BufReader::new(File::open(file)?)
            .lines()
            .try_fold(0, |sum, line| Ok(sum + calls_in(&line?)?)),
    }
}

pub fn print(cases: &[Case], samples: &[Vec<Sample>], effort: &Effort) {
    println!(
        "\nBursts of {} calls, medians of {} rounds (from - to):\n",
        effort.calls, effort.rounds
    );
    println!("| what | x floor | ns per call | delivered | tracer's CPU per line, us | its peak, MiB |");
    println!("|---|--:|--:|--:|--:|--:|");
    for (case, own) in cases.iter().zip(samples) {
        print_case(*case, own, samples, effort.calls);
    }
    println!(
        "\nGoals: all lines delivered; x 1.4, and 8 MiB plus the ring; 0.12 us a line as text, 0.18 as JSON, 0.2 in \
         functrace; x 1.1 where a filter rejects every call."
    );
}

fn print_case(case: Case, own: &[Sample], samples: &[Vec<Sample>], calls: u64) {
    let ratio_to = |floor: usize| {
        let ratios = own
            .iter()
            .zip(&samples[floor])
            .map(|(one, floor)| one.ns_per_call / floor.ns_per_call);
        Spread::of(ratios).show(2)
    };
    let mut ratio = ratio_to(FLOOR);
    if case.sees_returns() {
        ratio += &format!("; of that with a return: {}", ratio_to(FLOOR_WITH_RETURN));
    }
    let spread = |of: fn(&Sample) -> f64| Spread::of(own.iter().map(of));
    let delivered = match case.rows() {
        Rows::None => String::new(),
        _ if own.iter().all(|sample| sample.delivered == calls) => "all".to_owned(),
        _ => spread(|sample| sample.delivered as f64).show(0),
    };
    let cpu = match case.rows() {
        Rows::With(_) => spread(|sample| sample.cpu_us_per_line).show(3),
        _ => String::new(),
    };
    let peak = match case {
        Case::Ours(..) if case.has_ring() => {
            let own = spread(|sample| (sample.peak_kib - RING_TWICE_KIB) / 1024.0).show(1);
            format!("{own} + ring")
        }
        Case::Ours(..) | Case::Bpftrace(..) | Case::LibbpfTools(..) => {
            spread(|sample| sample.peak_kib / 1024.0).show(1)
        }
        _ => String::new(),
    };
    let ns = spread(|sample| sample.ns_per_call).show(0);
    let name = case.name();
    println!("| {name} | {ratio} | {ns} | {delivered} | {cpu} | {peak} |");
}
