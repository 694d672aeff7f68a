//! Values to operations of the interpreter in `src/bpf/expr.bpf.h`.

use std::rc::Rc;

use super::Mistake;
use super::lower::{
    Ir, Literal, Object, Operation, Scope, Text, Value, parameter, probe_argument, result, text_behind,
};
use super::parse::{Binary, Expr, Node};
use crate::bpf::functrace::types::{expr_code, expr_limit};
use crate::find::code::placement::Needs;
use crate::find::debug::types::{Kind, Param, Type};

/// Operations for one function at one end of its calls.
pub const MOST_OPS: usize = expr_limit::EXPR_STEPS.0 as usize;
/// Numbers on the interpreter's stack.
pub const STACK: usize = expr_limit::EXPR_STACK.0 as usize;
/// Numbers in a record.
pub const MOST_SLOTS: usize = expr_limit::EXPR_SLOTS.0 as usize;
/// Bytes of a text to compare with, including a NUL.
pub const LITERAL_BYTES: usize = expr_limit::EXPR_LITERAL.0 as usize;
/// Distinct texts to compare with in a run.
pub const MOST_LITERALS: usize = expr_limit::EXPR_LITERALS.0 as usize;
/// Structures are read up to here.
const MOST_STRUCT: u64 = 256;

/// What an operation does. The operations that push a value replace their operands by it; all but those under "control"
/// do. A fault (memory that cannot be read, or a division by 0) skips to the operation that handles it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
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

/// One operation; `struct expr_op` of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Op {
    pub code: u8,
    /// Bytes, or the number of a register or a slot.
    pub a: u8,
    /// With sign.
    pub signed: bool,
    /// Operations to skip: to the end of the right side, or, should memory not be readable, to the operation that
    /// tells so.
    pub skip: u16,
    pub number: u64,
}

impl Op {
    pub const END: Op = op(Code::End);

    /// As the map has it.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.code;
        bytes[1] = self.a;
        bytes[2] = self.signed.into();
        bytes[4..6].copy_from_slice(&self.skip.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_ne_bytes());
        bytes
    }
}

/// One thing to show of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub name: Rc<str>,
    pub fetched: Fetched,
}

/// Where it is in the record.
#[derive(Clone, Debug, PartialEq)]
pub enum Fetched {
    /// A number in this slot.
    Number(u8, Type),
    /// Text, which this slot leads to.
    Text(u8),
    /// The bytes of a structure, which this slot leads to.
    Bytes(u8, Type),
    /// A structure in slots from this one on, eight bytes each.
    Slots(u8, u8, Type),
    /// The name of the thread.
    Comm,
    /// Nowhere, and why.
    Nowhere(&'static str),
}

/// What the kernel does at the calls of one function, and what it then finds in the record.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub entry: Vec<Op>,
    /// Empty when nothing waits for the return.
    pub at_return: Vec<Op>,
    /// How many are used.
    pub slots: u8,
    pub shown: Vec<Shown>,
    pub result: Option<Fetched>,
    /// Memory of the process is read.
    pub reads: bool,
    /// More than numbers goes into the record.
    pub has_text: bool,
}

/// When a value can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    Always,
    Entry,
    Return,
}

