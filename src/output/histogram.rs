// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Histograms: counts of ranges of values, and their bars.

use super::number::decimal_len;

/// The stars of the longest bar.
const BAR: usize = 40;

/// One range of values of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// The smallest value in it.
    pub lo: u64,
    /// The largest value in it.
    pub hi: u64,
    /// The number of values in the range.
    pub count: u64,
}

/// Converts the slots of a power-of-two histogram, as BPF programs count them, to buckets. Slot 0 counts the value 0,
/// and slot `i` the values `2^(i-1) ..= 2^i - 1`, so the slot of a value is its number of bits. Empty buckets at both
/// ends are dropped; the result is empty for an empty histogram.
pub fn powers_of_two(slots: &[u64]) -> Vec<Bucket> {
    let buckets = slots.iter().zip(0..).map(|(&count, slot)| Bucket {
        lo: lowest(slot),
        hi: highest(slot),
        count,
    });
    without_empty_ends(buckets.collect())
}

/// Drops the empty buckets at both ends.
pub fn without_empty_ends(mut buckets: Vec<Bucket>) -> Vec<Bucket> {
    let used = |bucket: &Bucket| bucket.count != 0;
    buckets.truncate(buckets.iter().rposition(used).map_or(0, |last| last + 1));
    buckets.drain(..buckets.iter().position(used).unwrap_or(0));
    buckets
}

/// Appends the histogram as a table with bars, in the layout of bcc:
///
/// ```text
///      usecs               : count     distribution
///          4 -> 7          : 3        |**********                              |
///          8 -> 15         : 12       |****************************************|
/// ```
///
/// `unit` names the values and is trusted. Values are plain numbers as in bcc: exact and easy to parse. The longest bar
/// is that of the largest count; columns widen for large numbers. Appends nothing for an empty histogram.
pub fn push(out: &mut Vec<u8>, unit: &str, buckets: &[Bucket]) {
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    let Some(top) = buckets.last() else { return };
    let (value, count) = (decimal_len(top.hi).max(10), decimal_len(most).max(8));
    // The values and the arrow between them.
    let range = 2 * value + 4;
    let header = format!(
        "     {unit:<width$} : {:<count$}  distribution\n",
        "count",
        width = range - 5
    );
    out.extend_from_slice(header.as_bytes());
    for &Bucket { lo, hi, count: n } in buckets {
        let line = format!(
            "{lo:>value$} -> {hi:<value$} : {n:<count$} |{:<BAR$}|\n",
            bar(n, most)
        );
        out.extend_from_slice(line.as_bytes());
    }
}

fn lowest(slot: u32) -> u64 {
    slot.checked_sub(1)
        .map_or(0, |bit| 1u64.checked_shl(bit).unwrap_or(u64::MAX))
}

fn highest(slot: u32) -> u64 {
    1u64.checked_shl(slot).map_or(u64::MAX, |next| next - 1)
}

/// The bar of `count`, where that of `most` has full length. Rounded down.
fn bar(count: u64, most: u64) -> String {
    let stars = u128::from(count) * BAR as u128 / u128::from(most.max(1));
    "*".repeat(stars as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(unit: &str, slots: &[u64]) -> String {
        let mut out = Vec::new();
        push(&mut out, unit, &powers_of_two(slots));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn slots_are_ranges_of_values() {
        let all = powers_of_two(&[1; 65]);
        assert_eq!(all.len(), 65);
        let ranges: Vec<_> = all.iter().take(5).map(|bucket| (bucket.lo, bucket.hi)).collect();
        assert_eq!(ranges, [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15)]);
        assert_eq!((all[64].lo, all[64].hi), (1 << 63, u64::MAX));
        assert!(
            all.windows(2).all(|pair| pair[1].lo == pair[0].hi + 1),
            "no gap and no overlap"
        );
    }

    #[test]
    fn slot_is_the_number_of_bits() {
        for value in [0, 1, 2, 3, 4, 1000, 1 << 40, u64::MAX] {
            let mut slots = [0; 65];
            slots[(u64::BITS - value.leading_zeros()) as usize] = 1;
            let bucket = powers_of_two(&slots)[0];
            assert!((bucket.lo..=bucket.hi).contains(&value), "{value}: {bucket:?}");
        }
    }

    #[test]
    fn empty_ends_are_dropped_and_gaps_kept() {
        let counts = |slots: &[u64]| {
            powers_of_two(slots)
                .iter()
                .map(|bucket| (bucket.lo, bucket.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(counts(&[0, 0, 5, 0, 2, 0, 0]), [(2, 5), (4, 0), (8, 2)]);
        assert_eq!(counts(&[7]), [(0, 7)]);
        assert_eq!(counts(&[0, 0]), []);
        assert_eq!(counts(&[]), []);
    }

    #[test]
    fn bars() {
        let expected = "     usecs               : count     distribution
         4 -> 7          : 3        |**********                              |
         8 -> 15         : 0        |                                        |
        16 -> 31         : 12       |****************************************|
";
        assert_eq!(drawn("usecs", &[0, 0, 0, 3, 0, 12, 0]), expected);
        assert_eq!(drawn("usecs", &[0; 65]), "");
    }

    #[test]
    fn bars_are_rounded_down() {
        assert!(
            drawn("nsecs", &[1]).ends_with(&format!("0 -> 0          : 1        |{}|\n", "*".repeat(40)))
        );
        assert!(
            drawn("nsecs", &[1, 41]).contains("|                                        |"),
            "rounded down"
        );
    }

    #[test]
    fn large_numbers_widen_their_columns() {
        let mut slots = [0; 65];
        (slots[0], slots[64]) = (1, u64::MAX);
        let text = drawn("bytes", &slots);
        let places: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| (line.find("->"), line.find('|')))
            .collect();
        assert!(places.iter().all(|place| *place == places[0]), "{text}");
        assert!(text.contains("9223372036854775808 -> 18446744073709551615 : 18446744073709551615 |****"));
    }
}
