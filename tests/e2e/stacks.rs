// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Stacks are the same at each kind of probe and have the names that funclist shows: tests/targets/stack.cc.

use std::fs;
use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSymbol};
use serde_json::Value;

use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, each_mode_with_session, kernel_version, program, skip,
};

each_mode_with_session! { stack_begins_with_the_caller_at_both_ends_of_calls }

best_mode! {
    usdt_probe_has_the_stack_of_its_function
    stripped_program_has_the_names_of_its_debug_file
    stripped_program_has_the_names_of_the_debug_file_in_its_root_directory
}

/// Traces a process while it carries out an order.
fn trace(mode: AttachMode, target: &mut Target, spec: &str, options: &[&str], order: &str) -> Run {
    let pid = target.pid().to_string();
    let args = [&[spec, "--stack", "-p", &pid], options].concat();
    let tool = Tool::start("functrace", mode, args);
    target.ask(order);
    let run = tool.stop();
    run.assert_clean();
    run
}

/// The functions of a stack up to `main`, without parameters and offsets.
fn functions(row: &Value) -> Vec<&str> {
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
    // entry, the address of an outer call from the same place is taken for the caller.
    match cfg!(target_arch = "aarch64") || kernel_version() >= (6, 12) {
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

/// The debug file is beside the program, which refers to it.
fn stripped_program_has_the_names_of_its_debug_file(mode: AttachMode) {
    let program = program("stack-split");
    let spec = format!("{}:shop::Basket::fill", program.display());
    assert_split_stack(mode, Command::new(&program), &spec);
}

/// The program is in a chroot, whose directory of debug files has that of its build ID.
fn stripped_program_has_the_names_of_the_debug_file_in_its_root_directory(mode: AttachMode) {
    let root = Folder::new();
    let path = root.copy_of(program("stack-split"), "stack-split");
    let bytes = fs::read(&path).expect("the program");
    let elf = object::File::parse(&*bytes).expect("an ELF file");
    let id = elf.build_id().ok().flatten().expect("a build ID");
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (directory, file) = digits.split_at(2);
    let directory = root.path.join("usr/lib/debug/.build-id").join(directory);
    fs::create_dir_all(&directory).expect("a directory");
    let debug = program("stack-split.debug");
    fs::copy(&debug, directory.join(format!("{file}.debug"))).expect("a copy");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "chroot"])
        .arg(&root.path)
        .arg("/stack-split");
    let spec = format!("{}:{:#x}", path.display(), address_of_fill(&debug));
    assert_split_stack(mode, command, &spec);
}

fn address_of_fill(debug: &Path) -> u64 {
    let bytes = fs::read(debug).expect("the debug file");
    let elf = object::File::parse(&*bytes).expect("an ELF file");
    let is_fill = |symbol: &object::Symbol| symbol.name().is_ok_and(|name| name.contains("Basket4fill"));
    elf.symbols().find(is_fill).expect("shop::Basket::fill").address()
}

#[track_caller]
fn assert_split_stack(mode: AttachMode, command: Command, spec: &str) {
    let mut target = Target::start(command);
    let run = trace(mode, &mut target, spec, &[], "go 5 4099");
    assert_eq!(run.rows.len(), 5);
    for row in &run.rows {
        assert_eq!(functions(row), ["shop::visit", "main"], "{row:#}");
    }
}
