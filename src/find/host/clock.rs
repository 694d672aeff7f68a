// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The clock of all records.

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads too; nanoseconds.
pub fn monotonic_ns() -> u64 {
    // Fails only for unknown clocks.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(u64::MAX, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}
