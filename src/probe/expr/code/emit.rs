// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Operations that compute a value.

use super::{CallEnd, KnownAt, PlanBuilder, known_at, reads_memory};
use crate::probe::expr::ExprError;
use crate::probe::expr::ir::{Ir, TextLiteral};
use crate::probe::expr::op::{MOST_LITERALS, MOST_OPS, Op, OpCode, STACK, TO_LAST, binary, op};

/// Operations in the making, which end in one that uses the values they push.
struct OpList {
    stage: CallEnd,
    /// Where in the text the expression is, bytes.
    at: usize,
    ops: Vec<Op>,
    depth: StackDepth,
}

impl OpList {
    /// Adds an operation that pushes a value.
    fn add(&mut self, op: Op) {
        self.depth.push();
        self.ops.push(op);
    }
}

impl PlanBuilder<'_> {
    /// Adds operations that push these values, and `last`, which uses them and handles their faults.
    pub(super) fn run(
        &mut self,
        stage: CallEnd,
        at: usize,
        values: &[&Ir],
        last: Op,
    ) -> Result<(), ExprError> {
        if stage == CallEnd::Return && !self.returns {
            return Err(ExprError::new(at, "this is not known before the call returns"));
        }
        let mut list = OpList {
            stage,
            at,
            ops: Vec::new(),
            depth: StackDepth::default(),
        };
        for ir in values {
            self.plan.reads |= reads_memory(ir);
            self.push(ir, &mut list)?;
        }
        if list.depth.most > STACK {
            return Err(ExprError::new(at, "too many nested values"));
        }
        let mut ops = list.ops;
        let end = ops.len();
        for (index, op) in ops.iter_mut().enumerate().filter(|(_, op)| op.skip == TO_LAST) {
            op.skip = (end - index - 1) as u16;
        }
        ops.push(last);
        let all = match stage {
            CallEnd::Entry => &mut self.plan.entry,
            CallEnd::Return => &mut self.plan.at_return,
        };
        // One more ends it.
        if all.len() + ops.len() >= MOST_OPS {
            return Err(too_many_operations(at));
        }
        all.append(&mut ops);
        Ok(())
    }

    /// Adds operations that push a value.
    fn push(&mut self, ir: &Ir, list: &mut OpList) -> Result<(), ExprError> {
        if list.ops.len() >= MOST_OPS {
            return Err(too_many_operations(list.at));
        }
        if list.stage == CallEnd::Return && known_at(ir) == KnownAt::Entry {
            let slot = self.keep(ir, list.at)?;
            list.add(op(OpCode::Slot).with(slot).faulting());
            return Ok(());
        }
        match ir {
            Ir::Const(number) => list.add(op(OpCode::Push).number(*number)),
            Ir::Register(register) | Ir::Result(register) => {
                list.add(op(OpCode::Register).with(*register).faulting());
            }
            Ir::Task(field) => list.add(op(OpCode::Task).with(*field as u8)),
            Ir::Latency => list.add(op(OpCode::Latency)),
            Ir::CommMatches(literal) => {
                let index = self.literal(literal, list.at)?;
                list.add(op(OpCode::MatchComm).number(index));
            }
            Ir::Load { from, bytes, signed } => {
                self.push(from, list)?;
                list.ops
                    .push(op(OpCode::Load).with(*bytes).signed(*signed).faulting());
            }
            Ir::Low { of, bytes, signed } => {
                self.push(of, list)?;
                list.ops.push(op(OpCode::Low).with(*bytes).signed(*signed));
            }
            Ir::Not(of) => {
                self.push(of, list)?;
                list.ops.push(op(OpCode::Not));
            }
            Ir::TextMatches(from, literal) => self.push_match(OpCode::MatchText, from, literal, list)?,
            Ir::BytesMatch(from, literal) => self.push_match(OpCode::MatchBytes, from, literal, list)?,
            Ir::Binary(operation, left, right) => {
                self.push(left, list)?;
                self.push(right, list)?;
                list.depth.pop();
                list.ops.push(binary(*operation));
            }
            Ir::And(left, right) => self.push_either(OpCode::SkipIfFalse, left, right, list)?,
            Ir::Or(left, right) => self.push_either(OpCode::SkipIfTrue, left, right, list)?,
        }
        Ok(())
    }

    /// Compares what is at an address with a text.
    fn push_match(
        &mut self,
        code: OpCode,
        from: &Ir,
        literal: &TextLiteral,
        list: &mut OpList,
    ) -> Result<(), ExprError> {
        self.push(from, list)?;
        let index = self.literal(literal, list.at)?;
        let bytes = literal.bytes.len() as u8;
        list.ops.push(op(code).with(bytes).number(index).faulting());
        Ok(())
    }

    /// `&&` and `||`: the right side is skipped if the left one decides.
    fn push_either(
        &mut self,
        code: OpCode,
        left: &Ir,
        right: &Ir,
        list: &mut OpList,
    ) -> Result<(), ExprError> {
        self.push(left, list)?;
        let skip = list.ops.len();
        list.ops.push(op(code));
        list.depth.pop();
        self.push(right, list)?;
        let length = list.ops.len() - skip - 1;
        if let Some(op) = list.ops.get_mut(skip) {
            op.skip = length as u16;
        }
        list.ops.push(op(OpCode::Truth));
        Ok(())
    }

    /// The slot in which the entry keeps a value for the return.
    fn keep(&mut self, ir: &Ir, at: usize) -> Result<u8, ExprError> {
        if let Some((_, slot)) = self.kept.iter().find(|(kept, _)| kept == ir) {
            return Ok(*slot);
        }
        let slot = self.slot(at)?;
        self.run(CallEnd::Entry, at, &[ir], op(OpCode::Store).with(slot))?;
        self.kept.push((ir.clone(), slot));
        Ok(slot)
    }

    /// The index of a text in the map of texts to compare with.
    fn literal(&mut self, literal: &TextLiteral, at: usize) -> Result<u64, ExprError> {
        if let Some(index) = self.literals.iter().position(|known| known == literal) {
            return Ok(index as u64);
        }
        if self.literals.len() >= MOST_LITERALS {
            return Err(ExprError::new(
                at,
                format!("more than {MOST_LITERALS} texts to compare with"),
            ));
        }
        self.literals.push(literal.clone());
        Ok(self.literals.len() as u64 - 1)
    }
}

fn too_many_operations(at: usize) -> ExprError {
    ExprError::new(at, format!("this needs more than {MOST_OPS} operations per call"))
}

/// How many numbers are on the interpreter's stack, and the maximum so far.
#[derive(Default)]
struct StackDepth {
    now: usize,
    most: usize,
}

impl StackDepth {
    fn push(&mut self) {
        self.now += 1;
        self.most = self.most.max(self.now);
    }

    fn pop(&mut self) {
        self.now = self.now.saturating_sub(1);
    }
}