fn when(ir: &Ir) -> When {
    match ir {
        Ir::Const(_) | Ir::Task(_) | Ir::CommMatches(_) => When::Always,
        Ir::Register(_) => When::Entry,
        Ir::Result(_) | Ir::Latency => When::Return,
        Ir::Load { from, .. } => when(from).max(When::Entry),
        Ir::Low { of, .. } | Ir::Not(of) => when(of),
        Ir::TextMatches(at, _) | Ir::BytesMatch(at, _) => when(at).max(When::Entry),
        Ir::Binary(_, left, right) | Ir::And(left, right) | Ir::Or(left, right) => {
            when(left).max(when(right))
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

/// Can it go wrong?
fn can_fault(ir: &Ir) -> bool {
    match ir {
        Ir::Binary(Operation::Divide { .. } | Operation::Remainder { .. }, ..) => true,
        Ir::Binary(_, left, right) | Ir::And(left, right) | Ir::Or(left, right) => {
            can_fault(left) || can_fault(right)
        }
        Ir::Low { of, .. } | Ir::Not(of) => can_fault(of),
        ir => reads_memory(ir),
    }
}

/// Plans what is done at the calls of one function.
struct Planner<'a> {
    scope: Scope<'a>,
    plan: Plan,
    literals: &'a mut Vec<Literal>,
    /// The row comes when the call returns.
    returns: bool,
    /// Numbers of the entry that the return needs.
    kept: Vec<(Ir, u8)>,
}

/// What is asked of every call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    pub condition: Option<&'a Expr>,
    /// What to show; None for what is known of the parameters.
    pub args: Option<&'a [(Rc<str>, Expr)]>,
    /// The row comes when the call returns.
    pub returns: bool,
    /// The result is shown.
    pub result: bool,
}

/// In which text a mistake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    Condition(Mistake),
    Args(Mistake),
}

impl Plan {
    /// For a function that is never shown.
    pub fn never() -> Plan {
        let ops = vec![op(Code::Push), op(Code::Test)];
        Plan {
            entry: ops.clone(),
            at_return: ops,
            ..Plan::default()
        }
    }

    /// What is read when the call begins.
    pub fn needs(&self) -> Needs {
        let registers = self.entry.iter().filter(|op| op.code == Code::Register as u8);
        let memory = Needs {
            memory: self.reads,
            ..Needs::NOTHING
        };
        registers.fold(memory, |needs, op| needs.and(Needs::register(op.a)))
    }

    /// `literals` are those of every function so far; the operations refer to them by index.
    pub fn new(
        scope: Scope<'_>,
        request: &Request<'_>,
        literals: &mut Vec<Literal>,
    ) -> Result<Plan, PlanError> {
        let mut planner = Planner {
            scope,
            plan: Plan::default(),
            literals,
            returns: request.returns,
            kept: Vec::new(),
        };
        if let Some(condition) = request.condition {
            planner.condition(condition).map_err(PlanError::Condition)?;
        }
        planner
            .show(request.args, request.result)
            .map_err(PlanError::Args)?;
        Ok(planner.plan)
    }
}

/// At which end of a call the operations run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Entry,
    Return,
}

