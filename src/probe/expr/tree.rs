// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The syntax tree of an expression.

use std::ops::Range;

/// A node of the tree, and its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub node: Node,
    /// Where it is in the text, bytes.
    pub at: Range<usize>,
}

impl Expr {
    /// True if it names a value that is known at the return only.
    pub fn needs_return(&self) -> bool {
        self.names(&|name| matches!(name, "retval" | "lat" | "duration"))
    }

    /// True if it names the result.
    pub fn names_result(&self) -> bool {
        self.names(&|name| name == "retval")
    }

    /// True if it names a value that is known at the entry only.
    pub fn needs_entry(&self) -> bool {
        self.names(&|name| {
            !matches!(
                name,
                "retval" | "pid" | "tid" | "uid" | "cpu" | "comm" | "true" | "false" | "NULL" | "nullptr"
            )
        })
    }

    fn names(&self, wanted: &impl Fn(&str) -> bool) -> bool {
        match &self.node {
            Node::Number(_) | Node::Text(_) => false,
            Node::Name(name) => wanted(name),
            Node::Unary(_, of) | Node::Cast(_, of) | Node::Member { of, .. } => of.names(wanted),
            Node::Binary(_, left, right) | Node::Element(left, right) => {
                left.names(wanted) || right.names(wanted)
            }
            Node::Call(_, args) => args.iter().any(|arg| arg.names(wanted)),
        }
    }
}

/// What a node is, with its operands.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Number(u64),
    Text(Vec<u8>),
    Name(String),
    Unary(UnaryOperator, Box<Expr>),
    Binary(BinaryOperator, Box<Expr>, Box<Expr>),
    Cast(CastType, Box<Expr>),
    Member {
        of: Box<Expr>,
        name: String,
        arrow: bool,
    },
    /// An array or a pointer, and the index.
    Element(Box<Expr>, Box<Expr>),
    Call(String, Vec<Expr>),
}

/// An operator before its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOperator {
    Negate,
    Not,
    /// `~`
    Invert,
    /// `*`
    Follow,
}

/// An operator between its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOperator {
    Or,
    And,
    BitOr,
    BitXor,
    BitAnd,
    Equal,
    NotEqual,
    /// `^=`
    Begins,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    ShiftLeft,
    ShiftRight,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl BinaryOperator {
    /// True if the operands may be text.
    pub fn compares_text(self) -> bool {
        matches!(
            self,
            BinaryOperator::Equal | BinaryOperator::NotEqual | BinaryOperator::Begins
        )
    }

    /// Precedence: higher binds tighter.
    pub fn level(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::BitOr => 3,
            Self::BitXor => 4,
            Self::BitAnd => 5,
            Self::Equal | Self::NotEqual | Self::Begins => EQUALITY,
            Self::Less | Self::LessEqual | Self::Greater | Self::GreaterEqual => RELATION,
            Self::ShiftLeft | Self::ShiftRight => 8,
            Self::Add | Self::Subtract => 9,
            Self::Multiply | Self::Divide | Self::Remainder => 10,
        }
    }
}

/// Precedence of `==`, `!=` and `^=`.
pub const EQUALITY: u8 = 6;
/// Precedence of `<`, `<=`, `>` and `>=`.
pub const RELATION: u8 = 7;

/// `(u32)` and, with `pointer`, `(u32*)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CastType {
    pub bytes: u8,
    pub signed: bool,
    pub pointer: bool,
}
