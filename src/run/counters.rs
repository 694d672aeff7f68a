//! What BPF programs count, read in place.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::bpf::RunCounters;
use crate::probe::hits::Hits;

/// A number that BPF programs add to.
pub struct Counter<'a>(&'a AtomicU64);

impl<'a> Counter<'a> {
    pub fn new(number: &'a u64) -> Self {
        // SAFETY: an aligned 64-bit integer that the kernel changes while we look, so it is only ever read through this
        // atomic.
        Self(unsafe { AtomicU64::from_ptr(std::ptr::from_ref(number).cast_mut()) })
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a run.
pub struct Counters {
    lost: Counter<'static>,
    unmatched: Counter<'static>,
    pub hits: Hits<'static>,
}

impl Counters {
    pub fn new(counters: RunCounters<'static>) -> Self {
        Self {
            lost: Counter::new(counters.lost),
            unmatched: Counter::new(counters.unmatched),
            hits: Hits::new(counters.hits),
        }
    }

    /// Events that found the ring full.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Calls of which the entry or the return was not seen.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.get()
    }
}
