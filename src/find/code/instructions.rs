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

use std::fmt;

use anyhow::{Context, Result, ensure};

#[cfg(target_arch = "aarch64")]
use self::arm64 as machine;
#[cfg(target_arch = "x86_64")]
use self::x86_64 as machine;
use crate::find::elf::{ElfFile, FunctionSymbol};
pub use decoded::{ArrayAddress, BadOffset, BranchCondition, ControlFlow, IndirectJump, Instruction};
pub use machine::{branches, decode, references, starts};

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
pub const MISDECODED: &str = "under a probe, the kernel does not run its first instruction (AVX, pushf, rep movs, or xchg with r8) as the processor does";

/// Whether the x86 kernel takes this for another instruction: it looks at the opcode byte and ignores what prefixes
/// mean. With VEX or EVEX (AVX) it sees a push, jump, call, return or popf (seen on Linux 6.18 with memset for
/// AVX-512). Of `xchg %rax,%r8`, which is `nop` with REX.B, it executes the `nop` (seen with Go's
/// runtime.gcWriteBarrierR8). REX2 selects further registers in the same way. Behind a prefix F2 or F3, it does not
/// see the operand of opcodes that some AVX-512 instructions share, cmov and setcc among them, and does not adapt an
/// address relative to the instruction pointer to the copy that it steps. Flags that `pushf` stores have the trap flag
/// of the step: the program is killed when it restores them (OpenSSL's padlock_reload_key). An instruction with a
/// repeat prefix hits the probe at each repetition.
pub fn is_misdecoded(code: &[u8]) -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        return false;
    }
    const LEGACY_PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
    let prefixes = code.iter().take_while(|byte| LEGACY_PREFIXES.contains(byte));
    let (prefixes, unprefixed) = code.split_at(prefixes.count());
    let opcode = match unprefixed {
        [0x40..=0x4f, opcode @ ..] => opcode,
        opcode => opcode,
    };
    let repeats = prefixes.iter().any(|prefix| matches!(prefix, 0xf2 | 0xf3));
    if let [
        0x0f,
        0x41 | 0x42 | 0x44..=0x47 | 0x4a | 0x4b | 0x90..=0x93 | 0x98 | 0x99,
        operand,
        ..,
    ] = opcode
        && repeats
    {
        // Relative to the instruction pointer.
        return operand & 0xc7 == 0x05;
    }
    // Bit 0 of a REX prefix is REX.B.
    if let [rex @ 0x40..=0x4f, 0x90, ..] = unprefixed {
        return rex & 1 != 0;
    }
    if let [0xd5, ..] = unprefixed {
        return true;
    }
    if let [0x9c, ..] = opcode {
        return true;
    }
    if let [0xa4..=0xa7 | 0xaa..=0xaf, ..] = opcode {
        return repeats;
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
    pub kind: ExitKind,
    /// Where a jump leads, if that is fixed, in bytes from the start of the function.
    pub target: Option<i64>,
    /// It belongs to another function, to which this one jumps.
    pub followed: bool,
}

/// How an instruction ends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    Return,
    /// A jump to another function, which returns to the caller of this one.
    Jump,
    /// As above, where the exits of the other function count as those of this one.
    FollowedJump,
    /// A jump, if the flags match a condition code of the processor (4 bits).
    JumpIf(u8),
}

/// Why the exits of a function are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownExit {
    Undecodable(BadOffset),
    /// A jump, by its offset in bytes, that may stay in the function or leave it.
    Jump(u64),
}

impl fmt::Display for UnknownExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnknownExit::Undecodable(error) => error.fmt(f),
            UnknownExit::Jump(at) => write!(f, "the target of its jump at +{at:#x} is unknown"),
        }
    }
}

impl std::error::Error for UnknownExit {}

/// Whether no instruction of a function returns, or jumps to where `stays` does not hold: it gets addresses in bytes
/// from the start of the function.
pub fn never_leaves(function: &[u8], mut stays: impl FnMut(i64) -> bool) -> bool {
    decode(function).all(
        |instruction| match instruction.map(|instruction| instruction.flow) {
            Ok(ControlFlow::Next | ControlFlow::Indirect(IndirectJump::JumpTable)) => true,
            Ok(ControlFlow::Jump(target) | ControlFlow::Branch(target, _)) => stays(target),
            Ok(ControlFlow::Return | ControlFlow::Indirect(_)) | Err(_) => false,
        },
    )
}

/// What is known about the file around a function.
pub trait FunctionContext {
    /// Whether an address, in bytes from the start of the function, belongs to the function.
    fn is_own(&self, at: i64) -> bool;

    /// Whether the first pointer of an array leads into the function. None if it cannot be read.
    fn array_is_own(&self, array: ArrayAddress) -> Option<bool>;
}

/// Where calls of a function end. A probe there needs no change of the return address on the stack.
///
/// Jumps that may lead elsewhere count as exits. A program tells by the stack pointer: the caller of a function that
/// jumps to another one is the caller of both, so the stack pointer is what it was at the entry.
///
/// # Errors
/// Part of the function cannot be decoded, or a jump cannot be followed.
pub fn exits(function: &[u8], context: &impl FunctionContext) -> Result<Vec<FunctionExit>, UnknownExit> {
    let mut exits = Vec::new();
    for instruction in decode(function) {
        let Instruction { start, flow, .. } = instruction.map_err(UnknownExit::Undecodable)?;
        let leaves = |jump| match jump {
            IndirectJump::JumpTable => Some(false),
            IndirectJump::Pointer => Some(true),
            IndirectJump::Element(array) => context.array_is_own(array).map(|is_own| !is_own),
            IndirectJump::Unknown => None,
        };
        let target = match flow {
            ControlFlow::Jump(target) | ControlFlow::Branch(target, _) => Some(target),
            _ => None,
        };
        let kind = match flow {
            ControlFlow::Next => None,
            ControlFlow::Return => Some(ExitKind::Return),
            ControlFlow::Jump(target) | ControlFlow::Branch(target, _) if context.is_own(target) => None,
            ControlFlow::Jump(_) => Some(ExitKind::Jump),
            ControlFlow::Branch(_, BranchCondition::Flags(code)) => Some(ExitKind::JumpIf(code)),
            ControlFlow::Branch(_, BranchCondition::Other) => return Err(UnknownExit::Jump(start)),
            ControlFlow::Indirect(jump) => match leaves(jump) {
                Some(leaves) => leaves.then_some(ExitKind::Jump),
                None => return Err(UnknownExit::Jump(start)),
            },
        };
        exits.extend(kind.map(|kind| FunctionExit {
            at: start,
            kind,
            target,
            followed: false,
        }));
    }
    Ok(exits)
}
