// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Decoding of arm64 instructions. Also built for the tests on other machines.

use super::decoded::{BadOffset, BranchCondition, ControlFlow, IndirectJump, Instruction};

/// Bytes of every instruction.
const SIZE: usize = 4;

/// The instructions in order. An error is the last item.
pub fn decode(function: &[u8]) -> impl Iterator<Item = Result<Instruction, BadOffset>> {
    let mut writers = [None; 32];
    function
        .chunks(SIZE)
        .zip((0..).step_by(SIZE))
        .map(move |(bytes, start)| {
            let word = bytes.try_into().map(u32::from_le_bytes);
            let word = word.map_err(|_| BadOffset::Undecodable { at: start })?;
            Ok(Instruction {
                start,
                end: start + SIZE as u64,
                flow: match indirect_jump(word, &writers) {
                    Some(jump) => ControlFlow::Indirect(jump),
                    None => flow(word, start),
                },
            })
            .inspect(|_| writers[(word & 31) as usize] = Some(word))
        })
}

/// The virtual addresses that instructions at `addr` call or always jump to, and where they do.
#[cfg(target_arch = "aarch64")]
pub fn references(code: &[u8], addr: u64) -> impl Iterator<Item = (u64, u64)> {
    let words = code.chunks_exact(SIZE).zip((addr..).step_by(SIZE));
    words.filter_map(|(bytes, at)| {
        let word = u32::from_le_bytes(bytes.try_into().ok()?);
        // A signed 26-bit number of instructions in `b` and `bl`.
        let distance = i64::from((word << 6) as i32 >> 6) * SIZE as i64;
        (word >> 26 & 0b1_1111 == 0b0_0101).then(|| (at, at.wrapping_add_signed(distance)))
    })
}

/// The virtual addresses that code at `addr` calls or always jumps to.
#[cfg(target_arch = "aarch64")]
pub fn branches(code: &[u8], addr: u64) -> impl Iterator<Item = u64> {
    references(code, addr).map(|(_, to)| to)
}

/// Where instructions start, in bytes.
#[cfg(target_arch = "aarch64")]
pub fn starts(code: &[u8]) -> impl Iterator<Item = Result<u64, u64>> {
    (0..code.len() as u64).step_by(SIZE).map(Ok)
}

/// Recognizes `br` and its forms with pointer authentication. `writers` has, for each register, the last instruction
/// whose low bits name it, which are those of the result in nearly all instructions.
fn indirect_jump(word: u32, writers: &[Option<u32>; 32]) -> Option<IndirectJump> {
    let is_plain = word & !(31 << 5) == 0xd61f_0000;
    // braaz, brabz; braa, brab
    let is_authenticated = word & 0xffff_f800 == 0xd61f_0800 || word & 0xffff_f800 == 0xd71f_0800;
    if is_authenticated {
        return Some(IndirectJump::Pointer);
    }
    if !is_plain {
        return None;
    }
    let writer = writers[(word >> 5 & 31) as usize];
    Some(match writer {
        None => IndirectJump::Pointer,
        // add of two registers, with or without extension: a table of distances
        Some(add) if add & 0xff20_0000 == 0x8b20_0000 || add & 0xff20_0000 == 0x8b00_0000 => {
            IndirectJump::JumpTable
        }
        // ldr of 64 bits with an immediate or a register that is not scaled
        Some(load) if load & 0xffc0_0000 == 0xf940_0000 || load & 0xffe0_0c00 == 0xf840_0000 => {
            IndirectJump::Pointer
        }
        // mov from a register
        Some(copy) if copy & 0xffe0_ffe0 == 0xaa00_03e0 => IndirectJump::Pointer,
        Some(_) => IndirectJump::Unknown,
    })
}

/// Recognizes `ret` with any register, its two forms with pointer authentication, `b`, and conditional branches.
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
    let to = |distance: i32| start as i64 + i64::from(distance) * SIZE as i64;
    // A signed 19-bit number of instructions in b.cond, cbz and cbnz; 14 bits in tbz and tbnz.
    match word >> 24 {
        0x54 if word & 0x10 == 0 => {
            let condition = BranchCondition::Flags(word as u8 & 15);
            ControlFlow::Branch(to((word << 8) as i32 >> 13), condition)
        }
        0x34 | 0x35 | 0xb4 | 0xb5 => {
            ControlFlow::Branch(to((word << 8) as i32 >> 13), BranchCondition::Other)
        }
        0x36 | 0x37 | 0xb6 | 0xb7 => {
            ControlFlow::Branch(to((word << 13) as i32 >> 18), BranchCondition::Other)
        }
        _ => ControlFlow::Next,
    }
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
