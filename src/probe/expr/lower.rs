//! Tree to values: what the names mean in one function, and what its types say.

use std::rc::Rc;

use super::Mistake;
use super::code::LITERAL_BYTES;
use super::parse::{Binary, Cast, Expr, Node, Unary};
use crate::bpf::functrace::types::expr_task;
use crate::find::debug::types::{Kind, Param, Piece, Place, Signature, Type};
use crate::find::usdt::{self, Argument, Operand, UsdtProbe};

/// `arg0` to one less than this can be asked for.
const MOST_ARGS: u64 = 32;
/// The kernel keeps 15 bytes of a thread's name.
const COMM_BYTES: usize = 15;

/// What can be named in one function.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// For messages. Untrusted.
    pub function: &'a str,
    /// What is known of its parameters.
    pub signature: Option<&'a Signature>,
    /// It is no function but a USDT probe, which has arguments of its own.
    pub probe: Option<&'a UsdtProbe>,
    /// It belongs to a Go program, and finds its arguments where no C function does.
    pub is_go: bool,
}

/// A number in the making.
#[derive(Clone, Debug, PartialEq)]
pub enum Ir {
    Const(u64),
    /// A register, by its DWARF number, when the call begins.
    Register(u8),
    /// The same when it returns.
    Result(u8),
    /// How long the call took, ns.
    Latency,
    Task(Task),
    /// Memory of the process.
    Load {
        from: Box<Ir>,
        bytes: u8,
        signed: bool,
    },
    /// The low bytes of a number.
    Low {
        of: Box<Ir>,
        bytes: u8,
        signed: bool,
    },
    Not(Box<Ir>),
    Binary(Operation, Box<Ir>, Box<Ir>),
    And(Box<Ir>, Box<Ir>),
    Or(Box<Ir>, Box<Ir>),
    /// Does the text at this address, up to a NUL, match?
    TextMatches(Box<Ir>, Literal),
    /// Are the bytes at this address those of the literal?
    BytesMatch(Box<Ir>, Literal),
    CommMatches(Literal),
}

/// What is known of the calling thread.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Pid = expr_task::TASK_PID.0 as u8,
    Tid = expr_task::TASK_TID.0 as u8,
    Uid = expr_task::TASK_UID.0 as u8,
    Cpu = expr_task::TASK_CPU.0 as u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
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

/// A number in the making, and its type.
type Number = (Ir, Type);

/// Text to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Literal {
    pub bytes: Rc<[u8]>,
    /// A NUL has to follow.
    pub whole: bool,
}

/// What an expression stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of up to 64 bits, an address among them.
    Scalar(Ir, Type),
    Text(Text),
    /// A structure.
    Object(Object, Type),
    Literal(Vec<u8>),
    Comm,
    /// What cannot be read, and why.
    Nowhere(&'static str),
}

/// Bytes in memory that are to be read as text.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// Up to a NUL, at most so many bytes.
    Ended {
        at: Ir,
        most: Ir,
    },
    Counted {
        at: Ir,
        bytes: Ir,
    },
}

/// Where a structure is.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Memory(Ir),
    /// Eight bytes each.
    Pieces(Vec<Ir>),
}

impl Ir {
    pub fn load(from: Ir, bytes: u8, signed: bool) -> Ir {
        Ir::Load {
            from: Box::new(from),
            bytes,
            signed,
        }
    }

    fn low(of: Ir, bytes: u8, signed: bool) -> Ir {
        if bytes >= 8 {
            return of;
        }
        Ir::Low {
            of: Box::new(of),
            bytes,
            signed,
        }
    }

    pub fn binary(operation: Operation, left: Ir, right: Ir) -> Ir {
        Ir::Binary(operation, Box::new(left), Box::new(right))
    }

    pub fn plus(self, offset: u64) -> Ir {
        match (self, offset) {
            (ir, 0) => ir,
            (Ir::Const(number), _) => Ir::Const(number.wrapping_add(offset)),
            (ir, _) => Ir::binary(Operation::Add, ir, Ir::Const(offset)),
        }
    }

