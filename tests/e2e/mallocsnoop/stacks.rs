// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--stack`: symbolized, the direct caller first, and incomplete stacks are marked.

use std::fs;

use super::*;
use crate::harness::{build_dir, copy, each_mode, program_if_built, skip};

use nix::sys::signal::Signal;

each_mode! {
    cpp_stack_is_demangled_and_starts_with_the_direct_caller
    rust_stack_is_demangled_and_starts_with_the_direct_caller
    stack_of_an_exited_process_is_symbolized
    stack_of_a_short_lived_process_is_symbolized
    truncated_stack_is_marked
    uncertain_frames_are_marked
}

/// The functions of tests/targets/stack.cc.
const CPP: [&str; 4] = [
    "void* shop::Basket::pick<unsigned long>(unsigned long)+",
    "shop::Basket::fill(unsigned long)+",
    "shop::visit(unsigned long)+",
    "main+",
];
const CUT: &str = "[truncated: a function without frame pointer]";
/// Stacks are read at the entry, or with `--ret` at the return, which is a different case in the kernel.
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
    assert!(same, "{stack:#?}\ndoes not start with {expected:#?}");
}

/// Asserts that this is the complete stack of tests/targets/stack.cc, starting with the direct caller of malloc.
#[track_caller]
fn assert_cpp(stack: &[&str]) {
    assert_begins(stack, &CPP);
    // The caller of main has a symbol only with the C library's debug symbols installed.
    let start = stack.get(CPP.len());
    assert!(start.is_some_and(|line| line.contains("libc.so.6")), "{stack:#?}");
}

fn cpp_stack_is_demangled_and_starts_with_the_direct_caller(mode: AttachMode) {
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(mode, &target, moment);
        target.ask("go 97 4099");
        let run = tool.stop();
        run.assert_clean();
        let rows = run.with("size_bytes", BLOCK);
        assert_eq!(rows.len(), 97, "{moment:?}");
        for row in rows {
            assert_cpp(&stack(row));
            assert!(!stack(row).contains(&CUT), "{row:#}");
            // With the caller of main.
            assert!(row["stack_certain"].as_u64() > Some(CPP.len() as u64), "{row:#}");
        }
    }
}

fn rust_stack_is_demangled_and_starts_with_the_direct_caller(mode: AttachMode) {
    let Some(program) = program_if_built("stack-rust") else {
        return skip("rustc is not installed");
    };
    for moment in MOMENTS {
        let mut target = Target::start(Command::new(&program));
        let tool = trace_pid(mode, &target, moment);
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
        let position = |words: &[&str]| {
            lines
                .iter()
                .position(|line| words.iter().all(|word| line.contains(word)))
        };
        let positions = [
            &["orchard::leaf"][..],
            &["orchard::Tree", "::grow"],
            &["stack::main"],
        ]
        .map(position);
        assert!(
            positions.is_sorted() && positions[0].is_some(),
            "{positions:?} in {lines:#?}"
        );
        assert!(
            lines.iter().any(|line| line.starts_with("main+")) && !lines.contains(&CUT),
            "{lines:#?}"
        );
    }
}

fn stack_of_an_exited_process_is_symbolized(mode: AttachMode) {
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(mode, &target, moment);
        // The tool reads the events only after the process has exited.
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

fn stack_of_a_short_lived_process_is_symbolized(mode: AttachMode) {
    for options in [MOMENTS[0], MOMENTS[1], &["--stack", "-l", "libc"]] {
        // While the tool is stopped, other tests may start more programs than its mmap event buffer holds.
        let has_all_mmap_events = |run: &Run| !run.stderr.contains("mmap events");
        let Some(run) = (0..10)
            .map(|_| run_with_short_lived_process(mode, options))
            .find(has_all_mmap_events)
        else {
            return skip("mmap events were lost in ten runs: too many programs were started on this machine");
        };
        run.assert_clean();
        assert_eq!(run.rows.len(), 31, "{options:?}");
        run.rows.iter().for_each(|row| assert_cpp(&stack(row)));
    }
}

/// A run that cannot read anything before the traced process has started, worked and exited.
fn run_with_short_lived_process(mode: AttachMode, options: &[&str]) -> Run {
    // No other process maps this copy, so its symbols cannot come from another process.
    let name = unique("e2e");
    let program = build_dir().join(&name);
    copy(&cpp_program(), &program);
    let filter = ["--comm", &name, "--min-size", "4099", "--max-size", "4099"];
    let tool = trace(mode, &[options, &filter].concat());
    tool.signal(Signal::SIGSTOP);
    let mut target = Target::start(Command::new(&program));
    target.ask("go 31 4099");
    assert!(target.end().success());
    tool.signal(Signal::SIGCONT);
    let run = tool.stop();
    fs::remove_file(&program).expect("failed to remove");
    run
}

fn truncated_stack_is_marked(mode: AttachMode) {
    if !cfg!(target_arch = "x86_64") {
        return skip("tests/targets/stack.cc has a function without frame pointer for x86-64 only");
    }
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(mode, &target, moment);
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

/// The caller of a function that does not set up its frame pointer is missing, so what follows is not certain.
fn uncertain_frames_are_marked(mode: AttachMode) {
    if !cfg!(target_arch = "x86_64") {
        return skip("tests/targets/stack.cc has a function without frame pointer for x86-64 only");
    }
    for moment in MOMENTS {
        let mut target = cpp_target();
        let tool = trace_pid(mode, &target, moment);
        target.ask("skip 4099");
        let run = tool.stop();
        run.assert_clean();
        let rows = run.with("size_bytes", BLOCK);
        assert_eq!(rows.len(), 1, "{moment:?}");
        assert_begins(&stack(rows[0]), &["keep_frame+", "main+"]);
        assert_eq!(rows[0]["stack_certain"], 1, "{:#}", rows[0]);
    }
}
