// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Values to operations: what the interpreter does at the two ends of a call, and where the record then has
//! what is shown.

mod emit;

use std::rc::Rc;

use super::error::ExprError;
use super::ir::{Aggregate, BinaryOp, ExprValue, Ir, TextLiteral, TextSource};
use super::lower::NameScope;
use super::op::{MOST_SLOTS, Op, OpCode, op};
use super::operand::{parameter, probe_argument, result, structure_behind, text_behind};
use super::tree::{BinaryOperator, Expr, Node};
use crate::find::code::placement::Needs;
use crate::find::debug::types::{FunctionParameter, TypeKind, ValueType};

/// Bytes of a structure that are read at most.
const MOST_STRUCT: u64 = 256;
/// Texts that members of one structure refer to.
const MOST_MEMBER_TEXTS: usize = 8;
/// Depth of nested structures that are shown.
pub(super) const MOST_NESTED: usize = 4;

/// A value to show of each call.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownValue {
    pub name: Rc<str>,
    pub fetched: FetchedValue,
}

/// Texts that members of a structure refer to: the offset of the member, and the slot of its text.
pub type MemberTexts = Vec<(u64, u8)>;

/// Where a value is in the record.
#[derive(Clone, Debug, PartialEq)]
pub enum FetchedValue {
    /// A number in this slot.
    Number(u8, ValueType),
    /// Text that this slot refers to.
    Text(u8),
    /// As `Text`, of a type whose empty text may have no address.
    TypedText(u8),
    /// The bytes of a structure that this slot refers to.
    Bytes(u8, ValueType, MemberTexts),
    /// A structure in slots: the first one, and how many. Each has eight bytes of it.
    Slots(u8, u8, ValueType, MemberTexts),
    /// The name of the thread.
    Comm,
    /// It is not in the record, and why.
    Nowhere(&'static str),
}

/// What the kernel does at the calls of one function, and what it then finds in the record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunctionPlan {
    pub entry: Vec<Op>,
    /// Empty if the row does not wait for the return.
    pub at_return: Vec<Op>,
    /// Slots in use.
    pub slots: u8,
    pub shown: Vec<ShownValue>,
    pub result: Option<FetchedValue>,
    /// Some operation reads the memory of the process.
    pub reads: bool,
    /// The record has texts or bytes besides the slots.
    pub has_text: bool,
}

/// What is wanted of each call of a function.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanRequest<'a> {
    pub condition: Option<&'a Expr>,
    /// The values to show; None for the parameters that are known.
    pub args: Option<&'a [(Rc<str>, Expr)]>,
    /// The row comes at the return.
    pub returns: bool,
    /// Show the result.
    pub result: bool,
}

/// Which text an error is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    Condition(ExprError),
    Args(ExprError),
}

impl FunctionPlan {
    /// Plans one function. `literals` are shared by all functions; operations refer to them by index.
    pub fn new(
        scope: NameScope<'_>,
        request: &PlanRequest<'_>,
        literals: &mut Vec<TextLiteral>,
    ) -> Result<FunctionPlan, PlanError> {
        let mut builder = PlanBuilder {
            scope,
            plan: FunctionPlan::default(),
            literals,
            returns: request.returns,
            kept: Vec::new(),
        };
        if let Some(condition) = request.condition {
            builder.condition(condition).map_err(PlanError::Condition)?;
        }
        builder
            .show(request.args, request.result)
            .map_err(PlanError::Args)?;
        Ok(builder.plan)
    }

    /// The plan of a function whose calls are not shown.
    pub fn never() -> FunctionPlan {
        let ops = vec![op(OpCode::Push), op(OpCode::Test)];
        FunctionPlan {
            entry: ops.clone(),
            at_return: ops,
            ..FunctionPlan::default()
        }
    }

    /// What the entry reads.
    pub fn needs(&self) -> Needs {
        let registers = self.entry.iter().filter(|op| op.code == OpCode::Register);
        let memory = Needs {
            memory: self.reads,
            ..Needs::NOTHING
        };
        registers.fold(memory, |needs, op| needs.and(Needs::register(op.a)))
    }
}

/// From when on a value is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum KnownAt {
    Always,
    Entry,
    Return,
}

fn known_at(ir: &Ir) -> KnownAt {
    match ir {
        Ir::Const(_) | Ir::Task(_) | Ir::CommMatches(_) => KnownAt::Always,
        Ir::Register(_) => KnownAt::Entry,
        Ir::Result(_) | Ir::Latency => KnownAt::Return,
        Ir::Load { from, .. } => known_at(from).max(KnownAt::Entry),
        Ir::Low { of, .. } | Ir::Not(of) => known_at(of),
        Ir::TextMatches(at, _) | Ir::BytesMatch(at, _) => known_at(at).max(KnownAt::Entry),
        Ir::Binary(_, left, right) | Ir::And(left, right) | Ir::Or(left, right) => {
            known_at(left).max(known_at(right))
        }
    }
}

