// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where the instructions of a function begin. The kernel puts a breakpoint at any offset, and in the middle of an
//! instruction it would change the program, so every offset from the command line is checked here.
//!
//! Instructions are decoded in order from the first byte of a function. Compilers put no data into functions
//! on x86-64; an invalid instruction ends the decoding, because nothing after it can be trusted.

#[cfg(any(test, target_arch = "aarch64"))]
mod arm64;
mod decoded;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use anyhow::{Context, Result, ensure};

#[cfg(target_arch = "aarch64")]
use self::arm64 as machine;
#[cfg(target_arch = "x86_64")]
use self::x86_64 as machine;
use crate::find::elf::{ElfFile, FunctionSymbol};
pub use decoded::BadOffset;
use decoded::{ControlFlow, Instruction};
use machine::decode;

/// Checks that an instruction begins `offset` bytes after the start of a function.
///
/// # Errors
/// None does, or it cannot be determined.
pub fn check_function(elf: &ElfFile, function: &FunctionSymbol, offset: u64) -> Result<()> {
    let what = || format!("failed to put a probe at {}+{offset:#x}", function.demangled());
    ensure!(
        function.size > 0,
        "{}: the size of the function is unknown",
        what()
    );
    let code = elf.code(function.addr, function.size).with_context(what)?;
    check(&code, offset).with_context(what)
}

/// Checks that the kernel can run the instruction at `addr` with a probe on it.
///
/// # Errors
/// It would run another instruction instead.
pub fn check_decodable(elf: &ElfFile, addr: u64) -> Result<()> {
    // Code that is too short to be read is too short for such an instruction.
    let is_misdecoded = elf.code(addr, 5).is_ok_and(|code| is_misdecoded(&code));
    ensure!(!is_misdecoded, "{MISDECODED}");
    Ok(())
}

/// The error for a function that begins with an instruction that [`is_misdecoded`].
pub const MISDECODED: &str =
    "the kernel mistakes its first instruction (AVX) for another, and the program would crash";

/// Whether this is an AVX instruction whose opcode byte the x86 kernel takes for that of a push, jump, call,
/// return or popf: it looks at the byte and ignores the VEX or EVEX prefix (seen on Linux 6.18 with memset
/// for AVX-512).
pub fn is_misdecoded(code: &[u8]) -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        return false;
    }
    let ([0xc5, _, opcode, ..] | [0xc4, _, _, opcode, ..] | [0x62, _, _, _, opcode, ..]) = code else {
        return false;
    };
    matches!(
        opcode,
        0x50..=0x57 | 0x70..=0x7f | 0x90 | 0x9a | 0x9d | 0xc2 | 0xc3 | 0xca | 0xcb | 0xe8..=0xeb | 0xff
    )
}

fn check(function: &[u8], offset: u64) -> Result<(), BadOffset> {
    let size = function.len() as u64;
    if offset >= size {
        return Err(BadOffset::Outside { size });
    }
    for instruction in decode(function) {
        let Instruction { start, end, .. } = instruction?;
        if start == offset {
            return Ok(());
        }
        if offset < end {
            let next = Some(end).filter(|&end| end < size);
            return Err(BadOffset::Inside { start, next });
        }
    }
    Err(BadOffset::Outside { size })
}

/// Bytes of an instruction that [`may_be_rejected`] needs.
pub const BEGINNING: usize = 8;

/// Whether the kernel may be unable to single-step this instruction out of line, and then refuses to probe
/// it. Which ones it refuses differs between kernels. On x86-64 they are mostly instructions with a lock or
/// segment prefix, and AVX (`is_prefix_bad` and `good_insns_64` in arch/x86/kernel/uprobes.c); on arm64,
/// PC-relative and exclusive loads (arch/arm64/kernel/probes/decode-insn.c).
pub fn may_be_rejected(code: &[u8]) -> bool {
    machine::may_be_rejected(code)
}

/// Whether a function reads its return address, like setjmp and getcontext, which save it to return a second
/// time. Under a return probe that is the address of the kernel's trampoline, which is invalid the second
/// time. Not detected on arm64, where every function that calls others saves it.
pub fn reads_return_address(function: &[u8]) -> bool {
    machine::reads_return_address(function)
}

/// An instruction that ends a call of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionExit {
    /// Bytes from the start of the function.
    pub at: u64,
    /// A jump to another function, which returns to the caller of this one.
    pub jumps: bool,
}

/// Where calls of a function end. A probe there needs no change of the return address on the stack. `is_own`
/// says whether an address, in bytes from the start of the function, belongs to the function. Conditional and
/// indirect jumps are not exits: they mostly stay inside.
///
/// # Errors
/// Part of the function cannot be decoded.
pub fn exits(function: &[u8], is_own: impl Fn(i64) -> bool) -> Result<Vec<FunctionExit>, BadOffset> {
    let mut exits = Vec::new();
    for instruction in decode(function) {
        let Instruction { start, flow, .. } = instruction?;
        match flow {
            ControlFlow::Return => exits.push(FunctionExit {
                at: start,
                jumps: false,
            }),
            ControlFlow::Jump(target) if !is_own(target) => exits.push(FunctionExit {
                at: start,
                jumps: true,
            }),
            ControlFlow::Jump(_) | ControlFlow::Next => {}
        }
    }
    Ok(exits)
}
