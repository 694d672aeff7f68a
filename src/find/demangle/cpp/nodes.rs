// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The parts of a C++ name.

/// The place of a node in the list of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(pub usize);

#[derive(Clone, Debug, PartialEq)]
pub enum NameNode<'n> {
    Text(&'n str),
    /// A name that the ABI abbreviates, such as `std::string`.
    Known(&'static str),
    /// A parameter of the template around it, from 0: an argument of the function, or `auto:1` in a lambda.
    Parameter(usize),
    /// A parameter of a generic lambda in a template, from 0.
    Auto(usize),
    /// `SCOPE::NAME`
    Nested(NodeId, NodeId),
    /// A name in a function: the function, and the name.
    Local(NodeId, NodeId),
    /// A name with the arguments of a template.
    Template(NodeId, Vec<NodeId>),
    Tagged(NodeId, &'n str),
    /// `[clone .isra.0]`
    Clone(NodeId, &'n str),
    Constructor(NodeId),
    Destructor(NodeId),
    /// `operator` and a type.
    Conversion(NodeId),
    /// `operator""` and a name.
    Literal(NodeId),
    /// `friend NAME` in its class.
    Friend(NodeId),
    Lambda(Lambda),
    Unnamed(usize),
    /// `[a, b]`
    Binding(Vec<NodeId>),
    Function(Function),
    /// A thunk, a vtable and the like: what it is, and of what.
    Special(&'static str, NodeId),
    /// `const`, `volatile` or what a compiler adds behind a type.
    Qualified(NodeId, &'static str),
    Vendor(NodeId, &'n str),
    Pointer(NodeId),
    Reference(NodeId, ReferenceKind),
    FunctionType(FunctionType),
    /// Elements, and how many.
    Array(NodeId, Option<NodeId>),
    /// Class and member.
    MemberPointer(NodeId, NodeId),
    /// Arguments of a template for one parameter.
    Pack(Vec<NodeId>),
    /// A pattern that is repeated for each element of the packs in it.
    Expansion(NodeId),
    Sequence(Vec<Piece<'n>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    LValue,
    RValue,
}

/// `{lambda(int)#1}`
#[derive(Clone, Debug, PartialEq)]
pub struct Lambda {
    pub params: Vec<NodeId>,
    pub number: usize,
}

/// A function with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    pub returns: Option<NodeId>,
    pub name: NodeId,
    pub params: Vec<NodeId>,
    pub qualifiers: Qualifiers,
    /// What the parameters of its template stand for.
    pub arguments: Vec<NodeId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FunctionType {
    pub returns: NodeId,
    pub params: Vec<NodeId>,
    pub qualifiers: Qualifiers,
    /// ` noexcept`
    pub suffix: &'static str,
}

/// What is behind the parameters of a member function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Qualifiers {
    pub constant: bool,
    pub volatile: bool,
    pub restrict: bool,
    pub reference: Option<ReferenceKind>,
}

/// A part of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<'n> {
    Text(&'n str),
    Node(NodeId),
    /// With commas between.
    List(Vec<NodeId>),
}
