// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Percentiles of values that are counted in slots, about 3 % of their values wide.
//!
//! Each value below 64 has its own slot; above, each power of two is divided into 32 slots of equal width. A percentile
//! is the middle of its slot, or the nearest value that was seen in it, so its error is at most 1/64 (1.6 %).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::histogram::{Bucket, without_empty_ends};

/// Slots per power of two.
pub const FINE: u64 = 32;

/// A set of values, known by the counts of their slots, their number, sum and maximum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The slots that are not empty.
    slots: BTreeMap<u32, SlotContent>,
    pub count: u64,
    pub total: u64,
    pub max: u64,
}

/// The values of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotContent {
    count: u64,
    min: u64,
    max: u64,
}

impl Distribution {
    /// Adds `count` values of a slot, with their sum. They lie in `seen`, as far as that is known.
    pub fn add(&mut self, slot: u32, count: u64, total: u64, seen: RangeInclusive<u64>) {
        if count == 0 {
            return;
        }
        let (lo, hi) = range(slot).into_inner();
        let max = (*seen.end()).clamp(lo, hi);
        let min = (*seen.start()).clamp(lo, max);
        let content = self
            .slots
            .entry(slot)
            .or_insert(SlotContent { count: 0, min, max });
        content.count += count;
        content.min = content.min.min(min);
        content.max = content.max.max(max);
        self.count += count;
        self.total = self.total.saturating_add(total);
        self.max = self.max.max(max);
    }

    /// The mean, rounded down; 0 when there are no values.
    pub fn average(&self) -> u64 {
        self.total.checked_div(self.count).unwrap_or(0)
    }

    /// The percentile in thousandths (990 is p99), by the nearest-rank method; 0 when there are no values.
    pub fn percentile(&self, permille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(permille))
            .div_ceil(1000)
            .max(1);
        let mut seen = 0;
        for (&slot, content) in &self.slots {
            seen += u128::from(content.count);
            if seen >= rank {
                let (lo, hi) = range(slot).into_inner();
                return (lo + (hi - lo) / 2).clamp(content.min, content.max);
            }
        }
        self.max
    }

    /// The values in `steps` buckets per power of two, with exact counts. `steps` is a power of two up to 32. Empty
    /// buckets at both ends are dropped.
    pub fn buckets(&self, steps: u64) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        let Some(&last) = self.slots.keys().next_back() else {
            return buckets;
        };
        for slot in 0..=last {
            let count = self.slots.get(&slot).map_or(0, |content| content.count);
            let (lo, hi) = range(slot).into_inner();
            match buckets.last_mut() {
                Some(bucket) if !begins_bucket(lo, steps) => {
                    bucket.hi = hi;
                    bucket.count += count;
                }
                _ => buckets.push(Bucket { lo, hi, count }),
            }
        }
        // The last bucket extends past the last slot that has a value.
        if let Some(bucket) = buckets.last_mut() {
            bucket.hi = bucket_end(bucket.lo, steps);
        }
        without_empty_ends(buckets)
    }
}

/// The values that belong to a slot.
pub fn range(slot: u32) -> RangeInclusive<u64> {
    let slot = u64::from(slot);
    if slot < 2 * FINE {
        return slot..=slot;
    }
    let shift = (slot / FINE - 1).min(58) as u32;
    let lo = (slot - u64::from(shift) * FINE).min(2 * FINE - 1) << shift;
    lo..=lo + ((1 << shift) - 1)
}

/// Whether a bucket begins at `lo`, with `steps` buckets per power of two.
fn begins_bucket(lo: u64, steps: u64) -> bool {
    lo.is_multiple_of(width_at(lo, steps))
}

fn bucket_end(lo: u64, steps: u64) -> u64 {
    lo + (width_at(lo, steps) - 1)
}

