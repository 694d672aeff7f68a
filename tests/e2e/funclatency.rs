// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! funclatency: calls of known duration, and calls that are hard to pair with their returns.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{
    AttachMode, Run, Target, Tool, best_mode, each_mode_with_session, program, run_to_end, tool_command,
};

/// Measures functions of tests/targets/flow.cc, built without exceptions, while it carries out orders.
pub fn measure(mode: AttachMode, functions: &[&str], options: &[&str], orders: &[&str]) -> Run {
    measure_in("flow", mode, functions, options, orders)
}

fn measure_in(name: &str, mode: AttachMode, functions: &[&str], options: &[&str], orders: &[&str]) -> Run {
    let mut target = Target::start(Command::new(program(name)));
    let pid = target.pid().to_string();
    let specs: Vec<String> = functions
        .iter()
        .map(|function| format!("{}:{function}", program(name).display()))
        .collect();
    let mut args: Vec<&str> = specs.iter().map(String::as_str).collect();
    args.extend(["-p", &pid]);
    args.extend(options);
    let tool = Tool::start("funclatency", mode, args);
    for order in orders {
        target.ask(order);
    }
    tool.stop()
}

pub fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} of {row}"))
}

/// The number of calls of a function, which has at most one row.
#[track_caller]
fn calls(run: &Run, function: &str) -> u64 {
    let rows = run.with("function", function);
    assert!(rows.len() <= 1, "{rows:?}");
    rows.first().map_or(0, |row| number(row, "count"))
}

each_mode_with_session! {
    durations_are_accurate
    recursive_calls_pair
    nested_and_tail_calls_pair
    calls_that_never_return_are_unmatched
    calls_of_concurrent_threads_pair
    exceptions_pass_probed_functions
}

/// On a busy machine calls take longer than specified. Lower bounds are the specified durations, the upper bound of the
/// sum is the time that the target took for its orders.
fn durations_are_accurate(mode: AttachMode) {
    const MS: u64 = 1_000_000;
    const SPIN: u64 = 300_000;
    let mut target = Target::start(Command::new(program("flow")));
    let pid = target.pid().to_string();
    let specs = ["napping", "spinning"].map(|name| format!("{}:{name}", program("flow").display()));
    let tool = Tool::start("funclatency", mode, [&specs[0], &specs[1], "-p", &pid, "-F"]);
    let mut took = |orders: &[&str]| {
        let start = Instant::now();
        orders.iter().for_each(|order| _ = target.ask(order));
        start.elapsed().as_nanos() as u64
    };
    let (naps, spins) = (took(&["nap 97 1", "nap 3 20"]), took(&["spin 211 300"]));
    let run = tool.stop();
    run.assert_clean();
    let nap = run.with("function", "napping")[0];
    let [count, total, p50, p99, max] =
        ["count", "total_ns", "p50_ns", "p99_ns", "max_ns"].map(|key| number(nap, key));
    // The 99th of 100 calls is one of the three long ones. No percentile is below all calls.
    assert!(count == 100 && p99 >= 20 * MS && max >= 20 * MS, "{nap}");
    assert!((157 * MS..naps).contains(&total), "{naps} {nap}");
    let least = 48 * p50 + 49 * MS + 3 * 20 * MS;
    assert!(p50 >= MS && least <= naps * 103 / 100, "{naps} {nap}");
    let spin = run.with("function", "spinning")[0];
    let (total, p50) = (number(spin, "total_ns"), number(spin, "p50_ns"));
    assert!((211 * SPIN..spins).contains(&total), "{spins} {spin}");
    let least = 106 * p50 + 105 * SPIN;
    assert!(
        p50 >= SPIN * 97 / 100 && least <= spins * 103 / 100,
        "{spins} {spin}"
    );
    assert_eq!(in_buckets(spin), 211);
}

/// The number of calls in all buckets of a histogram.
pub fn in_buckets(row: &Value) -> u64 {
    let buckets = row["buckets"].as_array().expect("buckets");
    buckets.iter().map(|bucket| number(bucket, "count")).sum()
}

fn recursive_calls_pair(mode: AttachMode) {
    let run = measure(mode, &["recursing"], &[], &["recurse 101 7"]);
    assert_eq!(
        (calls(&run, "recursing"), number(&run.summary, "unmatched")),
        (707, 0)
    );
    let run = measure(
        mode,
        &["recursing"],
        &["--recursion", "outermost"],
        &["recurse 101 7"],
    );
    assert_eq!(
        (calls(&run, "recursing"), number(&run.summary, "unmatched")),
        (101, 0)
    );
}

fn nested_and_tail_calls_pair(mode: AttachMode) {
    let run = measure(
        mode,
        &["nested_*", "tail_*", "counted"],
        &["-F"],
        &["nest 101", "tail 211", "count 7"],
    );
    let found = [
        "nested_outer",
        "nested_inner",
        "tail_first",
        "tail_second",
        "counted",
    ]
    .map(|name| calls(&run, name));
    assert_eq!(found, [101, 303, 211, 211, 7], "{:?}", run.rows);
    assert_eq!(run.summary["unmatched"], 0);
    let total = |name: &str| number(run.with("function", name)[0], "total_ns");
    assert!(
        total("nested_outer") > total("nested_inner"),
        "a call takes longer than the calls nested in it"
    );
}

