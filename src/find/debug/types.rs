// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What is known about the parameters of a function: their types, and where they are when it is entered.
//! Debug information and the table of well-known prototypes both produce these.

use std::rc::Rc;

/// Elements of an array that are shown.
pub const MAX_SHOWN_ELEMENTS: usize = 32;

/// The parameters and the result of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FunctionSignature {
    pub params: Vec<FunctionParameter>,
    /// `None` for `void`, and if it is unknown.
    pub returns: Option<FunctionResult>,
    /// More arguments may follow, as with `printf`.
    pub variadic: bool,
}

/// What a function returns.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionResult {
    pub ty: ValueType,
    /// Where it is when the function returns. Registers are those of that moment.
    pub location: ValueLocation,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FunctionParameter {
    pub name: Option<Rc<str>>,
    pub ty: ValueType,
    pub location: ValueLocation,
}

/// Where a parameter is at the first instruction of its function, or a result at the return.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueLocation {
    /// The bytes of the value, eight in each piece.
    Pieces(Vec<LocationPiece>),
    /// In memory, at the address in this piece: passed by invisible reference.
    Indirect(LocationPiece),
    /// Not readable by a probe, and why: "in a floating-point register", "optimized out".
    Unavailable(&'static str),
}

impl ValueLocation {
    /// The value has no bytes: an empty structure.
    pub fn is_nowhere(&self) -> bool {
        matches!(self, ValueLocation::Pieces(pieces) if pieces.is_empty())
    }
}

/// Where eight bytes of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocationPiece {
    /// The integer argument register with this index: 0 is rdi or x0.
    Argument(u8),
    /// Any register, by its DWARF number.
    Register(u16),
    /// On the stack, this many bytes above the stack pointer at the function's first instruction.
    Stack(u64),
    /// A known value.
    Constant(u64),
}

/// A type, as far as its values can be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueType {
    /// As its language writes it: `const char *`, `&str`. Untrusted.
    pub name: Rc<str>,
    /// 0 if it is unknown.
    pub bytes: u64,
    pub kind: TypeKind,
}

impl ValueType {
    /// The number of elements, if it is an array of `char`.
    pub fn text_array(&self) -> Option<u64> {
        match &self.kind {
            TypeKind::Array { of, count } if matches!(of.kind, TypeKind::Char { .. }) && of.bytes == 1 => {
                Some(*count)
            }
            _ => None,
        }
    }
}

/// How the values of a type are shown.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeKind {
    Int {
        signed: bool,
    },
    Bool,
    /// One character of text, such as `char`.
    Char {
        signed: bool,
    },
    Float,
    /// The names of values; a value without a name is shown as an integer.
    Enum {
        signed: bool,
        values: Rc<[(i64, Rc<str>)]>,
    },
    /// A pointer to text that ends with a NUL.
    CString,
    /// Any other pointer, with its target if that is worth showing, and a reference whose target is not known.
    Pointer(Option<Rc<ValueType>>),
    /// The address of a value of this type, which the name stands for in C++.
    Reference(Rc<ValueType>),
    /// Structures, classes and unions.
    Struct(Rc<[StructMember]>),
    /// Elements, one after the other. The count is 0 at the end of a structure that goes on behind its type.
    Array {
        of: Rc<ValueType>,
        count: u64,
    },
    /// Text that does not end with a NUL, such as `std::string`, `&str`, `String` and Go's `string`: the
    /// offsets, in the value, of the address of the bytes and of their count.
    Text {
        pointer_at: u64,
        length_at: u64,
    },
    Other,
}

/// A member of a structure.
#[derive(Clone, Debug, PartialEq)]
pub struct StructMember {
    pub name: Rc<str>,
    /// Bytes from the start of the structure.
    pub offset: u64,
    pub ty: ValueType,
    /// It is only these bits of the number at its offset.
    pub bits: Option<BitField>,
}

/// A part of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitField {
    /// Its lowest bit.
    pub shift: u8,
    /// In bits: 1 to 64.
    pub width: u8,
}

impl BitField {
    /// The part of a number, with its sign if it has one.
    pub fn of(self, number: u64, signed: bool) -> u64 {
        let [left, right] = self.shifts();
        let shifted = number.checked_shl(left.into()).unwrap_or(0);
        match signed {
            true => (shifted.cast_signed() >> right.min(63)).cast_unsigned(),
            false => shifted.checked_shr(right.into()).unwrap_or(0),
        }
    }

    /// Bits by which the number is shifted to the left and then to the right.
    pub fn shifts(self) -> [u8; 2] {
        [
            64_u8.saturating_sub(self.shift).saturating_sub(self.width),
            64_u8.saturating_sub(self.width),
        ]
    }
}
