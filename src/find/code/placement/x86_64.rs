// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! x86-64: which instructions the kernel emulates, and what instructions do.

use std::fmt;
use std::ops::Range;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use super::effects::{InstructionEffects, InstructionName, StayReason, StoreTarget};

/// The stack pointer, and the frame pointer, which the kernel needs to walk the stack.
pub const STACK: u32 = 1 << 7 | 1 << 6;
/// Go keeps `g` in r14.
pub const GOROUTINE: u8 = 14;
/// `nopl 0(%rax,%rax,1)`.
pub const REWRITTEN_NOP: &[u8] = &[0x0f, 0x1f, 0x44, 0, 0];
/// By their DWARF numbers: rdi, rsi, rdx, rcx, r8, r9.
pub const ARGUMENTS: &[u8] = &[5, 4, 1, 2, 8, 9];

impl fmt::Display for InstructionName {
    /// The mnemonic.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mnemonic = Mnemonic::try_from(self.0 as usize).unwrap_or_default();
        f.write_str(&format!("{mnemonic:?}").to_lowercase())
    }
}

/// The instructions of a function in order, up to an invalid one.
pub fn effects(code: &[u8]) -> impl Iterator<Item = InstructionEffects> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut factory = InstructionInfoFactory::new();
    std::iter::from_fn(move || {
        let instruction = decoder.can_decode().then(|| decoder.decode())?;
        if instruction.is_invalid() {
            return None;
        }
        let bytes = code.get(instruction.ip() as usize..instruction.next_ip() as usize)?;
        Some(effects_of(&instruction, bytes, &mut factory))
    })
}

fn effects_of(
    instruction: &Instruction,
    bytes: &[u8],
    factory: &mut InstructionInfoFactory,
) -> InstructionEffects {
    let info = factory.info(instruction);
    let mut effects = InstructionEffects {
        end: instruction.next_ip(),
        name: InstructionName(instruction.mnemonic() as u32),
        emulated: is_emulated(bytes),
        leaves: leaves(instruction),
        writes: 0,
        stores: StoreTarget::Nothing,
        may_fault: false,
    };
    for used in info.used_registers() {
        if writes(used.access()) {
            effects.writes |= dwarf_bit(used.register().full_register());
        }
    }
    for used in info.used_memory() {
        let accesses = !matches!(used.access(), OpAccess::None | OpAccess::NoMemAccess);
        let plain = used.index() == Register::None && !is_thread_segment(used.segment());
        let on_stack = plain && used.base() == Register::RSP;
        if writes(used.access()) {
            let below = (used.displacement() as i64) < 0;
            effects.stores = effects.stores.max(match (on_stack, below) {
                (true, true) => StoreTarget::BelowStack,
                (true, false) => StoreTarget::Stack,
                (false, _) => StoreTarget::Anything,
            });
        }
        // The stack, global variables, thread-local variables and those of a goroutine are mapped.
        let is_mapped = on_stack
            || matches!(used.base(), Register::RIP | Register::None) && used.index() == Register::None
            || plain && used.base() == Register::R14 && is_stack_check(instruction);
        effects.may_fault |= accesses && !is_mapped;
    }
    effects
}

/// `cmp 16(%r14),%rsp` at the start of Go functions: whether the goroutine's stack has to grow.
fn is_stack_check(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Cmp && instruction.op0_register() == Register::RSP
}

