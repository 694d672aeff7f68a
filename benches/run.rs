//! What tracing costs, beside the floor: an empty BPF program on the same function, which costs what the kernel takes
//! for a breakpoint. Prints Markdown. `cargo bench` as root; `cargo bench -- --quick` only shows that it works.
//!
//! Absolute times hold for one machine and one hour. So costs are ratios of bursts in the same round, in CPU time of
//! the traced thread, which leaves out what else the machine does; and all numbers are medians, with their spread.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, geteuid};

/// Where the compiled loop and the rows go.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
const TOOL: &str = env!("CARGO_BIN_EXE_ubpf-tools");

/// The tool's default ring, whose data is mapped twice in a row. The kernel counts each page of both mappings as
/// resident from the start, so the ring is in the peak twice.
const RING_TWICE_KIB: f64 = 2.0 * 8192.0;

/// Others attach the return probe behind the breakpoint, and show nothing when it is there.
const RETURN_PROBE: Duration = Duration::from_millis(100);

/// How much is measured: calls in a burst, rounds through all cases, and how often what has no burst.
struct Effort {
    calls: u64,
    rounds: usize,
    times: usize,
    quiet: Duration,
}

fn main() -> Result<()> {
    let (calls, rounds, times, quiet) = match std::env::args().any(|argument| argument == "--quick") {
        false => (1_000_000, 5, 20, Duration::from_secs(3)),
        true => (20_000, 1, 2, Duration::from_millis(200)),
    };
    let effort = Effort {
        calls,
        rounds,
        times,
        quiet,
    };
    ensure!(geteuid().is_root(), "failed to measure: tracing needs root");
    let program = compile_loop()?;
    let mut target = Target::start(&program, 1)?;
    print_machine(&target)?;
    let has_bpftrace = Command::new("bpftrace").arg("--version").output().is_ok();
    if !has_bpftrace {
        println!("\nbpftrace is not installed, so it does not stand beside us.");
    }
    let ours_or_there = |case: &&Case| match case {
        Case::Bpftrace(..) => has_bpftrace,
        Case::LibbpfTools(program, _) => Path::new(program).exists(),
        _ => true,
    };
    let cases: Vec<Case> = CASES.iter().filter(ours_or_there).copied().collect();
    print_costs(&cases, &measure_costs(&cases, &mut target, &effort)?, &effort);
    println!("\n| what | median (from - to) | n | goal |\n|---|--:|--:|---|");
    print_starts(&target, has_bpftrace, &effort)?;
    print_quiet(&mut target, &effort)?;
    print_two_threads(&program, &effort)?;
    print_entries(&program, &effort)?;
    print_bystander(&program, &mut target, &effort)?;
    print_many_functions(&effort)
}

// ---- what is compared ----

