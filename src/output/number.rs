// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Numbers as text. Eight digits at a time are computed in one 64-bit word, without a table and without a loop.

use super::append::{push_prefix, push_spaces};

/// The digits of a word.
const WORD: usize = 8;
const WORD_LIMIT: u64 = 100_000_000;
/// `'0'` in each byte.
const ZEROS: u64 = repeat(b'0');

const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; WORD])
}

/// Appends a number in decimal.
#[inline]
pub(super) fn push_decimal(out: &mut Vec<u8>, number: u64) {
    if number < WORD_LIMIT {
        let digits = eight_digits(number);
        let len = WORD - leading_zeros(digits);
        push_last(out, digits | ZEROS, len);
    } else {
        push_long(out, number);
    }
}

/// The same, with spaces before it up to `width` characters.
#[inline]
pub(super) fn push_decimal_right(out: &mut Vec<u8>, number: u64, width: usize) {
    if number < WORD_LIMIT {
        let digits = eight_digits(number);
        let zeros = leading_zeros(digits);
        // A space is 0x20 and a digit 0x30 and its value.
        let text = digits | repeat(b' ') | (repeat(0x10) << (8 * zeros));
        push_spaces(out, width.saturating_sub(WORD));
        push_last(out, text, width.clamp(WORD - zeros, WORD));
    } else {
        push_spaces(out, width.saturating_sub(decimal_len(number)));
        push_long(out, number);
    }
}

pub(super) fn push_signed(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    push_decimal(out, number.unsigned_abs());
}

/// Appends a number below 1000 with leading zeros, as the decimals of a fraction.
pub(super) fn push_three_digits(out: &mut Vec<u8>, number: u64) {
    push_last(out, eight_digits(number) | ZEROS, 3);
}

/// A number below 10^9 with leading zeros.
pub(super) fn nine_digits(number: u64) -> [u8; 9] {
    let mut text = [b'0'; 9];
    text[0] += (number / WORD_LIMIT % 10) as u8;
    text[1..].copy_from_slice(&(eight_digits(number % WORD_LIMIT) | ZEROS).to_le_bytes());
    text
}

/// Appends a number in hexadecimal, without a prefix and without leading zeros.
pub(super) fn push_hex_number(out: &mut Vec<u8>, number: u64) {
    let len = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1) as usize;
    if let Some(high) = len.checked_sub(WORD) {
        push_last(out, eight_hex_digits((number >> 32) as u32), high);
    }
    push_last(out, eight_hex_digits(number as u32), len.min(WORD));
}

/// Appends an address: `0x7f00`.
pub(super) fn push_address(out: &mut Vec<u8>, address: u64) {
    out.extend_from_slice(b"0x");
    push_hex_number(out, address);
}

/// How many digits a number has in decimal.
pub(super) fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cold]
fn push_long(out: &mut Vec<u8>, number: u64) {
    push_decimal(out, number / WORD_LIMIT);
    push_last(out, eight_digits(number % WORD_LIMIT) | ZEROS, WORD);
}

/// Appends the last `len` characters of a word, at least one.
#[inline(always)]
fn push_last(out: &mut Vec<u8>, word: u64, len: usize) {
    let skipped = WORD - len.clamp(1, WORD);
    push_prefix(out, &(word >> (8 * skipped)).to_le_bytes(), len);
}

/// The values of the eight decimal digits of a number below 10^8, the first one in the lowest byte. Splits into halves
/// of four, pairs of two and single digits; each step divides all parts at once, by multiplication.
#[inline(always)]
fn eight_digits(number: u64) -> u64 {
    let halves = (number / 10_000) | (number % 10_000) << 32;
    let hundreds = ((halves * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let pairs = hundreds + ((halves - 100 * hundreds) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    tens + ((pairs - 10 * tens) << 8)
}

/// How many of the digits are leading zeros; the last one is none.
#[inline(always)]
fn leading_zeros(digits: u64) -> usize {
    (digits.trailing_zeros() as usize / 8).min(WORD - 1)
}

/// The eight hexadecimal digits of a number as text, the first one in the lowest byte.
fn eight_hex_digits(number: u32) -> u64 {
    let number = u64::from(number);
    let halves = (number | number << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = ((bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f).swap_bytes();
    let letters = ((nibbles + repeat(6)) >> 4) & repeat(1);
    (nibbles | ZEROS) + letters * u64::from(b'a' - b'0' - 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"x".to_vec();
        push(&mut out);
        String::from_utf8(out).unwrap().split_off(1)
    }

    /// Every power of two and of ten with its neighbours, and all numbers of up to five digits.
    fn numbers() -> impl Iterator<Item = u64> {
        let edges = (0..64)
            .map(|bit| 1u64 << bit)
            .chain((0..20).map(|log| 10u64.pow(log)))
            .flat_map(|edge| [edge - 1, edge, edge + 1, edge.wrapping_mul(7)]);
        edges.chain(0..=100_000).chain([u64::MAX])
    }

    #[test]
    fn decimal_matches_the_standard_library() {
        for number in numbers() {
            let expected = number.to_string();
            assert_eq!(pushed(|out| push_decimal(out, number)), expected);
            assert_eq!(decimal_len(number), expected.len());
        }
        for number in [0, 1, -1, i64::MIN, i64::MAX] {
            assert_eq!(pushed(|out| push_signed(out, number)), number.to_string());
        }
    }

    #[test]
    fn every_group_of_four_digits_is_right() {
        for number in 0..10_000 {
            for number in [number * 10_000, number, number * 10_001] {
                let expected = format!("{number:08}");
                assert_eq!((eight_digits(number) | ZEROS).to_le_bytes(), expected.as_bytes());
            }
        }
    }

    #[test]
    fn numbers_are_padded_on_the_left_and_never_cut() {
        for number in numbers().filter(|number| *number < 2000 || *number > 99_000) {
            for width in [0, 1, 5, 7, 8, 9, 12, 24, 40] {
                let text = pushed(|out| push_decimal_right(out, number, width));
                assert_eq!(text, format!("{number:width$}"), "width {width}");
            }
        }
    }

    #[test]
    fn fractions_keep_their_leading_zeros() {
        for number in 0..1000 {
            assert_eq!(
                pushed(|out| push_three_digits(out, number)),
                format!("{number:03}")
            );
        }
        for number in [0, 7, 99_999_999, 100_000_000, 999_999_999] {
            assert_eq!(nine_digits(number), format!("{number:09}").as_bytes());
        }
    }

    #[test]
    fn hexadecimal_matches_the_standard_library() {
        for number in numbers().chain([0x7fff_dead_beef, 0x0123_4567_89ab_cdef, u64::MAX]) {
            assert_eq!(pushed(|out| push_hex_number(out, number)), format!("{number:x}"));
        }
    }
}
