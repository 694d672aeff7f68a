// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Real programs, a real kernel: each test starts a tool, makes a known number of calls and expects exactly that
//! number. Needs root.

mod bpftrace;
mod caller;
// The faults of tests/cases/README.md.
#[path = "../cases"]
mod cases {
    mod commands;
    mod compiler_copies;
    mod copied_code;
    mod debug_sections;
    mod deep_recursion;
    mod go_stack_growth;
    mod histogram_bars;
    mod ifunc;
    mod late_library;
    mod long_literals;
    mod loop_at_entry;
    mod names;
    mod nested_allocations;
    mod ocaml;
    mod odd_processes;
    pub mod overwritten_file;
    mod passed_by_value;
    mod replaced_file;
    mod return_addresses;
    mod signal_stacks;
    mod stack_names;
    mod summary_bytes;
    mod system_libraries;
    mod tail_jumps;
    mod unprobeable;
    mod unseen_processes;
    mod usdt_constants;
}
mod cost;
mod docs;
mod ending;
mod harm;
mod harness;
mod hold;
mod large;
mod namespaces;
mod nesting;
mod placement;
mod privileges;
mod programs;
mod pty;
mod real;
mod scope;
mod stacks;
#[path = "../targets/build.rs"]
mod targets;
mod typed;

// Written by build.rs: the tests of each tool, `NAME.rs` beside this file.
include!(concat!(env!("OUT_DIR"), "/tool_tests.rs"));
use tools::*;
