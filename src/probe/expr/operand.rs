// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The values of parameters, results and USDT arguments: which registers and memory they are in.

use super::ir::{Aggregate, BinaryOp, ExprValue, Ir, TextSource};
use crate::find::debug::types::{
    FunctionParameter, FunctionSignature, LocationPiece, StructMember, TypeKind, ValueLocation, ValueType,
};
use crate::find::usdt::{self, UsdtArgument, UsdtOperand};

/// Registers by DWARF number, and where stack arguments start above the stack pointer at a function's first
/// instruction, bytes.
#[cfg(target_arch = "x86_64")]
pub mod machine {
    pub const ARGUMENTS: &[u8] = &[5, 4, 1, 2, 8, 9];
    pub const STACK_POINTER: u8 = 7;
    pub const STACK_ARGUMENTS: u64 = 8;
    pub const RESULT: u8 = 0;
    pub const REGISTERS: u16 = 16;
}
#[cfg(target_arch = "aarch64")]
pub mod machine {
    pub const ARGUMENTS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];
    pub const STACK_POINTER: u8 = 31;
    pub const STACK_ARGUMENTS: u64 = 0;
    pub const RESULT: u8 = 0;
    pub const REGISTERS: u16 = 32;
}

/// The eight bytes of a piece of a value. The error says why they are not available.
pub fn piece(piece: LocationPiece) -> Result<Ir, &'static str> {
    match piece {
        LocationPiece::Argument(number) => machine::ARGUMENTS
            .get(usize::from(number))
            .map(|register| Ir::Register(*register))
            .ok_or("its register is unknown"),
        LocationPiece::Register(number) if number < machine::REGISTERS => Ok(Ir::Register(number as u8)),
        LocationPiece::Register(_) => Err("its register cannot be read"),
        LocationPiece::Stack(offset) => Ok(Ir::load(
            Ir::Register(machine::STACK_POINTER).plus(offset),
            8,
            false,
        )),
        LocationPiece::Constant(number) => Ok(Ir::Const(number)),
    }
}

/// A piece of the result, at the return.
fn result_piece(piece: LocationPiece) -> Result<Ir, &'static str> {
    match piece {
        LocationPiece::Register(number) if number < machine::REGISTERS => Ok(Ir::Result(number as u8)),
        LocationPiece::Constant(number) => Ok(Ir::Const(number)),
        _ => Err("its register cannot be read"),
    }
}

type ReadPiece = fn(LocationPiece) -> Result<Ir, &'static str>;

fn object(place: &ValueLocation, piece: ReadPiece) -> Result<Aggregate, &'static str> {
    match place {
        ValueLocation::Pieces(pieces) => Ok(Aggregate::Pieces(
            pieces.iter().map(|&at| piece(at)).collect::<Result<_, _>>()?,
        )),
        ValueLocation::Indirect(at) => Ok(Aggregate::Memory(piece(*at)?)),
        ValueLocation::Unavailable(why) => Err(why),
    }
}

impl Aggregate {
    /// A number in it, at an offset in bytes. None if it is in two pieces.
    fn number(&self, offset: u64, bytes: u8, signed: bool) -> Option<Ir> {
        match self {
            Aggregate::Memory(at) => Some(Ir::load(at.clone().plus(offset), bytes, signed)),
            Aggregate::Pieces(pieces) => {
                let within = offset % 8;
                let whole = pieces.get(usize::try_from(offset / 8).ok()?)?.clone();
                if within + u64::from(bytes) > 8 {
                    return None;
                }
                let shifted = whole.shifted_right(within * 8);
                Some(Ir::low(shifted, bytes, signed))
            }
        }
    }

    fn inner(&self, offset: u64) -> Option<Aggregate> {
        match self {
            Aggregate::Memory(at) => Some(Aggregate::Memory(at.clone().plus(offset))),
            Aggregate::Pieces(pieces) if offset.is_multiple_of(8) => {
                let from = usize::try_from(offset / 8).ok()?;
                Some(Aggregate::Pieces(pieces.get(from..)?.to_vec()))
            }
            Aggregate::Pieces(_) => None,
        }
    }

    /// The value of a member.
    pub fn member(&self, member: &StructMember) -> ExprValue {
        match (self.value(member.offset, &member.ty), member.bits) {
            (ExprValue::Scalar(ir, ty), Some(bits)) => {
                let [left, right] = bits.shifts().map(|shift| Ir::Const(shift.into()));
                let upper = Ir::binary(BinaryOp::ShiftLeft, ir, left);
                let operation = BinaryOp::ShiftRight {
                    signed: is_signed(&ty),
                };
                ExprValue::Scalar(Ir::binary(operation, upper, right), ty)
            }
            (value, _) => value,
        }
    }

    /// The value of a type at an offset in bytes.
    pub fn value(&self, offset: u64, ty: &ValueType) -> ExprValue {
        const ODD: ExprValue = ExprValue::Nowhere("it is split over several registers");
        match &ty.kind {
            TypeKind::Struct(_) | TypeKind::Array { .. } => self
                .inner(offset)
                .map_or(ODD, |object| ExprValue::Aggregate(object, ty.clone())),
            TypeKind::Text {
                pointer_at,
                length_at,
            } => {
                let part = |at: u64| self.number(offset.checked_add(at)?, 8, false);
                match (part(*pointer_at), part(*length_at)) {
                    (Some(at), Some(bytes)) => ExprValue::Text(TextSource::Counted {
                        at,
                        bytes,
                        typed: true,
                    }),
                    _ => ODD,
                }
            }
            TypeKind::Reference(to) => match self.number(offset, 8, false) {
                Some(at) => Aggregate::Memory(at).value(0, to),
                None => ODD,
            },
            TypeKind::Other => ExprValue::Nowhere("values of its type are not supported"),
            _ => {
                let signed = is_signed(ty);
                match ty.bytes {
                    bytes @ (1 | 2 | 4 | 8) => self
                        .number(offset, bytes as u8, signed)
                        .map_or(ODD, |ir| ExprValue::Scalar(ir, ty.clone())),
                    _ => ExprValue::Nowhere("its size is not 1, 2, 4 or 8 bytes"),
                }
            }
        }
    }
}

