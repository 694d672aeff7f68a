//! Real programs, a real kernel: each test starts a tool, makes a known number of calls and expects exactly that number.
//! Needs root.

mod bashreadline;
mod docs;
mod funccount;
mod funclatency;
mod funclist;
mod functrace;
mod harness;
mod mallocsnoop;
mod pty;
mod real;
mod scope;
