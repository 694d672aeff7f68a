// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! arm64: what the kernel simulates, and what instructions do. Only a few of those that stand at the beginning of functions
//! are known; at any other a probe stays.

use super::{Name, Reason, Step, Stores};

/// The stack pointer, the frame pointer and the return address.
#[cfg(target_arch = "aarch64")]
pub const STACK: u32 = 1 << 31 | 1 << 29 | 1 << 30;
/// Go keeps `g` in x28.
#[cfg(target_arch = "aarch64")]
pub const GOROUTINE: u8 = 28;
/// x0 to x7.
#[cfg(target_arch = "aarch64")]
pub const ARGUMENTS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];

/// Bytes of every instruction.
const SIZE: usize = 4;
/// As the number of a register that is written: none, as what is written there is not kept.
const ZERO_REGISTER: u32 = 31;

/// The instruction as a number, as most of them have no name here.
#[cfg(target_arch = "aarch64")]
pub fn name(name: Name) -> String {
    format!("{:#010x}", name.0)
}

fn words(code: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let starts = (0..).step_by(SIZE);
    let words = code
        .chunks_exact(SIZE)
        .map(|bytes| bytes.try_into().map_or(0, u32::from_le_bytes));
    starts.zip(words)
}

/// The instructions of a function in order.
pub fn steps(code: &[u8]) -> impl Iterator<Item = Step> {
    words(code).map(|(start, word)| {
        let written = written(word);
        Step {
            end: start + SIZE as u64,
            name: Name(word),
            emulated: is_simulated(word),
            leaves: written.is_none(),
            writes: written
                .filter(|&register| register != ZERO_REGISTER)
                .map_or(0, |register| 1 << register),
            stores: Stores::Nothing,
            may_fault: false,
        }
    })
}

/// What `arch/arm64/kernel/probes/decode-insn.c` has simulated on every kernel from 5.10 to 7.2: b, bl, b.cond, cbz, cbnz,
/// tbz, tbnz, adr, adrp, br, blr and ret.
fn is_simulated(word: u32) -> bool {
    branch(word).is_some() || word & 0x1f00_0000 == 0x1000_0000 || word & 0xff9f_fc1f == 0xd61f_0000
}

/// The register that a harmless instruction writes; None for any other instruction. These are: bti; cmp, cmn and tst; mov of
/// a register or a number.
fn written(word: u32) -> Option<u32> {
    let is_bti = word & 0xffff_ff3f == 0xd503_241f;
    // With a number, then with a register that may be shifted: cmp, cmn, tst.
    let compares = matches!(word & 0x7f80_001f, 0x7100_001f | 0x3100_001f | 0x7200_001f)
        || matches!(word & 0x7f20_001f, 0x6b00_001f | 0x2b00_001f | 0x6a00_001f);
    let moves = matches!(word & 0x7f80_0000, 0x5280_0000 | 0x1280_0000) || word & 0x7fe0_ffe0 == 0x2a00_03e0;
    match () {
        () if is_bti || compares => Some(ZERO_REGISTER),
        () if moves => Some(word & 0x1f),
        () => None,
    }
}

/// How far a direct branch leads, in bytes from itself.
fn branch(word: u32) -> Option<i64> {
    /// The signed number of instructions in `bits` bits from bit `from` on.
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

/// br, and its forms that check the address first.
fn jumps_anywhere(word: u32) -> bool {
    matches!(word & 0xffff_f000, 0xd61f_0000 | 0xd71f_0000)
}

/// Is it known where every instruction of a function leads?
///
/// # Errors
/// One jumps to an address in a register.
pub fn check_whole(function: &[u8]) -> Result<(), Reason> {
    match words(function).any(|(_, word)| jumps_anywhere(word)) {
        true => Err(Reason::JumpsAnywhere),
        false => Ok(()),
    }
}

/// Where direct branches lead, in bytes from the start of `code`.
pub fn jumps(code: &[u8], mut leads: impl FnMut(i64)) {
    for (start, word) in words(code) {
        if let Some(distance) = branch(word) {
            leads(start as i64 + distance);
        }
    }
}
