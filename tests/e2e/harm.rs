// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Probes without harm: programs whose return addresses others read, or that switch stacks, do the same
//! under each tool as without one. tests/targets/hazards.cc dies, hangs or prints something else under return probes.

use std::collections::{HashMap, HashSet};
use std::process::Command;

use serde_json::Value;

use crate::harness::{
    AttachMode, Folder, TOOLS, best_mode, each_mode_with_session, in_guest, program, program_if_built,
    run_to_end, skip, tool_command,
};

each_mode_with_session! {
    exceptions_pass_a_c_function
    cancelled_threads_run_their_destructors
    caller_of_dlsym_is_recognized
    cycles_of_tail_calls_are_counted
    calls_that_end_together_all_return
    returns_of_parts_without_symbols_are_seen
    coroutines_take_turns
    handlers_below_are_inner_calls
    handlers_that_are_left_end
}

/// Runs `hazards` with these arguments under tools that observe the returns of `spec`. It must print `expected`.
/// Returns how many calls funclatency saw return, and how many it did not.
fn run_traced(mode: AttachMode, spec: &str, arguments: &[&str], expected: &str) -> (u64, u64) {
    let traced = |tool: &str, options: &[&str]| {
        let mut command = tool_command(tool, mode, options.iter().copied().chain([spec, "--"]));
        let ended = run_to_end(command.arg(program("hazards")).args(arguments));
        let (rows, printed): (Vec<&str>, Vec<&str>) =
            ended.stdout.lines().partition(|line| line.starts_with('{'));
        assert_eq!(printed, [expected], "{tool} {spec}: {}", ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{tool} {spec}: {}", ended.stderr);
        rows.into_iter()
            .map(|row| serde_json::from_str(row).expect("a record"))
            .collect::<Vec<Value>>()
    };
    traced("functrace", &["--ret"]);
    let rows = traced("funclatency", &[]);
    let number = |kind: &str, key: &str| {
        let row = rows.iter().find(|row| row["type"] == kind);
        row.and_then(|row| row[key].as_u64()).unwrap_or(0)
    };
    (number("latency", "count"), number("summary", "unmatched"))
}

/// Runs `alt_stack` under functrace: a signal handler calls `inner` twice during each of 17 calls of `outer`. Both
/// functions get return probes. Returns the calls of `outer` and of `inner` that returned, and those that did not.
fn run_interrupted(mode: AttachMode, alt_stack: &str, expected: &str) -> (usize, usize, u64) {
    let folder = Folder::new();
    // A return probe of a test that runs at the same time would run here, too.
    let library = folder.copy_of(program("libinterrupted.so"), "libinterrupted.so");
    let [inner, outer] = ["inner", "outer"].map(|name| format!("{}:{name}", library.display()));
    let mut command = tool_command("functrace", mode, ["--ret", &inner, &outer, "--"]);
    let ended = run_to_end(
        command
            .arg(program("alt_stack"))
            .args([alt_stack, "17"])
            .arg(&library),
    );
    assert!(
        ended.stdout.contains(expected),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("slow returns"), "{}", ended.stderr);
    let records: Vec<Value> = ended
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let calls = |function: &str| {
        let rows = records.iter().filter(|record| record["type"] == "event");
        rows.filter(|row| row["function"] == function).count()
    };
    let summary = records.iter().find(|record| record["type"] == "summary");
    let unmatched = summary.and_then(|summary| summary["unmatched"].as_u64());
    (calls("outer"), calls("inner"), unmatched.expect("a summary"))
}

fn handlers_below_are_inner_calls(mode: AttachMode) {
    assert_eq!(run_interrupted(mode, "below", "sum 2108"), (17, 34, 0));
}

fn handlers_that_are_left_end(mode: AttachMode) {
    assert_eq!(run_interrupted(mode, "leave", "sum 2091"), (0, 34, 17));
}

/// If the return address of a call on a higher stack were replaced, the kernel would forget that of the call that was
/// interrupted, whose return would then end the program. A session program can refuse.
mod sessions {
    use super::*;

    #[test]
    fn handlers_above_are_not_hijacked() {
        AttachMode::Session.run(|mode| {
            // "disarmed": nothing tells the stack of the handler from that of a coroutine.
            for alt_stack in ["above", "disarmed"] {
                // On arm64, return instructions are observed, and nothing is hijacked. A disarmed stack above looks as
                // if the calls below had been left.
                let expected = match (cfg!(target_arch = "x86_64"), alt_stack) {
                    (true, _) => (17, 0, 34),
                    (false, "above") => (17, 34, 0),
                    (false, _) => (0, 34, 17),
                };
                let found = run_interrupted(mode, alt_stack, "sum 2108");
                assert_eq!(found, expected, "{alt_stack}");
            }
        });
    }
}

fn exceptions_pass_a_c_function(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:qsort", &["throw", "31"], "caught 31");
    // The last call is still on the list when the program ends.
    assert_eq!(returned, 0);
    assert_eq!(unmatched, 31);
}

fn cancelled_threads_run_their_destructors(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:read", &["cancel", "13"], "destroyed 13");
    assert_eq!(unmatched, 13);
    // Those of the loader are not calls of libc's read.
    assert_eq!(returned, 0);
}

fn caller_of_dlsym_is_recognized(mode: AttachMode) {
    let (returned, unmatched) = run_traced(mode, "libc:dlsym", &["next"], "found 1");
    assert_eq!(returned + unmatched, 1);
}

fn cycles_of_tail_calls_are_counted(mode: AttachMode) {
    let spec = format!("{}:is_even", program("hazards").display());
    // is_even(i) is entered i / 2 + 1 times.
    let (returned, unmatched) = run_traced(mode, &spec, &["cycle", "17"], "even 9");
    assert_eq!((returned, unmatched), (81, 0));
}

fn calls_that_end_together_all_return(mode: AttachMode) {
    let jumpers = program("jumpers");
    for (functions, calls) in [
        (&["*jumper*"][..], 6),
        (&["outer_jumper"], 1),
        (&["*jumper*", "last"], 11),
    ] {
        let specs = functions
            .iter()
            .map(|name| format!("{}:{name}", jumpers.display()));
        let specs: Vec<String> = specs.collect();
        let args = ["--ret", "--returns", "instructions"].into_iter();
        let args = args.chain(specs.iter().map(String::as_str)).chain(["--"]);
        let ended = run_to_end(tool_command("functrace", mode, args).arg(&jumpers).arg("101"));
        assert!(ended.stdout.contains("sum 51712\n"), "{}", ended.stdout);
        let rows = ended.stdout.lines().filter(|line| line.contains("\"lat_ns\""));
        assert_eq!(rows.count(), calls * 101, "{specs:?}: {}", ended.stderr);
        assert!(ended.stdout.contains("\"unmatched\":0"), "{}", ended.stdout);
    }
}

fn returns_of_parts_without_symbols_are_seen(mode: AttachMode) {
    let Some(moved) = program_if_built("moved") else {
        return skip("the instructions are those of x86-64");
    };
    let spec = format!("{}:moved", moved.display());
    let args = ["--ret", "--returns", "instructions", &spec, "--"];
    let ended = run_to_end(tool_command("functrace", mode, args).arg(&moved).arg("101"));
    assert!(ended.stdout.contains("sum 3926\n"), "{}", ended.stdout);
    let rows = ended.stdout.lines().filter(|line| line.contains("\"lat_ns\""));
    assert_eq!(rows.count(), 101, "{}", ended.stderr);
    // One at each entry and one at each return.
    assert!(ended.stdout.contains("\"hits\":202,"), "{}", ended.stdout);
}

fn coroutines_take_turns(mode: AttachMode) {
    let spec = format!("{}:take_turns", program("hazards").display());
    run_traced(mode, &spec, &["switch", "7"], "returned 7");
}

best_mode! {
    details_say_how_returns_are_observed
    tool_does_not_probe_itself
    instructions_do_the_same_under_probes
    instructions_that_kernels_mistake_keep_their_meaning
    addresses_inside_instructions_are_refused
}

/// It would hit its own probes while it places the next ones.
fn tool_does_not_probe_itself(mode: AttachMode) {
    let spec = format!("{}:*", TOOLS.display());
    let ended = run_to_end(&mut tool_command("funccount", mode, [&*spec, "-d", "10ms"]));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("it is the program of this tool"),
        "{}",
        ended.stderr
    );
}

