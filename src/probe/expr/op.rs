// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Operations of the interpreter in the BPF programs.

use std::mem::offset_of;

use super::ir::BinaryOp;
use crate::bpf::functrace::types::{self, expr_code, expr_limit};

/// Operations for one function at one end of its calls.
pub const MOST_OPS: usize = expr_limit::EXPR_STEPS.0 as usize;
/// Numbers on the interpreter's stack.
pub const STACK: usize = expr_limit::EXPR_STACK.0 as usize;
/// Numbers in a record.
pub const MOST_SLOTS: usize = expr_limit::EXPR_SLOTS.0 as usize;
/// Distinct texts to compare with in a run.
pub const MOST_LITERALS: usize = expr_limit::EXPR_LITERALS.0 as usize;
/// What an operation does. The operations that push a value replace their operands by it; all but those under
/// "control" do. A fault (memory that cannot be read, or a division by 0) skips to the operation that handles
/// it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpCode {
    // Control.
    /// Ends the operations; the call is wanted.
    End = number(expr_code::EXPR_END),
    /// Pops a value and stops unless it is true.
    Test = number(expr_code::EXPR_TEST),
    /// Pops a number into a slot.
    Store = number(expr_code::EXPR_STORE),
    /// Pops an address and a limit; copies text up to a NUL into the record and refers a slot to it.
    StoreText = number(expr_code::EXPR_STORE_TEXT),
    /// Pops an address and a length; copies that many bytes into the record and refers a slot to them.
    StoreBytes = number(expr_code::EXPR_STORE_BYTES),
    /// If the left side decides, keeps it and skips the right side; otherwise pops it.
    SkipIfFalse = number(expr_code::EXPR_SKIP_IF_FALSE),
    SkipIfTrue = number(expr_code::EXPR_SKIP_IF_TRUE),
    // Values without operand.
    Push = number(expr_code::EXPR_PUSH),
    Register = number(expr_code::EXPR_REGISTER),
    Slot = number(expr_code::EXPR_SLOT),
    Task = number(expr_code::EXPR_TASK),
    Latency = number(expr_code::EXPR_LATENCY),
    MatchComm = number(expr_code::EXPR_MATCH_COMM),
    // With one operand.
    Load = number(expr_code::EXPR_LOAD),
    Low = number(expr_code::EXPR_LOW),
    Not = number(expr_code::EXPR_NOT),
    /// 1 for every number other than 0.
    Truth = number(expr_code::EXPR_TRUTH),
    MatchText = number(expr_code::EXPR_MATCH_TEXT),
    MatchBytes = number(expr_code::EXPR_MATCH_BYTES),
    // With two.
    Add = number(expr_code::EXPR_ADD),
    Subtract = number(expr_code::EXPR_SUBTRACT),
    Multiply = number(expr_code::EXPR_MULTIPLY),
    Divide = number(expr_code::EXPR_DIVIDE),
    Remainder = number(expr_code::EXPR_REMAINDER),
    And = number(expr_code::EXPR_AND),
    Or = number(expr_code::EXPR_OR),
    Xor = number(expr_code::EXPR_XOR),
    ShiftLeft = number(expr_code::EXPR_SHIFT_LEFT),
    ShiftRight = number(expr_code::EXPR_SHIFT_RIGHT),
    Equal = number(expr_code::EXPR_EQUAL),
    Less = number(expr_code::EXPR_LESS),
    LessEqual = number(expr_code::EXPR_LESS_EQUAL),
}

const fn number(code: expr_code) -> u8 {
    code.0 as u8
}

/// One operation, as in the C `struct expr_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    pub code: OpCode,
    /// Bytes, or the number of a register, slot or task field.
    pub a: u8,
    pub signed: bool,
    /// Operations to skip: to the end of the right side, or on a fault to the operation that handles it.
    pub skip: u16,
    pub number: u64,
}

const _: () = {
    assert!(size_of::<types::expr_op>() == 16);
    assert!(offset_of!(types::expr_op, a) == 1);
    assert!(offset_of!(types::expr_op, is_signed) == 2);
    assert!(offset_of!(types::expr_op, skip) == 4);
    assert!(offset_of!(types::expr_op, number) == 8);
};

impl Op {
    /// The end of the operations of a function.
    pub const END: Op = op(OpCode::End);

    /// With this field `a`.
    pub fn with(self, a: u8) -> Op {
        Op { a, ..self }
    }

    /// With this field `number`.
    pub fn number(self, number: u64) -> Op {
        Op { number, ..self }
    }

    /// With this field `signed`.
    pub fn signed(self, signed: bool) -> Op {
        Op { signed, ..self }
    }

    /// It can fault. The distance to skip is set when the last operation is known.
    pub fn faulting(self) -> Op {
        Op {
            skip: TO_LAST,
            ..self
        }
    }

    /// As in the map.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.code as u8;
        bytes[1] = self.a;
        bytes[2] = self.signed.into();
        bytes[4..6].copy_from_slice(&self.skip.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_ne_bytes());
        bytes
    }
}

/// Placeholder of the distance to the last operation, which handles faults.
pub const TO_LAST: u16 = u16::MAX;

/// An operation whose fields are 0.
pub const fn op(code: OpCode) -> Op {
    Op {
        code,
        a: 0,
        signed: false,
        skip: 0,
        number: 0,
    }
}

/// The operation for the two numbers on top of the stack.
pub fn binary(operation: BinaryOp) -> Op {
    let (code, signed) = match operation {
        BinaryOp::Add => (OpCode::Add, false),
        BinaryOp::Subtract => (OpCode::Subtract, false),
        BinaryOp::Multiply => (OpCode::Multiply, false),
        BinaryOp::Divide { signed } => (OpCode::Divide, signed),
        BinaryOp::Remainder { signed } => (OpCode::Remainder, signed),
        BinaryOp::And => (OpCode::And, false),
        BinaryOp::Or => (OpCode::Or, false),
        BinaryOp::Xor => (OpCode::Xor, false),
        BinaryOp::ShiftLeft => (OpCode::ShiftLeft, false),
        BinaryOp::ShiftRight { signed } => (OpCode::ShiftRight, signed),
        BinaryOp::Equal => (OpCode::Equal, false),
        BinaryOp::Less { signed } => (OpCode::Less, signed),
        BinaryOp::LessEqual { signed } => (OpCode::LessEqual, signed),
    };
    let op = op(code).signed(signed);
    match code {
        OpCode::Divide | OpCode::Remainder => op.faulting(),
        _ => op,
    }
}
