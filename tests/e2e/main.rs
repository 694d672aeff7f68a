// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Real programs, a real kernel: each test starts a tool, makes a known number of calls and expects exactly that
//! number. Needs root.

mod bashreadline;
mod bpftrace;
mod cost;
mod docs;
mod doctor;
mod funccount;
mod funclatency;
mod funclist;
mod functrace;
mod harness;
mod mallocsnoop;
mod namespaces;
mod placement;
mod privileges;
mod programs;
mod pty;
mod real;
mod scope;
