// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Appending to a buffer: short pieces without a call of `memcpy` for each, and values that several types share.

use std::io::Write;

/// Appends the first `len` bytes of a piece. Copies all `N` and cuts the buffer back: a copy of constant length is one
/// or two stores, one of variable length is a call.
#[inline(always)]
pub(super) fn push_prefix<const N: usize>(out: &mut Vec<u8>, piece: &[u8; N], len: usize) {
    let end = out.len() + len.min(N);
    out.extend_from_slice(piece);
    out.truncate(end);
}

#[inline(always)]
pub(super) fn push_spaces(out: &mut Vec<u8>, count: usize) {
    const SPACES: [u8; 16] = [b' '; 16];
    match count <= SPACES.len() {
        true => push_prefix(out, &SPACES, count),
        false => out.resize(out.len() + count, b' '),
    }
}

/// Appends `true` or `false`.
pub(super) fn push_bool(out: &mut Vec<u8>, yes: bool) {
    out.extend_from_slice(if yes { b"true" } else { b"false" });
}

/// Appends what `push` appends, in double quotes.
pub(super) fn quoted(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    push(out);
    out.push(b'"');
}

/// Appends without an allocation. Writing to a `Vec` does not fail.
pub(super) fn push_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    _ = write!(out, "{value}");
}
