// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The interpreter of the BPF programs, in Rust.

use std::collections::BTreeMap;

use crate::probe::expr::ir::{LITERAL_BYTES, TaskField, TextLiteral};
use crate::probe::expr::op::{Op, OpCode, STACK};

/// A call, as the operations see it.
#[derive(Clone, Default)]
pub struct Call {
    pub args: [u64; 6],
    pub result: u64,
    pub lat_ns: u64,
    pub comm: &'static str,
    pub stack: Vec<u64>,
    pub memory: BTreeMap<u64, Vec<u8>>,
}

pub const STACK_AT: u64 = 0x7ffc_0000;
pub const PID: u64 = 4099;

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Yes,
    No,
    Fault,
}

impl Call {
    pub fn with(args: &[u64]) -> Call {
        let mut call = Call::default();
        call.args[..args.len()].copy_from_slice(args);
        call
    }

    pub fn memory(mut self, at: u64, bytes: &[u8]) -> Call {
        self.memory.insert(at, bytes.to_vec());
        self
    }

    fn register(&self, number: u8, returned: bool) -> u64 {
        const ORDER: &[u8] = if cfg!(target_arch = "x86_64") {
            &[5, 4, 1, 2, 8, 9]
        } else {
            &[0, 1, 2, 3, 4, 5]
        };
        const POINTER: u8 = if cfg!(target_arch = "x86_64") { 7 } else { 31 };
        if returned {
            return if number == 0 { self.result } else { 0 };
        }
        match ORDER.iter().position(|register| *register == number) {
            Some(index) => self.args[index],
            None if number == POINTER => STACK_AT,
            None => 0,
        }
    }

    fn read(&self, at: u64, bytes: usize) -> Option<Vec<u8>> {
        if at >= STACK_AT && (at - STACK_AT).is_multiple_of(8) && bytes <= 8 {
            let word = *self.stack.get(((at - STACK_AT) / 8) as usize)?;
            return Some(word.to_le_bytes()[..bytes].to_vec());
        }
        let (start, memory) = self.memory.range(..=at).next_back()?;
        let from = (at - start) as usize;
        memory.get(from..from.checked_add(bytes)?).map(<[u8]>::to_vec)
    }

    fn text(&self, at: u64) -> Option<Vec<u8>> {
        let (start, memory) = self.memory.range(..=at).next_back()?;
        let rest = memory.get((at - start) as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        Some(rest[..=end].to_vec())
    }
}

/// The operations of one end of a call.
pub struct Interpreter<'a> {
    call: &'a Call,
    literals: &'a [TextLiteral],
    returned: bool,
    slots: &'a mut [Option<u64>],
    stack: Vec<u64>,
    faulted: bool,
}

impl<'a> Interpreter<'a> {
    pub fn new(
        call: &'a Call,
        literals: &'a [TextLiteral],
        returned: bool,
        slots: &'a mut [Option<u64>],
    ) -> Self {
        Self {
            call,
            literals,
            returned,
            slots,
            stack: Vec::new(),
            faulted: false,
        }
    }

    pub fn run(mut self, ops: &[Op]) -> Outcome {
        let mut at = 0;
        while let Some(op) = ops.get(at) {
            at += 1;
            match op.code {
                OpCode::End => break,
                OpCode::Test if self.faulted => return Outcome::Fault,
                OpCode::Test if self.pop() == 0 => return Outcome::No,
                OpCode::Test => {}
                OpCode::Store | OpCode::StoreText | OpCode::StoreBytes => self.store(op),
                OpCode::SkipIfFalse | OpCode::SkipIfTrue => {
                    let left = self.pop();
                    if (left != 0) == (op.code == OpCode::SkipIfTrue) {
                        self.stack.push(left);
                        at += usize::from(op.skip);
                    }
                }
                _ => match self.value(op) {
                    Some(number) => self.stack.push(number),
                    None => {
                        self.faulted = true;
                        self.stack.clear();
                        at += usize::from(op.skip);
                    }
                },
            }
            assert!(self.stack.len() <= STACK, "the stack overflows");
        }
        assert!(self.stack.is_empty(), "{:?} is left over", self.stack);
        Outcome::Yes
    }