/// Whether numbers of this type have a sign.
pub fn is_signed(ty: &ValueType) -> bool {
    match ty.kind {
        TypeKind::Int { signed } | TypeKind::Char { signed } | TypeKind::Enum { signed, .. } => signed,
        _ => false,
    }
}

/// An integer type: `i32`, `u64`.
pub fn int(bytes: u64, signed: bool) -> ValueType {
    let name = format!("{}{}", if signed { 'i' } else { 'u' }, bytes * 8);
    ValueType {
        name: name.into(),
        bytes,
        kind: TypeKind::Int { signed },
    }
}

/// The type `bool`.
pub fn boolean() -> ValueType {
    ValueType {
        name: "bool".into(),
        bytes: 1,
        kind: TypeKind::Bool,
    }
}

/// The value of a parameter.
pub fn parameter(param: &FunctionParameter) -> ExprValue {
    match object(&param.location, piece) {
        Ok(object) => object.value(0, &param.ty),
        Err(why) => ExprValue::Nowhere(why),
    }
}

/// The value of an argument of a USDT probe.
pub fn probe_argument(argument: &UsdtArgument) -> ExprValue {
    let signed = argument.number == usdt::NumberKind::Signed;
    if argument.operand == UsdtOperand::UnknownVariable {
        return ExprValue::Nowhere("the symbol tables have no such variable, or several");
    }
    match (operand(argument, signed), argument.bytes) {
        (Some(ir), 1 | 2 | 4 | 8) => ExprValue::Scalar(ir, argument_type(argument, signed)),
        _ => ExprValue::Nowhere("its location is not understood"),
    }
}

fn register(number: u16) -> Option<Ir> {
    let is_known = number < machine::REGISTERS || usdt::INSTRUCTION_POINTER == Some(number);
    is_known.then_some(Ir::Register(number as u8))
}

/// None if it is not understood.
fn operand(argument: &UsdtArgument, signed: bool) -> Option<Ir> {
    let bytes = argument.bytes;
    match argument.operand {
        UsdtOperand::Register { register: at, shift } => {
            Some(Ir::low(register(at)?.shifted_right(shift.into()), bytes, signed))
        }
        UsdtOperand::Memory { base, index, offset } => {
            let base = base.map_or(Some(Ir::Const(0)), register)?;
            let at = match index {
                Some(index) => {
                    let number = Ir::low(register(index.register)?, index.bytes, index.signed);
                    let index = Ir::binary(BinaryOp::Multiply, number, Ir::Const(index.scale.into()));
                    Ir::binary(BinaryOp::Add, base, index)
                }
                None => base,
            };
            Some(Ir::load(at.plus(offset as u64), bytes, signed))
        }
        UsdtOperand::Address { base, offset } => {
            Some(Ir::low(register(base)?.plus(offset as u64), bytes, signed))
        }
        // gcc writes `1@$-6` for an unsigned 250.
        UsdtOperand::Constant(number) => Some(Ir::low(Ir::Const(number as u64), bytes, signed)),
        UsdtOperand::UnknownVariable | UsdtOperand::Unknown => None,
    }
}

/// An unsigned number of eight bytes may be an address as well; the note does not tell.
fn argument_type(argument: &UsdtArgument, signed: bool) -> ValueType {
    let bytes = argument.bytes.into();
    match argument.number {
        usdt::NumberKind::Float => ValueType {
            name: "double".into(),
            bytes,
            kind: TypeKind::Float,
        },
        _ => int(bytes, signed),
    }
}

/// The result of a call; None if the function returns no value.
pub fn result(signature: Option<&FunctionSignature>) -> Option<ExprValue> {
    let Some(signature) = signature else {
        // Of an unknown type, a negative number is more likely to be an error than an address.
        return Some(ExprValue::Scalar(Ir::Result(machine::RESULT), int(8, true)));
    };
    let returned = signature.returns.as_ref()?;
    Some(match object(&returned.location, result_piece) {
        Ok(object) => object.value(0, &returned.ty),
        Err(why) => ExprValue::Nowhere(why),
    })
}

/// The text that a pointer points to, if its type says so.
pub fn text_behind(at: &Ir, ty: &ValueType) -> Option<TextSource> {
    match &ty.kind {
        TypeKind::CString => Some(TextSource::Ended {
            at: at.clone(),
            most: Ir::Const(u64::MAX),
        }),
        TypeKind::Pointer(Some(to)) => match Aggregate::Memory(at.clone()).value(0, to) {
            ExprValue::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The structure that a pointer points to, if its type says so.
pub fn structure_behind(ty: &ValueType) -> Option<ValueType> {
    match &ty.kind {
        TypeKind::Pointer(Some(to)) if matches!(to.kind, TypeKind::Struct(_)) && to.bytes > 0 => {
            Some(ValueType::clone(to))
        }
        _ => None,
    }
}