fn details_say_how_returns_are_observed(mode: AttachMode) {
    let interrupted = program("libinterrupted.so");
    let inner = format!("{}:inner", interrupted.display());
    let args = ["-v", &inner, "libc:qsort", "--", "true"];
    let ended = run_to_end(&mut tool_command("funclatency", mode, args));
    let closed = match cfg!(target_arch = "x86_64") {
        true => "returns of inner: return probe\n",
        false => "returns of inner: 1 return instruction (code is not followed on this machine)\n",
    };
    assert!(ended.stderr.contains(closed), "{}", ended.stderr);
    assert!(ended.stderr.contains("returns of qsort: "), "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("returns of qsort: return probe"),
        "{}",
        ended.stderr
    );
}

fn instructions_that_kernels_mistake_keep_their_meaning(mode: AttachMode) {
    let Some(opcodes) = program_if_built("opcodes") else {
        skip("the instructions are those of x86-64");
        return;
    };
    for function in ["exchange", "swap_r8", "keep_below", "keep_below+0xa"] {
        let spec = format!("{}:{function}", opcodes.display());
        let mut command = tool_command("funccount", mode, [&spec, "--"]);
        let ended = run_to_end(command.arg(&opcodes).arg("997"));
        assert_eq!(ended.status.code(), Some(0), "{function}: {}", ended.stderr);
        let counted = format!("\"function\":\"{function}\",\"file\":\"opcodes\",\"count\":997}}");
        assert!(ended.stdout.contains(&counted), "{function}: {}", ended.stdout);
    }
}

