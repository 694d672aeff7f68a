// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! --cost and --max-overhead: hits are exact, the estimate agrees with a measured loop, and a run ends when
//! its probes cost too much.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, each_mode, in_guest, program, run_to_end, skip,
    tool_command,
};

fn flow() -> Target {
    Target::start(Command::new(program("flow")))
}

fn of_flow(function: &str) -> String {
    format!("{}:{function}", program("flow").display())
}

/// A copy of the program that no other test traces: its probes would disturb the measurement, and before 6.10
/// return probes of one process run in others that have some there.
fn own_flow() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let path = folder.copy_of(program("flow"), "flow");
    (folder, path)
}

/// Traces a target while it follows an order.
fn run_beside(target: &mut Target, mode: AttachMode, tool: &str, args: &[&str], order: &str) -> Run {
    let pid = target.pid().to_string();
    let tool = Tool::start(tool, mode, [args, &["-p", &pid]].concat());
    target.ask(order);
    tool.stop()
}

fn number(record: &Value, key: &str) -> f64 {
    record[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {key} in {record}"))
}

each_mode! { hits_are_exact estimate_agrees_with_a_measured_loop }

fn hits_are_exact(mode: AttachMode) {
    let (_folder, path) = own_flow();
    let mut target = Target::start(Command::new(&path));
    let counted = format!("{}:counted", path.display());
    let run = run_beside(&mut target, mode, "funccount", &[&counted], "count 10007");
    assert_eq!(run.assert_clean().summary["hits"], 10007);
    assert_eq!(run.summary["cpu_ns"], Value::Null, "without --cost");
    let run = run_beside(
        &mut target,
        mode,
        "funccount",
        &[&counted, "--cost"],
        "threads 8 count 2003",
    );
    assert_eq!(run.summary["hits"], 8 * 2003);
    // At entry and return.
    let run = run_beside(
        &mut target,
        mode,
        "funclatency",
        &[&counted, "--cost"],
        "count 5003",
    );
    assert_eq!(run.summary["hits"], 2 * 5003);
    // Threads that are filtered out hit the probes too.
    let tool = Tool::start("funccount", mode, [&counted, "--comm", "nobody", "--cost"]);
    target.ask("count 7001");
    let run = tool.stop();
    assert!(run.rows.is_empty(), "{:?}", run.rows);
    assert!(number(&run.summary, "hits") >= 7001.0, "{}", run.summary);
}

/// CPU time that a process has used, nanoseconds.
fn cpu_ns(pid: u32) -> f64 {
    let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).expect("a process");
    let time = clock_gettime(clock).expect("its CPU time");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

/// Measured cost of an order (CPU time while traced, minus CPU time untraced) divided by the estimate of the
/// tool. The median of several rounds, as the machine is busy with other things.
fn measured_over_estimated(mode: AttachMode, tool: &str, function: &str, order: &str) -> f64 {
    const ROUNDS: usize = 5;
    let (_folder, path) = own_flow();
    let mut target = Target::start(Command::new(&path));
    let spec = format!("{}:{function}", path.display());
    let pid = target.pid();
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = cpu_ns(pid);
            target.ask(order);
            let alone = cpu_ns(pid) - start;
            let tool = Tool::start(tool, mode, [&spec, "-p", &pid.to_string(), "--cost"]);
            let start = cpu_ns(pid);
            target.ask(order);
            let watched = cpu_ns(pid) - start;
            let summary = tool.stop().summary;
            assert!(number(&summary, "cpu_ns") >= watched, "{summary}");
            let probes = number(&summary, "probes_ns");
            let each = number(&summary, "bpf_ns_per_hit") + number(&summary, "trap_ns_per_hit");
            let hits = number(&summary, "hits");
            assert!((probes - hits * each).abs() <= 2.0 * hits, "{summary}");
            assert!(number(&summary, "cpu_share") <= 1.0, "{summary}");
            (watched - alone) / probes
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ROUNDS / 2]
}

fn estimate_agrees_with_a_measured_loop(mode: AttachMode) {
    // The first function starts with an instruction that is single-stepped, the second with an emulated one.
    let cases = [
        ("funccount", "counted", "count 10007"),
        ("funccount", "nested_outer", "nest 20011"),
        ("funclatency", "nested_outer", "nest 10007"),
    ];
    for (tool, function, order) in cases {
        let ratio = measured_over_estimated(mode, tool, function, order);
        // In a guest of `make vmtest`, QEMU emulates all instructions, and times do not repeat.
        if in_guest() {
            return skip(&format!("times on emulated machines are meaningless: {ratio}"));
        }
        assert!(
            (0.5..2.0).contains(&ratio),
            "{tool} {function}: {ratio} of the estimate"
        );
    }
}

best_mode! {
    busy_loop_exceeds_the_limit_and_continues_untraced sleeping_program_does_not_exceed_the_limit cost_without_pid_is_relative_to_the_whole_machine
    cost_includes_a_command_that_has_exited cost_is_printed_as_a_line
}