    fn not(self) -> Ir {
        Ir::Not(Box::new(self))
    }
}

/// Integer argument registers by their DWARF numbers, the stack pointer, where stack arguments begin above it at a
/// function's first instruction, and where results are.
#[cfg(target_arch = "x86_64")]
mod machine {
    pub const ARGUMENTS: &[u8] = &[5, 4, 1, 2, 8, 9];
    pub const STACK_POINTER: u8 = 7;
    pub const STACK_ARGUMENTS: u64 = 8;
    pub const RESULT: u8 = 0;
    pub const REGISTERS: u16 = 16;
}
#[cfg(target_arch = "aarch64")]
mod machine {
    pub const ARGUMENTS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];
    pub const STACK_POINTER: u8 = 31;
    pub const STACK_ARGUMENTS: u64 = 0;
    pub const RESULT: u8 = 0;
    pub const REGISTERS: u16 = 32;
}

fn piece(piece: Piece) -> Result<Ir, &'static str> {
    match piece {
        Piece::Argument(number) => machine::ARGUMENTS
            .get(usize::from(number))
            .map(|register| Ir::Register(*register))
            .ok_or("in a register that is not known"),
        Piece::Register(number) if number < machine::REGISTERS => Ok(Ir::Register(number as u8)),
        Piece::Register(_) => Err("in a register that cannot be read"),
        Piece::Stack(offset) => Ok(Ir::load(
            Ir::Register(machine::STACK_POINTER).plus(offset),
            8,
            false,
        )),
        Piece::Constant(number) => Ok(Ir::Const(number)),
    }
}

/// The same when the call returns.
fn result_piece(piece: Piece) -> Result<Ir, &'static str> {
    match piece {
        Piece::Register(number) if number < machine::REGISTERS => Ok(Ir::Result(number as u8)),
        _ => Err("in a register that cannot be read"),
    }
}

type ReadPiece = fn(Piece) -> Result<Ir, &'static str>;

fn object(place: &Place, piece: ReadPiece) -> Result<Object, &'static str> {
    match place {
        Place::Pieces(pieces) => Ok(Object::Pieces(
            pieces.iter().map(|&at| piece(at)).collect::<Result<_, _>>()?,
        )),
        Place::Behind(at) => Ok(Object::Memory(piece(*at)?)),
        Place::Nowhere(why) => Err(why),
    }
}

impl Object {
    /// A number inside.
    fn number(&self, offset: u64, bytes: u8, signed: bool) -> Option<Ir> {
        match self {
            Object::Memory(at) => Some(Ir::load(at.clone().plus(offset), bytes, signed)),
            Object::Pieces(pieces) => {
                let within = offset % 8;
                let whole = pieces.get(usize::try_from(offset / 8).ok()?)?.clone();
                if within + u64::from(bytes) > 8 {
                    return None;
                }
                let shifted = match within {
                    0 => whole,
                    _ => Ir::binary(
                        Operation::ShiftRight { signed: false },
                        whole,
                        Ir::Const(within * 8),
                    ),
                };
                Some(Ir::low(shifted, bytes, signed))
            }
        }
    }

    fn inner(&self, offset: u64) -> Option<Object> {
        match self {
            Object::Memory(at) => Some(Object::Memory(at.clone().plus(offset))),
            Object::Pieces(pieces) if offset.is_multiple_of(8) => {
                let from = usize::try_from(offset / 8).ok()?;
                Some(Object::Pieces(pieces.get(from..)?.to_vec()))
            }
            Object::Pieces(_) => None,
        }
    }

