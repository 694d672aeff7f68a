// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How a run ends: at a limit or by a signal, without leaving programs, links or breakpoints behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use super::*;
use crate::harness::{each_mode, wait_until};

each_mode! {
    max_rows_ends_the_run
    duration_ends_the_run
    sigint_leaves_nothing_behind
    sigterm_leaves_nothing_behind
    sighup_leaves_nothing_behind
    sigkill_leaves_nothing_behind
    exit_of_the_target_does_not_disturb_the_run
}

fn max_rows_ends_the_run(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["-M", "3"]);
    target.ask("malloc 97 4099");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 3);
    assert_eq!(target.ask("malloc 89 4099")[0].addresses.len(), 89);
}

fn duration_ends_the_run(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["-d", "300ms"]);
    target.ask("malloc 97 4099");
    let run = tool.finish();
    run.assert_clean();
    let ns = run.summary["duration_ns"].as_u64().expect("a duration");
    assert!(ns >= 300_000_000, "{ns} ns");
    assert_eq!(target.ask("malloc 89 4099")[0].addresses.len(), 89);
}

fn exit_of_the_target_does_not_disturb_the_run(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--ret"]);
    target.ask("malloc 97 4099");
    assert!(target.end().success());
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}

/// A BPF object that a process holds, by its ID.
#[derive(Debug, Clone, Copy)]
pub enum Held {
    Program(u32),
    Link(u32),
}

impl Held {
    /// The BPF programs and links that a process has open.
    pub fn by(pid: u32) -> Vec<Held> {
        let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the open files");
        let texts = entries
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let id_after = |line: &str, key: &str| line.strip_prefix(key)?.trim().parse().ok();
        let held = |line: &str| match id_after(line, "link_id:") {
            Some(id) => Some(Held::Link(id)),
            None => id_after(line, "prog_id:").map(Held::Program),
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
        // SAFETY: the kernel reads `size_of_val(&attr)` bytes of `attr`, which outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
        if fd >= 0 {
            // SAFETY: the descriptor was returned by the call above and has no other owner.
            unsafe { libc::close(fd as i32) };
        }
        fd >= 0
    }
}

/// The first bytes of a function, where its breakpoint is inserted.
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

fn assert_leaves_nothing_behind(mode: AttachMode, signal: Signal) {
    // No other test traces this library.
    let mut target = bump_target();
    let malloc = target.ask("where")[0].addresses[0].clone();
    let untouched = instructions(&target, &malloc);

    let mut tool = trace_pid(mode, &target, &["--ret", "--calls", "malloc"]);
    assert_ne!(
        instructions(&target, &malloc),
        untouched,
        "no breakpoint was inserted, so its removal cannot be tested"
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

    // After SIGKILL the kernel cleans up, possibly with a delay.
    wait_until("the release of all programs and links", || {
        held.iter().all(|held| !held.exists()).then_some(())
    });
    wait_until("the removal of the breakpoint", || {
        (instructions(&target, &malloc) == untouched).then_some(())
    });
    assert_eq!(target.ask("malloc 89 4099")[0].addresses.len(), 89);
    assert!(target.end().success());
}

fn sigint_leaves_nothing_behind(mode: AttachMode) {
    assert_leaves_nothing_behind(mode, Signal::SIGINT);
}

fn sigterm_leaves_nothing_behind(mode: AttachMode) {
    assert_leaves_nothing_behind(mode, Signal::SIGTERM);
}

fn sighup_leaves_nothing_behind(mode: AttachMode) {
    assert_leaves_nothing_behind(mode, Signal::SIGHUP);
}

fn sigkill_leaves_nothing_behind(mode: AttachMode) {
    assert_leaves_nothing_behind(mode, Signal::SIGKILL);
}