fn reads_memory(ir: &Ir) -> bool {
    match ir {
        Ir::Const(_) | Ir::Task(_) | Ir::CommMatches(_) | Ir::Register(_) | Ir::Result(_) | Ir::Latency => {
            false
        }
        Ir::Load { .. } | Ir::TextMatches(..) | Ir::BytesMatch(..) => true,
        Ir::Low { of, .. } | Ir::Not(of) => reads_memory(of),
        Ir::Binary(_, left, right) | Ir::And(left, right) | Ir::Or(left, right) => {
            reads_memory(left) || reads_memory(right)
        }
    }
}

fn can_fault(ir: &Ir) -> bool {
    match ir {
        Ir::Binary(BinaryOp::Divide { .. } | BinaryOp::Remainder { .. }, ..) => true,
        Ir::Binary(_, left, right) | Ir::And(left, right) | Ir::Or(left, right) => {
            can_fault(left) || can_fault(right)
        }
        Ir::Low { of, .. } | Ir::Not(of) => can_fault(of),
        ir => reads_memory(ir),
    }
}

/// Plans what happens at the calls of one function.
struct PlanBuilder<'a> {
    scope: NameScope<'a>,
    plan: FunctionPlan,
    literals: &'a mut Vec<TextLiteral>,
    /// The row comes at the return.
    returns: bool,
    /// Values that the entry keeps for the return, and their slots.
    kept: Vec<(Ir, u8)>,
}

/// At which end of a call operations run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallEnd {
    Entry,
    Return,
}

