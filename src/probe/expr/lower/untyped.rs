// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Comparisons of values of unknown type with negative numbers. An `int` of -1 is in a register as 0x00000000ffffffff,
//! which as 64 bits is not negative: such a condition would be wrong without a word.

use super::NameScope;
use crate::probe::expr::ir::Ir;
use crate::probe::expr::operand::is_signed;
use crate::probe::expr::tree::{BinaryOperator, Expr, Node};

impl NameScope<'_> {
    /// The first comparison in `expr` whose answer depends on the unknown type of a value: where that is, and its name.
    pub fn untyped_comparison<'e>(&self, expr: &'e Expr) -> Option<(usize, &'e str)> {
        match &expr.node {
            Node::Binary(operator, left, right) => {
                let of_sides = || {
                    let right = self.untyped_comparison(right);
                    self.untyped_comparison(left).or(right)
                };
                let is_equality = match operator {
                    BinaryOperator::Equal | BinaryOperator::NotEqual => true,
                    BinaryOperator::Less
                    | BinaryOperator::LessEqual
                    | BinaryOperator::Greater
                    | BinaryOperator::GreaterEqual => false,
                    _ => return of_sides(),
                };
                let here = self
                    .untyped_beside(left, right, is_equality)
                    .or_else(|| self.untyped_beside(right, left, is_equality));
                here.map(|name| (expr.at.start, name)).or_else(of_sides)
            }
            Node::Unary(_, of) => self.untyped_comparison(of),
            _ => None,
        }
    }

    /// The name of `value` if its type is unknown, and matters in a comparison with `number`.
    fn untyped_beside<'e>(&self, value: &'e Expr, number: &Expr, is_equality: bool) -> Option<&'e str> {
        let (name, added) = self.name_in_sum(value)?;
        let is_result = name == "retval";
        let is_untyped = match is_result {
            true => self.signature.is_none(),
            false => name.starts_with("arg") && !self.is_go && self.params().is_empty(),
        };
        if !is_untyped || self.probe.is_some() {
            return None;
        }
        let Ok((Ir::Const(number), ty)) = self.scalar(number) else {
            return None;
        };
        // The number that the value itself is compared with.
        let plain = number.wrapping_sub(added);
        let is_address = !is_signed(&ty) && number.cast_signed() < 0;
        let is_negative = !is_address && plain.cast_signed() < 0;
        let is_order = !is_equality
            && match is_result {
                // A result is compared as a signed number.
                true => plain == 0,
                // A smaller number than the one that is subtracted makes a large one.
                false => (i64::from(i32::MIN)..0).contains(&added.cast_signed()),
            };
        (is_negative || is_order).then_some(name)
    }

    /// The name in `NAME`, `NAME + 1` or `NAME - 1`, and the number that is added to it.
    fn name_in_sum<'e>(&self, expr: &'e Expr) -> Option<(&'e str, u64)> {
        let constant = |expr: &Expr| match self.scalar(expr) {
            Ok((Ir::Const(number), _)) => Some(number),
            _ => None,
        };
        let (of, added) = match &expr.node {
            Node::Name(name) => return Some((name, 0)),
            Node::Binary(BinaryOperator::Add, left, right) => match constant(right) {
                Some(number) => (left, number),
                None => (right, constant(left)?),
            },
            Node::Binary(BinaryOperator::Subtract, left, right) => (left, constant(right)?.wrapping_neg()),
            _ => return None,
        };
        let (name, before) = self.name_in_sum(of)?;
        Some((name, before.wrapping_add(added)))
    }
}
