// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Probes without harm: programs whose return addresses others read, or that switch stacks, do the same
//! under each tool as without one. tests/targets/hazards.cc dies, hangs or prints something else under return probes.

use std::collections::{HashMap, HashSet};
use std::process::Command;

use serde_json::Value;

use crate::harness::{
    AttachMode, TOOLS, best_mode, each_mode_with_session, in_guest, program, program_if_built, run_to_end,
    skip, tool_command,
};

each_mode_with_session! {
    cycles_of_tail_calls_are_counted
    calls_that_end_together_all_return
    returns_of_parts_without_symbols_are_seen
    coroutines_take_turns
}

/// Runs `hazards` with these arguments under tools that observe the returns of `spec`. It must print `expected`.
/// Returns how many calls funclatency saw return, and how many it did not.
pub fn run_traced(mode: AttachMode, spec: &str, arguments: &[&str], expected: &str) -> (u64, u64) {
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
