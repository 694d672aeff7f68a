// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names in the stacks of stripped programs: from debug files and from the tables of Go.

use std::fs;
use std::path::Path;
use std::process::Command;

use object::{Object, ObjectSymbol};

use crate::harness::{AttachMode, Folder, Target, best_mode, each_mode, program};
use crate::real::go::run;
use crate::stacks::{functions, trace};

each_mode! { stacks_of_a_stripped_program_have_names }

best_mode! {
    stripped_program_has_the_names_of_its_debug_file
    stripped_program_has_the_names_of_the_debug_file_in_its_root_directory
}

fn stacks_of_a_stripped_program_have_names(mode: AttachMode) {
    for name in ["hello-go-stripped", "hello-go-external-stripped"] {
        let Some(run) = run("functrace", mode, name, &["main.inner", "--stack"], &["nest 7"]) else {
            return;
        };
        assert_eq!(run.rows.len(), 7, "{name}");
        for row in &run.rows {
            let caller = row["stack"][0].as_str().unwrap_or_default();
            let last = row["stack"].as_array().and_then(|stack| stack.last()?.as_str());
            assert!(caller.starts_with("main."), "{row:#}");
            assert!(
                last.is_some_and(|last| last.starts_with("runtime.goexit")),
                "{row:#}"
            );
        }
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
