// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What an expression computes, independent of where it comes from and at which end of the call it runs.

use std::rc::Rc;

use crate::bpf::functrace::types::{expr_limit, expr_task};
use crate::find::debug::types::ValueType;

/// Bytes of a text to compare with, including a NUL.
pub const LITERAL_BYTES: usize = expr_limit::EXPR_LITERAL.0 as usize;

/// A number to compute.
#[derive(Clone, Debug, PartialEq)]
pub enum Ir {
    Const(u64),
    /// A register at the entry, by its DWARF number.
    Register(u8),
    /// A register at the return.
    Result(u8),
    /// The duration of the call, ns.
    Latency,
    Task(TaskField),
    /// Memory of the process.
    Load {
        from: Box<Ir>,
        bytes: u8,
        signed: bool,
    },
    /// The low bytes of a number, extended to 64 bits.
    Low {
        of: Box<Ir>,
        bytes: u8,
        signed: bool,
    },
    Not(Box<Ir>),
    Binary(BinaryOp, Box<Ir>, Box<Ir>),
    And(Box<Ir>, Box<Ir>),
    Or(Box<Ir>, Box<Ir>),
    /// Does the text at this address, up to a NUL, match?
    TextMatches(Box<Ir>, TextLiteral),
    /// Are the bytes at this address those of the text?
    BytesMatch(Box<Ir>, TextLiteral),
    CommMatches(TextLiteral),
}

/// What is known of the calling thread.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskField {
    Pid = expr_task::TASK_PID.0 as u8,
    Tid = expr_task::TASK_TID.0 as u8,
    Uid = expr_task::TASK_UID.0 as u8,
    Cpu = expr_task::TASK_CPU.0 as u8,
}

/// An operation on two 64-bit numbers. Signedness matters only where the result depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide { signed: bool },
    Remainder { signed: bool },
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight { signed: bool },
    Equal,
    Less { signed: bool },
    LessEqual { signed: bool },
}

/// A text to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TextLiteral {
    pub bytes: Rc<[u8]>,
    /// A NUL must follow; otherwise the text is a prefix.
    pub whole: bool,
}

/// The value of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprValue {
    /// A number or address of up to 64 bits.
    Scalar(Ir, ValueType),
    Text(TextSource),
    /// A structure or an array.
    Aggregate(Aggregate, ValueType),
    Literal(Vec<u8>),
    Comm,
    /// It cannot be read, and why.
    Nowhere(&'static str),
}

/// Where text is.
#[derive(Clone, Debug, PartialEq)]
pub enum TextSource {
    /// Up to a NUL, at most `most` bytes.
    Ended { at: Ir, most: Ir },
    Counted {
        at: Ir,
        bytes: Ir,
        /// The type of the value says so, such as Go's `string`, whose address is 0 if it is empty.
        typed: bool,
    },
}

/// Where a structure or an array is.
#[derive(Clone, Debug, PartialEq)]
pub enum Aggregate {
    Memory(Ir),
    /// In pieces of eight bytes.
    Pieces(Vec<Ir>),
}

impl Ir {
    /// The number in `bytes` bytes of memory at an address, extended to 64 bits.
    pub fn load(from: Ir, bytes: u8, signed: bool) -> Ir {
        Ir::Load {
            from: Box::new(from),
            bytes,
            signed,
        }
    }

    /// The low `bytes` bytes of a number, extended to 64 bits.
    pub fn low(of: Ir, bytes: u8, signed: bool) -> Ir {
        if bytes >= 8 {
            return of;
        }
        Ir::Low {
            of: Box::new(of),
            bytes,
            signed,
        }
    }

    /// The result of an operation.
    pub fn binary(operation: BinaryOp, left: Ir, right: Ir) -> Ir {
        Ir::Binary(operation, Box::new(left), Box::new(right))
    }

    /// Multiplied by a constant.
    pub fn times(self, factor: u64) -> Ir {
        match factor {
            1 => self,
            _ => Ir::binary(BinaryOp::Multiply, self, Ir::Const(factor)),
        }
    }

    /// Its bits from this one on.
    pub fn shifted_right(self, bits: u64) -> Ir {
        match bits {
            0 => self,
            _ => Ir::binary(BinaryOp::ShiftRight { signed: false }, self, Ir::Const(bits)),
        }
    }

    /// Plus a constant; wraps around.
    pub fn plus(self, offset: u64) -> Ir {
        match (self, offset) {
            (ir, 0) => ir,
            (Ir::Const(number), _) => Ir::Const(number.wrapping_add(offset)),
            (ir, _) => Ir::binary(BinaryOp::Add, ir, Ir::Const(offset)),
        }
    }

    /// 1 if this is 0, else 0.
    pub fn not(self) -> Ir {
        Ir::Not(Box::new(self))
    }
}