/// A way to trace the loop.
#[derive(Clone, Copy)]
enum Case {
    NoProbe,
    /// An empty program at the entry, or at entry and return.
    Floor {
        with_return: bool,
    },
    /// A tool with these arguments.
    Ours(&'static str, &'static str, Rows),
    /// bpftrace with this program.
    Bpftrace(&'static str, Rows),
    /// A program of bcc's libbpf-tools, where Debian's package has it, with these arguments.
    LibbpfTools(&'static str, &'static str),
}

/// How the calls that were delivered are counted.
#[derive(Clone, Copy)]
enum Rows {
    /// There are none.
    None,
    /// Lines with this in them.
    With(&'static str),
    /// The sum of a number in JSON records of one type: type and key.
    Summed(&'static str, &'static str),
}

const CASES: &[Case] = &[
    Case::NoProbe,
    Case::Floor { with_return: false },
    Case::Floor { with_return: true },
    Case::Ours("mallocsnoop", "-p PID", Rows::With(" malloc ")),
    Case::Ours(
        "mallocsnoop",
        "-p PID --format json",
        Rows::With("\"call\":\"malloc\""),
    ),
    Case::Ours("mallocsnoop", "-p PID --format csv", Rows::With(",malloc,")),
    Case::Ours("mallocsnoop", "-p PID --min-size 1G", Rows::None),
    Case::Ours("mallocsnoop", "--comm nosuch", Rows::None),
    Case::Ours(
        "mallocsnoop",
        "-p PID --summary -j",
        Rows::Summed("process", "calls"),
    ),
    Case::Ours("mallocsnoop", "-p PID --ret", Rows::With(" malloc ")),
    Case::Ours("mallocsnoop", "-p PID --stack", Rows::With(" malloc ")),
    Case::Ours(
        "funccount",
        "libc:malloc -p PID -j",
        Rows::Summed("count", "count"),
    ),
    Case::Ours(
        "funccount",
        "libc:malloc -p PID --by thread -j",
        Rows::Summed("count", "count"),
    ),
    Case::Ours(
        "funclatency",
        "libc:malloc -p PID -j",
        Rows::Summed("latency", "count"),
    ),
    Case::Ours(
        "funclatency",
        "libc:malloc -p PID -u -j",
        Rows::Summed("latency", "count"),
    ),
    Case::Ours("functrace", "libc:malloc -p PID", Rows::With(" malloc ")),
    Case::Ours("functrace", "libc:malloc -p PID --where arg0>1G", Rows::None),
    Case::Ours("functrace", "libc:malloc -p PID --ret", Rows::With(" malloc ")),
    Case::Ours("functrace", "libc:malloc -p PID --min-latency 1s", Rows::None),
    Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID/ { printf(\"%-6d%10d\\n\", pid, arg0); }",
        Rows::With(" 100"),
    ),
    Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID && arg0 > 1073741824/ { printf(\"%-6d%10d\\n\", pid, arg0); }",
        Rows::None,
    ),
    Case::Bpftrace("uprobe:LIBC:malloc /pid == PID/ { @ = count(); }", Rows::None),
    Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID/ { @start[tid] = nsecs; } \
         uretprobe:LIBC:malloc /@start[tid]/ { @ = hist(nsecs - @start[tid]); delete(@start[tid]); }",
        Rows::None,
    ),
    Case::LibbpfTools("/usr/sbin/funclatency", "-p PID c:malloc"),
];
const FLOOR: usize = 1;
const FLOOR_WITH_RETURN: usize = 2;

impl Case {
    /// Tools that count in maps, and have nothing to look up meanwhile, do without.
    fn has_ring(self) -> bool {
        match self {
            Self::Ours("funccount" | "funclatency", args, _) => args.contains("--by"),
            Self::Ours(..) => true,
            _ => false,
        }
    }

    fn name(self) -> String {
        match self {
            Self::NoProbe => "no probe".to_owned(),
            Self::Floor { with_return: false } => "floor: an empty program at the entry".to_owned(),
            Self::Floor { with_return: true } => "an empty program at entry and return".to_owned(),
            Self::Ours(tool, args, _) => format!("`{tool} {args}`"),
            Self::Bpftrace(action, _) => format!("bpftrace `{action}`"),
            Self::LibbpfTools(program, args) => format!("libbpf-tools `{program} {args}`"),
        }
    }

    fn rows(self) -> Rows {
        match self {
            Self::NoProbe | Self::Floor { .. } | Self::LibbpfTools(..) => Rows::None,
            Self::Ours(_, _, rows) | Self::Bpftrace(_, rows) => rows,
        }
    }

    fn sees_returns(self) -> bool {
        match self {
            Self::Ours(tool, args, _) => {
                tool == "funclatency" || args.contains("--ret") || args.contains("--min-latency")
            }
            Self::Bpftrace(program, _) => program.contains("uretprobe"),
            Self::LibbpfTools(..) => true,
            _ => false,
        }
    }

    /// Starts the tracer and waits until its probe is in. None when there is no tracer but us.
    fn start(self, target: &Target, file: &Path) -> Result<Option<Tracer>> {
        match self {
            Self::NoProbe | Self::Floor { .. } => Ok(None),
            Self::Ours(tool, args, _) => {
                let mut tracer = Tracer::spawn(ours(tool, args, target).arg("-o").arg(file))?;
                tracer.remark("Tracing")?;
                Ok(Some(tracer))
            }
            Self::LibbpfTools(program, args) => {
                let args = args
                    .replace("PID", &target.pid().to_string())
                    .replace("LIBC", &target.libc.display().to_string());
                let tracer = Tracer::spawn(Command::new(program).args(args.split(' ')))?;
                target.wait_for_breakpoint(true)?;
                sleep(RETURN_PROBE);
                Ok(Some(tracer))
            }
            Self::Bpftrace(program, _) => {
                let program = program
                    .replace("PID", &target.pid().to_string())
                    .replace("LIBC", &target.libc.display().to_string());
                let mut command = Command::new("bpftrace");
                command.args(["-e", &program, "-o"]).arg(file);
                let tracer = Tracer::spawn(&mut command)?;
                target.wait_for_breakpoint(true)?;
                sleep(RETURN_PROBE);
                Ok(Some(tracer))
            }
        }
    }

    /// A SIGINT that comes before bpftrace has gone to sleep is not heeded until an event wakes it.
    fn settle(self) {
        if matches!(self, Self::Bpftrace(..)) {
            sleep(Duration::from_millis(300));
        }
    }
}

/// Called by its own name, as the links are.
fn ours(tool: &str, args: &str, target: &Target) -> Command {
    let mut command = Command::new(TOOL);
    command.arg0(tool);
    command.args(args.replace("PID", &target.pid().to_string()).split(' '));
    command
}

// ---- cost of a call ----

/// One burst.
#[derive(Clone, Copy)]
struct Sample {
    ns_per_call: f64,
    delivered: u64,
    /// Of the tracer, less that of a run without events.
    cpu_us_per_line: f64,
    peak_kib: f64,
}

/// For each case, a sample from each round. Cases take turns, so that a noisy minute hits all of them.
fn measure_costs(cases: &[Case], target: &mut Target, effort: &Effort) -> Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::new(); cases.len()];
    target.call(effort.calls)?;
    let idle: Vec<Duration> = cases
        .iter()
        .map(|case| idle_cpu(*case, target))
        .collect::<Result<_>>()?;
    for round in 0..effort.rounds {
        for ((case, idle), samples) in cases.iter().zip(&idle).zip(&mut samples) {
            let sample = measure(*case, *idle, target, effort.calls);
            samples.push(sample.with_context(|| format!("failed to measure {}", case.name()))?);
        }
        eprintln!("round {} of {}", round + 1, effort.rounds);
    }
    Ok(samples)
}

/// What the tracer takes to come and go.
fn idle_cpu(case: Case, target: &Target) -> Result<Duration> {
    let tracer = case.start(target, &rows_file())?;
    case.settle();
    Ok(tracer.map(Tracer::stop).transpose()?.unwrap_or_default().cpu)
}

/// Measures again when a probe of somebody else was in the way.
fn measure(case: Case, idle: Duration, target: &mut Target, calls: u64) -> Result<Sample> {
    const ATTEMPTS: usize = 5;
    for _ in 0..ATTEMPTS {
        target.wait_for_breakpoint(false)?;
        let sample = measure_once(case, idle, target, calls)?;
        if !target.has_breakpoint()? {
            return Ok(sample);
        }
    }
    bail!("somebody else traces malloc all the time")
}

fn measure_once(case: Case, idle: Duration, target: &mut Target, calls: u64) -> Result<Sample> {
    let file = rows_file();
    let floor = match case {
        Case::Floor { with_return } => Some(Floor::attach(target, with_return)?),
        _ => None,
    };
    let tracer = case.start(target, &file)?;
    let burst = target.call(calls)?;
    drop(floor);
    if matches!(case, Case::Bpftrace(..)) {
        // It prints nothing more after SIGINT, so it gets time to print what it has.
        wait_until_written(&file)?;
    }
    let ended = tracer.map(Tracer::stop).transpose()?.unwrap_or_default();
    let delivered = count(&file, case.rows())?;
    let cpu = ended.cpu.as_secs_f64() - idle.as_secs_f64();
    Ok(Sample {
        ns_per_call: burst.cpu_ns as f64 / calls as f64,
        delivered,
        cpu_us_per_line: cpu * 1e6 / delivered.max(1) as f64,
        peak_kib: ended.peak_kib,
    })
}

/// Waits until the file has not grown for a while.
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

/// How many calls the file tells of. Line by line: what this process takes would count as its children's peak.
fn count(file: &Path, rows: Rows) -> Result<u64> {
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

fn print_costs(cases: &[Case], samples: &[Vec<Sample>], effort: &Effort) {
    println!(
        "\nBursts of {} calls, medians of {} rounds (from - to):\n",
        effort.calls, effort.rounds
    );
    println!("| what | x floor | ns per call | delivered | tracer's CPU per line, us | its peak, MiB |");
    println!("|---|--:|--:|--:|--:|--:|");
    for (case, own) in cases.iter().zip(samples) {
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
            _ if own.iter().all(|sample| sample.delivered == effort.calls) => "all".to_owned(),
            _ => spread(|sample| sample.delivered as f64).show(0),
        };
        let cpu = match case.rows() {
            Rows::With(_) => spread(|sample| sample.cpu_us_per_line).show(3),
            _ => String::new(),
        };
        let peak = match case {
            Case::Ours(..) if case.has_ring() => {
                format!(
                    "{} + ring",
                    spread(|sample| (sample.peak_kib - RING_TWICE_KIB) / 1024.0).show(1)
                )
            }
            Case::Ours(..) | Case::Bpftrace(..) | Case::LibbpfTools(..) => {
                spread(|sample| sample.peak_kib / 1024.0).show(1)
            }
            _ => String::new(),
        };
        let ns = spread(|sample| sample.ns_per_call).show(0);
        println!(
            "| {} | {ratio} | {ns} | {delivered} | {cpu} | {peak} |",
            case.name()
        );
    }
    println!(
        "\nGoals: all lines, x 1.4, 0.2 us and 8 MiB plus the ring as text; x 1.1 where a filter lets nothing through."
    );
}

// ---- times ----

fn print_starts(target: &Target, has_bpftrace: bool, effort: &Effort) -> Result<()> {
    // A name that nobody has: rows of the whole machine would fill the pipe, which is read no further.
    for args in ["-j -p PID", "-j --comm nosuch"] {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..effort.times {
            let mut tracer = Tracer::spawn(&mut ours("mallocsnoop", args, target))?;
            tracer.row("\"attached\"")?;
            starts.push(ms(tracer.spawned.elapsed()));
            ends.push(ms(tracer.stop()?.stopping));
        }
        print_row(&format!("exec to attached: `{args}`, ms"), &starts, 1, "25");
        print_row("SIGINT to the end, ms", &ends, 1, "");
    }
    if has_bpftrace {
        let case = Case::Bpftrace(
            "uprobe:LIBC:malloc /pid == PID/ { printf(\"%d\\n\", arg0); }",
            Rows::None,
        );
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..effort.times.div_ceil(4) {
            target.wait_for_breakpoint(false)?;
            let tracer = case.start(target, &rows_file())?.context("no bpftrace")?;
            starts.push(ms(tracer.spawned.elapsed()));
            case.settle();
            ends.push(ms(tracer.stop()?.stopping));
        }
        print_row("exec to attached: bpftrace, ms", &starts, 1, "");
        print_row("SIGINT to the end, ms", &ends, 1, "");
    }
    Ok(())
}

/// One event now and then, and none at all.
fn print_quiet(target: &mut Target, effort: &Effort) -> Result<()> {
    let mut tracer = Tracer::spawn(&mut ours("mallocsnoop", "-j -p PID", target))?;
    tracer.row("\"attached\"")?;
    let mut delays = Vec::new();
    for _ in 0..effort.times {
        // Long enough for the tool to have gone back to sleep.
        sleep(Duration::from_millis(50));
        let called = target.call(1)?;
        tracer.row("malloc")?;
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        delays.push(ms(now - Duration::from_nanos(called.start_ns)));
    }
    print_row(
        "a single call to its row at the end of a pipe, ms",
        &delays,
        2,
        "20",
    );
    sleep(Duration::from_millis(50));
    let before = tracer.sleeps()?;
    sleep(effort.quiet);
    let woken = (tracer.sleeps()? - before) as f64;
    print_row(
        &format!("wakeups in {:?} without a call", effort.quiet),
        &[woken],
        0,
        "0, nothing else running",
    );
    tracer.stop()?;
    Ok(())
}

/// Two threads fill the ring twice as fast.
fn print_two_threads(program: &Path, effort: &Effort) -> Result<()> {
    let mut target = Target::start(program, 2)?;
    let file = rows_file();
    let rows = Rows::With(" malloc ");
    let mut delivered = Vec::new();
    for _ in 0..effort.rounds {
        let tracer = Case::Ours("mallocsnoop", "-p PID", rows).start(&target, &file)?;
        target.call(effort.calls / 2)?;
        tracer.map(Tracer::stop).transpose()?;
        delivered.push(count(&file, rows)? as f64);
    }
    let what = format!("lines of 2 x {} calls from two threads at once", effort.calls / 2);
    print_row(&what, &delivered, 0, &effort.calls.to_string());
    Ok(())
}

/// The first instruction decides what a probe costs, unless the probe is moved to the second one.
fn print_entries(program: &Path, effort: &Effort) -> Result<()> {
    const FUNCTIONS: [&str; 3] = ["begins_push", "begins_endbr64", "begins_test"];
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let mut target = Target::start(program, 1)?;
    for placement in ["entry", "best"] {
        let mut costs = FUNCTIONS.map(|_| Vec::new());
        for _ in 0..effort.rounds {
            for (function, costs) in FUNCTIONS.iter().zip(&mut costs) {
                let args = format!("{}:{function} -p PID --placement {placement}", program.display());
                let mut tracer = Tracer::spawn(&mut ours("funccount", &args, &target))?;
                tracer.remark("Tracing")?;
                costs.push(target.call_of(effort.calls, function)?.cpu_ns as f64 / effort.calls as f64);
                tracer.stop()?;
            }
        }
        for (function, own) in FUNCTIONS.iter().zip(&costs).skip(1) {
            let ratios: Vec<f64> = own.iter().zip(&costs[0]).map(|(one, push)| one / push).collect();
            let goal = if placement == "best" { "1.2" } else { "" };
            let what = format!(
                "`--placement {placement}`: a call that {function}, x one that {}",
                FUNCTIONS[0]
            );
            print_row(&what.replace('_', " with "), &ratios, 2, goal);
        }
    }
    Ok(())
}

/// What a process pays that does not match, while another one does.
fn print_bystander(program: &Path, bystander: &mut Target, effort: &Effort) -> Result<()> {
    const NAME: &str = "matching";
    let matching = program.with_file_name(NAME);
    fs::copy(program, &matching)?;
    let member = Target::start(&matching, 1)?;
    for (scope, goal) in [("targeted", "1.05"), ("all", "")] {
        let mut ratios = Vec::new();
        for _ in 0..effort.rounds {
            bystander.wait_for_breakpoint(false)?;
            let alone = bystander.call(effort.calls)?;
            let args = format!("--comm {NAME} --scope {scope}");
            let mut tracer = Tracer::spawn(&mut ours("mallocsnoop", &args, bystander))?;
            tracer.remark("Tracing")?;
            ensure!(member.has_breakpoint()?, "nobody is traced");
            let traced = bystander.call(effort.calls)?;
            ensure!(
                bystander.has_breakpoint()? == (scope == "all"),
                "somebody else traces malloc"
            );
            tracer.stop()?;
            ratios.push(traced.cpu_ns as f64 / alone.cpu_ns as f64);
        }
        let what = format!("a bystander's call, `mallocsnoop --comm X --scope {scope}`, x no tool");
        print_row(&what, &ratios, 2, goal);
    }
    Ok(())
}

/// Ten thousand functions at once, of a process that calls none of them, and of a file that nobody runs.
fn print_many_functions(effort: &Effort) -> Result<()> {
    const FUNCTIONS: usize = 10_007;
    let program = compile_many(FUNCTIONS)?;
    let mut child = Command::new(&program).stdin(Stdio::piped()).spawn()?;
    for tool in ["funccount", "funclatency"] {
        for whose in [Some(child.id()), None] {
            let (mut starts, mut ends) = (Vec::new(), Vec::new());
            for _ in 0..effort.times.div_ceil(4) {
                let mut command = Command::new(TOOL);
                command.args([tool, "-j", &format!("{}:many_*", program.display())]);
                command.args(whose.map(|pid| format!("-p{pid}")));
                let mut tracer = Tracer::spawn(&mut command)?;
                tracer.row(&format!("\"probes\":{FUNCTIONS}"))?;
                starts.push(ms(tracer.spawned.elapsed()));
                ends.push(ms(tracer.stop()?.stopping));
            }
            let of = whose.map_or("a file", |_| "a process");
            print_row(
                &format!("exec to attached: {FUNCTIONS} functions of {of}, `{tool}`, ms"),
                &starts,
                0,
                "1000",
            );
            print_row("SIGINT to the end, ms", &ends, 0, "");
        }
    }
    drop(child.stdin.take());
    child.wait()?;
    Ok(())
}

/// A program with so many functions, which runs until its input ends.
fn compile_many(functions: usize) -> Result<PathBuf> {
    let source = Path::new(SCRATCH).join("many.c");
    let program = source.with_extension("");
    let mut text: String = (0..functions)
        .map(|number| format!("void many_{number}(void) {{}}\n"))
        .collect();
    text.push_str("int getchar(void);\nint main(void) { return getchar() != -1; }\n");
    fs::write(&source, text)?;
    let status = Command::new("cc").arg("-o").args([&program, &source]).status();
    ensure!(
        status.context("failed to run cc")?.success(),
        "failed to compile {}",
        source.display()
    );
    Ok(program)
}

fn rows_file() -> PathBuf {
    Path::new(SCRATCH).join("rows")
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print_row(what: &str, values: &[f64], digits: usize, goal: &str) {
    let spread = Spread::of(values.iter().copied()).show(digits);
    println!("| {what} | {spread} | {} | {goal} |", values.len());
}

// ---- the traced program ----

fn compile_loop() -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/loop.c");
    let program = Path::new(SCRATCH).join("loop");
    let mut compiler = Command::new("cc");
    let status = compiler
        .args(["-O2", "-Wall", "-pthread", "-o"])
        .arg(&program)
        .arg(&source)
        .status();
    ensure!(
        status.context("failed to run cc")?.success(),
        "failed to compile {}",
        source.display()
    );
    Ok(program)
}

/// `loop.c`, waiting for orders.
struct Target {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    libc: PathBuf,
    libc_version: String,
    /// Where malloc is in memory, and in the file of the C library.
    address: u64,
    offset: u64,
}

struct Burst {
    /// Before the first call, CLOCK_MONOTONIC.
    start_ns: u64,
    /// CPU time of the main thread.
    cpu_ns: u64,
}

impl Target {
    fn start(program: &Path, threads: u32) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("failed to start the loop")?;
        let orders = child.stdin.take().context("no pipe")?;
        let mut answers = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let (address, version) = line.trim().split_once(' ').context("the loop says nothing")?;
        let address = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
        let (libc, offset) = file_at(child.id(), address)?;
        Ok(Self {
            child,
            orders,
            answers,
            libc,
            libc_version: version.to_owned(),
            address,
            offset,
        })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes every thread call malloc so often.
    fn call(&mut self, calls: u64) -> Result<Burst> {
        self.call_of(calls, "")
    }

