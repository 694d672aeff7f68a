// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! arm64: which instructions the kernel simulates, and what instructions do. Only a few that functions begin with are
//! known; a probe does not move over any other.

use std::ops::Range;

use super::effects::{InstructionEffects, InstructionName, StayReason, StoreTarget};

/// The stack pointer, the frame pointer and the return address.
#[cfg(target_arch = "aarch64")]
pub const STACK: u32 = 1 << 31 | 1 << 29 | 1 << 30;
/// No instruction is rewritten.
#[cfg(target_arch = "aarch64")]
pub const REWRITTEN_NOP: &[u8] = &[];
/// Go keeps `g` in x28.
#[cfg(target_arch = "aarch64")]
pub const GOROUTINE: u8 = 28;
/// x0 to x7.
#[cfg(target_arch = "aarch64")]
pub const ARGUMENTS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];

/// Bytes of every instruction.
const SIZE: usize = 4;
/// Writes to this register are discarded.
const ZERO_REGISTER: u32 = 31;

#[cfg(target_arch = "aarch64")]
impl std::fmt::Display for InstructionName {
    /// The instruction as a hexadecimal number.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

fn words(code: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let starts = (0..).step_by(SIZE);
    let words = code
        .chunks_exact(SIZE)
        .map(|bytes| bytes.try_into().map_or(0, u32::from_le_bytes));
    starts.zip(words)
}

/// The instructions of a function in order.
pub fn effects(code: &[u8]) -> impl Iterator<Item = InstructionEffects> {
    words(code).map(|(start, word)| {
        let written = written(word);
        InstructionEffects {
            end: start + SIZE as u64,
            name: InstructionName(word),
            emulated: is_simulated(word),
            leaves: written.is_none(),
            writes: written
                .filter(|&register| register != ZERO_REGISTER)
                .map_or(0, |register| 1 << register),
            stores: StoreTarget::Nothing,
            may_fault: false,
        }
    })
}

/// What `arch/arm64/kernel/probes/decode-insn.c` simulates on every kernel from 5.10 to 7.2: b, bl, b.cond, cbz, cbnz,
/// tbz, tbnz, adr, adrp, br, blr and ret.
fn is_simulated(word: u32) -> bool {
    branch(word).is_some() || word & 0x1f00_0000 == 0x1000_0000 || word & 0xff9f_fc1f == 0xd61f_0000
}

/// The register that an instruction without other effects writes: bti; cmp, cmn and tst; mov of a register or
/// an immediate. `None` for any other instruction.
fn written(word: u32) -> Option<u32> {
    let is_bti = word & 0xffff_ff3f == 0xd503_241f;
    // cmp, cmn and tst with an immediate, then with a register that may be shifted.
    let compares = matches!(word & 0x7f80_001f, 0x7100_001f | 0x3100_001f | 0x7200_001f)
        || matches!(word & 0x7f20_001f, 0x6b00_001f | 0x2b00_001f | 0x6a00_001f);
    let moves = matches!(word & 0x7f80_0000, 0x5280_0000 | 0x1280_0000) || word & 0x7fe0_ffe0 == 0x2a00_03e0;
    match () {
        () if is_bti || compares => Some(ZERO_REGISTER),
        () if moves => Some(word & 0x1f),
        () => None,
    }
}

/// The distance of a direct branch to its target, in bytes.
fn branch(word: u32) -> Option<i64> {
    /// The signed number of instructions in `bits` bits from bit `from` on, in bytes.
    fn distance(word: u32, from: u32, bits: u32) -> i64 {
        let unused = 32 - bits;
        i64::from((word << (unused - from)) as i32 >> unused) * SIZE as i64
    }
    match word {
        _ if word & 0x7c00_0000 == 0x1400_0000 => Some(distance(word, 0, 26)),
        _ if word & 0xff00_0000 == 0x5400_0000 => Some(distance(word, 5, 19)),
        _ if word & 0x7e00_0000 == 0x3400_0000 => Some(distance(word, 5, 19)),
        _ if word & 0x7e00_0000 == 0x3600_0000 => Some(distance(word, 5, 14)),
        _ => None,
    }
}

/// br, and its forms with pointer authentication.
fn jumps_anywhere(word: u32) -> bool {
    matches!(word & 0xffff_f000, 0xd61f_0000 | 0xd71f_0000)
}

/// Checks that the targets of all jumps of a function are known.
///
/// # Errors
/// It has an indirect jump.
pub fn check_whole(function: &[u8]) -> Result<(), StayReason> {
    match words(function).any(|(_, word)| jumps_anywhere(word)) {
        true => Err(StayReason::JumpsAnywhere),
        false => Ok(()),
    }
}

/// Calls `found` with the targets of direct branches that are in `into`, in bytes from the start of `code`.
pub fn jumps(code: &[u8], into: &Range<i64>, mut found: impl FnMut(i64)) {
    for (start, word) in words(code) {
        let target = branch(word).map(|distance| start as i64 + distance);
        if let Some(target) = target.filter(|target| into.contains(target)) {
            found(target);
        }
    }
}
