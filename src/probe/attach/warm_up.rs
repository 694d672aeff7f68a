// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Saves the wait of the first probe.
//!
//! The kernel registers a probe with `dup_mmap_sem` held for writing (`register_for_each_vma` in
//! kernel/events/uprobes.c). The first writer of such a semaphore waits for an RCU grace period (`rcu_sync_enter` in
//! kernel/rcu/sync.c): 8 to 16 ms, seen on Linux 6.18. Those that follow within another grace period do not wait. So
//! a file that no process runs is probed while the programs are loaded.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::thread::Builder;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::bpf_sys::{MultiLinkKind, MultiLinkPoints, create_multi_link};
use super::features::empty_multi_program;

/// Registers a probe on a thread, and removes it, which takes longer. Nothing depends on its success.
pub fn warm_up() {
    let _ = Builder::new().spawn(register);
}

fn register() -> io::Result<()> {
    let program = empty_multi_program(MultiLinkKind::Entry)?;
    // Empty and never mapped, so no process gets a breakpoint.
    let file = File::from(memfd_create("unused", MFdFlags::MFD_CLOEXEC)?);
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let points = MultiLinkPoints {
        path: &path,
        offsets: &[0],
        cookies: &[0],
        semaphores: None,
        kind: MultiLinkKind::Entry,
        pid: 0,
    };
    create_multi_link(program.as_fd(), &points).map(drop)
}