fn calls_that_never_return_are_unmatched(mode: AttachMode) {
    // Each jump abandons two calls, each thread that exits one. The last of each kind is known to be lost when the
    // thread makes another call.
    let functions = ["jumping", "jumped_over", "landed", "leaving", "counted"];
    let run = measure(mode, &functions, &["-F"], &["jump 101", "leave 11", "count 1"]);
    let found = functions.map(|name| calls(&run, name));
    assert_eq!(found, [0, 0, 101, 0, 102], "{:?}", run.rows);
    assert_eq!(number(&run.summary, "unmatched"), 2 * 101 + 11);
}

fn exceptions_pass_probed_functions(mode: AttachMode) {
    let functions = [
        "throwing",
        "catching",
        "nested_outer",
        "nested_inner",
        "recursing",
        "counted",
    ];
    let orders = [
        "throw 103",
        "count 1",
        "nest 13",
        "recurse 7 5",
        "threads 4 throw 211",
        "count 1",
    ];
    let run = measure_in("flow-throws", mode, &functions, &["-F"], &orders);
    let found = functions.map(|name| calls(&run, name));
    assert_eq!(found, [0, 103 + 4 * 211, 13, 39, 35, 2], "{:?}", run.rows);
    assert_eq!(number(&run.summary, "unmatched"), 103 + 4 * 211);
}

fn calls_of_concurrent_threads_pair(mode: AttachMode) {
    let run = measure(mode, &["nested_*"], &["-F"], &["threads 8 nest 1009"]);
    assert_eq!(
        [calls(&run, "nested_outer"), calls(&run, "nested_inner")],
        [8 * 1009, 3 * 8 * 1009]
    );
    assert_eq!(
        (&run.summary["unmatched"], &run.summary["lost"]),
        (&0.into(), &0.into())
    );
}

best_mode! {
    command_survives_probes_on_all_its_returns
    histograms_have_the_requested_unit_and_buckets
    by_process_groups_by_process
    interval_counts_add_up
    a_single_call_is_all_percentiles_of_its_interval
    calls_beyond_the_kernels_nesting_limit_are_unmatched
    exited_threads_free_their_slots
}

/// `_start` is not called, so it has no return address to replace: argc is in its place on the stack.
fn command_survives_probes_on_all_its_returns(mode: AttachMode) {
    for name in ["flow", "flow-stripped", "flow-throws"] {
        // Including the loader and the C library, if the kernel has multi-uprobe links.
        let all = match mode {
            AttachMode::Session | AttachMode::Multi => "*".to_owned(),
            AttachMode::Single | AttachMode::Plain => format!("{}:*", program(name).display()),
        };
        let mut command = tool_command("funclatency", mode, ["-F", &all, "--"]);
        let ended = run_to_end(
            command
                .arg(program(name))
                .args(["count 101", "nest 13", "jump 7", "tail 3"]),
        );
        assert_eq!(ended.status.code(), Some(0), "{name}: {}", ended.stderr);
        // Only functions of the program: one of the loader could be called as often.
        let in_program = format!("\"file\":\"{name}\"");
        assert_eq!(
            ended
                .stdout
                .lines()
                .filter(|line| line.contains(&in_program) && line.contains("\"count\":101,"))
                .count(),
            1,
            "{name}"
        );
    }
    // setjmp saves its return address: with a return probe, longjmp would jump to the kernel's trampoline.
    let mut command = tool_command("funclatency", mode, ["libc:*setjmp", "--"]);
    let ended = run_to_end(command.arg(program("flow")).arg("jump 101"));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let spec = format!("{}:_start", program("flow").display());
    let ended = run_to_end(&mut tool_command("funclatency", mode, [&spec]));
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended
            .stderr
            .contains("failed to trace returns of _start safely: it has no return instruction"),
        "{}",
        ended.stderr
    );
}

