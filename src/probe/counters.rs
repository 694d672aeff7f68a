// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Counters in the memory of a BPF object, which user space reads in place.

use std::sync::atomic::{AtomicU64, Ordering};

/// One 64-bit counter that BPF programs increment.
pub struct BpfCounter<'a>(&'a AtomicU64);

impl<'a> BpfCounter<'a> {
    /// `value` is a global variable of a loaded BPF object.
    pub fn new(value: &'a u64) -> Self {
        // SAFETY: an aligned 64-bit integer. The kernel changes it concurrently, so it is only read through
        // this atomic.
        Self(unsafe { AtomicU64::from_ptr(std::ptr::from_ref(value).cast_mut()) })
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
