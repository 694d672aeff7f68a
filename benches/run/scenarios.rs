// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Situations that are not about the cost of one call.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};

use crate::Effort;
use crate::cases::{Case, Rows};
use crate::costs::count;
use crate::programs::{LoopProgram, compile_many, fresh_rows_file};
use crate::report::{ms, print_row};
use crate::tracer::{Tracer, tool_command};

/// The latency of a single event, and wakeups without events.
pub fn print_idle(target: &mut LoopProgram, effort: &Effort) -> Result<()> {
    const LATENCY: &str = "a single call to its row at the end of a pipe, ms";
    let wakeups = format!("wakeups in {:?} without a call", effort.idle);
    if !effort.includes(LATENCY) && !effort.includes(&wakeups) {
        return Ok(());
    }
    let mut tracer = Tracer::spawn(&mut tool_command("mallocsnoop", "-j -p PID", target.pid()))?;
    tracer.wait_for_row("\"attached\"")?;
    let mut delays = Vec::new();
    for _ in 0..effort.repetitions {
        // Long enough for the tool to go back to sleep.
        sleep(Duration::from_millis(50));
        let called = target.call(1)?;
        tracer.wait_for_row("malloc")?;
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        delays.push(ms(now - Duration::from_nanos(called.start_ns)));
    }
    print_row(LATENCY, &delays, 2, "20");
    sleep(Duration::from_millis(50));
    let before = tracer.sleeps()?;
    sleep(effort.idle);
    let woken = (tracer.sleeps()? - before) as f64;
    print_row(&wakeups, &[woken], 0, "0 on an idle machine");
    tracer.stop()?;
    Ok(())
}

/// Two threads fill the ring twice as fast.
pub fn print_two_threads(program: &Path, effort: &Effort) -> Result<()> {
    let name = format!("lines of 2 x {} calls from two threads at once", effort.calls / 2);
    if !effort.includes(&name) {
        return Ok(());
    }
    let mut target = LoopProgram::start(program, 2)?;
    let rows = Rows::With(" malloc ");
    let mut delivered = Vec::new();
    for _ in 0..effort.rounds {
        let file = fresh_rows_file()?;
        let tracer = Case::Ours("mallocsnoop", "-p PID", rows).start(&target, &file)?;
        target.call(effort.calls / 2)?;
        tracer.map(Tracer::stop).transpose()?;
        delivered.push(count(&file, rows)? as f64);
    }
    print_row(&name, &delivered, 0, &effort.calls.to_string());
    Ok(())
}

/// The cost of a probe depends on the first instruction, unless the probe is moved to the second one.
pub fn print_entries(program: &Path, effort: &Effort) -> Result<()> {
    const FUNCTIONS: [&str; 3] = ["begins_push", "begins_endbr64", "begins_test"];
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let mut target = LoopProgram::start(program, 1)?;
    for (placement, goal) in [("entry", ""), ("best", "1.2")] {
        let name = |function: &str| {
            let what = format!("a call that {function}, x one that {}", FUNCTIONS[0]);
            format!("`--placement {placement}`: {}", what.replace('_', " with "))
        };
        if !FUNCTIONS.iter().any(|function| effort.includes(&name(function))) {
            continue;
        }
        let mut costs = FUNCTIONS.map(|_| Vec::new());
        for _ in 0..effort.rounds {
            for (function, costs) in FUNCTIONS.iter().zip(&mut costs) {
                let args = format!("{}:{function} -p PID --placement {placement}", program.display());
                let mut tracer = Tracer::spawn(&mut tool_command("funccount", &args, target.pid()))?;
                tracer.wait_for_message("Tracing")?;
                costs.push(target.call_of(effort.calls, function)?.cpu_ns as f64 / effort.calls as f64);
                tracer.stop()?;
            }
        }
        for (function, own) in FUNCTIONS.iter().zip(&costs).skip(1) {
            let ratios: Vec<f64> = own.iter().zip(&costs[0]).map(|(one, push)| one / push).collect();
            print_row(&name(function), &ratios, 2, goal);
        }
    }
    Ok(())
}

/// What a process that does not match pays while another one is traced.
pub fn print_bystander(program: &Path, bystander: &mut LoopProgram, effort: &Effort) -> Result<()> {
    const COMM: &str = "matching";
    let matching = program.with_file_name(COMM);
    fs::copy(program, &matching)?;
    let member = LoopProgram::start(&matching, 1)?;
    for (scope, goal) in [("targeted", "1.05"), ("all", "")] {
        let name = format!("a bystander's call, `mallocsnoop --comm X --scope {scope}`, x no tool");
        if !effort.includes(&name) {
            continue;
        }
        let mut ratios = Vec::new();
        for _ in 0..effort.rounds {
            bystander.wait_for_breakpoint(false)?;
            let alone = bystander.call(effort.calls)?;
            let args = format!("--comm {COMM} --scope {scope}");
            let mut tracer = Tracer::spawn(&mut tool_command("mallocsnoop", &args, bystander.pid()))?;
            tracer.wait_for_message("Tracing")?;
            ensure!(member.has_breakpoint()?, "the matching process is not traced");
            let traced = bystander.call(effort.calls)?;
            ensure!(
                bystander.has_breakpoint()? == (scope == "all"),
                "another tracer has a probe on malloc"
            );
            tracer.stop()?;
            ratios.push(traced.cpu_ns as f64 / alone.cpu_ns as f64);
        }
        print_row(&name, &ratios, 2, goal);
    }
    Ok(())
}

/// Ten thousand functions at once: of a process that calls none of them, and of a file that no process runs.
pub fn print_many_functions(effort: &Effort) -> Result<()> {
    const FUNCTIONS: usize = 10_007;
    let name =
        |whose: &str, tool: &str| format!("exec to attached: {FUNCTIONS} functions of {whose}, `{tool}`, ms");
    let cases: Vec<(&str, &str)> = ["funccount", "funclatency"]
        .into_iter()
        .flat_map(|tool| [("a process", tool), ("a file", tool)])
        .filter(|(whose, tool)| effort.includes(&name(whose, tool)))
        .collect();
    if cases.is_empty() {
        return Ok(());
    }
    let program = compile_many(FUNCTIONS)?;
    let mut child = Command::new(&program).stdin(Stdio::piped()).spawn()?;
    for (whose, tool) in cases {
        let scope = if whose == "a process" { " -p PID" } else { "" };
        let args = format!("-j {}:many_*{scope}", program.display());
        let (mut starting, mut stopping) = (Vec::new(), Vec::new());
        for _ in 0..effort.repetitions.div_ceil(4) {
            let mut tracer = Tracer::spawn(&mut tool_command(tool, &args, child.id()))?;
            tracer.wait_for_row(&format!("\"probes\":{FUNCTIONS}"))?;
            starting.push(ms(tracer.spawned.elapsed()));
            stopping.push(ms(tracer.stop()?.stopping));
        }
        print_row(&name(whose, tool), &starting, 0, "1000");
        print_row("SIGINT to the exit, ms", &stopping, 0, "");
    }
    drop(child.stdin.take());
    child.wait()?;
    Ok(())
}