impl Planner<'_> {
    /// The parts that `&&` joins are tested one by one, each as soon as it can be without a change of meaning.
    fn condition(&mut self, condition: &Expr) -> Result<(), Mistake> {
        let mut parts = Vec::new();
        conjuncts(condition, &mut parts);
        let mut late = false;
        for part in parts {
            let ir = match self.scope.value(part)? {
                Value::Scalar(ir, ty) if ty.kind != Kind::Float => ir,
                _ => {
                    return Err(Mistake::new(part.at.start, "this is neither true nor false")
                        .hint("compare it with something, as in comm == \"bash\""));
                }
            };
            late |= when(&ir) == When::Return;
            let stage = match late && (when(&ir) == When::Return || can_fault(&ir)) {
                true => Stage::Return,
                false => Stage::Entry,
            };
            self.run(stage, part.at.start, &[&ir], op(Code::Test))?;
        }
        Ok(())
    }

    fn show(&mut self, args: Option<&[(Rc<str>, Expr)]>, with_result: bool) -> Result<(), Mistake> {
        match args {
            Some(args) => {
                for (name, expr) in args {
                    let value = self.scope.value(expr)?;
                    let fetched = self.fetch(value, expr.at.start)?;
                    self.plan.shown.push(Shown {
                        name: Rc::clone(name),
                        fetched,
                    });
                }
            }
            None => self.show_parameters(),
        }
        if with_result {
            self.plan.result = result(&self.scope)
                .map(|value| self.fetch(value, 0))
                .transpose()?;
        }
        Ok(())
    }

    /// Those for which there is no room are left out, as nobody asked for them.
    fn show_parameters(&mut self) {
        let numbered = |index: usize| Rc::from(format!("arg{index}"));
        let values: Vec<(Rc<str>, Value)> = match (self.scope.probe, self.scope.signature) {
            (Some(probe), _) => {
                let values = probe.arguments.iter().map(probe_argument).enumerate();
                values.map(|(index, value)| (numbered(index), value)).collect()
            }
            (None, Some(signature)) => {
                let named = |(index, param): (usize, &Param)| {
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
                Ok(fetched) => self.plan.shown.push(Shown { name, fetched }),
                Err(_) => {
                    self.plan = before;
                    return;
                }
            }
        }
    }

    fn fetch(&mut self, value: Value, at: usize) -> Result<Fetched, Mistake> {
        Ok(match value {
            Value::Comm => Fetched::Comm,
            Value::Nowhere(why) => Fetched::Nowhere(why),
            Value::Literal(_) => return Err(Mistake::new(at, "text of your own is not worth showing")),
            Value::Text(text) => Fetched::Text(self.fetch_text(text, at)?),
            Value::Scalar(ir, ty) => match (text_behind(&ir, &ty), structure_behind(&ty)) {
                (Some(text), _) => Fetched::Text(self.fetch_text(text, at)?),
                (None, Some(to)) => self.fetch_bytes(ir, to, at)?,
                (None, None) => {
                    let slot = self.slot(at)?;
                    self.store(&[&ir], Code::Store, slot, at)?;
                    Fetched::Number(slot, ty)
                }
            },
            Value::Object(Object::Memory(from), ty) => self.fetch_bytes(from, ty, at)?,
            Value::Object(Object::Pieces(pieces), ty) => {
                let first = self.plan.slots;
                for ir in &pieces {
                    let slot = self.slot(at)?;
                    self.store(&[ir], Code::Store, slot, at)?;
                }
                Fetched::Slots(first, pieces.len() as u8, ty)
            }
        })
    }

    fn fetch_text(&mut self, text: Text, at: usize) -> Result<u8, Mistake> {
        let slot = self.slot(at)?;
        match &text {
            Text::Ended { at: from, most } => self.store(&[from, most], Code::StoreText, slot, at)?,
            Text::Counted { at: from, bytes } => self.store(&[from, bytes], Code::StoreBytes, slot, at)?,
        }
        self.plan.has_text = true;
        self.plan.reads = true;
        Ok(slot)
    }

    fn fetch_bytes(&mut self, from: Ir, ty: Type, at: usize) -> Result<Fetched, Mistake> {
        let bytes = Ir::Const(ty.bytes.min(MOST_STRUCT));
        let slot = self.fetch_text(Text::Counted { at: from, bytes }, at)?;
        Ok(Fetched::Bytes(slot, ty))
    }

    fn slot(&mut self, at: usize) -> Result<u8, Mistake> {
        let slot = self.plan.slots;
        if usize::from(slot) >= MOST_SLOTS {
            return Err(Mistake::new(
                at,
                format!("more than {MOST_SLOTS} numbers are needed for one call"),
            ));
        }
        self.plan.slots += 1;
        Ok(slot)
    }

    /// What the entry knows is stored by the entry.
    fn store(&mut self, numbers: &[&Ir], code: Code, slot: u8, at: usize) -> Result<(), Mistake> {
        let late = numbers.iter().any(|ir| when(ir) == When::Return);
        let stage = if late { Stage::Return } else { Stage::Entry };
        self.run(stage, at, numbers, Op { a: slot, ..op(code) })
    }

    /// Adds the operations that push these numbers, and one that takes them.
    fn run(&mut self, stage: Stage, at: usize, numbers: &[&Ir], last: Op) -> Result<(), Mistake> {
        if stage == Stage::Return && !self.returns {
            return Err(Mistake::new(at, "this is not known before the call returns"));
        }
        let mut ops = Vec::new();
        let mut depth = Depth::default();
        for ir in numbers {
            self.plan.reads |= reads_memory(ir);
            self.push(stage, ir, &mut ops, &mut depth, at)?;
        }
        if depth.most > STACK {
            return Err(Mistake::new(at, "too many values inside each other"));
        }
        let end = ops.len();
        for (index, op) in ops.iter_mut().enumerate().filter(|(_, op)| op.skip == TO_LAST) {
            op.skip = (end - index - 1) as u16;
        }
        ops.push(last);
        let all = match stage {
            Stage::Entry => &mut self.plan.entry,
            Stage::Return => &mut self.plan.at_return,
        };
        // One more ends it.
        if all.len() + ops.len() >= MOST_OPS {
            return Err(Mistake::new(
                at,
                format!("more than {MOST_OPS} operations are needed for one call"),
            ));
        }
        all.append(&mut ops);
        Ok(())
    }

    fn push(
        &mut self,
        stage: Stage,
        ir: &Ir,
        ops: &mut Vec<Op>,
        depth: &mut Depth,
        at: usize,
    ) -> Result<(), Mistake> {
        if ops.len() >= MOST_OPS {
            return Err(Mistake::new(
                at,
                format!("more than {MOST_OPS} operations are needed for one call"),
            ));
        }
        if stage == Stage::Return && when(ir) == When::Entry {
            let slot = self.keep(ir, at)?;
            depth.add();
            ops.push(Op {
                a: slot,
                skip: TO_LAST,
                ..op(Code::Slot)
            });
            return Ok(());
        }
        match ir {
            Ir::Const(number) => {
                depth.add();
                ops.push(Op {
                    number: *number,
                    ..op(Code::Push)
                });
            }
            Ir::Register(register) | Ir::Result(register) => {
                depth.add();
                ops.push(Op {
                    a: *register,
                    skip: TO_LAST,
                    ..op(Code::Register)
                });
            }
            Ir::Task(task) => {
                depth.add();
                ops.push(Op {
                    a: *task as u8,
                    ..op(Code::Task)
                });
            }
            Ir::Latency => {
                depth.add();
                ops.push(op(Code::Latency));
            }
            Ir::CommMatches(literal) => {
                depth.add();
                let number = self.literal(literal, at)?;
                ops.push(Op {
                    number,
                    ..op(Code::MatchComm)
                });
            }
            Ir::Load { from, bytes, signed } => {
                self.push(stage, from, ops, depth, at)?;
                ops.push(Op {
                    a: *bytes,
                    signed: *signed,
                    skip: TO_LAST,
                    ..op(Code::Load)
                });
            }
            Ir::Low { of, bytes, signed } => {
                self.push(stage, of, ops, depth, at)?;
                ops.push(Op {
                    a: *bytes,
                    signed: *signed,
                    ..op(Code::Low)
                });
            }
            Ir::Not(of) => {
                self.push(stage, of, ops, depth, at)?;
                ops.push(op(Code::Not));
            }
            Ir::TextMatches(from, literal) | Ir::BytesMatch(from, literal) => {
                let code = match ir {
                    Ir::TextMatches(..) => Code::MatchText,
                    _ => Code::MatchBytes,
                };
                self.push(stage, from, ops, depth, at)?;
                ops.push(Op {
                    a: literal.bytes.len() as u8,
                    number: self.literal(literal, at)?,
                    skip: TO_LAST,
                    ..op(code)
                });
            }
            Ir::Binary(operation, left, right) => {
                self.push(stage, left, ops, depth, at)?;
                self.push(stage, right, ops, depth, at)?;
                depth.drop();
                ops.push(binary(*operation));
            }
            Ir::And(left, right) | Ir::Or(left, right) => {
                let code = match ir {
                    Ir::And(..) => Code::SkipIfFalse,
                    _ => Code::SkipIfTrue,
                };
                self.push(stage, left, ops, depth, at)?;
                let skip = ops.len();
                ops.push(op(code));
                depth.drop();
                self.push(stage, right, ops, depth, at)?;
                let length = ops.len() - skip - 1;
                if let Some(op) = ops.get_mut(skip) {
                    op.skip = length as u16;
                }
                ops.push(op(Code::Truth));
            }
        }
        Ok(())
    }

    /// The slot in which the entry leaves a number for the return.
    fn keep(&mut self, ir: &Ir, at: usize) -> Result<u8, Mistake> {
        if let Some((_, slot)) = self.kept.iter().find(|(kept, _)| kept == ir) {
            return Ok(*slot);
        }
        let slot = self.slot(at)?;
        self.run(
            Stage::Entry,
            at,
            &[ir],
            Op {
                a: slot,
                ..op(Code::Store)
            },
        )?;
        self.kept.push((ir.clone(), slot));
        Ok(slot)
    }

    fn literal(&mut self, literal: &Literal, at: usize) -> Result<u64, Mistake> {
        if let Some(index) = self.literals.iter().position(|known| known == literal) {
            return Ok(index as u64);
        }
        if self.literals.len() >= MOST_LITERALS {
            return Err(Mistake::new(
                at,
                format!("more than {MOST_LITERALS} texts to compare with"),
            ));
        }
        self.literals.push(literal.clone());
        Ok(self.literals.len() as u64 - 1)
    }
}