    /// The same of a function of its own.
    fn call_of(&mut self, calls: u64, function: &str) -> Result<Burst> {
        self.orders
            .write_all(format!("{calls} {function}\n").as_bytes())?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let (start, cpu) = line.trim().split_once(' ').context("the loop has ended")?;
        Ok(Burst {
            start_ns: start.parse()?,
            cpu_ns: cpu.parse()?,
        })
    }

    fn has_breakpoint(&self) -> Result<bool> {
        #[cfg(target_arch = "x86_64")]
        const BREAKPOINT: [u8; 1] = [0xcc]; // int3
        #[cfg(target_arch = "aarch64")]
        const BREAKPOINT: [u8; 4] = 0xd420_00a0_u32.to_le_bytes(); // brk 5, the number that uprobes have
        let mut bytes = BREAKPOINT.map(|_| 0);
        File::open(format!("/proc/{}/mem", self.pid()))?.read_exact_at(&mut bytes, self.address)?;
        Ok(bytes == BREAKPOINT)
    }

    fn wait_for_breakpoint(&self, wanted: bool) -> Result<()> {
        let since = Instant::now();
        while self.has_breakpoint()? != wanted {
            let what = if wanted {
                "no probe came"
            } else {
                "somebody else traces malloc"
            };
            ensure!(since.elapsed() < Duration::from_secs(20), what);
            sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file that is mapped there, and the offset in it.
fn file_at(pid: u32, address: u64) -> Result<(PathBuf, u64)> {
    let number = |hex: &str| u64::from_str_radix(hex, 16);
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, _, offset, _, _, path] = fields[..] else {
            continue;
        };
        let (start, end) = range.split_once('-').context("an odd memory map")?;
        let (start, end) = (number(start)?, number(end)?);
        if (start..end).contains(&address) {
            return Ok((path.into(), address - start + number(offset)?));
        }
    }
    bail!("malloc is in no file")
}

// ---- the tracers ----

/// A tracer that runs.
struct Tracer {
    spawned: Instant,
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    reaped: bool,
}

/// What a tracer came to.
#[derive(Default)]
struct Ended {
    cpu: Duration,
    peak_kib: f64,
    /// From SIGINT to the end.
    stopping: Duration,
}

impl Tracer {
    fn spawn(command: &mut Command) -> Result<Self> {
        let spawned = Instant::now();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start a tracer")?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let stderr = BufReader::new(child.stderr.take().context("no pipe")?);
        Ok(Self {
            spawned,
            child,
            stdout,
            stderr,
            reaped: false,
        })
    }

