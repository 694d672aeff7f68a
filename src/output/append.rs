// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Appending short pieces to a buffer without a call of `memcpy` for each.

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
