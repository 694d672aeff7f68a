// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How often each kind of trap was hit.
//!
//! Nearly all of a probe's price is the trap, and the kinds differ by a factor of up to nine: instructions
//! that the kernel emulates are cheap, instructions that must be single-stepped out of line are expensive.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf::shared::types::{hit_layout, trap_kind};
use crate::find::code::instructions::BEGINNING;
use crate::find::code::placement::is_emulated;
use crate::probe::point::Cookie;

/// What led to a run of a BPF program. The discriminant is that of the C `enum trap_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TrapKind {
    /// A breakpoint on an instruction that the kernel emulates.
    Emulated = trap_kind::TRAP_EMULATED.0,
    /// A breakpoint on an instruction that the kernel single-steps out of line.
    Stepped = trap_kind::TRAP_STEPPED.0,
    /// A return probe, where the breakpoint at the entry also runs a program and is counted itself.
    Return = trap_kind::TRAP_RETURN.0,
    /// A return probe, where the breakpoint at the entry is emulated and runs no program.
    ReturnOfEmulated = trap_kind::TRAP_RETURN_OF_EMULATED.0,
    /// A return probe, where the breakpoint at the entry is single-stepped and runs no program.
    ReturnOfStepped = trap_kind::TRAP_RETURN_OF_STEPPED.0,
}

impl TrapKind {
    /// In the order of the discriminants.
    pub const ALL: [TrapKind; 5] = [
        TrapKind::Emulated,
        TrapKind::Stepped,
        TrapKind::Return,
        TrapKind::ReturnOfEmulated,
        TrapKind::ReturnOfStepped,
    ];

    /// The kind of a probe at an offset of a file. `is_entered`: a program also runs at the entry.
    pub fn at(file: &File, offset: u64, return_probe: bool, is_entered: bool) -> TrapKind {
        if return_probe && is_entered {
            return TrapKind::Return;
        }
        let mut beginning = [0; BEGINNING];
        let read = file.read_at(&mut beginning, offset).unwrap_or(0);
        let is_emulated = is_emulated(beginning.get(..read).unwrap_or_default());
        match (return_probe, is_emulated) {
            (false, true) => TrapKind::Emulated,
            (false, false) => TrapKind::Stepped,
            (true, true) => TrapKind::ReturnOfEmulated,
            (true, false) => TrapKind::ReturnOfStepped,
        }
    }

    /// `cookie` with this kind in it, by which the BPF programs count their hits.
    pub fn mark(self, cookie: Cookie) -> Cookie {
        cookie.with_trap(self as u32)
    }
}

const _: () = {
    assert!(TrapKind::Emulated as u32 == trap_kind::TRAP_EMULATED.0);
    assert!(TrapKind::Stepped as u32 == trap_kind::TRAP_STEPPED.0);
    assert!(TrapKind::Return as u32 == trap_kind::TRAP_RETURN.0);
    assert!(TrapKind::ReturnOfEmulated as u32 == trap_kind::TRAP_RETURN_OF_EMULATED.0);
    assert!(TrapKind::ReturnOfStepped as u32 == trap_kind::TRAP_RETURN_OF_STEPPED.0);
    assert!(TrapKind::ALL.len() <= hit_layout::TRAP_KINDS.0 as usize);
};

/// Hits of each [`TrapKind`], by discriminant.
pub type TrapCounts = [u64; TrapKind::ALL.len()];

/// The array `hits` of the BPF programs, read in place: a line of counters for each CPU.
pub struct HitCounters<'a>(&'a [AtomicU64]);

impl<'a> HitCounters<'a> {
    pub fn new(counters: &'a [u64]) -> Self {
        // SAFETY: an atomic has the size and alignment of its integer. The kernel changes them concurrently,
        // so they are only read through these atomics.
        Self(unsafe { std::slice::from_raw_parts(counters.as_ptr().cast(), counters.len()) })
    }

    /// Hits so far, summed over all CPUs.
    pub fn by_trap(&self) -> TrapCounts {
        const TRAP_KINDS: usize = hit_layout::TRAP_KINDS.0 as usize;
        let mut counts = TrapCounts::default();
        for cpu in self.0.chunks(TRAP_KINDS) {
            for (count, hits) in counts.iter_mut().zip(cpu) {
                *count += hits.load(Ordering::Relaxed);
            }
        }
        counts
    }

    /// Hits of all kinds so far, on all CPUs.
    pub fn total(&self) -> u64 {
        self.by_trap().iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_kind_is_its_index_in_the_cookie() {
        for (index, kind) in TrapKind::ALL.into_iter().enumerate() {
            assert_eq!(
                kind.mark(Cookie::default()),
                Cookie::default().with_trap(index as u32)
            );
        }
    }

    #[test]
    fn hits_are_summed_over_cpus() {
        let mut counters = [0; 3 * 8];
        (counters[0], counters[4], counters[8], counters[17]) = (2, 3, 5, 7);
        let hits = HitCounters::new(&counters);
        assert_eq!(hits.by_trap(), [7, 7, 0, 0, 3]);
        assert_eq!(hits.total(), 17);
    }
}
