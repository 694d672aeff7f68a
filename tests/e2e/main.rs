// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Real programs, a real kernel: each test starts a tool, makes a known number of calls and expects exactly that
//! number. Needs root.

mod bpftrace;
mod caller;
mod copies;
mod cost;
mod docs;
mod ending;
mod harm;
mod harness;
mod hold;
mod large;
mod names;
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
mod turns;
mod typed;
mod written;

// Written by build.rs: the tests of each tool, `NAME.rs` beside this file.
include!(concat!(env!("OUT_DIR"), "/tool_tests.rs"));
use tools::*;
