//! What is known of a function's parameters: their types, and where they are when it is entered. Debug information and
//! the table of well-known prototypes both end up here.

use std::rc::Rc;

/// The parameters and the result of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signature {
    pub params: Vec<Param>,
    /// None for `void`, and where it is not known.
    pub returns: Option<Returned>,
    /// More arguments may follow, as with `printf`.
    pub variadic: bool,
}

/// What a function returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Returned {
    pub ty: Type,
    /// Where it is when the function returns: registers have the values of that moment.
    pub place: Place,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    pub name: Option<Rc<str>>,
    pub ty: Type,
    pub place: Place,
}

/// Where a parameter is at the first instruction of its function, or a result at the return.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// Its bytes, eight in each piece.
    Pieces(Vec<Piece>),
    /// In memory, at the address in this piece: passed by invisible reference.
    Behind(Piece),
    /// Nowhere that a probe can read, and why: "in a floating-point register", "optimized out".
    Nowhere(&'static str),
}

/// Eight bytes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The integer argument register of this number: 0 is rdi or x0.
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
pub struct Type {
    /// As its language writes it: `const char *`, `&str`. Untrusted.
    pub name: Rc<str>,
    /// 0 when it is not known.
    pub bytes: u64,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Int {
        signed: bool,
    },
    Bool,
    /// One character of text, such as `char`.
    Char,
    Float,
    /// Names of values; a value without one is shown as a number.
    Enum {
        signed: bool,
        values: Rc<[(i64, Rc<str>)]>,
    },
    /// A pointer to text that ends with a NUL.
    CString,
    /// Any other pointer or reference, and what it leads to where that is worth following.
    Pointer(Option<Rc<Type>>),
    /// Structures, classes and unions.
    Struct(Rc<[Member]>),
    /// Text that does not end with a NUL, such as `std::string`, `&str`, `String` and Go's `string`: at these offsets in the value are the
    /// address of the bytes and their number.
    Text {
        pointer_at: u64,
        length_at: u64,
    },
    Other,
}

/// A member of a structure.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: Rc<str>,
    /// Bytes from the start of the structure.
    pub offset: u64,
    pub ty: Type,
}
