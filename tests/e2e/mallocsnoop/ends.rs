// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How a run ends: by a limit or a signal, and never with something left behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use super::*;
use crate::harness::{each_way, wait_until};

each_way! {
    a_number_of_rows_ends_the_run
    a_duration_ends_the_run
    an_end_by_interrupt_leaves_nothing
    an_end_by_termination_leaves_nothing
    an_end_by_hangup_leaves_nothing
    an_end_by_kill_leaves_nothing
    the_end_of_the_target_does_no_harm
}

fn a_number_of_rows_ends_the_run(way: Way) {
    let mut target = target();
    let tool = trace_pid(way, &target, &["-M", "3"]);
    target.ask("malloc 97 4099");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 3);
    assert_eq!(target.ask("malloc 89 4099")[0].addresses.len(), 89);
}

fn a_duration_ends_the_run(way: Way) {
    let mut target = target();
    let tool = trace_pid(way, &target, &["-d", "300ms"]);
    target.ask("malloc 97 4099");
    let run = tool.finish();
    run.assert_clean();
    let ns = run.summary["duration_ns"].as_u64().expect("a number");
    assert!(ns >= 300_000_000, "{ns} ns");
    assert_eq!(target.ask("malloc 89 4099")[0].addresses.len(), 89);
}

fn the_end_of_the_target_does_no_harm(way: Way) {
    let mut target = target();
    let tool = trace_pid(way, &target, &["--ret"]);
    target.ask("malloc 97 4099");
    assert!(target.end().success());
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}

/// What the kernel has for a process in the BPF way.
#[derive(Debug, Clone, Copy)]
pub enum Held {
    Program(u32),
    Link(u32),
}

impl Held {
    /// Programs and links that a process has open.
    pub fn by(pid: u32) -> Vec<Held> {
        let folder = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the open files");
        let texts = folder
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let number = |line: &str, key: &str| line.strip_prefix(key)?.trim().parse().ok();
        let held = |line: &str| match number(line, "link_id:") {
            Some(id) => Some(Held::Link(id)),
            None => number(line, "prog_id:").map(Held::Program),
        };
        texts
            .flat_map(|text| text.lines().filter_map(held).collect::<Vec<_>>())
            .collect()
    }

    pub fn exists(self) -> bool {
        const BPF_PROG_GET_FD_BY_ID: i32 = 13;
        const BPF_LINK_GET_FD_BY_ID: i32 = 30;
        let (command, id) = match self {
            Held::Program(id) => (BPF_PROG_GET_FD_BY_ID, id),
            Held::Link(id) => (BPF_LINK_GET_FD_BY_ID, id),
        };
        let attr = [id, 0, 0, 0];
        // SAFETY: the kernel reads `attr`, which is as long as is said.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
        if fd >= 0 {
            // SAFETY: a descriptor that was made above and is nobody else's.
            unsafe { libc::close(fd as i32) };
        }
        fd >= 0
    }
}

/// The beginning of a function, in which its probe is.
pub type Code = [u8; 32];

/// The first instructions of the target's malloc.
pub fn instructions(target: &Target, address: &str) -> Code {
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).expect("an address");
    let memory = File::open(format!("/proc/{}/mem", target.pid())).expect("the memory");
    let mut bytes = Code::default();
    memory
        .read_exact_at(&mut bytes, address)
        .expect("the code of malloc");
    bytes
}

fn assert_nothing_is_left(way: Way, signal: Signal) {
    // Nobody else traces this library.
    let mut target = bump_target();
    let malloc = target.ask("where")[0].addresses[0].clone();
    let untouched = instructions(&target, &malloc);

    let mut tool = trace_pid(way, &target, &["--ret"]);
    assert_ne!(
        instructions(&target, &malloc),
        untouched,
        "there is no breakpoint, so none can be missed"
    );
    let held = Held::by(tool.pid());
    assert!(
        !held.is_empty() && held.iter().all(|held| held.exists()),
        "{held:?}"
    );
    target.ask("malloc 97 4099");
    tool.wait_rows(97);
    tool.signal(signal);
    let run = tool.finish();
    match signal {
        Signal::SIGKILL => assert!(run.status.code().is_none() && run.summary.is_null()),
        _ => assert!(run.assert_clean().stderr.lines().count() == 1, "{}", run.stderr),
    }

    // After a kill the kernel cleans up on its own, and perhaps a little later.
    wait_until("the end of all programs and links", || {
        held.iter().all(|held| !held.exists()).then_some(())
    });
    wait_until("the end of the breakpoint", || {
        (instructions(&target, &malloc) == untouched).then_some(())
    });
    assert_eq!(target.ask("malloc 89 4099")[0].addresses.len(), 89);
    assert!(target.end().success());
}

fn an_end_by_interrupt_leaves_nothing(way: Way) {
    assert_nothing_is_left(way, Signal::SIGINT);
}

fn an_end_by_termination_leaves_nothing(way: Way) {
    assert_nothing_is_left(way, Signal::SIGTERM);
}

fn an_end_by_hangup_leaves_nothing(way: Way) {
    assert_nothing_is_left(way, Signal::SIGHUP);
}

fn an_end_by_kill_leaves_nothing(way: Way) {
    assert_nothing_is_left(way, Signal::SIGKILL);
}