    /// What is at an offset, as its type says.
    fn value(&self, offset: u64, ty: &Type) -> Value {
        const ODD: Value = Value::Nowhere("its place is not a whole one");
        match &ty.kind {
            Kind::Struct(_) => self
                .inner(offset)
                .map_or(ODD, |object| Value::Object(object, ty.clone())),
            Kind::Text {
                pointer_at,
                length_at,
            } => {
                let part = |at: u64| self.number(offset.checked_add(at)?, 8, false);
                match (part(*pointer_at), part(*length_at)) {
                    (Some(at), Some(bytes)) => Value::Text(Text::Counted { at, bytes }),
                    _ => ODD,
                }
            }
            Kind::Other => Value::Nowhere("its type is not one that can be shown"),
            _ => {
                let signed = is_signed(ty);
                match ty.bytes {
                    bytes @ (1 | 2 | 4 | 8) => self
                        .number(offset, bytes as u8, signed)
                        .map_or(ODD, |ir| Value::Scalar(ir, ty.clone())),
                    _ => Value::Nowhere("it is not 1, 2, 4 or 8 bytes"),
                }
            }
        }
    }
}

fn is_signed(ty: &Type) -> bool {
    match ty.kind {
        Kind::Int { signed } | Kind::Enum { signed, .. } => signed,
        _ => false,
    }
}

fn int(bytes: u64, signed: bool) -> Type {
    let name = format!("{}{}", if signed { 'i' } else { 'u' }, bytes * 8);
    Type {
        name: name.into(),
        bytes,
        kind: Kind::Int { signed },
    }
}

fn boolean() -> Type {
    Type {
        name: "bool".into(),
        bytes: 1,
        kind: Kind::Bool,
    }
}

/// The value of a parameter, as its type says.
pub fn parameter(param: &Param) -> Value {
    match object(&param.place, piece) {
        Ok(object) => object.value(0, &param.ty),
        Err(why) => Value::Nowhere(why),
    }
}

/// The value of an argument of a USDT probe.
pub fn probe_argument(argument: &Argument) -> Value {
    const NOWHERE: Value = Value::Nowhere("in a place that is not understood");
    let register = |number: u16| match number < machine::REGISTERS {
        true => Some(Ir::Register(number as u8)),
        false => None,
    };
    let signed = argument.number == usdt::Number::Signed;
    let bytes = argument.bytes;
    let ir = match argument.operand {
        Operand::Register { register: at, shift } => register(at).map(|ir| {
            let shifted = match shift {
                0 => ir,
                _ => Ir::binary(
                    Operation::ShiftRight { signed: false },
                    ir,
                    Ir::Const(shift.into()),
                ),
            };
            Ir::low(shifted, bytes, signed)
        }),
        Operand::Memory { base, index, offset } => {
            let base = base.map_or(Some(Ir::Const(0)), register);
            let index = index.map_or(Some(Ir::Const(0)), |(at, scale)| {
                Some(Ir::binary(
                    Operation::Multiply,
                    register(at)?,
                    Ir::Const(scale.into()),
                ))
            });
            base.zip(index).map(|(base, index)| {
                let at = match index {
                    Ir::Const(0) => base,
                    index => Ir::binary(Operation::Add, base, index),
                };
                Ir::load(at.plus(offset as u64), bytes, signed)
            })
        }
        Operand::Constant(number) => Some(Ir::Const(number as u64)),
        Operand::Unknown => None,
    };
    let ty = match (argument.number, bytes) {
        (usdt::Number::Float, _) => Type {
            name: "double".into(),
            bytes: bytes.into(),
            kind: Kind::Float,
        },
        // What fills a register and has no sign is an address more often than a number.
        (usdt::Number::Unsigned, 8) => Type {
            name: "void*".into(),
            bytes: 8,
            kind: Kind::Pointer(None),
        },
        _ => int(bytes.into(), signed),
    };
    match (ir, bytes) {
        (Some(ir), 1 | 2 | 4 | 8) => Value::Scalar(ir, ty),
        _ => NOWHERE,
    }
}

