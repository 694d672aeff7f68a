// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Tree to values: what the names mean in one function, and what its types say.

mod binary;
mod element;
mod untyped;

use std::rc::Rc;

use super::error::ExprError;
use super::ir::{Aggregate, BinaryOp, ExprValue, Ir, TaskField, TextSource};
use super::operand::{boolean, int, is_signed, machine, parameter, piece, probe_argument, result};
use super::tree::{CastType, Expr, Node, UnaryOperator};
use crate::find::debug::types::{
    FunctionParameter, FunctionSignature, LocationPiece, StructMember, TypeKind, ValueLocation, ValueType,
};
use crate::find::usdt::UsdtProbe;

/// `arg0` to `arg31` have names.
const MOST_ARGS: u64 = 32;

/// What the names in an expression refer to: one function, or one USDT probe.
#[derive(Clone, Copy, Debug)]
pub struct NameScope<'a> {
    /// Its name, for messages. Untrusted.
    pub function: &'a str,
    /// What is known of its parameters.
    pub signature: Option<&'a FunctionSignature>,
    /// The USDT probe, whose arguments its note describes.
    pub probe: Option<&'a UsdtProbe>,
    /// It belongs to a Go program, whose calling convention is not that of C.
    pub is_go: bool,
}

/// A number and its type.
type TypedNumber = (Ir, ValueType);

