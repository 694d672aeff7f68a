// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Comparisons whose result does not depend on the value, such as `-1` with an unsigned number: mistakes.

use std::ops::RangeInclusive;

use crate::find::debug::types::{TypeKind, ValueType};
use crate::probe::expr::ir::Ir;
use crate::probe::expr::operand::is_signed;
use crate::probe::expr::tree::BinaryOperator;

/// The numbers that one side of a comparison can have.
pub struct SideRange {
    numbers: RangeInclusive<i128>,
    /// It is this number.
    constant: bool,
    /// Of its type.
    bytes: u64,
    signed: bool,
}

/// What a comparison always results in.
pub struct KnownAnswer {
    pub message: String,
    pub hint: Option<String>,
}

/// The numbers of a value of this type, in a comparison that is `signed` or not.
pub fn of(ir: &Ir, ty: &ValueType, signed: bool) -> SideRange {
    let whole = match signed {
        true => i128::from(i64::MIN)..=i128::from(i64::MAX),
        false => 0..=i128::from(u64::MAX),
    };
    let numbers = match (ir, ty.bytes) {
        (Ir::Const(number), _) if signed => single(number.cast_signed().into()),
        (Ir::Const(number), _) => single((*number).into()),
        (_, bytes @ (1 | 2 | 4)) if is_number(&ty.kind) => match is_signed(ty) {
            true => -(1 << (8 * bytes - 1))..=(1 << (8 * bytes - 1)) - 1,
            false => 0..=(1 << (8 * bytes)) - 1,
        },
        _ => whole,
    };
    SideRange {
        numbers,
        constant: matches!(ir, Ir::Const(_)),
        bytes: ty.bytes,
        signed: is_signed(ty),
    }
}

fn single(number: i128) -> RangeInclusive<i128> {
    number..=number
}

fn is_number(kind: &TypeKind) -> bool {
    matches!(
        kind,
        TypeKind::Int { .. } | TypeKind::Enum { .. } | TypeKind::Char { .. }
    )
}

/// The result of the comparison of a value with a constant, if it is the same for all values.
pub fn known_answer(operator: BinaryOperator, left: SideRange, right: SideRange) -> Option<KnownAnswer> {
    use BinaryOperator as Operator;
    let (value, number, operator) = match (left.constant, right.constant) {
        (false, true) => (left, *right.numbers.start(), operator),
        (true, false) => (right, *left.numbers.start(), mirrored(operator)),
        _ => return None,
    };
    let (least, most) = value.numbers.into_inner();
    let is_true = match operator {
        Operator::Equal if number < least || number > most => false,
        Operator::NotEqual if number < least || number > most => true,
        Operator::Less | Operator::GreaterEqual if number <= least => operator != Operator::Less,
        Operator::Less | Operator::GreaterEqual if number > most => operator == Operator::Less,
        Operator::LessEqual | Operator::Greater if number < least => operator != Operator::LessEqual,
        Operator::LessEqual | Operator::Greater if number >= most => operator == Operator::LessEqual,
        _ => return None,
    };
    let answer = if is_true { "always true" } else { "never true" };
    let bits = 8 * value.bytes;
    let is_negative = !value.signed && number <= 0;
    Some(KnownAnswer {
        message: match is_negative {
            true => format!("{answer}: the value is unsigned"),
            false => format!(
                "{answer}: the value has {bits} bits and is {}",
                sign(value.signed)
            ),
        },
        hint: match (value.signed, number > most && number < 1 << bits) {
            _ if is_negative && value.bytes == 8 => {
                Some("cast it to a signed type: (i32) or (i64)".to_owned())
            }
            _ if is_negative => Some(format!("cast it to a signed type: (i{bits})")),
            (true, true) => Some(format!("cast it to an unsigned type: (u{bits})")),
            _ => None,
        },
    })
}

fn sign(signed: bool) -> &'static str {
    if signed { "signed" } else { "unsigned" }
}

/// The operator with its sides exchanged.
fn mirrored(operator: BinaryOperator) -> BinaryOperator {
    match operator {
        BinaryOperator::Less => BinaryOperator::Greater,
        BinaryOperator::Greater => BinaryOperator::Less,
        BinaryOperator::LessEqual => BinaryOperator::GreaterEqual,
        BinaryOperator::GreaterEqual => BinaryOperator::LessEqual,
        other => other,
    }
}
