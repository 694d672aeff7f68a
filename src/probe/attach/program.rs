// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The programs that an attacher puts on probe points, and their copies for kernels without cookies.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};

use super::bpf_sys::{LoadOptions, bpf_func_info, bpf_insn, load_program, program_btf, program_functions};
use super::mode::AttachMode;
use crate::bpf::shared::types::cookie_mark;
use crate::probe::point::{Cookie, Ends};

/// A loaded program and where it runs.
pub struct ProbeProgram<'a> {
    pub program: &'a libbpf_rs::Program<'a>,
    /// At entries, at returns or, in a session, at both. If a session program is loaded, the single-end
    /// programs serve only the points that cover one end.
    pub runs: Ends,
}

/// A program that the attacher holds, in whatever thread it is.
pub(super) struct HeldProgram {
    fd: OwnedFd,
    pub runs: Ends,
    /// What copies are loaded from, where the kernel has no cookies.
    source: Option<ProgramSource>,
    copies: HashMap<Cookie, OwnedFd>,
}

impl HeldProgram {
    pub fn new(of: &ProbeProgram<'_>, mode: AttachMode) -> Result<Self> {
        let fd = of.program.as_fd().try_clone_to_owned();
        Ok(Self {
            fd: fd.context("failed to duplicate the descriptor of a BPF program")?,
            runs: of.runs,
            source: (!mode.has_cookies()).then(|| ProgramSource::of(of.program)),
            copies: HashMap::new(),
        })
    }

    /// True if it serves points with these ends. `sessions`: there is a program for both ends.
    pub fn serves(&self, ends: Ends, sessions: bool) -> bool {
        match ends {
            Ends::Both => (self.runs == Ends::Both) == sessions,
            Ends::Entry => self.runs == Ends::Entry,
            Ends::Return | Ends::ReturnInstruction => self.runs == Ends::Return,
        }
    }

    /// True if each cookie needs a copy of the program.
    pub fn needs_copies(&self) -> bool {
        self.source.is_some()
    }

    /// How many copies are loaded.
    pub fn count_copies(&self) -> usize {
        self.copies.len()
    }

    /// The program and its copies.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.fd.as_fd()).chain(self.copies.values().map(AsFd::as_fd))
    }

    /// The copy for this cookie, loaded when it is first requested.
    ///
    /// # Errors
    /// Those of `BPF_PROG_LOAD`; `Unsupported` if one program serves all cookies.
    pub fn copy_for(&mut self, cookie: Cookie) -> io::Result<BorrowedFd<'_>> {
        let copy: &OwnedFd = match self.copies.entry(cookie) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let source = self.source.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                entry.insert(source.load(cookie)?)
            }
        };
        Ok(copy.as_fd())
    }
}

impl AsFd for HeldProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a program was loaded from. The function descriptions are kept because the verifier checks functions
/// that are described as global once, not at each call.
struct ProgramSource {
    insns: Vec<bpf_insn>,
    functions: Vec<bpf_func_info>,
    btf: Option<OwnedFd>,
}

impl ProgramSource {
    fn of(program: &libbpf_rs::Program<'_>) -> Self {
        Self {
            insns: program.insns().to_vec(),
            functions: program_functions(program),
            btf: program_btf(program.as_fd()),
        }
    }

    /// Loads the program once more, with this cookie in place of [`COOKIE_MARK`].
    fn load(&self, cookie: Cookie) -> io::Result<OwnedFd> {
        let mut insns = self.insns.clone();
        write_cookie(&mut insns, cookie.bits());
        let btf = self.btf.as_ref().filter(|_| !self.functions.is_empty());
        let options = LoadOptions {
            functions: btf.map(|btf| (btf.as_fd(), &self.functions[..])),
            ..LoadOptions::default()
        };
        load_program(&insns, &options)
    }
}

/// What `probe_cookie` loads in place of a cookie where the kernel has none.
const COOKIE_MARK: u64 =
    (cookie_mark::COOKIE_MARK_HIGH.0 as u64) << 32 | cookie_mark::COOKIE_MARK_LOW.0 as u64;

/// Replaces the mark by `cookie` in every 64-bit load of it.
fn write_cookie(insns: &mut [bpf_insn], cookie: u64) {
    const LOAD_IMMEDIATE_64: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW, two instructions long
    for index in 1..insns.len() {
        let (low, high) = (insns[index - 1], insns[index]);
        let value = u64::from(low.imm as u32) | u64::from(high.imm as u32) << 32;
        if low.code == LOAD_IMMEDIATE_64 && low.src_reg() == 0 && value == COOKIE_MARK {
            insns[index - 1].imm = cookie as u32 as i32;
            insns[index].imm = (cookie >> 32) as u32 as i32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_replaces_every_mark_and_nothing_else() {
        let load = |value: u64| {
            let mut low = bpf_insn {
                code: 0x18,
                imm: value as u32 as i32,
                ..Default::default()
            };
            low.set_dst_reg(1);
            [
                low,
                bpf_insn {
                    imm: (value >> 32) as u32 as i32,
                    ..Default::default()
                },
            ]
        };
        let mut insns = [load(COOKIE_MARK), load(COOKIE_MARK + 1), load(COOKIE_MARK)].concat();
        write_cookie(&mut insns, 0x1234_5678_9abc_def0);
        let values: Vec<u64> = insns
            .chunks(2)
            .map(|pair| u64::from(pair[0].imm as u32) | u64::from(pair[1].imm as u32) << 32)
            .collect();
        assert_eq!(
            values,
            [0x1234_5678_9abc_def0, COOKIE_MARK + 1, 0x1234_5678_9abc_def0]
        );
    }
}