/// A function for each of thousands of instructions, each called once. The target prints what it changes.
fn instructions_do_the_same_under_probes(mode: AttachMode) {
    let Some(target) = program_if_built("instructions") else {
        return skip("the instructions are those of x86-64, and python3 writes them");
    };
    if !mode.has_multi_links() {
        return skip("without multi-uprobe links, so many probes take minutes to attach");
    }
    if in_guest() {
        return skip("QEMU does not emulate all instructions, and the guest ends");
    }
    let untraced = run_to_end(&mut Command::new(&target)).stdout;
    let results: HashMap<&str, &str> = untraced.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(results.len(), untraced.lines().count(), "names repeat");
    let is_valid = |name: &str| !results[name].starts_with("signal");
    assert!(results.keys().filter(|name| is_valid(name)).count() > 10_000);
    for tool in ["funccount", "funclatency"] {
        let specs = ["i_*", "x_*"].map(|names| format!("{}:{names}", target.display()));
        let args = ["-v", &specs[0], &specs[1], "--"];
        let ended = run_to_end(tool_command(tool, mode, args).arg(&target));
        let (records, printed): (Vec<&str>, Vec<&str>) =
            ended.stdout.lines().partition(|line| line.starts_with('{'));
        let differs = printed
            .iter()
            .zip(untraced.lines())
            .find(|(one, other)| *one != other);
        assert_eq!((differs, printed.len()), (None, results.len()), "{tool}");
        if tool == "funccount" {
            let valid = results.keys().copied().filter(|name| is_valid(name)).collect();
            assert_counted_or_skipped(&records, &ended.stderr, &valid);
        }
    }
}

/// Asserts that each instruction was counted once, but for those that the kernel changes, whose names begin with `x_`:
/// no probe is on them. Kernels refuse some of AVX, which a warning says.
fn assert_counted_or_skipped(records: &[&str], details: &str, valid: &HashSet<&str>) {
    let records = records.iter().map(|record| serde_json::from_str(record));
    let counts: Vec<Value> = records
        .map(|record| record.expect("a record"))
        .filter(|record: &Value| record["type"] == "count")
        .collect();
    assert!(counts.iter().all(|row| row["count"] == 1), "{counts:?}");
    let counted: HashSet<&str> = counts.iter().filter_map(|row| row["function"].as_str()).collect();
    let is_changed = |name: &str| name.starts_with("x_");
    let is_vector = |name: &str| {
        ["i_62", "i_c4", "i_c5"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let missing = valid.difference(&counted);
    let missing: Vec<&&str> = missing.filter(|name| !is_changed(name)).collect();
    assert!(
        missing.iter().all(|name| is_vector(name)),
        "not counted: {missing:?}"
    );
    let is_said = details.contains("too many to try") || details.contains("the kernel cannot probe");
    assert!(missing.is_empty() || is_said, "not said: {missing:?}");
    let placed = details.lines().filter_map(|line| line.strip_prefix("probe at "));
    let on_changed: Vec<&str> = placed
        .filter(|place| is_changed(place) && !place.contains("cannot be probed)"))
        .collect();
    assert!(on_changed.is_empty(), "probed: {on_changed:?}");
    assert!(valid.iter().any(|name| is_changed(name)), "none of them is valid");
}

fn addresses_inside_instructions_are_refused(mode: AttachMode) {
    let Some(opcodes) = program_if_built("opcodes") else {
        skip("the instructions are those of x86-64");
        return;
    };
    let run = |spec: String| {
        let mut command = tool_command("funccount", mode, [&spec, "--"]);
        run_to_end(command.arg(&opcodes).arg("997"))
    };
    let path = opcodes.display();
    for (spec, name) in [
        (format!("{path}:inside_keep_below"), "inside_keep_below"),
        (format!("usdt:{path}:opcodes:inside"), "opcodes:inside"),
    ] {
        let ended = run(spec);
        let begin = format!("error: failed to trace {name} in {path}: ");
        let explained =
            ended.stderr.starts_with(&begin) && ended.stderr.contains(": inside the instruction at 0x");
        assert!(explained && ended.status.code() == Some(1), "{ended:?}");
        assert!(ended.stdout.is_empty(), "the command was run: {}", ended.stdout);
    }
    // Other functions that match are counted.
    let ended = run(format!("{path}:*keep_below"));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("skipped 1 function: failed to trace inside_keep_below"),
        "{}",
        ended.stderr
    );
    let counted = "\"function\":\"keep_below\",\"file\":\"opcodes\",\"count\":997}";
    assert!(ended.stdout.contains(counted), "{}", ended.stdout);
}