    /// Waits for a line with this in it on standard output.
    fn row(&mut self, mark: &str) -> Result<()> {
        wait_for_line(&mut self.stdout, mark)
    }

    /// Waits for a line with this in it on standard error.
    fn remark(&mut self, mark: &str) -> Result<()> {
        wait_for_line(&mut self.stderr, mark)
    }

    /// How often it has gone to sleep of its own will.
    fn sleeps(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let number = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        Ok(number
            .context("the kernel does not count context switches")?
            .trim()
            .parse()?)
    }

    fn stop(mut self) -> Result<Ended> {
        let pid = self.child.id() as i32;
        let interrupted = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        let mut status = 0;
        // SAFETY: a structure of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both are ours to write to, and nobody has waited for this child yet.
        let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
        ensure!(waited == pid, "failed to wait for a tracer");
        self.reaped = true;
        let stopping = interrupted.elapsed();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said)?;
        ensure!(status == 0, "a tracer failed: {said}");
        let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        let cpu = time(usage.ru_utime) + time(usage.ru_stime);
        Ok(Ended {
            cpu,
            peak_kib: usage.ru_maxrss as f64,
            stopping,
        })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait_for_line(from: &mut impl BufRead, mark: &str) -> Result<()> {
    let mut said = String::new();
    while !said.contains(mark) {
        ensure!(from.read_line(&mut said)? > 0, "a tracer has ended early: {said}");
    }
    Ok(())
}

/// Empty programs on the target's malloc, as long as this lives.
struct Floor {
    _links: Vec<OwnedFd>,
}

impl Floor {
    fn attach(target: &Target, with_return: bool) -> Result<Self> {
        let program = empty_program().context("failed to load the empty program")?;
        let mut links = vec![probe(&program, target, 0)?];
        if with_return {
            links.push(probe(&program, target, libbpf_sys::BPF_F_UPROBE_MULTI_RETURN)?);
        }
        Ok(Self { _links: links })
    }
}

/// `return 0`.
fn empty_program() -> Result<OwnedFd> {
    let insns = [0xb7, 0x95].map(|code| libbpf_sys::bpf_insn {
        code,
        ..Default::default()
    });
    let mut opts = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        expected_attach_type: libbpf_sys::BPF_TRACE_UPROBE_MULTI,
        ..Default::default()
    };
    let (kind, name, license) = (
        libbpf_sys::BPF_PROG_TYPE_KPROBE,
        c"floor".as_ptr(),
        c"GPL".as_ptr(),
    );
    let count = insns.len() as libbpf_sys::size_t;
    // SAFETY: every pointer outlives the call.
    owned(unsafe { libbpf_sys::bpf_prog_load(kind, name, license, insns.as_ptr(), count, &mut opts) })
}

fn probe(program: &OwnedFd, target: &Target, flags: u32) -> Result<OwnedFd> {
    let path = CString::new(target.libc.as_os_str().as_encoded_bytes())?;
    let mut opts = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the member of the union that BPF_TRACE_UPROBE_MULTI reads; it is all integers and pointers.
    let multi = unsafe { &mut opts.__bindgen_anon_1.uprobe_multi };
    (multi.path, multi.offsets, multi.cnt) = (path.as_ptr(), &target.offset, 1);
    (multi.pid, multi.flags) = (target.pid(), flags);
    let kind = libbpf_sys::BPF_TRACE_UPROBE_MULTI;
    // SAFETY: every pointer outlives the call.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), 0, kind, &opts) })
        .context("failed to attach the empty program; multi-uprobe links came with Linux 6.6")
}

/// A descriptor from a libbpf call, which returns a negative errno on failure.
fn owned(fd: i32) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(std::io::Error::from_raw_os_error(-fd).into());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

// ---- numbers ----

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let median = (values[last / 2] + values[last.div_ceil(2)]) / 2.0;
        Self {
            median,
            least: values[0],
            most: values[last],
        }
    }

    fn show(&self, digits: usize) -> String {
        let Self { median, least, most } = self;
        match least == most {
            true => format!("{median:.digits$}"),
            false => format!("{median:.digits$} ({least:.digits$} - {most:.digits$})"),
        }
    }
}

fn print_machine(target: &Target) -> Result<()> {
    let read = |path| -> Result<String> { Ok(fs::read_to_string(path)?.trim().to_owned()) };
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    println!(
        "{}: Linux {}, {} x {}, glibc {}, load {} at the start",
        chrono::Local::now().format("%Y-%m-%d"),
        read("/proc/sys/kernel/osrelease")?,
        std::thread::available_parallelism()?,
        model.map_or("an unnamed CPU", |(_, model)| model),
        target.libc_version,
        read("/proc/loadavg")?.split(' ').next().unwrap_or_default(),
    );
    Ok(())
}