fn histograms_have_the_requested_unit_and_buckets(mode: AttachMode) {
    let buckets = |row: &Value| -> Vec<(u64, u64, u64)> {
        let buckets = row["buckets"].as_array().expect("buckets");
        buckets
            .iter()
            .map(|bucket| {
                (
                    number(bucket, "lo"),
                    number(bucket, "hi"),
                    number(bucket, "count"),
                )
            })
            .collect()
    };
    let run = measure(
        mode,
        &["napping"],
        &["--unit", "ms", "--linear", "5"],
        &["nap 7 2", "nap 5 12"],
    );
    let row = &run.rows[0];
    let naps = buckets(row);
    assert_eq!(
        (row["unit"].as_str(), in_buckets(row)),
        (Some("msecs"), 12),
        "{row}"
    );
    assert!(
        naps.iter().all(|&(lo, hi, _)| lo % 5 == 0 && hi == lo + 4),
        "{row}"
    );
    assert!(naps.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{row}");
    // At most the 7 short naps are below 10 ms.
    let short: u64 = naps
        .iter()
        .filter(|bucket| bucket.1 < 10)
        .map(|bucket| bucket.2)
        .sum();
    assert!(short <= 7, "{row}");
    let run = measure(
        mode,
        &["spinning"],
        &["--unit", "us", "--steps", "8"],
        &["spin 101 100"],
    );
    let row = &run.rows[0];
    let spins = buckets(row);
    assert_eq!(in_buckets(row), 101, "{row}");
    // Buckets are 8 usecs wide from 64 usecs, 16 from 128 usecs, and so on.
    let width = |lo: u64| (1 << lo.ilog2()) / 8;
    assert!(
        spins
            .iter()
            .all(|&(lo, hi, _)| lo >= 96 && hi + 1 - lo == width(lo)),
        "{row}"
    );
    // Percentiles are accurate to 3 %, and agree with the buckets.
    let median = number(row, "p50_ns") / 1000;
    let (least, most) = (median * 97 / 100, median * 103 / 100 + 1);
    let below: u64 = spins
        .iter()
        .filter(|bucket| bucket.1 < least)
        .map(|bucket| bucket.2)
        .sum();
    let at_most: u64 = spins
        .iter()
        .filter(|bucket| bucket.0 <= most)
        .map(|bucket| bucket.2)
        .sum();
    assert!(below <= 51 && at_most >= 51, "{row}");
}

fn by_process_groups_by_process(mode: AttachMode) {
    let mut targets = [0, 1].map(|_| Target::start(Command::new(program("flow"))));
    let pids = format!("{},{}", targets[0].pid(), targets[1].pid());
    let spec = format!("{}:counted", program("flow").display());
    let tool = Tool::start(
        "funclatency",
        mode,
        [spec.as_str(), "-p", &pids, "--by", "process"],
    );
    targets[0].ask("count 101");
    targets[1].ask("count 211");
    let run = tool.stop();
    let counts = targets.map(|target| {
        run.with("pid", target.pid())
            .iter()
            .map(|row| number(row, "count"))
            .sum::<u64>()
    });
    assert_eq!(counts, [101, 211]);
}

/// Percentiles lie between the shortest and the longest call of the interval, not of the run.
fn a_single_call_is_all_percentiles_of_its_interval(mode: AttachMode) {
    for options in [&[][..], &["-F"]] {
        let mut target = Target::start(Command::new(program("flow")));
        let pid = target.pid().to_string();
        let spec = format!("{}:counted", program("flow").display());
        let args = [&[spec.as_str(), "-p", &pid, "-i", "20ms"], options].concat();
        let mut tool = Tool::start("funclatency", mode, args);
        let mut calls = 0;
        for asked in [1009].into_iter().chain([1; 23]) {
            target.ask(&format!("count {asked}"));
            calls += asked;
            // The next call is in another interval.
            while calls > 0 {
                let row = tool.wait_for(|record| record["count"].is_u64());
                calls -= row["count"].as_u64().unwrap_or(0);
            }
        }
        let run = tool.stop();
        let single: Vec<&Value> = run.rows.iter().filter(|row| row["count"] == 1).collect();
        assert!(single.len() >= 23, "{:?}", run.rows);
        for row in single {
            let times = ["p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"].map(|key| &row[key]);
            assert_eq!(times, [&row["total_ns"]; 5], "{options:?} {row}");
        }
    }
}

fn interval_counts_add_up(mode: AttachMode) {
    let mut target = Target::start(Command::new(program("flow")));
    let pid = target.pid().to_string();
    let spec = format!("{}:counted", program("flow").display());
    let mut tool = Tool::start("funclatency", mode, [spec.as_str(), "-p", &pid, "-i", "0.1"]);
    target.ask("count 1009");
    tool.wait_rows(1);
    target.ask("count 503");
    let run = tool.stop();
    let counts: Vec<u64> = run.rows.iter().map(|row| number(row, "count")).collect();
    assert!(
        counts.len() >= 2 && counts.iter().sum::<u64>() == 1512,
        "{counts:?}"
    );
}

/// The map has slots for 8192 threads; this test starts 8824.
fn exited_threads_free_their_slots(mode: AttachMode) {
    let orders = ["threads 8 nest 1"; 1103];
    let run = measure(mode, &["nested_*"], &["-F"], &orders);
    assert_eq!(
        [calls(&run, "nested_outer"), calls(&run, "nested_inner")],
        [8 * 1103, 3 * 8 * 1103]
    );
    assert_eq!(run.summary["unmatched"], 0);
}

fn calls_beyond_the_kernels_nesting_limit_are_unmatched(mode: AttachMode) {
    // The kernel probes the returns of at most 64 nested calls.
    let run = measure(mode, &["recursing"], &[], &["recurse 3 100"]);
    let (calls, unmatched) = (calls(&run, "recursing"), number(&run.summary, "unmatched"));
    assert_eq!((calls, unmatched), (3 * 64, 3 * 36));
}