/// The first bytes of a function in the memory of a process.
fn code(pid: u32, spec: &str) -> [u8; 16] {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).expect("a number");
    let listed = crate::funclist::rows(&[spec]);
    let address = listed[0]["addr"].as_str().expect("an address");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
    // The program is position-independent, and its first mapping is the start of the file.
    let base = maps.split('-').next().expect("a mapping");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("a process");
    let mut bytes = [0; 16];
    memory
        .read_exact_at(
            &mut bytes,
            hexadecimal(base) + hexadecimal(address.trim_start_matches("0x")),
        )
        .expect("its code");
    bytes
}

fn busy_loop_exceeds_the_limit_and_continues_untraced(mode: AttachMode) {
    const CALLS: u32 = 20_000_003;
    let (_folder, path) = own_flow();
    let mut target = Target::start(Command::new(&path));
    let counted = format!("{}:counted", path.display());
    let pid = target.pid();
    let before = code(pid, &counted);
    let mut tool = Tool::start(
        "funccount",
        mode,
        [&counted, "-p", &pid.to_string(), "--max-overhead", "5%"],
    );
    assert_ne!(code(pid, &counted), before, "the probe is in");
    // With the probe this takes far longer than without.
    target.tell(&format!("count {CALLS}"));
    let stopped = tool.wait_for(|record| record["type"] == "stopped");
    let run = tool.finish();
    assert!(run.status.success(), "{}", run.stderr);
    assert_eq!(stopped["max_overhead"], 0.05);
    assert!(number(&stopped, "cpu_share") > 0.05, "{stopped}");
    assert!(
        number(&run.summary, "hits") < f64::from(CALLS) / 2.0,
        "{}",
        run.summary
    );
    assert_eq!(run.rows[0]["count"], run.summary["hits"], "each hit is a call");
    for text in [
        "stopped: the probes took more than 5 % of the CPU time",
        "\nhint: ",
    ] {
        assert!(run.stderr.contains(text), "{}", run.stderr);
    }
    assert_eq!(code(pid, &counted), before, "the probe is out");
    target.answer();
    assert!(target.end().success());
}

fn sleeping_program_does_not_exceed_the_limit(mode: AttachMode) {
    let mut target = flow();
    // For longer than two periods of the meter; most of the little CPU time that it uses is spent in the
    // probes.
    let run = run_beside(
        &mut target,
        mode,
        "funccount",
        &[&of_flow("napping"), "--max-overhead", "1%"],
        "nap 17 40",
    );
    run.assert_clean();
    assert_eq!(
        (&run.rows[0]["count"], &run.summary["hits"]),
        (&17.into(), &17.into())
    );
    assert!(number(&run.summary, "duration_ns") > 0.6e9, "{}", run.summary);
    assert!(!run.stderr.contains("stopped"), "{}", run.stderr);
}

fn cost_without_pid_is_relative_to_the_whole_machine(mode: AttachMode) {
    let (mut first, mut second) = (flow(), flow());
    let before = cpu_ns(first.pid()) + cpu_ns(second.pid());
    let tool = Tool::start("funccount", mode, [&of_flow("tail_first"), "--cost"]);
    first.ask("tail 10007");
    second.ask("tail 5003");
    second.ask("spin 1 50000");
    let used = cpu_ns(first.pid()) + cpu_ns(second.pid()) - before;
    let summary = tool.stop().summary;
    // The kernel samples this time in ticks of 10 ms.
    assert!(2.0 * number(&summary, "cpu_ns") >= used, "{summary}, but {used}");
    assert!(number(&summary, "hits") >= 15010.0, "{summary}");
}

fn cost_includes_a_command_that_has_exited(mode: AttachMode) {
    let mut command = tool_command("funccount", mode, [&of_flow("spinning"), "--cost"]);
    command.arg("--").arg(program("flow")).arg("spin 3 50000");
    let ended = run_to_end(&mut command);
    assert!(ended.status.success(), "{}", ended.stderr);
    let mut records = ended
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let summary = records
        .rfind(|record| record["type"] == "summary")
        .expect("a summary");
    assert_eq!(summary["hits"], 3);
    // It spins for a fixed wall time, and may have shared the CPU.
    assert!(number(&summary, "cpu_ns") > 10e6, "{summary}");
}

fn cost_is_printed_as_a_line(_: AttachMode) {
    let mut target = flow();
    let pid = target.pid().to_string();
    let mut command = tool_command(
        "funccount",
        AttachMode::best(),
        [&of_flow("counted"), "-p", &pid, "--cost", "-q"],
    );
    command.args(["-d", "60"]);
    let tool = Tool::start_as(command);
    target.ask("count 10007");
    tool.signal(Signal::SIGTERM);
    let run = tool.finish();
    let line = run
        .stderr
        .lines()
        .find(|line| line.starts_with("cost: "))
        .unwrap_or(&run.stderr);
    assert!(line.starts_with("cost: 10,007 hits, "), "{line}");
    assert!(
        line.ends_with(" % of the CPU time of the traced process"),
        "{line}"
    );
}