impl NameScope<'_> {
    /// The value of an expression.
    pub fn value(&self, expr: &Expr) -> Result<ExprValue, ExprError> {
        match &expr.node {
            Node::Number(number) => Ok(ExprValue::Scalar(Ir::Const(*number), int(8, false))),
            Node::Text(text) => Ok(ExprValue::Literal(text.clone())),
            Node::Name(name) => self.named(name, expr),
            Node::Unary(unary, of) => self.unary(*unary, of),
            Node::Binary(operator, left, right) => self.binary(*operator, left, right, expr),
            Node::Cast(cast, of) => self.cast(*cast, of),
            Node::Member { of, name, arrow } => self.member(of, name, *arrow, expr),
            Node::Element(of, index) => self.element(of, index),
            Node::Call(name, args) => self.call(name, args, expr),
        }
    }

    /// The value of an expression as a number.
    fn scalar(&self, expr: &Expr) -> Result<TypedNumber, ExprError> {
        number(self.value(expr)?, expr)
    }

    fn named(&self, name: &str, expr: &Expr) -> Result<ExprValue, ExprError> {
        let known = |ir| Ok(ExprValue::Scalar(ir, int(8, false)));
        match name {
            "pid" => return known(Ir::Task(TaskField::Pid)),
            "tid" => return known(Ir::Task(TaskField::Tid)),
            "uid" => return known(Ir::Task(TaskField::Uid)),
            "cpu" => return known(Ir::Task(TaskField::Cpu)),
            "comm" => return Ok(ExprValue::Comm),
            "lat" | "duration" => return known(Ir::Latency),
            "retval" => {
                return result(self.signature).ok_or_else(|| {
                    ExprError::new(expr.at.start, format!("{} returns no value", self.function))
                });
            }
            "NULL" | "nullptr" => return known(Ir::Const(0)),
            "true" | "false" => return Ok(ExprValue::Scalar(Ir::Const((name == "true").into()), boolean())),
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

    fn params(&self) -> &[FunctionParameter] {
        self.signature.map_or(&[], |signature| &signature.params)
    }

    fn unknown(&self, name: &str, expr: &Expr) -> ExprError {
        let names: Vec<&str> = self
            .params()
            .iter()
            .filter_map(|param| param.name.as_deref())
            .collect();
        let named = match names.is_empty() {
            true => "; its parameter names are unknown".to_owned(),
            false => format!(", and the parameters {}", names.join(" ")),
        };
        ExprError::new(expr.at.start, format!("{} has no `{name}`", self.function)).hint(format!(
            "available: arg0 to arg{}, retval, lat, pid, tid, uid, cpu, comm{named}",
            MOST_ARGS - 1
        ))
    }

    fn argument(&self, number: u64, expr: &Expr) -> Result<ExprValue, ExprError> {
        if let Some(probe) = self.probe {
            let argument = usize::try_from(number)
                .ok()
                .and_then(|number| probe.arguments.get(number));
            return argument.map(probe_argument).ok_or_else(|| {
                let message = format!(
                    "{} has {} arguments; the first is arg0",
                    self.function,
                    probe.arguments.len()
                );
                ExprError::new(expr.at.start, message)
            });
        }
        if self.is_go {
            let param = usize::try_from(number)
                .ok()
                .and_then(|number| self.params().get(number));
            return param.map(parameter).ok_or_else(|| {
                let message = format!("the location of arg{number} of {} is unknown", self.function);
                ExprError::new(expr.at.start, message)
                    .hint("Go has its own calling convention: install debug information for this program")
            });
        }
        let in_registers = machine::ARGUMENTS.len() as u64;
        if number >= MOST_ARGS {
            return Err(
                ExprError::new(expr.at.start, format!("arg{number} cannot be read")).hint(format!(
                    "arg0 to arg{} are read from registers, those up to arg{} from the stack",
                    in_registers - 1,
                    MOST_ARGS - 1
                )),
            );
        }
        let at = match number < in_registers {
            true => LocationPiece::Argument(number as u8),
            false => LocationPiece::Stack(machine::STACK_ARGUMENTS + 8 * (number - in_registers)),
        };
        // The type of a parameter in this place says how many bits count, and whether there is a sign.
        let here = |param: &&FunctionParameter| param.location == ValueLocation::Pieces(vec![at]);
        let param = self.params().iter().find(here);
        let ty = match param.map(|param| (param, &param.ty.kind)) {
            // Its name stands for the value, its number for the address, with and without debug information.
            Some((_, TypeKind::Reference(to))) => pointer_to(Rc::clone(to)),
            Some((param, _)) => return Ok(parameter(param)),
            None => int(8, false),
        };
        match piece(at) {
            Ok(ir) => Ok(ExprValue::Scalar(ir, ty)),
            Err(why) => Ok(ExprValue::Nowhere(why)),
        }
    }

    fn unary(&self, unary: UnaryOperator, of: &Expr) -> Result<ExprValue, ExprError> {
        let (ir, ty) = self.scalar(of)?;
        Ok(match unary {
            UnaryOperator::Not => ExprValue::Scalar(ir.not(), boolean()),
            UnaryOperator::Negate => match ir {
                Ir::Const(number) => ExprValue::Scalar(Ir::Const(number.wrapping_neg()), int(8, true)),
                ir => ExprValue::Scalar(Ir::binary(BinaryOp::Subtract, Ir::Const(0), ir), int(8, true)),
            },
            UnaryOperator::Invert => ExprValue::Scalar(
                Ir::binary(BinaryOp::Xor, ir, Ir::Const(u64::MAX)),
                int(8, is_signed(&ty)),
            ),
            UnaryOperator::Follow => return self.follow(ir, &ty, of),
        })
    }

    fn follow(&self, at: Ir, ty: &ValueType, of: &Expr) -> Result<ExprValue, ExprError> {
        match &ty.kind {
            TypeKind::Pointer(Some(to)) => Ok(Aggregate::Memory(at).value(0, to)),
            TypeKind::CString => Ok(Aggregate::Memory(at).value(0, &int(1, true))),
            _ => Err(
                ExprError::new(of.at.start, "this is not known to point to anything")
                    .hint("say what to read: *(u32*)arg0, str(arg0), or buf(arg0, 16)"),
            ),
        }
    }

    fn cast(&self, cast: CastType, of: &Expr) -> Result<ExprValue, ExprError> {
        let (ir, _) = self.scalar(of)?;
        let to = int(cast.bytes.into(), cast.signed);
        Ok(match cast.pointer {
            true => ExprValue::Scalar(ir, pointer_to(Rc::new(to))),
            false => ExprValue::Scalar(Ir::low(ir, cast.bytes, cast.signed), to),
        })
    }

    fn member(&self, of: &Expr, name: &str, arrow: bool, expr: &Expr) -> Result<ExprValue, ExprError> {
        let (object, ty) = match (self.value(of)?, arrow) {
            // gdb accepts both for a structure, and a parameter may become a reference.
            (ExprValue::Aggregate(object, ty), _) => (object, ty),
            (ExprValue::Scalar(at, ty), true) => match ty.kind {
                TypeKind::Pointer(Some(to)) => (Aggregate::Memory(at), ValueType::clone(&to)),
                _ => {
                    return Err(ExprError::new(
                        of.at.start,
                        "this is not known to point to a structure",
                    ));
                }
            },
            (ExprValue::Scalar(_, ty), false) if matches!(ty.kind, TypeKind::Pointer(_)) => {
                return Err(ExprError::new(of.at.end, "this is a pointer").hint(format!("use ->{name}")));
            }
            _ => return Err(ExprError::new(of.at.start, "this is not a structure")),
        };
        let TypeKind::Struct(members) = &ty.kind else {
            return Err(ExprError::new(
                of.at.start,
                format!("{} is not a structure", ty.name),
            ));
        };
        match named_member(members, name) {
            Some(member) => Ok(object.member(member)),
            None => Err(
                ExprError::new(expr.at.start, format!("{} has no member `{name}`", ty.name))
                    .hint(members_hint(&ty)),
            ),
        }
    }

    fn call(&self, name: &str, args: &[Expr], expr: &Expr) -> Result<ExprValue, ExprError> {
        let wrong = |usage: &str| Err(ExprError::new(expr.at.start, format!("usage: {usage}")));
        match (name, args) {
            ("str", [at]) => self.text(at, Ir::Const(u64::MAX)),
            ("str", [at, most]) => self.text(at, self.scalar(most)?.0),
            ("buf", [at, bytes]) => Ok(ExprValue::Text(TextSource::Counted {
                at: self.scalar(at)?.0,
                bytes: self.scalar(bytes)?.0,
                typed: false,
            })),
            ("str", _) => wrong("str(ADDRESS) or str(ADDRESS, BYTES)"),
            ("buf", _) => wrong("buf(ADDRESS, BYTES)"),
            _ => Err(
                ExprError::new(expr.at.start, format!("unknown function `{name}`"))
                    .hint("available: str(ADDRESS[, BYTES]) and buf(ADDRESS, BYTES)"),
            ),
        }
    }

    fn text(&self, of: &Expr, most: Ir) -> Result<ExprValue, ExprError> {
        match self.value(of)? {
            value @ (ExprValue::Text(_) | ExprValue::Comm) => Ok(value),
            ExprValue::Aggregate(Aggregate::Memory(at), ty) if ty.text_array().is_some() => {
                Ok(ExprValue::Text(match most {
                    Ir::Const(u64::MAX) => text_in_array(at, &ty),
                    most => TextSource::Ended { at, most },
                }))
            }
            value => {
                let (at, _) = number(value, of)?;
                Ok(ExprValue::Text(TextSource::Ended { at, most }))
            }
        }
    }
}

fn pointer_to(ty: Rc<ValueType>) -> ValueType {
    ValueType {
        name: format!("{}*", ty.name).into(),
        bytes: 8,
        kind: TypeKind::Pointer(Some(ty)),
    }
}

/// The text in an array of `char`, which need not end with a NUL. One without a length goes on behind its structure.
fn text_in_array(at: Ir, ty: &ValueType) -> TextSource {
    let most = ty.text_array().filter(|&count| count > 0).unwrap_or(u64::MAX);
    TextSource::Ended {
        at,
        most: Ir::Const(most),
    }
}

/// A value as a number. `expr` is where it comes from.
fn number(value: ExprValue, expr: &Expr) -> Result<TypedNumber, ExprError> {
    let start = expr.at.start;
    match value {
        ExprValue::Scalar(_, ty) if ty.kind == TypeKind::Float => Err(ExprError::new(
            start,
            "floating-point numbers cannot be compared or computed with",
        )),
        ExprValue::Scalar(ir, ty) => Ok((ir, ty)),
        ExprValue::Text(_) | ExprValue::Literal(_) | ExprValue::Comm => {
            Err(ExprError::new(start, "this is text; expected a number")
                .hint("text can be compared with ==, != and ^= (begins with)"))
        }
        ExprValue::Aggregate(_, ty) => {
            let error = ExprError::new(start, format!("this is a {}; expected a number", ty.name));
            Err(match ty.kind {
                TypeKind::Struct(_) => error.hint(members_hint(&ty)),
                _ => error,
            })
        }
        ExprValue::Nowhere(why) => Err(ExprError::new(start, format!("this cannot be read: {why}"))),
    }
}

/// A member with that name, also one of a base class whose name is before it because several members have the name, but
/// only one of a base class.
fn named_member<'m>(members: &'m [StructMember], name: &str) -> Option<&'m StructMember> {
    let is_named = |member: &&StructMember| {
        let qualifier = member.name.strip_suffix(name);
        qualifier.is_some_and(|qualifier| qualifier.ends_with("::"))
    };
    let exact = members.iter().find(|member| *member.name == *name);
    exact.or_else(|| {
        let mut named = members.iter().filter(is_named);
        named.next().filter(|_| named.next().is_none())
    })
}

fn members_hint(ty: &ValueType) -> String {
    let names: Vec<&str> = match &ty.kind {
        TypeKind::Struct(members) => members.iter().map(|member| &*member.name).collect(),
        _ => Vec::new(),
    };
    format!("its members are {}", names.join(" "))
}