    fn pop(&mut self) -> u64 {
        self.stack.pop().expect("a number on the stack")
    }

    /// Texts are not stored.
    fn store(&mut self, op: &Op) {
        let stored = (!self.faulted).then(|| self.pop());
        if op.code == OpCode::Store {
            self.slots[usize::from(op.a)] = stored;
        }
        self.faulted = false;
        self.stack.clear();
    }

    /// The value that an operation pushes; None on a fault.
    fn value(&mut self, op: &Op) -> Option<u64> {
        Some(match op.code {
            OpCode::Push => op.number,
            OpCode::Register => self.call.register(op.a, self.returned),
            OpCode::Slot => self.slots[usize::from(op.a)]?,
            OpCode::Task if op.a == TaskField::Pid as u8 => PID,
            OpCode::Task => op.a.into(),
            OpCode::Latency => self.call.lat_ns,
            OpCode::MatchComm => self.matches(op, self.call.comm.as_bytes()),
            OpCode::Load => {
                let mut bytes = self.call.read(self.pop(), op.a.into())?;
                bytes.resize(8, 0);
                extend(op, u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
            }
            OpCode::Low => extend(op, self.pop()),
            OpCode::Not => (self.pop() == 0).into(),
            OpCode::Truth => (self.pop() != 0).into(),
            OpCode::MatchText => {
                let mut text = self.call.text(self.pop())?;
                // The kernel ends what it copied, too.
                text.resize(LITERAL_BYTES.min(text.len()) - 1, 0);
                text.push(0);
                self.matches(op, &text)
            }
            OpCode::MatchBytes => {
                let bytes = self.call.read(self.pop(), op.a.into())?;
                self.matches(op, &bytes)
            }
            code => {
                let (b, a) = (self.pop(), self.pop());
                arithmetic(code, op.signed, a, b)?
            }
        })
    }

    fn matches(&self, op: &Op, text: &[u8]) -> u64 {
        let TextLiteral { bytes, whole } = &self.literals[op.number as usize];
        let ends = text.get(bytes.len()).is_none_or(|byte| *byte == 0);
        (text.starts_with(bytes) && (!whole || ends)).into()
    }
}

fn extend(op: &Op, number: u64) -> u64 {
    match (op.a, op.signed) {
        (1, false) => number as u8 as u64,
        (2, false) => number as u16 as u64,
        (4, false) => number as u32 as u64,
        (1, true) => number as i8 as u64,
        (2, true) => number as i16 as u64,
        (4, true) => number as i32 as u64,
        _ => number,
    }
}

fn arithmetic(code: OpCode, signed: bool, a: u64, b: u64) -> Option<u64> {
    let (sa, sb) = (a as i64, b as i64);
    Some(match code {
        OpCode::Add => a.wrapping_add(b),
        OpCode::Subtract => a.wrapping_sub(b),
        OpCode::Multiply => a.wrapping_mul(b),
        OpCode::Divide if b == 0 => return None,
        OpCode::Remainder if b == 0 => return None,
        OpCode::Divide if signed => sa.wrapping_div(sb) as u64,
        OpCode::Remainder if signed => sa.wrapping_rem(sb) as u64,
        OpCode::Divide => a / b,
        OpCode::Remainder => a % b,
        OpCode::And => a & b,
        OpCode::Or => a | b,
        OpCode::Xor => a ^ b,
        OpCode::ShiftLeft => a << (b & 63),
        OpCode::ShiftRight if signed => (sa >> (b & 63)) as u64,
        OpCode::ShiftRight => a >> (b & 63),
        OpCode::Equal => (a == b).into(),
        OpCode::Less if signed => (sa < sb).into(),
        OpCode::Less => (a < b).into(),
        OpCode::LessEqual if signed => (sa <= sb).into(),
        OpCode::LessEqual => (a <= b).into(),
        _ => panic!("{code:?} has no two numbers"),
    })
}