impl PlanBuilder<'_> {
    /// Tests the parts that `&&` joins one by one, each as early as the meaning allows.
    fn condition(&mut self, condition: &Expr) -> Result<(), ExprError> {
        let mut parts = Vec::new();
        conjuncts(condition, &mut parts);
        let mut late = false;
        for part in parts {
            let ir = match self.scope.value(part)? {
                ExprValue::Scalar(ir, ty) if ty.kind != TypeKind::Float => ir,
                _ => {
                    return Err(ExprError::new(part.at.start, "this is neither true nor false")
                        .hint("compare it with a value: comm == \"bash\""));
                }
            };
            late |= known_at(&ir) == KnownAt::Return;
            let stage = match late && (known_at(&ir) == KnownAt::Return || can_fault(&ir)) {
                true => CallEnd::Return,
                false => CallEnd::Entry,
            };
            self.run(stage, part.at.start, &[&ir], op(OpCode::Test))?;
        }
        Ok(())
    }

    fn show(&mut self, args: Option<&[(Rc<str>, Expr)]>, with_result: bool) -> Result<(), ExprError> {
        match args {
            Some(args) => {
                for (name, expr) in args {
                    let value = self.scope.value(expr)?;
                    let fetched = self.fetch(value, expr.at.start)?;
                    self.plan.shown.push(ShownValue {
                        name: Rc::clone(name),
                        fetched,
                    });
                }
            }
            None => self.show_parameters(),
        }
        if with_result {
            self.plan.result = result(self.scope.signature)
                .map(|value| self.fetch(value, 0))
                .transpose()?;
        }
        Ok(())
    }

    /// Shows the parameters that are known, up to the first that exceeds a limit: the user did not name them.
    fn show_parameters(&mut self) {
        let numbered = |index: usize| Rc::from(format!("arg{index}"));
        let values: Vec<(Rc<str>, ExprValue)> = match (self.scope.probe, self.scope.signature) {
            (Some(probe), _) => {
                let values = probe.arguments.iter().map(probe_argument).enumerate();
                values.map(|(index, value)| (numbered(index), value)).collect()
            }
            (None, Some(signature)) => {
                let named = |(index, param): (usize, &FunctionParameter)| {
                    let name = param.name.clone().unwrap_or_else(|| numbered(index));
                    (name, parameter(param))
                };
                signature.params.iter().enumerate().map(named).collect()
            }
            (None, None) => Vec::new(),
        };
        for (name, value) in values {
            let before = self.plan.clone();
            match self.fetch(value, 0) {
                Ok(fetched) => self.plan.shown.push(ShownValue { name, fetched }),
                Err(_) => {
                    self.plan = before;
                    return;
                }
            }
        }
    }

    fn fetch(&mut self, value: ExprValue, at: usize) -> Result<FetchedValue, ExprError> {
        Ok(match value {
            ExprValue::Comm => FetchedValue::Comm,
            ExprValue::Nowhere(why) => FetchedValue::Nowhere(why),
            ExprValue::Literal(_) => return Err(ExprError::new(at, "a text literal cannot be shown")),
            ExprValue::Text(text @ TextSource::Counted { typed: true, .. }) => {
                FetchedValue::TypedText(self.fetch_text(text, at)?)
            }
            ExprValue::Text(text) => FetchedValue::Text(self.fetch_text(text, at)?),
            ExprValue::Scalar(ir, ty) => match (text_behind(&ir, &ty), structure_behind(&ty)) {
                (Some(text), _) => self.fetch(ExprValue::Text(text), at)?,
                (None, Some(to)) => self.fetch_bytes(ir, to, at)?,
                (None, None) => {
                    let slot = self.slot(at)?;
                    self.store(&[&ir], OpCode::Store, slot, at)?;
                    FetchedValue::Number(slot, ty)
                }
            },
            ExprValue::Aggregate(Aggregate::Memory(from), ty) => self.fetch_bytes(from, ty, at)?,
            ExprValue::Aggregate(Aggregate::Pieces(pieces), ty) => {
                let first = self.plan.slots;
                for ir in &pieces {
                    let slot = self.slot(at)?;
                    self.store(&[ir], OpCode::Store, slot, at)?;
                }
                let count = pieces.len() as u8;
                let texts = self.fetch_member_texts(&Aggregate::Pieces(pieces), &ty, at);
                FetchedValue::Slots(first, count, ty, texts)
            }
        })
    }

    fn fetch_text(&mut self, text: TextSource, at: usize) -> Result<u8, ExprError> {
        let slot = self.slot(at)?;
        match &text {
            TextSource::Ended { at: from, most } => self.store(&[from, most], OpCode::StoreText, slot, at)?,
            TextSource::Counted { at: from, bytes, .. } => {
                self.store(&[from, bytes], OpCode::StoreBytes, slot, at)?
            }
        }
        self.plan.has_text = true;
        self.plan.reads = true;
        Ok(slot)
    }

    fn fetch_bytes(&mut self, from: Ir, ty: ValueType, at: usize) -> Result<FetchedValue, ExprError> {
        let bytes = Ir::Const(ty.bytes.min(MOST_STRUCT));
        let source = TextSource::Counted {
            at: from.clone(),
            bytes,
            typed: false,
        };
        let slot = self.fetch_text(source, at)?;
        let texts = self.fetch_member_texts(&Aggregate::Memory(from), &ty, at);
        Ok(FetchedValue::Bytes(slot, ty, texts))
    }

    /// Reads the texts of members, as far as there is room: the user did not name them.
    fn fetch_member_texts(&mut self, object: &Aggregate, ty: &ValueType, at: usize) -> MemberTexts {
        let mut members = Vec::new();
        text_members(object, ty, 0, 0, &mut members);
        let mut texts = MemberTexts::new();
        for (offset, text) in members {
            let before = self.plan.clone();
            match self.fetch_text(text, at) {
                Ok(slot) => texts.push((offset, slot)),
                Err(_) => {
                    self.plan = before;
                    break;
                }
            }
        }
        texts
    }

    /// The next free slot.
    fn slot(&mut self, at: usize) -> Result<u8, ExprError> {
        let slot = self.plan.slots;
        if usize::from(slot) >= MOST_SLOTS {
            return Err(ExprError::new(
                at,
                format!("this needs more than {MOST_SLOTS} numbers per call"),
            ));
        }
        self.plan.slots += 1;
        Ok(slot)
    }

    /// Stores values into a slot: at the entry, unless they are known at the return only.
    fn store(&mut self, numbers: &[&Ir], code: OpCode, slot: u8, at: usize) -> Result<(), ExprError> {
        let late = numbers.iter().any(|ir| known_at(ir) == KnownAt::Return);
        let stage = if late { CallEnd::Return } else { CallEnd::Entry };
        self.run(stage, at, numbers, op(code).with(slot))
    }
}

/// The members of a structure that are text, with their offsets, including those of structures in it. Of references the
/// address is shown, as of pointers.
fn text_members(
    object: &Aggregate,
    ty: &ValueType,
    start: u64,
    nested: usize,
    texts: &mut Vec<(u64, TextSource)>,
) {
    let TypeKind::Struct(members) = &ty.kind else {
        return;
    };
    for member in members.iter() {
        let offset = start.saturating_add(member.offset);
        if nested + 1 < MOST_NESTED {
            text_members(object, &member.ty, offset, nested + 1, texts);
        }
        if let TypeKind::Text { .. } = member.ty.kind
            && let ExprValue::Text(text) = object.value(offset, &member.ty)
            && texts.len() < MOST_MEMBER_TEXTS
        {
            texts.push((offset, text));
        }
    }
}

/// The parts of a condition that `&&` joins, in order.
fn conjuncts<'e>(expr: &'e Expr, parts: &mut Vec<&'e Expr>) {
    match &expr.node {
        Node::Binary(BinaryOperator::And, left, right) => {
            conjuncts(left, parts);
            conjuncts(right, parts);
        }
        _ => parts.push(expr),
    }
}