/// The width of the bucket that contains `lo`. Powers of two with fewer values than steps have a bucket per value.
fn width_at(lo: u64, steps: u64) -> u64 {
    let power = lo.checked_ilog2().map_or(1, |bit| 1u64 << bit);
    (power / steps).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slot of a value: the inverse of `range`.
    fn fine_slot(value: u64) -> u32 {
        let shift = (64 - value.leading_zeros()).saturating_sub(6);
        (shift << 5) + (value >> shift) as u32
    }

    fn of(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut all = Distribution::default();
        for value in values {
            all.add(fine_slot(value), 1, value, value..=value);
        }
        all
    }

    #[test]
    fn slots_cover_all_values_without_overlap() {
        let mut next = 0;
        for slot in 0..=fine_slot(u64::MAX) {
            let (lo, hi) = range(slot).into_inner();
            assert_eq!((lo, fine_slot(lo), fine_slot(hi)), (next, slot, slot));
            assert!(hi - lo <= lo / FINE, "slot {slot}");
            next = hi.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last slot ends with the last value");
    }

    #[test]
    fn percentiles_are_within_3_percent() {
        let mut state = 7_u64;
        let mut values: Vec<u64> = (0..10_007)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) >> (state >> 59)
            })
            .collect();
        let all = of(values.iter().copied());
        values.sort_unstable();
        for permille in [1, 500, 900, 990, 999, 1000] {
            let exact = values[(values.len() * permille).div_ceil(1000) - 1];
            let found = all.percentile(permille as u64);
            let error = found.abs_diff(exact) as f64 / exact.max(1) as f64;
            assert!(error <= 0.03, "p{permille}: {found}, exactly {exact}");
        }
        assert_eq!((all.count, all.max), (10_007, values[10_006]));
        assert_eq!(all.average(), values.iter().sum::<u64>() / 10_007);
    }

    #[test]
    fn percentiles_are_values_that_can_have_been_seen() {
        for values in [
            &[100_051_000, 100_060_000][..],
            &[96_470_000; 3],
            &[7],
            &[u64::MAX],
        ] {
            let (least, most) = (values[0], values[values.len() - 1]);
            let all = of(values.iter().copied());
            for permille in [1, 500, 900, 999, 1000] {
                let found = all.percentile(permille);
                assert!(
                    (least..=most).contains(&found),
                    "p{permille} of {values:?}: {found}"
                );
            }
        }
    }

    #[test]
    fn bounds_outside_of_a_slot_are_ignored() {
        let mut all = Distribution::default();
        let slot = fine_slot(1000);
        all.add(slot, 3, 3000, RangeInclusive::new(u64::MAX, 0));
        assert!(range(slot).contains(&all.percentile(500)));
    }

    #[test]
    fn empty_distribution_is_zero() {
        let none = Distribution::default();
        assert_eq!((none.percentile(500), none.average(), none.max), (0, 0, 0));
        assert!(none.buckets(1).is_empty());
    }

    #[test]
    fn buckets_divide_powers_of_two() {
        let all = of([0, 1, 5, 6, 7, 100, 1_000]);
        let nonempty = |steps| {
            all.buckets(steps)
                .iter()
                .filter(|bucket| bucket.count > 0)
                .map(|bucket| (bucket.lo, bucket.hi, bucket.count))
                .collect::<Vec<_>>()
        };
        let expected = [(0, 0, 1), (1, 1, 1), (4, 7, 3), (64, 127, 1), (512, 1023, 1)];
        assert_eq!(nonempty(1), expected);
        let expected = [
            (0, 0, 1),
            (1, 1, 1),
            (5, 5, 1),
            (6, 6, 1),
            (7, 7, 1),
            (96, 111, 1),
            (896, 1023, 1),
        ];
        assert_eq!(nonempty(4), expected);
        for steps in [1, 2, 4, 8, 16, 32] {
            let buckets = of([3, u64::MAX]).buckets(steps);
            assert!(
                buckets.windows(2).all(|pair| pair[0].hi + 1 == pair[1].lo),
                "{steps}"
            );
            assert_eq!(buckets.last().map(|last| last.hi), Some(u64::MAX));
        }
    }
}
