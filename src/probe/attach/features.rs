// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Detects what the kernel supports, by trying it: distributions backport features, so version numbers do not
//! say.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::Result;
use libbpf_rs::libbpf_sys as sys;

use super::bpf_sys::{
    LoadOptions, MultiLinkKind, MultiLinkPoints, bpf_insn, create_map, create_multi_link, has_helper,
    load_program,
};
use crate::error::Failure;

const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Type of the uprobe PMU, for perf events.
///
/// # Errors
/// The kernel has no uprobes, or `/sys` is not mounted.
pub fn uprobe_pmu_type() -> Result<u32> {
    let text = fs::read_to_string(UPROBE_PMU).ok();
    text.and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
        Failure::denied(format!(
            "this kernel offers no uprobes: {UPROBE_PMU} cannot be read"
        ))
        .hint("the kernel must be built with CONFIG_UPROBE_EVENTS=y, and /sys must be mounted")
        .into()
    })
}

/// Multi-uprobe links whose process filter works (6.6; the filter about 6.10).
///
/// Found by creating links that have to fail, each in its own way: a directory cannot be probed (EBADF), and
/// PID -1 is refused (EINVAL) only since the filter compares processes and not threads (kernel commit
/// 46ba0e49b642).
pub fn has_multi() -> bool {
    link_error(MultiLinkKind::Entry, 0) == Some(libc::EBADF)
        && link_error(MultiLinkKind::Entry, u32::MAX) == Some(libc::EINVAL)
}

/// Session links (6.13). Older kernels load the program but refuse the link.
pub fn has_sessions() -> bool {
    has_multi() && link_error(MultiLinkKind::Session, 0) == Some(libc::EBADF)
}

/// Programs can read the cookie of their probe (5.15). Such kernels have perf links as well.
pub fn has_cookies() -> bool {
    has_helper(sys::BPF_FUNC_get_attach_cookie)
}

/// Programs of uprobes can sleep (6.0), and use a stack map while they do (6.9).
pub fn has_sleepable() -> bool {
    const LOAD_IMMEDIATE_64: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW
    const MAP_FD: u8 = 1; // BPF_PSEUDO_MAP_FD
    let Ok(map) = create_map(sys::BPF_MAP_TYPE_STACK, 4, 1) else {
        return false;
    };
    let mut load = bpf_insn {
        code: LOAD_IMMEDIATE_64,
        imm: map.as_raw_fd(),
        ..Default::default()
    };
    load.set_dst_reg(1);
    load.set_src_reg(MAP_FD);
    let insns = [&[load, bpf_insn::default()][..], &empty_program()].concat();
    let sleepable = LoadOptions {
        sleepable: true,
        ..LoadOptions::default()
    };
    load_program(&insns, &sleepable).is_ok()
}

/// Loads an empty program.
pub fn try_load() -> io::Result<()> {
    load_program(&empty_program(), &LoadOptions::default()).map(drop)
}

/// Creates a ring buffer of this size.
pub fn try_ring(bytes: u32) -> io::Result<()> {
    create_map(sys::BPF_MAP_TYPE_RINGBUF, 0, bytes).map(drop)
}

/// Loads an empty program for multi-uprobe links of this kind.
pub fn empty_multi_program(kind: MultiLinkKind) -> io::Result<OwnedFd> {
    let options = LoadOptions {
        attach_type: kind.attach_type(),
        ..LoadOptions::default()
    };
    load_program(&empty_program(), &options)
}

/// The errno of a multi-uprobe link to a directory. None if its program does not load.
fn link_error(kind: MultiLinkKind, pid: u32) -> Option<i32> {
    let program = empty_multi_program(kind).ok()?;
    let points = MultiLinkPoints {
        path: c"/",
        offsets: &[0],
        cookies: &[0],
        semaphores: None,
        kind,
        pid,
    };
    create_multi_link(program.as_fd(), &points).err()?.raw_os_error()
}

/// `return 0`.
fn empty_program() -> [bpf_insn; 2] {
    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    [MOV64_IMM, EXIT].map(|code| bpf_insn {
        code,
        ..Default::default()
    })
}
