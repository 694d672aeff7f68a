// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The key of a JSON member, escaped once.

use super::append::push_prefix;
use super::escape::{push_hex_member, push_json, push_json_key};

/// Keys with their punctuation are at most this long as a rule.
const PIECE: usize = 32;

/// `,"size_bytes":`
#[derive(Clone, Debug)]
pub(super) struct JsonKey<'a> {
    pub name: &'a str,
    /// At least [`PIECE`] bytes, so that they can be copied as one piece.
    text: Vec<u8>,
    len: usize,
}

impl<'a> JsonKey<'a> {
    pub fn new(name: &'a str) -> Self {
        let mut text = Vec::with_capacity(PIECE);
        push_json_key(&mut text, name);
        let len = text.len();
        text.resize(len.max(PIECE), 0);
        Self { name, text, len }
    }

    #[inline(always)]
    pub fn push(&self, out: &mut Vec<u8>) {
        match self.text.first_chunk::<PIECE>() {
            Some(piece) if self.len <= PIECE => push_prefix(out, piece, self.len),
            _ => out.extend_from_slice(&self.text[..self.len]),
        }
    }

    /// Appends untrusted bytes as a string after the key, and `,"key_hex":` with all bytes if they are not UTF-8.
    #[inline(always)]
    pub fn push_bytes(&self, out: &mut Vec<u8>, bytes: &[u8]) {
        if !push_json(out, bytes) {
            push_hex_member(out, self.name, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_length_are_whole() {
        for len in 0..40 {
            let mut out = b"{".to_vec();
            JsonKey::new(&"k".repeat(len)).push(&mut out);
            assert_eq!(out, format!("{{,\"{}\":", "k".repeat(len)).into_bytes());
        }
    }

    #[test]
    fn invalid_utf8_has_a_second_member() {
        let mut out = Vec::new();
        JsonKey::new("k\"").push_bytes(&mut out, b"a\xff");
        assert_eq!(out, "\"a\u{fffd}\",\"k\\\"_hex\":\"61ff\"".as_bytes());
    }
}
