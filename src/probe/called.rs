// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which functions have been called in a run.

use std::sync::atomic::{AtomicU8, Ordering};

/// The array `called` of the BPF programs, read in place: a byte for each function. Functions beyond its size share
/// bytes.
pub struct CalledFunctions<'a>(&'a [AtomicU8]);

impl<'a> CalledFunctions<'a> {
    pub fn new(marks: &'a [u8]) -> Self {
        // SAFETY: an atomic has the size and alignment of its integer. The kernel changes them concurrently,
        // so they are only read through these atomics.
        Self(unsafe { std::slice::from_raw_parts(marks.as_ptr().cast(), marks.len()) })
    }

    /// False only if the filter accepted no call of the function with this index.
    pub fn may_contain(&self, function: u32) -> bool {
        let mark = (function as usize)
            .checked_rem(self.0.len())
            .and_then(|index| self.0.get(index));
        mark.is_none_or(|mark| mark.load(Ordering::Relaxed) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_beyond_the_array_share_its_bytes() {
        let called = CalledFunctions::new(&[0, 1, 0]);
        let found: Vec<u32> = (0..6).filter(|&index| called.may_contain(index)).collect();
        assert_eq!(found, [1, 4]);
        assert!(CalledFunctions::new(&[]).may_contain(0));
    }
}
