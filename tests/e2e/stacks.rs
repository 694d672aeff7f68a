// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Stacks are the same at each kind of probe and have the names that funclist shows: tests/targets/stack.cc.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, each_mode_with_session, kernel_version, program, skip,
};

each_mode_with_session! {
    stack_begins_with_the_caller_at_both_ends_of_calls
    calls_before_an_exec_have_the_stack_of_their_time
}

best_mode! {
    usdt_probe_has_the_stack_of_its_function
}

/// Traces a process while it carries out an order.
pub fn trace(mode: AttachMode, target: &mut Target, spec: &str, options: &[&str], order: &str) -> Run {
    let pid = target.pid().to_string();
    let args = [&[spec, "--stack", "-p", &pid], options].concat();
    let tool = Tool::start("functrace", mode, args);
    target.ask(order);
    let run = tool.stop();
    run.assert_clean();
    run
}

/// The functions of a stack up to `main`, without parameters and offsets.
pub fn functions(row: &Value) -> Vec<&str> {
    let lines = row["stack"].as_array().into_iter().flatten();
    let names = lines.filter_map(|line| line.as_str()?.split(['(', '+']).next());
    let mut found = Vec::new();
    for name in names {
        found.push(name);
        if name == "main" {
            break;
        }
    }
    found
}

/// A recursive function has no fewer callers at its return instructions.
fn stack_begins_with_the_caller_at_both_ends_of_calls(mode: AttachMode) {
    let mut moments: Vec<&[&str]> = vec![&["--ret", "--returns", "instructions"]];
    // Before, the kernel's own addresses are in place of those of the callers whose returns have probes, and at an
    // entry on x86-64, the address of an outer call from the same place is taken for the caller.
    match kernel_version() >= (6, 12) {
        true => moments.extend([&["--ret", "--returns", "kernel"][..], &[]]),
        false => skip("only stacks at return instructions have all recursive calls before 6.12"),
    }
    // Of its own: at a return instruction, the return probe of another test would be in place of the caller.
    let folder = Folder::new();
    let program = folder.copy_of(program("stack"), "stack");
    let spec = format!("{}:shop::climb", program.display());
    let mut target = Target::start(Command::new(&program));
    for options in moments {
        let run = trace(mode, &mut target, &spec, options, "climb 4");
        let mut stacks: Vec<Vec<&str>> = run.rows.iter().map(functions).collect();
        stacks.sort_by_key(Vec::len);
        let expected: Vec<Vec<&str>> = (0..5)
            .map(|depth| [vec!["shop::climb"; depth], vec!["main"]].concat())
            .collect();
        assert_eq!(stacks, expected, "{options:?}");
    }
}

fn usdt_probe_has_the_stack_of_its_function(mode: AttachMode) {
    let program = program("stack");
    let spec = format!("usdt:{}:shop:visited", program.display());
    let mut target = Target::start(Command::new(&program));
    let run = trace(mode, &mut target, &spec, &[], "go 7 4099");
    assert_eq!(run.rows.len(), 7);
    for row in &run.rows {
        assert_eq!(functions(row), ["shop::visit", "main"], "{row:#}");
    }
}

fn calls_before_an_exec_have_the_stack_of_their_time(mode: AttachMode) {
    let program = program("stack");
    let spec = format!("{}:shop::climb", program.display());
    for ends in [&[][..], &["--ret"]] {
        let traced = || {
            let mut target = Target::start(Command::new(&program));
            let pid = target.pid().to_string();
            let tool = Tool::start(
                "functrace",
                mode,
                [&[&spec, "--stack", "--follow", "-p", &pid], ends].concat(),
            );
            // The tool reads the events only after all children have executed another program.
            tool.signal(Signal::SIGSTOP);
            target.ask("leave 13 /bin/true");
            tool.signal(Signal::SIGCONT);
            tool.stop()
        };
        // While the tool is stopped, other tests may start more programs than its mmap event buffer holds.
        let has_all_mmap_events = |run: &Run| !run.stderr.contains("mmap events");
        let Some(run) = (0..10).map(|_| traced()).find(has_all_mmap_events) else {
            return skip("mmap events were lost in ten runs: too many programs were started on this machine");
        };
        run.assert_clean();
        assert_eq!(run.rows.len(), 13, "{ends:?}");
        for row in &run.rows {
            assert_eq!(functions(row), ["shop::leave", "main"], "{ends:?} {row:#}");
        }
    }
}
