// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What decoding yields on every machine.

use std::fmt;

/// Where execution continues after an instruction.
pub enum ControlFlow {
    /// At the next instruction, or at an unknown one.
    Next,
    /// In the caller.
    Return,
    /// Always at this address, in bytes from the start of the function.
    Jump(i64),
    /// At this address if the condition holds, else at the next instruction.
    Branch(i64, BranchCondition),
    /// At an address that is computed.
    Indirect(IndirectJump),
}

/// When a conditional jump is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchCondition {
    /// The flags match this condition code, in the processor's own encoding (4 bits).
    Flags(u8),
    /// It depends on other registers.
    Other,
}

/// What an indirect jump reads its target from, as far as the instructions before it show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndirectJump {
    /// A table of distances, as compilers write for `switch`: it stays inside the function.
    JumpTable,
    /// One pointer to a function: a tail call.
    Pointer,
    /// An element of an array of pointers, to labels or to functions.
    Element(ArrayAddress),
    Unknown,
}

/// Where an array begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayAddress {
    /// Bytes from the start of the function.
    Relative(i64),
    Absolute(u64),
    Unknown,
}

/// An instruction from `start` to before `end`, in bytes from the start of the function.
pub struct Instruction {
    pub start: u64,
    pub end: u64,
    pub flow: ControlFlow,
}

/// Why no probe can be at an offset. All offsets are in bytes from the start of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadOffset {
    /// Inside an instruction that begins at `start`. The next one begins at `next`, unless the function ends there.
    Inside { start: u64, next: Option<u64> },
    /// Not known: the bytes at `at`, before or at the offset, are not a valid instruction.
    Undecodable { at: u64 },
    /// Past the end of the function.
    Outside { size: u64 },
}

impl fmt::Display for BadOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            BadOffset::Inside { start, next } => {
                write!(f, "not the start of an instruction: the nearest are +{start:#x}")?;
                match next {
                    Some(next) => write!(f, " and +{next:#x}"),
                    None => f.write_str(" and the end of the function"),
                }
            }
            BadOffset::Undecodable { at } => write!(f, "invalid instruction at +{at:#x}"),
            BadOffset::Outside { size } => write!(f, "the function has only {size} bytes"),
        }
    }
}

impl std::error::Error for BadOffset {}
