//! Percentiles of values that BPF programs have sorted into fine slots (`fine_slot` of src/bpf/histogram.bpf.h).
//!
//! A value below 64 has a slot of its own; above, each power of two has 32 slots of equal width. A percentile is taken
//! from the middle of its slot, so it is at most 1/64, 1.6 %, off.

use std::collections::BTreeMap;

use super::histogram::{Bucket, without_empty_ends};

/// Slots of a power of two.
const FINE: u64 = 32;

/// Values, their number, sum and largest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many values a slot has.
    slots: BTreeMap<u32, u64>,
    pub count: u64,
    pub total: u64,
    pub max: u64,
}

impl Distribution {
    /// Adds the values of a slot. `max` is the largest of them, or anything larger.
    pub fn add(&mut self, slot: u32, count: u64, total: u64, max: u64) {
        if count == 0 {
            return;
        }
        *self.slots.entry(slot).or_default() += count;
        self.count += count;
        self.total = self.total.saturating_add(total);
        self.max = self.max.max(max.min(range(slot).1));
    }

    /// The mean, rounded down; 0 when there are no values.
    pub fn average(&self) -> u64 {
        self.total.checked_div(self.count).unwrap_or(0)
    }

    /// The smallest value that at least `permille` of a thousand values do not exceed, by the nearest-rank method; 0
    /// when there are no values.
    pub fn percentile(&self, permille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(permille))
            .div_ceil(1000)
            .max(1);
        let mut seen = 0;
        for (&slot, &count) in &self.slots {
            seen += u128::from(count);
            if seen >= rank {
                let (lo, hi) = range(slot);
                return (lo + (hi - lo) / 2).min(self.max);
            }
        }
        self.max
    }

    /// The values in `steps` buckets for each power of two, exactly: `steps` is a power of two up to 32. Empty buckets
    /// at either end are left out.
    pub fn buckets(&self, steps: u64) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        let Some(&last) = self.slots.keys().next_back() else {
            return buckets;
        };
        for slot in 0..=last {
            let count = self.slots.get(&slot).copied().unwrap_or(0);
            let (lo, hi) = range(slot);
            match buckets.last_mut() {
                Some(bucket) if !begins_bucket(lo, steps) => {
                    bucket.hi = hi;
                    bucket.count += count;
                }
                _ => buckets.push(Bucket { lo, hi, count }),
            }
        }
        // The last bucket is as wide as its slots, also those behind the last that has a value.
        if let Some(bucket) = buckets.last_mut() {
            bucket.hi = bucket_end(bucket.lo, steps);
        }
        without_empty_ends(buckets)
    }
}

/// The smallest and the largest value of a slot.
pub fn range(slot: u32) -> (u64, u64) {
    let slot = u64::from(slot);
    if slot < 2 * FINE {
        return (slot, slot);
    }
    let shift = (slot / FINE - 1).min(58) as u32;
    let lo = (slot - u64::from(shift) * FINE).min(2 * FINE - 1) << shift;
    (lo, lo + ((1 << shift) - 1))
}

/// Does a bucket begin at `lo` when each power of two has `steps` of them?
fn begins_bucket(lo: u64, steps: u64) -> bool {
    lo.is_multiple_of(width_at(lo, steps))
}

fn bucket_end(lo: u64, steps: u64) -> u64 {
    lo + (width_at(lo, steps) - 1)
}

/// The width of the bucket that `lo` is in: of powers of two that have fewer values than steps, each has its own.
fn width_at(lo: u64, steps: u64) -> u64 {
    let power = lo.checked_ilog2().map_or(1, |bit| 1u64 << bit);
    (power / steps).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fine_slot` of src/bpf/histogram.bpf.h.
    fn fine_slot(value: u64) -> u32 {
        let shift = (64 - value.leading_zeros()).saturating_sub(6);
        (shift << 5) + (value >> shift) as u32
    }

    fn of(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut all = Distribution::default();
        for value in values {
            all.add(fine_slot(value), 1, value, value);
        }
        all
    }

    #[test]
    fn slots_are_ranges_without_gap_or_overlap() {
        let mut next = 0;
        for slot in 0..=fine_slot(u64::MAX) {
            let (lo, hi) = range(slot);
            assert_eq!((lo, fine_slot(lo), fine_slot(hi)), (next, slot, slot));
            assert!(hi - lo <= lo / FINE, "slot {slot}");
            next = hi.wrapping_add(1);
        }
        assert_eq!(next, 0, "the last slot ends with the last value");
    }

    #[test]
    fn percentiles_are_within_3_percent_of_those_of_the_sorted_values() {
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
            let told = all.percentile(permille as u64);
            let error = told.abs_diff(exact) as f64 / exact.max(1) as f64;
            assert!(error <= 0.03, "p{permille}: {told}, exactly {exact}");
        }
        assert_eq!((all.count, all.max), (10_007, values[10_006]));
        assert_eq!(all.average(), values.iter().sum::<u64>() / 10_007);
    }

    #[test]
    fn no_values_have_no_percentiles() {
        let none = Distribution::default();
        assert_eq!((none.percentile(500), none.average(), none.max), (0, 0, 0));
        assert!(none.buckets(1).is_empty());
    }

    #[test]
    fn buckets_of_powers_of_two_and_of_parts_of_them() {
        let all = of([0, 1, 5, 6, 7, 100, 1_000]);
        let told = |steps| {
            all.buckets(steps)
                .iter()
                .filter(|bucket| bucket.count > 0)
                .map(|bucket| (bucket.lo, bucket.hi, bucket.count))
                .collect::<Vec<_>>()
        };
        let expected = [(0, 0, 1), (1, 1, 1), (4, 7, 3), (64, 127, 1), (512, 1023, 1)];
        assert_eq!(told(1), expected);
        let expected = [
            (0, 0, 1),
            (1, 1, 1),
            (5, 5, 1),
            (6, 6, 1),
            (7, 7, 1),
            (96, 111, 1),
            (896, 1023, 1),
        ];
        assert_eq!(told(4), expected);
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
