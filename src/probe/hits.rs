//! The kinds of traps that a probe can be. The trap is nearly all of a probe's price, and the kinds differ by a factor of
//! up to nine: what the kernel executes by itself is cheap, what it has to run out of its place, one step at a time, is
//! dear.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf::shared::types::{hit_layout, trap_kind};
use crate::find::code::instructions::BEGINNING;
use crate::find::code::placement::is_emulated;
use crate::probe::point::Cookie;

/// What leads to a run of a program. The discriminant is the index in `hits` of event.bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// A breakpoint on an instruction that the kernel executes by itself.
    Emulated,
    /// A breakpoint on one that it single-steps.
    Stepped,
    /// A return, whose entry is counted too.
    Return,
    /// A return, of a function whose entry traps without running a program.
    ReturnOfEmulated,
    ReturnOfStepped,
}

impl Trap {
    /// In the order of their numbers.
    pub const ALL: [Trap; 5] = [
        Trap::Emulated,
        Trap::Stepped,
        Trap::Return,
        Trap::ReturnOfEmulated,
        Trap::ReturnOfStepped,
    ];

    /// The trap at an offset of a file, for a program that runs there or, with `return_probe`, at the return from there.
    /// `is_entered`: one of the programs runs there.
    pub fn at(file: &File, offset: u64, return_probe: bool, is_entered: bool) -> Trap {
        if return_probe && is_entered {
            return Trap::Return;
        }
        let mut beginning = [0; BEGINNING];
        let read = file.read_at(&mut beginning, offset).unwrap_or(0);
        let is_emulated = is_emulated(beginning.get(..read).unwrap_or_default());
        match (return_probe, is_emulated) {
            (false, true) => Trap::Emulated,
            (false, false) => Trap::Stepped,
            (true, true) => Trap::ReturnOfEmulated,
            (true, false) => Trap::ReturnOfStepped,
        }
    }

    /// The cookie that makes the kernel count hits of this kind.
    pub fn mark(self, cookie: Cookie) -> Cookie {
        cookie.with_trap(self as u32)
    }
}

/// How often each trap has led to a program.
pub type TrapCounts = [u64; Trap::ALL.len()];

/// What the programs count in `hits` of event.bpf.h, read in place.
pub struct Hits<'a>(&'a [AtomicU64]);

impl<'a> Hits<'a> {
    pub fn new(numbers: &'a [u64]) -> Self {
        // SAFETY: an atomic has the size and alignment of its number. The kernel changes them while we look, so they
        // are only ever read through these atomics.
        Self(unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) })
    }

    /// Up to now, of all CPUs.
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

    pub fn total(&self) -> u64 {
        self.by_trap().iter().sum()
    }
}

const _: () = {
    assert!(Trap::Emulated as u32 == trap_kind::TRAP_EMULATED.0);
    assert!(Trap::Stepped as u32 == trap_kind::TRAP_STEPPED.0);
    assert!(Trap::Return as u32 == trap_kind::TRAP_RETURN.0);
    assert!(Trap::ReturnOfEmulated as u32 == trap_kind::TRAP_RETURN_OF_EMULATED.0);
    assert!(Trap::ReturnOfStepped as u32 == trap_kind::TRAP_RETURN_OF_STEPPED.0);
    assert!(Trap::ALL.len() <= hit_layout::TRAP_KINDS.0 as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_are_numbered_in_their_order() {
        for (index, trap) in Trap::ALL.into_iter().enumerate() {
            assert_eq!(trap.mark(Cookie::of_function(7)).bits(), (index as u64) << 36 | 7);
        }
    }

    #[test]
    fn hits_of_all_cpus_are_added_up() {
        let mut numbers = [0; 3 * 8];
        (numbers[0], numbers[4], numbers[8], numbers[17]) = (2, 3, 5, 7);
        let hits = Hits::new(&numbers);
        assert_eq!(hits.by_trap(), [7, 7, 0, 0, 3]);
        assert_eq!(hits.total(), 17);
    }
}