fn is_thread_segment(segment: Register) -> bool {
    matches!(segment, Register::FS | Register::GS)
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

fn dwarf_bit(register: Register) -> u32 {
    const ORDER: [Register; 16] = [
        Register::RAX,
        Register::RDX,
        Register::RCX,
        Register::RBX,
        Register::RSI,
        Register::RDI,
        Register::RBP,
        Register::RSP,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R14,
        Register::R15,
    ];
    ORDER
        .iter()
        .position(|&known| known == register)
        .map_or(0, |number| 1 << number)
}

/// Branches, calls, returns and system calls; instructions whose order other threads can observe, or that
/// depend on the time: locked instructions, fences and waits; and repeated ones, which can be interrupted
/// half-way. `pop` removes data from the stack that a probe may read.
fn leaves(instruction: &Instruction) -> bool {
    instruction.flow_control() != FlowControl::Next
        || instruction.has_lock_prefix()
        || instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
        || instruction.is_privileged()
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Pop
                | Mnemonic::Popfq
                | Mnemonic::Leave
                | Mnemonic::Enter
                | Mnemonic::Mfence
                | Mnemonic::Lfence
                | Mnemonic::Sfence
                | Mnemonic::Pause
                | Mnemonic::Cpuid
                | Mnemonic::Rdtsc
                | Mnemonic::Rdtscp
        )
        // With memory, it is locked.
        || instruction.mnemonic() == Mnemonic::Xchg && (0..2).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// What `arch/x86/kernel/uprobes.c` emulates on every kernel from 5.10 to 7.2 (tested on 6.18): one-byte
/// `nop`, `push` of a register, and direct jumps and calls, with or without `bnd`. Longer forms of `nop` are
/// emulated by some kernels only, and 6.18 rewrites the one of five bytes to a call, which writes below the
/// stack pointer.
fn is_emulated(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(&[0xf2]).unwrap_or(bytes);
    matches!(
        bytes,
        [0x90]
            | [0x66, 0x90]
            | [0x50..=0x57]
            | [0x41, 0x50..=0x57]
            | [0x70..=0x7f | 0xeb, _]
            | [0xe8 | 0xe9, _, _, _, _]
            | [0x0f, 0x80..=0x8f, _, _, _, _]
    )
}

/// Checks that the targets of all jumps of a function are known.
///
/// # Errors
/// It has an invalid instruction or an indirect jump.
pub fn check_whole(function: &[u8]) -> Result<(), StayReason> {
    let mut decoder = Decoder::new(64, function, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return Err(StayReason::Unknown);
        }
        if instruction.flow_control() == FlowControl::IndirectBranch {
            return Err(StayReason::JumpsAnywhere);
        }
    }
    Ok(())
}

/// Calls `found` with the targets of direct jumps and calls that are in `into`, in bytes from the start of
/// `code`. Any bytes that could be one count, because it is unknown where instructions begin.
pub fn jumps(code: &[u8], into: &Range<i64>, mut found: impl FnMut(i64)) {
    let length = into.end.wrapping_sub(into.start) as u64;
    let is_inside = |target: i64| (target.wrapping_sub(into.start) as u64) < length;
    // Few targets are inside, but every other byte may be an opcode, so the target comes first: a quarter of the time.
    for (at, distance) in code.windows(4).enumerate() {
        let Ok(distance) = distance.try_into().map(i32::from_le_bytes) else {
            continue;
        };
        let target = at as i64 + 4 + i64::from(distance);
        if is_inside(target) && is_far_opcode(code.get(..at).unwrap_or_default()) {
            found(target);
        }
    }
    let start = into.start.saturating_sub(SHORT_REACH).max(0) as usize;
    let end = into.end.saturating_add(SHORT_REACH).max(0) as usize;
    let near = code.get(start..end.min(code.len())).unwrap_or_default();
    for (at, bytes) in near.windows(2).enumerate() {
        if let [0x70..=0x7f | 0xe0..=0xe3 | 0xeb, distance] = *bytes {
            let target = (start + at) as i64 + 2 + i64::from(distance as i8);
            if is_inside(target) {
                found(target);
            }
        }
    }
}

/// Bytes from one end of a short jump to its target, at most: two of the instruction, and the distance.
const SHORT_REACH: i64 = 2 + 128;

/// Whether an instruction with a distance of four bytes may begin at the end of these bytes.
fn is_far_opcode(before: &[u8]) -> bool {
    matches!(
        before,
        [.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f] | [.., 0xc7, 0xf8]
    )
}
