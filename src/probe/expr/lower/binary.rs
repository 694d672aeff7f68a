// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Binary operators: arithmetic as in C, and comparisons with text.

mod range;

use std::rc::Rc;

use super::{NameScope, TypedNumber, text_in_array};
use crate::find::debug::types::{TypeKind, ValueType};
use crate::probe::expr::ExprError;
use crate::probe::expr::ir::{Aggregate, BinaryOp, ExprValue, Ir, LITERAL_BYTES, TextLiteral, TextSource};
use crate::probe::expr::operand::{boolean, int, is_signed, text_behind};
use crate::probe::expr::tree::{BinaryOperator, Expr, Node};

/// The kernel keeps 15 bytes of a thread's name.
const COMM_BYTES: usize = 15;
/// Enumerators that a hint names.
const MOST_HINTED: usize = 16;

impl NameScope<'_> {
    /// The value of a binary operator.
    ///
    /// A number that is added to an address counts bytes, whatever debug information says about what is there:
    /// expressions must not change their meaning when a debug package is installed. After a cast to a pointer type,
    /// which is part of the expression, it counts elements as in C.
    pub(super) fn binary(
        &self,
        operator: BinaryOperator,
        left: &Expr,
        right: &Expr,
        expr: &Expr,
    ) -> Result<ExprValue, ExprError> {
        if let Some(value) = self.text_comparison(operator, left, right)? {
            return Ok(value);
        }
        self.require_quotes(operator, left, right)?;
        if operator == BinaryOperator::Begins {
            return Err(ExprError::new(expr.at.start, "^= compares text with a prefix")
                .hint("for example comm ^= \"python\"; exclusive or is ^"));
        }
        let ((a, left_ty), (b, right_ty)) = self.operands(left, right)?;
        let signed = is_signed(&left_ty) || is_signed(&right_ty);
        let value = |ir: &Ir, ty: &ValueType| range::of(ir, ty, signed);
        if let Some(answer) = range::known_answer(operator, value(&a, &left_ty), value(&b, &right_ty)) {
            let error = ExprError::new(expr.at.start, format!("this is {}", answer.message));
            return Err(match answer.hint {
                Some(hint) => error.hint(hint),
                None => error,
            });
        }
        if let Some((operation, number)) = arithmetic(operator, signed, is_signed(&left_ty)) {
            let moves = matches!(operator, BinaryOperator::Add | BinaryOperator::Subtract)
                && !matches!(right_ty.kind, TypeKind::Pointer(_) | TypeKind::CString);
            let step = pointer_step(&left_ty, left).filter(|_| moves);
            return Ok(match step {
                Some(step) => ExprValue::Scalar(Ir::binary(operation, a, b.times(step)), left_ty),
                None => ExprValue::Scalar(Ir::binary(operation, a, b), number),
            });
        }
        let truth = match operator {
            BinaryOperator::And => Ir::And(Box::new(a), Box::new(b)),
            BinaryOperator::Or => Ir::Or(Box::new(a), Box::new(b)),
            BinaryOperator::NotEqual => Ir::binary(BinaryOp::Equal, a, b).not(),
            BinaryOperator::Less => Ir::binary(BinaryOp::Less { signed }, a, b),
            BinaryOperator::LessEqual => Ir::binary(BinaryOp::LessEqual { signed }, a, b),
            BinaryOperator::Greater => Ir::binary(BinaryOp::Less { signed }, b, a),
            BinaryOperator::GreaterEqual => Ir::binary(BinaryOp::LessEqual { signed }, b, a),
            _ => Ir::binary(BinaryOp::Equal, a, b),
        };
        Ok(ExprValue::Scalar(truth, boolean()))
    }

    /// An unknown name that text is compared with is a text without quotes.
    fn require_quotes(&self, operator: BinaryOperator, left: &Expr, right: &Expr) -> Result<(), ExprError> {
        match &right.node {
            Node::Name(name)
                if operator.compares_text() && self.names_text(left) && self.named(name, right).is_err() =>
            {
                let message = format!("{} has no `{name}`", self.function);
                Err(ExprError::new(right.at.start, message)
                    .hint(format!("quote text to compare with: \"{name}\"")))
            }
            _ => Ok(()),
        }
    }

    /// Is this text: `comm`, `str(arg0)`, or a parameter?
    fn names_text(&self, expr: &Expr) -> bool {
        match &expr.node {
            Node::Name(name) => matches!(self.named(name, expr), Ok(ExprValue::Comm | ExprValue::Text(_))),
            Node::Call(name, _) => matches!(name.as_str(), "str" | "buf"),
            _ => false,
        }
    }

    /// Both sides as numbers. An unknown name may be an enumerator of the other side's type.
    fn operands(&self, left: &Expr, right: &Expr) -> Result<(TypedNumber, TypedNumber), ExprError> {
        match (self.scalar(left), self.scalar(right)) {
            (Ok(left), Ok(right)) => Ok((left, right)),
            (Ok(left), Err(error)) => {
                let right = enumerator(&left.1, right).ok_or_else(|| with_enumerators(error, &left.1))?;
                Ok((left, right))
            }
            (Err(error), Ok(right)) => {
                let left = enumerator(&right.1, left).ok_or_else(|| with_enumerators(error, &right.1))?;
                Ok((left, right))
            }
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// `comm == "bash"`, `str(arg0) ^= "/tmp/"`; None when neither side is text.
    fn text_comparison(
        &self,
        operator: BinaryOperator,
        left: &Expr,
        right: &Expr,
    ) -> Result<Option<ExprValue>, ExprError> {
        let (literal, expr) = match (&left.node, &right.node) {
            (_, Node::Text(literal)) => (literal, left),
            (Node::Text(literal), _) if operator != BinaryOperator::Begins => (literal, right),
            _ => return Ok(None),
        };
        if !operator.compares_text() {
            return Err(ExprError::new(
                left.at.start,
                "text can only be compared with ==, != and ^= (begins with)",
            ));
        }
        let literal_at = if expr.at == left.at {
            right.at.start
        } else {
            left.at.start
        };
        if literal.len() >= LITERAL_BYTES {
            return Err(ExprError::new(
                literal_at,
                format!("text to compare with is limited to {} bytes", LITERAL_BYTES - 1),
            ));
        }
        let whole = operator != BinaryOperator::Begins;
        let text = match self.value(expr)? {
            ExprValue::Comm => None,
            ExprValue::Text(text) => Some(text),
            ExprValue::Scalar(at, ty) => Some(text_behind(&at, &ty).ok_or_else(|| {
                ExprError::new(expr.at.start, "this is a number, and is compared with text")
                    .hint("if it is the address of text, use str(...)")
            })?),
            ExprValue::Aggregate(Aggregate::Memory(at), ty) if ty.text_array().is_some() => {
                Some(text_in_array(at, &ty))
            }
            ExprValue::Nowhere(why) => {
                return Err(ExprError::new(
                    expr.at.start,
                    format!("this cannot be read: {why}"),
                ));
            }
            ExprValue::Aggregate(..) | ExprValue::Literal(_) => {
                return Err(ExprError::new(expr.at.start, "this cannot be compared with text"));
            }
        };
        let ir = match text {
            Some(text) => text_matches(text, literal, whole),
            None => Ir::CommMatches(comm_literal(literal, whole)),
        };
        let ir = if operator == BinaryOperator::NotEqual {
            ir.not()
        } else {
            ir
        };
        Ok(Some(ExprValue::Scalar(ir, boolean())))
    }
}

/// A thread name as the kernel keeps it: truncated to 15 bytes.
fn comm_literal(name: &[u8], whole: bool) -> TextLiteral {
    TextLiteral {
        bytes: name.get(..COMM_BYTES).unwrap_or(name).into(),
        whole,
    }
}

fn text_matches(text: TextSource, literal: &[u8], whole: bool) -> Ir {
    let bytes: Rc<[u8]> = literal.into();
    match text {
        TextSource::Ended {
            most: Ir::Const(most),
            ..
        } if literal.len() as u64 > most => Ir::Const(0),
        // An array that is full has no NUL.
        TextSource::Ended {
            at,
            most: Ir::Const(most),
        } if literal.len() as u64 == most && !literal.is_empty() => {
            Ir::BytesMatch(Box::new(at), TextLiteral { bytes, whole: false })
        }
        // The kernel writes a NUL into the last byte that it compares, so it has to look for the real one.
        TextSource::Ended { at, .. } if whole && literal.len() + 1 == LITERAL_BYTES => {
            let last = Ir::load(at.clone().plus(literal.len() as u64), 1, false);
            let begins = Ir::TextMatches(Box::new(at), TextLiteral { bytes, whole: false });
            Ir::And(Box::new(begins), Box::new(last.not()))
        }
        TextSource::Ended { at, .. } => Ir::TextMatches(Box::new(at), TextLiteral { bytes, whole }),
        // The length first: no more is read than there is.
        TextSource::Counted {
            at, bytes: counted, ..
        } => {
            let length = Ir::Const(literal.len() as u64);
            let fits = match whole {
                true => Ir::binary(BinaryOp::Equal, counted, length),
                false => Ir::binary(BinaryOp::LessEqual { signed: false }, length, counted),
            };
            if literal.is_empty() {
                return fits;
            }
            let same = Ir::BytesMatch(Box::new(at), TextLiteral { bytes, whole: false });
            Ir::And(Box::new(fits), Box::new(same))
        }
    }
}

/// The number of an enumerator: `Write`, `Mode::Write`, or `net::Write`.
fn enumerator(ty: &ValueType, expr: &Expr) -> Option<TypedNumber> {
    let (TypeKind::Enum { values, .. }, Node::Name(path)) = (&ty.kind, &expr.node) else {
        return None;
    };
    let name = match path.rsplit_once("::") {
        Some((of, name)) => {
            // Enumerators without a scope of their own are in that of their type.
            let around = ty.name.rsplit_once("::").map_or("", |(around, _)| around);
            let is_named = ends_with_path(&ty.name, of) || ends_with_path(around, of);
            is_named.then_some(name)?
        }
        None => path,
    };
    let (value, _) = values.iter().find(|(_, known)| **known == *name)?;
    Some((Ir::Const(*value as u64), ty.clone()))
}

/// Whether a name, such as `const net::Mode`, ends with all of `path`.
fn ends_with_path(name: &str, path: &str) -> bool {
    let before = name.strip_suffix(path);
    before.is_some_and(|before| before.is_empty() || before.ends_with([':', ' ']))
}

/// The error of an unknown name beside a value of this type, with the names that its values have.
fn with_enumerators(mut error: ExprError, ty: &ValueType) -> ExprError {
    if let (TypeKind::Enum { values, .. }, Some(hint)) = (&ty.kind, &mut error.hint) {
        let names: Vec<&str> = values.iter().take(MOST_HINTED).map(|(_, name)| &**name).collect();
        *hint = format!("{hint}, and the values {}", names.join(" "));
    }
    error
}

/// The operation of an arithmetic operator, and the type of its result. None for comparisons and logic.
fn arithmetic(operator: BinaryOperator, signed: bool, left_signed: bool) -> Option<(BinaryOp, ValueType)> {
    let operation = match operator {
        BinaryOperator::BitOr => BinaryOp::Or,
        BinaryOperator::BitXor => BinaryOp::Xor,
        BinaryOperator::BitAnd => BinaryOp::And,
        BinaryOperator::ShiftLeft => BinaryOp::ShiftLeft,
        BinaryOperator::ShiftRight => BinaryOp::ShiftRight { signed: left_signed },
        BinaryOperator::Add => BinaryOp::Add,
        BinaryOperator::Subtract => BinaryOp::Subtract,
        BinaryOperator::Multiply => BinaryOp::Multiply,
        BinaryOperator::Divide => BinaryOp::Divide { signed },
        BinaryOperator::Remainder => BinaryOp::Remainder { signed },
        _ => return None,
    };
    Some((operation, int(8, signed)))
}

/// The bytes of an element, if the sum of this pointer and a number is a pointer to elements again.
fn pointer_step(ty: &ValueType, expr: &Expr) -> Option<u64> {
    match &ty.kind {
        TypeKind::Pointer(Some(to)) if is_cast(expr) => Some(to.bytes.max(1)),
        TypeKind::CString => Some(1),
        _ => None,
    }
}

/// Whether this is `(u32*)...`, or a sum that begins with it.
fn is_cast(expr: &Expr) -> bool {
    match &expr.node {
        Node::Cast(cast, _) => cast.pointer,
        Node::Binary(BinaryOperator::Add | BinaryOperator::Subtract, left, _) => is_cast(left),
        _ => false,
    }
}
