// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--stack`: names, the direct caller first, and no half stack passed off as a whole one.

use std::fs;

use super::*;
use crate::harness::{build_dir, copy, each_way, program_if_built, skip};

use nix::sys::signal::Signal;

each_way! {
    a_cpp_stack_is_demangled_and_begins_with_the_direct_caller
    a_rust_stack_is_demangled_and_begins_with_the_direct_caller
    the_stack_of_a_process_that_is_gone_has_names
    the_stack_of_a_process_that_came_and_went_has_names
    a_stack_that_is_cut_says_so
}

/// The functions of tests/targets/stack.cc.
const CPP: [&str; 4] = [
    "void* shop::Basket::pick<unsigned long>(unsigned long)+",
    "shop::Basket::fill(unsigned long)+",
    "shop::visit(unsigned long)+",
    "main+",
];
const CUT: &str = "[truncated: a function without frame pointer]";
/// Stacks are read at the entry, or at the return with `--ret`: two different matters to the kernel.
const MOMENTS: [&[&str]; 2] = [&["--stack"], &["--stack", "--ret"]];

fn cpp_program() -> PathBuf {
    program("stack")
}

fn cpp_target() -> Target {
    Target::start(Command::new(cpp_program()))
}

fn stack(row: &Value) -> Vec<&str> {
    let lines = row["stack"]
        .as_array()
        .unwrap_or_else(|| panic!("no stack: {row}"));
    lines.iter().filter_map(Value::as_str).collect()
}

#[track_caller]
fn assert_begins(stack: &[&str], expected: &[&str]) {
    let same = stack.len() >= expected.len()
        && expected
            .iter()
            .zip(stack)
            .all(|(start, line)| line.starts_with(start));
    assert!(same, "{stack:#?}\ndo not begin with {expected:#?}");
}

/// The whole stack of tests/targets/stack.cc, from the direct caller of malloc outwards.
#[track_caller]
fn assert_cpp(stack: &[&str]) {
    assert_begins(stack, &CPP);
    // What calls main has a name only with the C library's debug symbols.
    let start = stack.get(CPP.len());
    assert!(start.is_some_and(|line| line.contains("libc.so.6")), "{stack:#?}");
}

fn a_cpp_stack_is_demangled_and_begins_with_the_direct_caller(way: Way) {
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(way, &target, moment);
        target.ask("go 97 4099");
        let run = tool.stop();
        run.assert_clean();
        let rows = run.with("size_bytes", BLOCK);
        assert_eq!(rows.len(), 97, "{moment:?}");
        for row in rows {
            assert_cpp(&stack(row));
            assert!(!stack(row).contains(&CUT), "{row:#}");
        }
    }
}

fn a_rust_stack_is_demangled_and_begins_with_the_direct_caller(way: Way) {
    let Some(program) = program_if_built("stack-rust") else {
        return skip("there was no rustc to build with");
    };
    for moment in MOMENTS {
        let mut target = Target::start(Command::new(&program));
        let tool = trace_pid(way, &target, moment);
        target.ask("4099");
        let run = tool.stop();
        run.assert_clean();
        let rows = run.with("size_bytes", BLOCK);
        assert_eq!(rows.len(), 1, "{moment:?}");
        let lines = stack(rows[0]);
        assert!(
            lines[0].contains("alloc::"),
            "the direct caller is missing: {lines:#?}"
        );
        let place = |words: &[&str]| {
            lines
                .iter()
                .position(|line| words.iter().all(|word| line.contains(word)))
        };
        let places = [
            &["orchard::leaf"][..],
            &["orchard::Tree", "::grow"],
            &["stack::main"],
        ]
        .map(place);
        assert!(
            places.is_sorted() && places[0].is_some(),
            "{places:?} in {lines:#?}"
        );
        assert!(
            lines.iter().any(|line| line.starts_with("main+")) && !lines.contains(&CUT),
            "{lines:#?}"
        );
    }
}

fn the_stack_of_a_process_that_is_gone_has_names(way: Way) {
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(way, &target, moment);
        // The tool gets to look at the events only when there is no process any more.
        tool.signal(Signal::SIGSTOP);
        target.ask("go 31 4099");
        assert!(target.end().success());
        tool.signal(Signal::SIGCONT);
        let run = tool.stop();
        run.assert_clean();
        let rows = run.with("size_bytes", BLOCK);
        assert_eq!(rows.len(), 31, "{moment:?}");
        rows.iter().for_each(|row| assert_cpp(&stack(row)));
    }
}

fn the_stack_of_a_process_that_came_and_went_has_names(way: Way) {
    for options in [MOMENTS[0], MOMENTS[1], &["--stack", "-l", "libc"]] {
        // While the tool stands still, other tests may start more programs than it can be told of.
        let told_of_all = |run: &Run| !run.stderr.contains("mmap events");
        let Some(run) = (0..10)
            .map(|_| run_beside_a_short_life(way, options))
            .find(told_of_all)
        else {
            return skip("ten times, too many programs were started on this machine");
        };
        run.assert_clean();
        assert_eq!(run.rows.len(), 31, "{options:?}");
        run.rows.iter().for_each(|row| assert_cpp(&stack(row)));
    }
}

/// A run that gets to look at nothing before the process that is traced has started, worked and ended.
fn run_beside_a_short_life(way: Way, options: &[&str]) -> Run {
    // The file of its own is in no other process, so its name is not known from there.
    let name = unique("e2e");
    let program = build_dir().join(&name);
    copy(&cpp_program(), &program);
    let filter = ["--comm", &name, "--min-size", "4099", "--max-size", "4099"];
    let tool = trace(way, &[options, &filter].concat());
    tool.signal(Signal::SIGSTOP);
    let mut target = Target::start(Command::new(&program));
    target.ask("go 31 4099");
    assert!(target.end().success());
    tool.signal(Signal::SIGCONT);
    let run = tool.stop();
    fs::remove_file(&program).expect("failed to remove");
    run
}

fn a_stack_that_is_cut_says_so(way: Way) {
    if !cfg!(target_arch = "x86_64") {
        return skip("tests/targets/stack.cc has a function without frame pointer for x86-64 only");
    }
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(way, &target, moment);
        target.ask("cut 4099");
        let run = tool.stop();
        run.assert_clean();
        let rows = run.with("size_bytes", BLOCK);
        assert_eq!(rows.len(), 1, "{moment:?}");
        let lines = stack(rows[0]);
        assert_begins(&lines, &["without_frame+", CUT]);
        assert_eq!(lines.len(), 2, "{lines:#?}");
    }
}
