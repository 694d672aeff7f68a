// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Slots of histograms, as the BPF programs count in them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapMut};
use plain::Plain;

use crate::bpf::funclatency::{FunclatencySkel, types};
use crate::bpf::shared::types::histogram_layout;
use crate::output::distribution;
use crate::probe::event::copied;

pub const FINE_SLOTS: u32 = histogram_layout::FINE_SLOTS.0;
// A `Distribution` has the slots of the BPF programs.
const _: () = assert!(distribution::FINE == 1 << histogram_layout::FINE_BITS.0);
/// Slots with values: a function has some dozens.
const MOST_SLOTS: usize = 65536;
/// Bytes that they may take on all CPUs together.
const SLOTS_BYTES: usize = 64 << 20;

// SAFETY: integers, every bit pattern is valid.
unsafe impl Plain for types::slot_key {}
// SAFETY: as above.
unsafe impl Plain for types::slot_value {}

/// How many slots fit in `SLOTS_BYTES` on this machine.
pub fn max_slots() -> u32 {
    let cpus = libbpf_rs::num_possible_cpus().unwrap_or(1);
    (SLOTS_BYTES / (cpus * size_of::<types::slot_value>())).clamp(4096, MOST_SLOTS) as u32
}

/// The calls of a slot that returned in intervals of one parity.
#[derive(Clone, Copy)]
pub struct SlotValue {
    /// Since the run started.
    pub count: u64,
    pub total_ns: u64,
    /// The shortest and the longest call of the last interval; `u64::MAX` and 0 if they are unknown.
    pub min_ns: u64,
    pub max_ns: u64,
}

/// Group, function, slot of nanoseconds and slot as drawn.
pub type SlotKey = (u64, u32, u32, u32);
pub type SlotValues = HashMap<SlotKey, SlotValue>;

/// The number of the interval that calls return in.
pub struct IntervalNumber(&'static AtomicU64);

impl IntervalNumber {
    /// # Errors
    /// The object has no memory for its variables.
    pub fn of(skel: &'static FunclatencySkel<'static>) -> Result<IntervalNumber> {
        let bss = skel.maps.bss_data.as_ref();
        let bss = bss.context("the BPF object has no counters")?;
        let number = &raw const bss.interval;
        // SAFETY: eight bytes, aligned, in memory that the skeleton has mapped for writing and that lives as long as
        // the process. They are only accessed through this atomic.
        Ok(IntervalNumber(unsafe { AtomicU64::from_ptr(number.cast_mut()) }))
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Begins the next interval, and returns the number of the one that ends.
    pub fn end(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The calls by key, at the end of this interval. They are those of all intervals of its parity: the calls of the next
/// one are counted elsewhere meanwhile.
pub fn read_each(map: &MapMut<'_>, interval: u64) -> Result<SlotValues> {
    let mut slots = SlotValues::new();
    for bytes in map.keys() {
        let Some(key) = copied::<types::slot_key>(&bytes) else {
            continue;
        };
        let value = read_slot(map, &bytes, interval)?;
        slots.insert((key.group, key.func, key.slot, key.drawn), value);
    }
    Ok(slots)
}

/// As [`read_each`], of one histogram of nanoseconds.
pub fn read_all(map: &MapMut<'_>, interval: u64) -> Result<SlotValues> {
    let mut slots = SlotValues::new();
    for slot in 0..FINE_SLOTS {
        let value = read_slot(map, &slot.to_ne_bytes(), interval)?;
        if value.count > 0 {
            slots.insert((0, 0, slot, 0), value);
        }
    }
    Ok(slots)
}

/// A slot, summed over all CPUs.
fn read_slot(map: &MapMut<'_>, key: &[u8], interval: u64) -> Result<SlotValue> {
    let values = map
        .lookup_percpu(key, MapFlags::ANY)
        .context("failed to read the histograms")?
        .unwrap_or_default();
    let mut sum = SlotValue {
        count: 0,
        total_ns: 0,
        min_ns: u64::MAX,
        max_ns: 0,
    };
    let parity = (interval & 1) as usize;
    for bytes in values {
        let Some(value) = copied::<types::slot_value>(&bytes) else {
            continue;
        };
        let calls = &value.calls[parity];
        sum.count += calls.count;
        sum.total_ns = sum.total_ns.wrapping_add(calls.total_ns);
        if calls.interval == interval {
            sum.min_ns = sum.min_ns.min(!calls.max_complement_ns);
            sum.max_ns = sum.max_ns.max(calls.max_ns);
        }
    }
    Ok(sum)
}
