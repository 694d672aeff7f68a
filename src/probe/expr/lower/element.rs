// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Elements of arrays, and of what pointers point to.

use super::NameScope;
use crate::find::debug::types::{TypeKind, ValueType};
use crate::probe::expr::ExprError;
use crate::probe::expr::ir::{Aggregate, BinaryOp, ExprValue, Ir};
use crate::probe::expr::operand::int;
use crate::probe::expr::tree::Expr;

impl NameScope<'_> {
    /// `of[index]`, as in C: an index that is not a constant may lead behind the end of an array.
    pub(super) fn element(&self, of: &Expr, index: &Expr) -> Result<ExprValue, ExprError> {
        let wrong = |message: String| ExprError::new(of.at.start, message);
        let (number, _) = self.scalar(index)?;
        match self.value(of)? {
            ExprValue::Scalar(at, ty) => match &ty.kind {
                // Of Rust: other pointers to arrays point to the first of several.
                TypeKind::Pointer(Some(to))
                    if ty.name.starts_with('&') && matches!(to.kind, TypeKind::Array { .. }) =>
                {
                    element_of_array(&Aggregate::Memory(at), number, to, index)
                }
                TypeKind::Pointer(Some(to)) if to.bytes > 0 => {
                    Ok(element(&Aggregate::Memory(at), number, to))
                }
                TypeKind::CString => Ok(element(&Aggregate::Memory(at), number, &int(1, true))),
                _ => Err(wrong("this is not known to point to elements".into())
                    .hint("say what they are: ((u32*)arg0)[2]")),
            },
            ExprValue::Aggregate(object, ty) if matches!(ty.kind, TypeKind::Array { .. }) => {
                element_of_array(&object, number, &ty, index)
            }
            ExprValue::Aggregate(_, ty) => Err(wrong(format!("{} has no elements", ty.name))),
            ExprValue::Text(_) | ExprValue::Literal(_) | ExprValue::Comm => Err(wrong(
                "this is text, of which no single characters are read".into(),
            )),
            ExprValue::Nowhere(why) => Err(wrong(format!("this cannot be read: {why}"))),
        }
    }
}

/// As [`element`], of an object that is an array of type `ty`.
fn element_of_array(
    object: &Aggregate,
    number: Ir,
    ty: &ValueType,
    index: &Expr,
) -> Result<ExprValue, ExprError> {
    match (&ty.kind, &number) {
        (
            TypeKind::Array {
                count: count @ 1.., ..
            },
            Ir::Const(number),
        ) if number >= count => {
            let message = format!("the last element of {} is [{}]", ty.name, count - 1);
            Err(ExprError::new(index.at.start, message))
        }
        (TypeKind::Array { of, .. }, _) => Ok(element(object, number, of)),
        _ => Ok(element(object, number, ty)),
    }
}

/// The element of type `ty`, of a number of them that begin where the object begins.
fn element(object: &Aggregate, index: Ir, ty: &ValueType) -> ExprValue {
    match (object, index) {
        (Aggregate::Memory(at), Ir::Const(index)) => {
            Aggregate::Memory(at.clone().plus(index.wrapping_mul(ty.bytes))).value(0, ty)
        }
        (Aggregate::Memory(at), index) => {
            let at = Ir::binary(BinaryOp::Add, at.clone(), index.times(ty.bytes));
            Aggregate::Memory(at).value(0, ty)
        }
        (Aggregate::Pieces(_), Ir::Const(index)) => object.value(index.saturating_mul(ty.bytes), ty),
        (Aggregate::Pieces(_), _) => {
            ExprValue::Nowhere("it is in registers, and the index is not a constant")
        }
    }
}
