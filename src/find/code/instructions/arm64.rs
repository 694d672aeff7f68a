// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Decoding of arm64 instructions. Also built for the tests on other machines.

use super::decoded::{BadOffset, ControlFlow, Instruction};

/// Bytes of every instruction.
const SIZE: usize = 4;

/// The instructions in order. An error is the last item.
pub fn decode(function: &[u8]) -> impl Iterator<Item = Result<Instruction, BadOffset>> {
    function
        .chunks(SIZE)
        .zip((0..).step_by(SIZE))
        .map(|(bytes, start)| {
            let word = bytes.try_into().map(u32::from_le_bytes);
            let word = word.map_err(|_| BadOffset::Undecodable { at: start })?;
            Ok(Instruction {
                start,
                end: start + SIZE as u64,
                flow: flow(word, start),
            })
        })
}

/// Recognizes `ret` with any register, its two forms with pointer authentication, and `b`.
pub fn flow(word: u32, start: u64) -> ControlFlow {
    const REGISTER: u32 = 31 << 5;
    if word & !REGISTER == 0xd65f_0000 || matches!(word, 0xd65f_0bff | 0xd65f_0fff) {
        return ControlFlow::Return;
    }
    if word >> 26 == 0b00_0101 {
        // A signed 26-bit number of instructions.
        let distance = i64::from((word << 6) as i32 >> 6) * SIZE as i64;
        return ControlFlow::Jump(start as i64 + distance);
    }
    ControlFlow::Next
}

#[cfg(target_arch = "aarch64")]
pub fn may_be_rejected(code: &[u8]) -> bool {
    let word = code.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let is_literal_load = word & 0x3b00_0000 == 0x1800_0000;
    let is_exclusive = word & 0x3f00_0000 == 0x0800_0000;
    is_literal_load || is_exclusive
}

#[cfg(target_arch = "aarch64")]
pub fn reads_return_address(_: &[u8]) -> bool {
    false
}
