// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The floor: empty BPF programs on the traced function.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::programs::LoopProgram;

/// Empty programs on malloc of the traced process, until dropped.
pub struct Floor {
    _links: Vec<OwnedFd>,
}

impl Floor {
    pub fn attach(target: &LoopProgram, with_return: bool) -> Result<Self> {
        let program = load_empty_program().context("failed to load the empty program")?;
        let mut links = vec![link(&program, target, 0)?];
        if with_return {
            links.push(link(&program, target, libbpf_sys::BPF_F_UPROBE_MULTI_RETURN)?);
        }
        Ok(Self { _links: links })
    }
}

/// `return 0`.
fn load_empty_program() -> Result<OwnedFd> {
    let insns = [0xb7, 0x95].map(|code| libbpf_sys::bpf_insn {
        code,
        ..Default::default()
    });
    let mut opts = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as libbpf_sys::size_t,
        expected_attach_type: libbpf_sys::BPF_TRACE_UPROBE_MULTI,
        ..Default::default()
    };
    let (kind, name, license) = (
        libbpf_sys::BPF_PROG_TYPE_KPROBE,
        c"floor".as_ptr(),
        c"GPL".as_ptr(),
    );
    let count = insns.len() as libbpf_sys::size_t;
    // SAFETY: every pointer outlives the call.
    owned(unsafe { libbpf_sys::bpf_prog_load(kind, name, license, insns.as_ptr(), count, &mut opts) })
}

fn link(program: &OwnedFd, target: &LoopProgram, flags: u32) -> Result<OwnedFd> {
    let path = CString::new(target.libc.as_os_str().as_encoded_bytes())?;
    let mut opts = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: the member of the union that BPF_TRACE_UPROBE_MULTI reads; it is all integers and pointers.
    let multi = unsafe { &mut opts.__bindgen_anon_1.uprobe_multi };
    (multi.path, multi.offsets, multi.cnt) = (path.as_ptr(), &target.malloc_offset, 1);
    (multi.pid, multi.flags) = (target.pid(), flags);
    let kind = libbpf_sys::BPF_TRACE_UPROBE_MULTI;
    // SAFETY: every pointer outlives the call.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), 0, kind, &opts) })
        .context("failed to attach the empty program; uprobe-multi links need Linux 6.6")
}

/// Takes a descriptor from a libbpf call, which returns a negative errno on failure.
fn owned(fd: i32) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(std::io::Error::from_raw_os_error(-fd).into());
    }
    // SAFETY: a new descriptor with no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
