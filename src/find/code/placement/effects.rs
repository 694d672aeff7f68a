// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What instructions do on every machine, and why a probe cannot move over them.

use std::fmt;

/// The name of an instruction, in the encoding of the machine's module, which also writes it as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionName(pub u32);

/// What an instruction does, as far as it matters here.
pub struct InstructionEffects {
    /// Bytes from the start of the function to the next instruction.
    pub end: u64,
    pub name: InstructionName,
    /// The kernel emulates it under a probe.
    pub emulated: bool,
    /// Control may not reach the next instruction, or the instruction must not run before the probe.
    pub leaves: bool,
    /// Registers that it writes, by their DWARF numbers.
    pub writes: u32,
    pub stores: StoreTarget,
    /// It accesses memory at an address that may be invalid.
    pub may_fault: bool,
}

/// What an instruction writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreTarget {
    Nothing,
    /// Memory below the stack pointer, which the caller does not use.
    BelowStack,
    /// Memory at or above the stack pointer: the function's frame or its stack arguments.
    Stack,
    Anything,
}

/// Why a probe cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StayReason {
    /// This instruction changes what the probe reads.
    Changes(InstructionName),
    /// Control may leave at this instruction.
    Leaves(InstructionName),
    /// The program can end at this instruction.
    MayFault(InstructionName),
    /// A jump targets the code in between.
    JumpedInto,
    /// The function has an indirect jump.
    JumpsAnywhere,
    /// Another function begins in between.
    OtherFunction,
    /// No instruction nearby is emulated.
    NoneNear,
    /// A loop leads back to the first instruction.
    Repeated,
    /// `--placement` says so.
    Requested,
    /// The end of the function, or some of its code, is unknown.
    Unknown,
}

impl fmt::Display for StayReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StayReason::Changes(name) => write!(f, "{name} changes what the probe reads"),
            StayReason::Leaves(name) => write!(f, "{name} comes first"),
            StayReason::MayFault(name) => write!(f, "{name} may fault"),
            StayReason::JumpedInto => f.write_str("a jump targets the code in between"),
            StayReason::JumpsAnywhere => f.write_str("the function has an indirect jump"),
            StayReason::OtherFunction => f.write_str("another function begins in between"),
            StayReason::Repeated => f.write_str("a loop begins there"),
            StayReason::Requested => f.write_str("as requested"),
            StayReason::NoneNear => f.write_str("no instruction nearby is emulated"),
            StayReason::Unknown => f.write_str("its code is not fully known"),
        }
    }
}
