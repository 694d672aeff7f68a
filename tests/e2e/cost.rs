//! --cost and --max-overhead: hits are exact, the estimate agrees with a loop that is measured, and probes that cost too
//! much are stopped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{
    Folder, Run, Target, Tool, Way, best_way, each_way, in_guest, program, run_to_end, skip, tool_command,
};

fn flow() -> Target {
    Target::start(Command::new(program("flow")))
}

fn of_flow(function: &str) -> String {
    format!("{}:{function}", program("flow").display())
}

/// A file of its own, which no other test traces: its probes would be in the way of what is measured, and before 6.10
/// return probes of one process run in others that have some there.
fn own_flow() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let path = folder.copy_of(program("flow"), "flow");
    (folder, path)
}

/// A run beside a program that follows an order.
fn run_beside(target: &mut Target, way: Way, tool: &str, args: &[&str], order: &str) -> Run {
    let pid = target.pid().to_string();
    let tool = Tool::start(tool, way, [args, &["-p", &pid]].concat());
    target.ask(order);
    tool.stop()
}

fn number(record: &Value, key: &str) -> f64 {
    record[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no number {key} in {record}"))
}

each_way! { hits_are_exact the_estimate_agrees_with_a_loop }

fn hits_are_exact(way: Way) {
    let (_folder, path) = own_flow();
    let mut target = Target::start(Command::new(&path));
    let counted = format!("{}:counted", path.display());
    let run = run_beside(&mut target, way, "funccount", &[&counted], "count 10007");
    assert_eq!(run.assert_clean().summary["hits"], 10007);
    assert_eq!(run.summary["cpu_ns"], Value::Null, "nobody has asked for it");
    let run = run_beside(
        &mut target,
        way,
        "funccount",
        &[&counted, "--cost"],
        "threads 8 count 2003",
    );
    assert_eq!(run.summary["hits"], 8 * 2003);
    // At both ends.
    let run = run_beside(
        &mut target,
        way,
        "funclatency",
        &[&counted, "--cost"],
        "count 5003",
    );
    assert_eq!(run.summary["hits"], 2 * 5003);
    // Who is not shown hits the probes all the same.
    let tool = Tool::start("funccount", way, [&counted, "--comm", "nobody", "--cost"]);
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

/// What an order costs a program without us, and with us, over what the tool says that it took. Rounds take turns, as
/// the machine has other things to do.
fn measured_over_estimated(way: Way, tool: &str, function: &str, order: &str) -> f64 {
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
            let tool = Tool::start(tool, way, [&spec, "-p", &pid.to_string(), "--cost"]);
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

fn the_estimate_agrees_with_a_loop(way: Way) {
    // Of these, one begins with an instruction that is single-stepped, one with one that is not; then with returns.
    let cases = [
        ("funccount", "counted", "count 10007"),
        ("funccount", "nested_outer", "nest 20011"),
        ("funclatency", "nested_outer", "nest 10007"),
    ];
    for (tool, function, order) in cases {
        let ratio = measured_over_estimated(way, tool, function, order);
        // In a guest of `make vmtest`, all instructions are emulated, and the time of one says nothing of the next.
        if in_guest() {
            return skip(&format!("no times of emulated machines are compared: {ratio}"));
        }
        assert!(
            (0.5..2.0).contains(&ratio),
            "{tool} {function}: {ratio} of the estimate"
        );
    }
}

best_way! {
    a_loop_is_stopped_and_goes_on_as_before a_calm_program_is_not_stopped what_everybody_pays_is_compared_with_all
    a_command_that_has_ended_is_measured_too the_cost_is_said_in_words
}

/// The first bytes of a function in the memory of a process.
fn code(pid: u32, spec: &str) -> [u8; 16] {
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).expect("a number");
    let listed = crate::funclist::rows(&[spec]);
    let address = listed[0]["addr"].as_str().expect("an address");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
    // The program is independent of its position, and what is mapped first is its beginning.
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

fn a_loop_is_stopped_and_goes_on_as_before(way: Way) {
    const CALLS: u32 = 20_000_003;
    let (_folder, path) = own_flow();
    let mut target = Target::start(Command::new(&path));
    let counted = format!("{}:counted", path.display());
    let pid = target.pid();
    let before = code(pid, &counted);
    let mut tool = Tool::start(
        "funccount",
        way,
        [&counted, "-p", &pid.to_string(), "--max-overhead", "5%"],
    );
    assert_ne!(code(pid, &counted), before, "the probe is in");
    // With its probe that takes far longer than without it.
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
    assert_eq!(
        run.rows[0]["count"], run.summary["hits"],
        "no call is counted that was not one"
    );
    for said in [
        "stopped: the probes took more than 5 % of the CPU time",
        "\nhint: ",
    ] {
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
    assert_eq!(code(pid, &counted), before, "the probe is out");
    target.answer();
    assert!(target.end().success());
}

fn a_calm_program_is_not_stopped(way: Way) {
    let mut target = flow();
    // For longer than it takes to look at the costs; most of the little CPU time that it needs is that of the probes.
    let run = run_beside(
        &mut target,
        way,
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

fn what_everybody_pays_is_compared_with_all(way: Way) {
    let (mut first, mut second) = (flow(), flow());
    let before = cpu_ns(first.pid()) + cpu_ns(second.pid());
    let tool = Tool::start("funccount", way, [&of_flow("tail_first"), "--cost"]);
    first.ask("tail 10007");
    second.ask("tail 5003");
    second.ask("spin 1 50000");
    let used = cpu_ns(first.pid()) + cpu_ns(second.pid()) - before;
    let summary = tool.stop().summary;
    // The kernel counts this time in hundredths of a second, and by samples.
    assert!(2.0 * number(&summary, "cpu_ns") >= used, "{summary}, but {used}");
    assert!(number(&summary, "hits") >= 15010.0, "{summary}");
}

fn a_command_that_has_ended_is_measured_too(way: Way) {
    let mut command = tool_command("funccount", way, [&of_flow("spinning"), "--cost"]);
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
    // It spins by the clock, and may have had to share the CPU.
    assert!(number(&summary, "cpu_ns") > 10e6, "{summary}");
}

fn the_cost_is_said_in_words(_: Way) {
    let mut target = flow();
    let pid = target.pid().to_string();
    let mut command = tool_command(
        "funccount",
        Way::best(),
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