/// The result of the call; None when there is none.
pub fn result(scope: &Scope<'_>) -> Option<Value> {
    let Some(signature) = scope.signature else {
        // Nothing is known, and an error is a negative number more often than an address is one.
        return Some(Value::Scalar(Ir::Result(machine::RESULT), int(8, true)));
    };
    let returned = signature.returns.as_ref()?;
    Some(match object(&returned.place, result_piece) {
        Ok(object) => object.value(0, &returned.ty),
        Err(why) => Value::Nowhere(why),
    })
}

impl Scope<'_> {
    /// What an expression stands for.
    pub fn value(&self, expr: &Expr) -> Result<Value, Mistake> {
        match &expr.node {
            Node::Number(number) => Ok(Value::Scalar(Ir::Const(*number), int(8, false))),
            Node::Text(text) => Ok(Value::Literal(text.clone())),
            Node::Name(name) => self.named(name, expr),
            Node::Unary(unary, of) => self.unary(*unary, of),
            Node::Binary(operator, left, right) => self.binary(*operator, left, right, expr),
            Node::Cast(cast, of) => self.cast(*cast, of),
            Node::Member { of, name, arrow } => self.member(of, name, *arrow, expr),
            Node::Call(name, args) => self.call(name, args, expr),
        }
    }

    /// Its value as a number.
    fn scalar(&self, expr: &Expr) -> Result<Number, Mistake> {
        number(self.value(expr)?, expr)
    }

    fn named(&self, name: &str, expr: &Expr) -> Result<Value, Mistake> {
        let known = |ir| Ok(Value::Scalar(ir, int(8, false)));
        match name {
            "pid" => return known(Ir::Task(Task::Pid)),
            "tid" => return known(Ir::Task(Task::Tid)),
            "uid" => return known(Ir::Task(Task::Uid)),
            "cpu" => return known(Ir::Task(Task::Cpu)),
            "comm" => return Ok(Value::Comm),
            "lat" | "duration" => return known(Ir::Latency),
            "retval" => {
                return result(self).ok_or_else(|| {
                    Mistake::new(expr.at.start, format!("{} returns nothing", self.function))
                });
            }
            "true" | "false" => return Ok(Value::Scalar(Ir::Const((name == "true").into()), boolean())),
            _ => {}
        }
        if let Some(number) = name.strip_prefix("arg").and_then(|digits| digits.parse().ok()) {
            return self.argument(number, expr);
        }
        match self
            .params()
            .iter()
            .find(|param| param.name.as_deref() == Some(name))
        {
            Some(param) => Ok(parameter(param)),
            None => Err(self.unknown(name, expr)),
        }
    }

    fn params(&self) -> &[Param] {
        self.signature.map_or(&[], |signature| &signature.params)
    }

    fn unknown(&self, name: &str, expr: &Expr) -> Mistake {
        let names: Vec<&str> = self
            .params()
            .iter()
            .filter_map(|param| param.name.as_deref())
            .collect();
        let named = match names.is_empty() {
            true => "; the names of its parameters are not known".to_owned(),
            false => format!(" and its parameters {}", names.join(" ")),
        };
        Mistake::new(expr.at.start, format!("{} has no `{name}`", self.function)).hint(format!(
            "there are arg0 to arg{}, retval, lat, pid, tid, uid, cpu, comm{named}",
            MOST_ARGS - 1
        ))
    }

    fn argument(&self, number: u64, expr: &Expr) -> Result<Value, Mistake> {
        if let Some(probe) = self.probe {
            let argument = usize::try_from(number)
                .ok()
                .and_then(|number| probe.arguments.get(number));
            return argument.map(probe_argument).ok_or_else(|| {
                let message = format!(
                    "{} has {} arguments, arg0 is the first",
                    self.function,
                    probe.arguments.len()
                );
                Mistake::new(expr.at.start, message)
            });
        }
        if self.is_go {
            let param = usize::try_from(number)
                .ok()
                .and_then(|number| self.params().get(number));
            return param.map(parameter).ok_or_else(|| {
                let message = format!("what arg{number} of {} is, is not known", self.function);
                Mistake::new(expr.at.start, message)
                    .hint("Go passes arguments in ways of its own, of which only debug information tells")
            });
        }
        let in_registers = machine::ARGUMENTS.len() as u64;
        if number >= MOST_ARGS {
            return Err(
                Mistake::new(expr.at.start, format!("arg{number} cannot be read")).hint(format!(
                    "arg0 to arg{} are in registers, and those up to arg{} are read from the stack",
                    in_registers - 1,
                    MOST_ARGS - 1
                )),
            );
        }
        let at = match number < in_registers {
            true => Piece::Argument(number as u8),
            false => Piece::Stack(machine::STACK_ARGUMENTS + 8 * (number - in_registers)),
        };
        // A parameter that lies just there tells how many of the bits count, and their sign.
        let here = |param: &&Param| param.place == Place::Pieces(vec![at]);
        if let Some(param) = self.params().iter().find(here) {
            return Ok(parameter(param));
        }
        match piece(at) {
            Ok(ir) => Ok(Value::Scalar(ir, int(8, false))),
            Err(why) => Ok(Value::Nowhere(why)),
        }
    }

    fn unary(&self, unary: Unary, of: &Expr) -> Result<Value, Mistake> {
        let (ir, ty) = self.scalar(of)?;
        Ok(match unary {
            Unary::Not => Value::Scalar(ir.not(), boolean()),
            Unary::Negate => match ir {
                Ir::Const(number) => Value::Scalar(Ir::Const(number.wrapping_neg()), int(8, true)),
                ir => Value::Scalar(Ir::binary(Operation::Subtract, Ir::Const(0), ir), int(8, true)),
            },
            Unary::Invert => Value::Scalar(
                Ir::binary(Operation::Xor, ir, Ir::Const(u64::MAX)),
                int(8, is_signed(&ty)),
            ),
            Unary::Follow => return self.follow(ir, &ty, of),
        })
    }

    fn follow(&self, at: Ir, ty: &Type, of: &Expr) -> Result<Value, Mistake> {
        match &ty.kind {
            Kind::Pointer(Some(to)) => Ok(Object::Memory(at).value(0, to)),
            Kind::CString => Ok(Object::Memory(at).value(0, &int(1, true))),
            _ => Err(Mistake::new(of.at.start, "what it points to is not known")
                .hint("say how much to read: *(u32*)arg0, str(arg0), or buf(arg0, 16)")),
        }
    }

    fn cast(&self, cast: Cast, of: &Expr) -> Result<Value, Mistake> {
        let (ir, _) = self.scalar(of)?;
        let to = int(cast.bytes.into(), cast.signed);
        Ok(match cast.pointer {
            true => Value::Scalar(
                ir,
                Type {
                    name: format!("{}*", to.name).into(),
                    bytes: 8,
                    kind: Kind::Pointer(Some(Rc::new(to))),
                },
            ),
            false => Value::Scalar(Ir::low(ir, cast.bytes, cast.signed), to),
        })
    }

    fn member(&self, of: &Expr, name: &str, arrow: bool, expr: &Expr) -> Result<Value, Mistake> {
        let (object, ty) = match (self.value(of)?, arrow) {
            (Value::Object(object, ty), false) => (object, ty),
            (Value::Scalar(at, ty), true) => match ty.kind {
                Kind::Pointer(Some(to)) => (Object::Memory(at), Type::clone(&to)),
                _ => {
                    return Err(Mistake::new(
                        of.at.start,
                        "it is not known to point to a structure",
                    ));
                }
            },
            (Value::Scalar(_, ty), false) if matches!(ty.kind, Kind::Pointer(_)) => {
                return Err(Mistake::new(of.at.end, "this is a pointer").hint(format!("write ->{name}")));
            }
            _ => return Err(Mistake::new(of.at.start, "this is no structure")),
        };
        let Kind::Struct(members) = &ty.kind else {
            return Err(Mistake::new(of.at.start, format!("{} is no structure", ty.name)));
        };
        match members.iter().find(|member| *member.name == *name) {
            Some(member) => Ok(object.value(member.offset, &member.ty)),
            None => Err(
                Mistake::new(expr.at.start, format!("{} has no member `{name}`", ty.name))
                    .hint(members_hint(&ty)),
            ),
        }
    }

    fn call(&self, name: &str, args: &[Expr], expr: &Expr) -> Result<Value, Mistake> {
        let wrong = |usage: &str| Err(Mistake::new(expr.at.start, format!("it is {usage}")));
        match (name, args) {
            ("str", [at]) => self.text(at, Ir::Const(u64::MAX)),
            ("str", [at, most]) => self.text(at, self.scalar(most)?.0),
            ("buf", [at, bytes]) => Ok(Value::Text(Text::Counted {
                at: self.scalar(at)?.0,
                bytes: self.scalar(bytes)?.0,
            })),
            ("str", _) => wrong("str(ADDRESS) or str(ADDRESS, BYTES)"),
            ("buf", _) => wrong("buf(ADDRESS, BYTES)"),
            _ => Err(
                Mistake::new(expr.at.start, format!("there is no function `{name}`"))
                    .hint("there are str(ADDRESS[, BYTES]) and buf(ADDRESS, BYTES)"),
            ),
        }
    }

    fn text(&self, of: &Expr, most: Ir) -> Result<Value, Mistake> {
        match self.value(of)? {
            value @ (Value::Text(_) | Value::Comm) => Ok(value),
            value => {
                let (at, _) = number(value, of)?;
                Ok(Value::Text(Text::Ended { at, most }))
            }
        }
    }

    fn binary(&self, operator: Binary, left: &Expr, right: &Expr, expr: &Expr) -> Result<Value, Mistake> {
        if let Some(value) = self.text_comparison(operator, left, right)? {
            return Ok(value);
        }
        if operator.compares_text()
            && self.names_text(left)
            && let Node::Name(name) = &right.node
            && self.named(name, right).is_err()
        {
            let message = format!("{} has no `{name}`", self.function);
            return Err(Mistake::new(right.at.start, message)
                .hint(format!("text to compare with stands in quotes: \"{name}\"")));
        }
        if operator == Binary::Begins {
            return Err(Mistake::new(expr.at.start, "^= compares text with a beginning")
                .hint("for example comm ^= \"python\"; exclusive or is ^"));
        }
        let ((left_ir, left_ty), (right_ir, right_ty)) = self.operands(left, right)?;
        let signed = is_signed(&left_ty) || is_signed(&right_ty);
        if let Some(answer) = known_answer(operator, &left_ir, &right_ir, signed) {
            return Err(
                Mistake::new(expr.at.start, format!("this is {answer}: it has no sign"))
                    .hint("read it as signed: (i32) or (i64) before it"),
            );
        }
        let (a, b) = (left_ir, right_ir);
        let truth = |ir| Ok(Value::Scalar(ir, boolean()));
        let operation = match operator {
            Binary::And => return truth(Ir::And(Box::new(a), Box::new(b))),
            Binary::Or => return truth(Ir::Or(Box::new(a), Box::new(b))),
            Binary::Equal => return truth(Ir::binary(Operation::Equal, a, b)),
            Binary::NotEqual => return truth(Ir::binary(Operation::Equal, a, b).not()),
            Binary::Less => return truth(Ir::binary(Operation::Less { signed }, a, b)),
            Binary::LessEqual => return truth(Ir::binary(Operation::LessEqual { signed }, a, b)),
            Binary::Greater => return truth(Ir::binary(Operation::Less { signed }, b, a)),
            Binary::GreaterEqual => return truth(Ir::binary(Operation::LessEqual { signed }, b, a)),
            Binary::Begins => Operation::Equal,
            Binary::BitOr => Operation::Or,
            Binary::BitXor => Operation::Xor,
            Binary::BitAnd => Operation::And,
            Binary::ShiftLeft => Operation::ShiftLeft,
            Binary::ShiftRight => Operation::ShiftRight {
                signed: is_signed(&left_ty),
            },
            Binary::Add => Operation::Add,
            Binary::Subtract => Operation::Subtract,
            Binary::Multiply => Operation::Multiply,
            Binary::Divide => Operation::Divide { signed },
            Binary::Remainder => Operation::Remainder { signed },
        };
        // As in C, what is added to an address is counted in what it points to.
        let step = match &left_ty.kind {
            Kind::Pointer(Some(to)) => to.bytes.max(1),
            Kind::CString => 1,
            _ => 0,
        };
        if step > 0 && matches!(operator, Binary::Add | Binary::Subtract) {
            let bytes = match step {
                1 => b,
                _ => Ir::binary(Operation::Multiply, b, Ir::Const(step)),
            };
            return Ok(Value::Scalar(Ir::binary(operation, a, bytes), left_ty));
        }
        Ok(Value::Scalar(Ir::binary(operation, a, b), int(8, signed)))
    }

    /// Is it plain text, such as `comm`, `str(arg0)` or a parameter?
    fn names_text(&self, expr: &Expr) -> bool {
        match &expr.node {
            Node::Name(name) => matches!(self.named(name, expr), Ok(Value::Comm | Value::Text(_))),
            Node::Call(name, _) => matches!(name.as_str(), "str" | "buf"),
            _ => false,
        }
    }

    /// Both sides as numbers. A name that is not known otherwise can be that of an enumeration's value.
    fn operands(&self, left: &Expr, right: &Expr) -> Result<(Number, Number), Mistake> {
        match (self.scalar(left), self.scalar(right)) {
            (Ok(left), Ok(right)) => Ok((left, right)),
            (Ok(left), Err(mistake)) => {
                let right = enumerator(&left.1, right).ok_or(mistake)?;
                Ok((left, right))
            }
            (Err(mistake), Ok(right)) => {
                let left = enumerator(&right.1, left).ok_or(mistake)?;
                Ok((left, right))
            }
            (Err(mistake), Err(_)) => Err(mistake),
        }
    }

    /// `comm == "bash"`, `str(arg0) ^= "/tmp/"`; None when neither side is text.
    fn text_comparison(&self, operator: Binary, left: &Expr, right: &Expr) -> Result<Option<Value>, Mistake> {
        let (literal, expr) = match (&left.node, &right.node) {
            (_, Node::Text(literal)) => (literal, left),
            (Node::Text(literal), _) if operator != Binary::Begins => (literal, right),
            _ => return Ok(None),
        };
        if !operator.compares_text() {
            return Err(Mistake::new(
                left.at.start,
                "text can only be compared with == != and ^= (begins with)",
            ));
        }
        let literal_at = if expr.at == left.at {
            right.at.start
        } else {
            left.at.start
        };
        if literal.len() >= LITERAL_BYTES {
            return Err(Mistake::new(
                literal_at,
                format!("text to compare with has at most {} bytes", LITERAL_BYTES - 1),
            ));
        }
        let whole = operator != Binary::Begins;
        let text = match self.value(expr)? {
            Value::Comm => None,
            Value::Text(text) => Some(text),
            Value::Scalar(at, ty) => Some(text_behind(&at, &ty).ok_or_else(|| {
                Mistake::new(expr.at.start, "a number is compared with text")
                    .hint("if it is the address of text, write str(...) around it")
            })?),
            Value::Nowhere(why) => {
                return Err(Mistake::new(expr.at.start, format!("this cannot be read: {why}")));
            }
            Value::Object(..) | Value::Literal(_) => {
                return Err(Mistake::new(expr.at.start, "this cannot be compared with text"));
            }
        };
        let ir = match text {
            Some(text) => text_matches(text, literal, whole),
            None => Ir::CommMatches(comm_literal(literal, whole)),
        };
        let ir = if operator == Binary::NotEqual {
            ir.not()
        } else {
            ir
        };
        Ok(Some(Value::Scalar(ir, boolean())))
    }
}

