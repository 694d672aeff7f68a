// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Short printable ASCII, which most names are: one check of two words instead of a loop over the bytes.

/// Text of up to 16 bytes, none of which needs an escape. The kernel's thread names fit.
#[derive(Clone, Copy)]
pub struct ShortText {
    words: [u64; 2],
    len: usize,
}

impl ShortText {
    pub const MAX: usize = 16;

    /// None when the text is longer, or has a byte outside printable ASCII.
    #[inline(always)]
    pub fn printable(text: &[u8]) -> Option<Self> {
        let words = load(text)?;
        let needs_escape = outside_printable(words[0]) | outside_printable(words[1]);
        (needs_escape == 0).then(|| Self::of(words, text.len()))
    }

    /// The same, and None also for quotes and backslashes, which JSON escapes.
    #[inline(always)]
    pub fn printable_json(text: &[u8]) -> Option<Self> {
        let words = load(text)?;
        let needs_escape =
            words.map(|word| outside_printable(word) | equal_to(word, b'"') | equal_to(word, b'\\'));
        (needs_escape[0] | needs_escape[1] == 0).then(|| Self::of(words, text.len()))
    }

    #[inline(always)]
    fn of(words: [u64; 2], len: usize) -> Self {
        Self { words, len }
    }

    /// The text, with spaces behind it.
    #[inline(always)]
    pub fn padded(&self) -> [u8; Self::MAX] {
        (u128::from(self.words[0]) | u128::from(self.words[1]) << 64).to_le_bytes()
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }
}

const HIGH: u64 = repeat(0x80);

const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Up to 16 bytes in two words, the first byte lowest, with spaces behind them. Reads with loads that overlap, as `len`
/// is not known at compile time.
#[inline(always)]
fn load(text: &[u8]) -> Option<[u64; 2]> {
    let len = text.len();
    match (text.first_chunk(), text.last_chunk()) {
        _ if len > ShortText::MAX => None,
        (Some(first), Some(last)) => {
            let last = u64::from_le_bytes(*last);
            let high = last.checked_shr(8 * (16 - len as u32)).unwrap_or(0);
            Some([u64::from_le_bytes(*first), pad(high, len - 8)])
        }
        _ => Some([pad(load_below_eight(text), len), repeat(b' ')]),
    }
}

#[inline(always)]
fn load_below_eight(text: &[u8]) -> u64 {
    let shifted = |byte: u8, at: usize| u64::from(byte) << (8 * at);
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) => {
            let last = u64::from(u32::from_le_bytes(*last));
            u64::from(u32::from_le_bytes(*first)) | last << (8 * (text.len() - 4))
        }
        _ => match *text {
            [a] => a.into(),
            [a, b] => shifted(a, 0) | shifted(b, 1),
            [a, b, c] => shifted(a, 0) | shifted(b, 1) | shifted(c, 2),
            _ => 0,
        },
    }
}

/// Puts spaces behind the first `len` bytes, where the word is 0.
#[inline(always)]
fn pad(word: u64, len: usize) -> u64 {
    word | repeat(b' ').checked_shl(8 * len as u32).unwrap_or(0)
}

/// Not 0 when a byte is not within 0x20..=0x7e. A byte above 0x7f may carry into the next one, but it is found itself.
#[inline(always)]
fn outside_printable(word: u64) -> u64 {
    let below_space = !((word | HIGH) - repeat(b' '));
    let is_delete = word.wrapping_add(repeat(1));
    (word | below_space | is_delete) & HIGH
}

/// Not 0 when a byte is equal to `byte`, if all of them are ASCII.
#[inline(always)]
fn equal_to(word: u64, byte: u8) -> u64 {
    !(word ^ repeat(byte)).wrapping_add(repeat(0x7f)) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte value at every position of texts of every length.
    fn texts() -> impl Iterator<Item = Vec<u8>> {
        (0..=18).flat_map(|len| {
            (0..len).flat_map(move |at| {
                (0..=255).map(move |byte| {
                    let mut text: Vec<u8> = (b'a'..).take(len).collect();
                    text[at] = byte;
                    text
                })
            })
        })
    }

    fn shown(short: Option<ShortText>) -> Option<Vec<u8>> {
        short.map(|short| {
            let padded = short.padded();
            let (text, padding) = padded.split_at(short.len());
            assert!(padding.iter().all(|byte| *byte == b' '));
            text.to_vec()
        })
    }

    #[test]
    fn exactly_short_printable_ascii_is_taken() {
        for text in texts().chain([Vec::new()]) {
            let fits = text.len() <= 16 && text.iter().all(|byte| matches!(byte, b' '..=b'~'));
            assert_eq!(
                shown(ShortText::printable(&text)),
                fits.then(|| text.clone()),
                "{text:x?}"
            );
            let fits = fits && !text.iter().any(|byte| matches!(byte, b'"' | b'\\'));
            assert_eq!(
                shown(ShortText::printable_json(&text)),
                fits.then(|| text.clone()),
                "{text:x?}"
            );
        }
    }

    #[test]
    fn a_byte_that_needs_an_escape_is_found_beside_any_other() {
        for first in 0..=255_u8 {
            for second in 0..=255 {
                let plain = |byte| matches!(byte, b' '..=b'~');
                let text = [b'a', first, second, b'b'];
                let expected = plain(first) && plain(second);
                assert_eq!(ShortText::printable(&text).is_some(), expected, "{text:x?}");
                let unquoted = |byte| !matches!(byte, b'"' | b'\\');
                let expected = expected && unquoted(first) && unquoted(second);
                assert_eq!(ShortText::printable_json(&text).is_some(), expected, "{text:x?}");
            }
        }
    }
}
