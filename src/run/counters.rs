// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The counters of a run.

use crate::bpf::RunCounters;
use crate::probe::called::CalledFunctions;
use crate::probe::counters::BpfCounter;
use crate::probe::hits::HitCounters;

/// What the BPF programs of a run count, read in place.
pub struct LiveCounters {
    lost: BpfCounter<'static>,
    unmatched: BpfCounter<'static>,
    pub hits: HitCounters<'static>,
    pub called: CalledFunctions<'static>,
}

impl LiveCounters {
    pub fn new(counters: RunCounters<'static>) -> Self {
        Self {
            lost: BpfCounter::new(counters.lost),
            unmatched: BpfCounter::new(counters.unmatched),
            hits: HitCounters::new(counters.hits),
            called: CalledFunctions::new(counters.called),
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