/// The text that a pointer leads to, if its type says that it does.
pub fn text_behind(at: &Ir, ty: &Type) -> Option<Text> {
    match &ty.kind {
        Kind::CString => Some(Text::Ended {
            at: at.clone(),
            most: Ir::Const(u64::MAX),
        }),
        Kind::Pointer(Some(to)) => match Object::Memory(at.clone()).value(0, to) {
            Value::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A value as a number; `expr` is what it was written as.
fn number(value: Value, expr: &Expr) -> Result<Number, Mistake> {
    let start = expr.at.start;
    match value {
        Value::Scalar(_, ty) if ty.kind == Kind::Float => Err(Mistake::new(
            start,
            "a floating-point number cannot be compared or computed with",
        )),
        Value::Scalar(ir, ty) => Ok((ir, ty)),
        Value::Text(_) | Value::Literal(_) | Value::Comm => {
            Err(Mistake::new(start, "this is text, and a number is needed")
                .hint("text can be compared with == != and ^= (begins with)"))
        }
        Value::Object(_, ty) => Err(Mistake::new(
            start,
            format!("this is a whole {}, and a number is needed", ty.name),
        )
        .hint(members_hint(&ty))),
        Value::Nowhere(why) => Err(Mistake::new(start, format!("this cannot be read: {why}"))),
    }
}

/// A name as the kernel keeps it: the first 15 bytes.
fn comm_literal(name: &[u8], whole: bool) -> Literal {
    Literal {
        bytes: name.get(..COMM_BYTES).unwrap_or(name).into(),
        whole,
    }
}

fn text_matches(text: Text, literal: &[u8], whole: bool) -> Ir {
    let bytes: Rc<[u8]> = literal.into();
    match text {
        Text::Ended { at, .. } => Ir::TextMatches(Box::new(at), Literal { bytes, whole }),
        // No more is read than there is.
        Text::Counted { at, bytes: counted } => {
            let length = Ir::Const(literal.len() as u64);
            let fits = match whole {
                true => Ir::binary(Operation::Equal, counted, length),
                false => Ir::binary(Operation::LessEqual { signed: false }, length, counted),
            };
            if literal.is_empty() {
                return fits;
            }
            let same = Ir::BytesMatch(Box::new(at), Literal { bytes, whole: false });
            Ir::And(Box::new(fits), Box::new(same))
        }
    }
}

/// What a comparison without sign comes to whatever the value is.
fn known_answer(operator: Binary, left: &Ir, right: &Ir, signed: bool) -> Option<&'static str> {
    const NONE: &Ir = &Ir::Const(0);
    if signed || matches!((left, right), (Ir::Const(_), Ir::Const(_))) {
        return None;
    }
    match operator {
        Binary::Less if right == NONE => Some("never true"),
        Binary::Greater if left == NONE => Some("never true"),
        Binary::GreaterEqual if right == NONE => Some("always true"),
        Binary::LessEqual if left == NONE => Some("always true"),
        _ => None,
    }
}

fn enumerator(ty: &Type, expr: &Expr) -> Option<Number> {
    let (Kind::Enum { values, .. }, Node::Name(name)) = (&ty.kind, &expr.node) else {
        return None;
    };
    let (value, _) = values.iter().find(|(_, known)| **known == **name)?;
    Some((Ir::Const(*value as u64), ty.clone()))
}

fn members_hint(ty: &Type) -> String {
    let names: Vec<&str> = match &ty.kind {
        Kind::Struct(members) => members.iter().map(|member| &*member.name).collect(),
        _ => Vec::new(),
    };
    format!("it has {}", names.join(" "))
}