/// How many numbers are on the stack, and the most that were.
#[derive(Default)]
struct Depth {
    now: usize,
    most: usize,
}

impl Depth {
    fn add(&mut self) {
        self.now += 1;
        self.most = self.most.max(self.now);
    }

    fn drop(&mut self) {
        self.now = self.now.saturating_sub(1);
    }
}

/// Stands for the distance to the last operation, which tells of a fault.
const TO_LAST: u16 = u16::MAX;

const fn op(code: Code) -> Op {
    Op {
        code: code as u8,
        a: 0,
        signed: false,
        skip: 0,
        number: 0,
    }
}

fn binary(operation: Operation) -> Op {
    let (code, signed) = match operation {
        Operation::Add => (Code::Add, false),
        Operation::Subtract => (Code::Subtract, false),
        Operation::Multiply => (Code::Multiply, false),
        Operation::Divide { signed } => (Code::Divide, signed),
        Operation::Remainder { signed } => (Code::Remainder, signed),
        Operation::And => (Code::And, false),
        Operation::Or => (Code::Or, false),
        Operation::Xor => (Code::Xor, false),
        Operation::ShiftLeft => (Code::ShiftLeft, false),
        Operation::ShiftRight { signed } => (Code::ShiftRight, signed),
        Operation::Equal => (Code::Equal, false),
        Operation::Less { signed } => (Code::Less, signed),
        Operation::LessEqual { signed } => (Code::LessEqual, signed),
    };
    let skip = match code {
        Code::Divide | Code::Remainder => TO_LAST,
        _ => 0,
    };
    Op {
        signed,
        skip,
        ..op(code)
    }
}

/// The parts of a condition that `&&` joins, in order.
fn conjuncts<'e>(expr: &'e Expr, parts: &mut Vec<&'e Expr>) {
    match &expr.node {
        Node::Binary(Binary::And, left, right) => {
            conjuncts(left, parts);
            conjuncts(right, parts);
        }
        _ => parts.push(expr),
    }
}

/// The structure that a pointer leads to, if its type says that it does.
fn structure_behind(ty: &Type) -> Option<Type> {
    match &ty.kind {
        Kind::Pointer(Some(to)) if matches!(to.kind, Kind::Struct(_)) && to.bytes > 0 => {
            Some(Type::clone(to))
        }
        _ => None,
    }
}
