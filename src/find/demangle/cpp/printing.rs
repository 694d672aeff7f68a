// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names to text.
//!
//! Types are written in two halves around what has the type: `int (*` and `)(char)`.

use std::fmt;

use super::nodes::{Function, FunctionType, Lambda, NameNode, NodeId, Piece, Qualifiers, ReferenceKind};
use super::{CppForm, MAX_DEPTH};

/// Nodes that are written, with repetitions. A text of the most bytes that callers accept has fewer.
const MAX_STEPS: usize = 1 << 16;

/// Where an expansion of a pack is.
#[derive(Clone, Copy)]
struct Expansion {
    index: usize,
}

pub struct Printer<'p, 'n> {
    nodes: &'p [NameNode<'n>],
    form: CppForm,
    out: &'p mut dyn fmt::Write,
    expansion: Option<Expansion>,
    /// What the parameters of templates stand for.
    arguments: &'p [NodeId],
    in_lambda: bool,
    /// What is not written yet: a separator is not, if nothing follows.
    pending: &'static str,
    last: u8,
    depth: usize,
    steps: usize,
    written: usize,
}

impl<'p, 'n> Printer<'p, 'n> {
    pub fn new(nodes: &'p [NameNode<'n>], form: CppForm, out: &'p mut dyn fmt::Write) -> Printer<'p, 'n> {
        Printer {
            nodes,
            form,
            out,
            expansion: None,
            arguments: &[],
            in_lambda: false,
            pending: "",
            last: 0,
            depth: 0,
            steps: 0,
            written: 0,
        }
    }

    pub fn print_all(&mut self, root: NodeId) -> fmt::Result {
        self.print(root)
    }

    fn text(&mut self, text: &str) -> fmt::Result {
        let Some(&last) = text.as_bytes().last() else {
            return Ok(());
        };
        let pending = std::mem::take(&mut self.pending);
        self.out.write_str(pending)?;
        self.out.write_str(text)?;
        self.last = last;
        self.written += pending.len() + text.len();
        Ok(())
    }

    /// Items with commas between those that are not empty.
    fn list(&mut self, items: &[NodeId]) -> fmt::Result {
        let start = self.written;
        for &item in items {
            self.separate(start);
            self.print(item)?;
        }
        self.end_list(start);
        Ok(())
    }

    /// Before an item of a list that starts at `start`.
    fn separate(&mut self, start: usize) {
        if self.written > start && self.pending.is_empty() {
            self.pending = ", ";
        }
    }

    fn end_list(&mut self, start: usize) {
        if self.written > start {
            self.pending = "";
        }
    }

    fn deeper(&mut self, print: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        self.steps += 1;
        if self.depth >= 2 * MAX_DEPTH || self.steps > MAX_STEPS {
            return Err(fmt::Error);
        }
        self.depth += 1;
        let result = print(self);
        self.depth -= 1;
        result
    }

    fn print(&mut self, id: NodeId) -> fmt::Result {
        self.left(id)?;
        self.right(id)
    }

    /// The node that a parameter stands for. `None` for one that has none.
    fn resolved(&mut self, id: NodeId) -> Option<NodeId> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let NameNode::Parameter(index) = self.nodes[id.0] else {
                return Some(id);
            };
            if self.in_lambda {
                return Some(id);
            }
            id = *self.arguments.get(index)?;
            if let NameNode::Pack(elements) = &self.nodes[id.0] {
                let expansion = self.expansion.get_or_insert(Expansion { index: 0 });
                id = *elements.get(expansion.index)?;
            }
        }
        None
    }

    fn left(&mut self, id: NodeId) -> fmt::Result {
        let Some(id) = self.resolved(id) else {
            return Ok(());
        };
        let nodes = self.nodes;
        self.deeper(|printer| match &nodes[id.0] {
            NameNode::Pointer(to) => printer.pointer(*to, "*"),
            NameNode::Reference(..) => match printer.collapsed(id) {
                Some((to, ReferenceKind::LValue)) => printer.pointer(to, "&"),
                Some((to, ReferenceKind::RValue)) => printer.pointer(to, "&&"),
                None => Ok(()),
            },
            NameNode::Qualified(of, text) => {
                printer.left(*of)?;
                printer.text(text)
            }
            NameNode::Vendor(of, text) => {
                printer.left(*of)?;
                printer.text(" ")?;
                printer.text(text)
            }
            NameNode::Array(of, _) => printer.left(*of),
            NameNode::FunctionType(function) => {
                printer.left(function.returns)?;
                printer.text(" ")
            }
            NameNode::MemberPointer(class, member) => {
                printer.left(*member)?;
                let before = if printer.has_right(*member) { "(" } else { " " };
                printer.text(before)?;
                printer.print(*class)?;
                printer.text("::*")
            }
            node => printer.whole(node),
        })
    }

    fn right(&mut self, id: NodeId) -> fmt::Result {
        let Some(id) = self.resolved(id) else {
            return Ok(());
        };
        let nodes = self.nodes;
        self.deeper(|printer| match &nodes[id.0] {
            NameNode::Pointer(to) | NameNode::MemberPointer(_, to) => printer.pointer_end(*to),
            NameNode::Reference(..) => match printer.collapsed(id) {
                Some((to, _)) => printer.pointer_end(to),
                None => Ok(()),
            },
            NameNode::Qualified(of, _) | NameNode::Vendor(of, _) => printer.right(*of),
            NameNode::Array(of, length) => {
                if printer.last != b']' {
                    printer.text(" ")?;
                }
                printer.text("[")?;
                if let Some(length) = length {
                    printer.print(*length)?;
                }
                printer.text("]")?;
                printer.right(*of)
            }
            NameNode::FunctionType(function) => printer.function_end(function),
            _ => Ok(()),
        })
    }

    fn pointer(&mut self, to: NodeId, mark: &str) -> fmt::Result {
        self.left(to)?;
        match self.shape(to) {
            Shape::Array => self.text(" (")?,
            Shape::Function => self.text("(")?,
            Shape::Other => {}
        }
        self.text(mark)
    }

    fn pointer_end(&mut self, to: NodeId) -> fmt::Result {
        if self.has_right(to) {
            self.text(")")?;
        }
        self.right(to)
    }

    fn has_right(&mut self, id: NodeId) -> bool {
        !matches!(self.shape(id), Shape::Other)
    }

    fn shape(&mut self, id: NodeId) -> Shape {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let Some(resolved) = self.resolved(id) else {
                return Shape::Other;
            };
            match &self.nodes[resolved.0] {
                NameNode::Array(..) => return Shape::Array,
                NameNode::FunctionType(_) => return Shape::Function,
                NameNode::Qualified(of, _) | NameNode::Vendor(of, _) => id = *of,
                _ => return Shape::Other,
            }
        }
        Shape::Other
    }

    /// A reference to a reference is one reference.
    fn collapsed(&mut self, id: NodeId) -> Option<(NodeId, ReferenceKind)> {
        let mut kind = ReferenceKind::RValue;
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            id = self.resolved(id)?;
            match &self.nodes[id.0] {
                NameNode::Reference(to, reference) => {
                    if *reference == ReferenceKind::LValue {
                        kind = ReferenceKind::LValue;
                    }
                    id = *to;
                }
                _ => return Some((id, kind)),
            }
        }
        None
    }

    /// What has no second half.
    fn whole(&mut self, node: &'p NameNode<'n>) -> fmt::Result {
        match node {
            NameNode::Text(text) => self.text(text),
            NameNode::Known(text) => self.text(text),
            NameNode::Auto(index) | NameNode::Parameter(index) => {
                self.text(&format!("auto:{}", index.saturating_add(1)))
            }
            NameNode::Nested(scope, name) => {
                self.print(*scope)?;
                self.text("::")?;
                self.print(*name)
            }
            NameNode::Local(function, name) => {
                self.scope(*function)?;
                self.text("::")?;
                self.print(*name)
            }
            NameNode::Template(name, arguments) => {
                self.print(*name)?;
                self.arguments(arguments)
            }
            NameNode::Tagged(name, tag) => {
                self.print(*name)?;
                self.text(&format!("[abi:{tag}]"))
            }
            NameNode::Clone(of, suffix) => {
                self.print(*of)?;
                self.text(&format!(" [clone {suffix}]"))
            }
            NameNode::Constructor(class) => self.base_name(*class),
            NameNode::Destructor(class) => {
                self.text("~")?;
                self.base_name(*class)
            }
            NameNode::Conversion(ty) => {
                self.text("operator ")?;
                self.print(*ty)
            }
            NameNode::Literal(name) => {
                self.text("operator\"\" ")?;
                self.print(*name)
            }
            NameNode::Friend(name) => self.print(*name),
            NameNode::Lambda(lambda) => self.lambda(lambda),
            NameNode::Unnamed(number) => self.text(&format!("{{unnamed type#{number}}}")),
            NameNode::Binding(names) => self.surrounded("[", names, "]"),
            NameNode::Function(function) => self.function(function, false),
            NameNode::Special(what, of) => {
                self.text(what)?;
                self.print(*of)
            }
            NameNode::Pack(items) => self.list(items),
            NameNode::Expansion(pattern) => self.expand(*pattern),
            NameNode::Sequence(pieces) => self.pieces(pieces),
            _ => Ok(()),
        }
    }

    fn pieces(&mut self, pieces: &[Piece<'n>]) -> fmt::Result {
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text(text)?,
                Piece::Node(node) => self.print(*node)?,
                Piece::List(items) => self.list(items)?,
            }
        }
        Ok(())
    }

    fn surrounded(&mut self, before: &str, items: &[NodeId], after: &str) -> fmt::Result {
        self.text(before)?;
        self.list(items)?;
        self.text(after)
    }

    fn arguments(&mut self, arguments: &[NodeId]) -> fmt::Result {
        // `operator< <int>`
        let before = if self.last == b'<' { " <" } else { "<" };
        self.text(before)?;
        self.list(arguments)?;
        let after = if self.last == b'>' { " >" } else { ">" };
        self.text(after)
    }

    fn lambda(&mut self, lambda: &Lambda) -> fmt::Result {
        let outer = std::mem::replace(&mut self.in_lambda, true);
        let result = self.surrounded("{lambda(", &lambda.params, ")");
        self.in_lambda = outer;
        result?;
        self.text(&format!("#{}}}", lambda.number))
    }

    /// `is_scope`: it is around a name, so its return type is not shown.
    fn function(&mut self, function: &'p Function, is_scope: bool) -> fmt::Result {
        let outer = (self.arguments, self.in_lambda, self.expansion);
        (self.arguments, self.in_lambda, self.expansion) = (&function.arguments, false, None);
        let result = match is_scope && self.form == CppForm::Full {
            true => self.signature(function),
            false => self.with_return_type(function),
        };
        (self.arguments, self.in_lambda, self.expansion) = outer;
        result
    }

    fn with_return_type(&mut self, function: &Function) -> fmt::Result {
        if self.form == CppForm::Short {
            return self.print(function.name);
        }
        if let Some(returns) = function.returns {
            self.left(returns)?;
            if !self.has_outer_right(returns) {
                self.text(" ")?;
            }
        }
        self.signature(function)?;
        match function.returns {
            Some(returns) => self.right(returns),
            None => Ok(()),
        }
    }

    fn signature(&mut self, function: &Function) -> fmt::Result {
        self.print(function.name)?;
        self.surrounded("(", &function.params, ")")?;
        self.qualifiers(function.qualifiers)
    }

    /// The function around a name, without its return type.
    fn scope(&mut self, id: NodeId) -> fmt::Result {
        let nodes = self.nodes;
        match &nodes[id.0] {
            NameNode::Function(function) => self.function(function, true),
            _ => self.print(id),
        }
    }

    /// Whether a type has a second half, also where it is a pointer to one that has.
    fn has_outer_right(&mut self, id: NodeId) -> bool {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let Some(resolved) = self.resolved(id) else {
                return false;
            };
            match &self.nodes[resolved.0] {
                NameNode::Array(..) | NameNode::FunctionType(_) => return true,
                NameNode::Pointer(to)
                | NameNode::Reference(to, _)
                | NameNode::MemberPointer(_, to)
                | NameNode::Qualified(to, _)
                | NameNode::Vendor(to, _) => id = *to,
                _ => return false,
            }
        }
        false
    }

    fn function_end(&mut self, function: &FunctionType) -> fmt::Result {
        self.surrounded("(", &function.params, ")")?;
        self.right(function.returns)?;
        self.qualifiers(function.qualifiers)?;
        self.text(function.suffix)
    }

    fn qualifiers(&mut self, qualifiers: Qualifiers) -> fmt::Result {
        let reference = qualifiers.reference;
        for (is_set, text) in [
            (qualifiers.constant, " const"),
            (qualifiers.volatile, " volatile"),
            (qualifiers.restrict, " restrict"),
            (reference == Some(ReferenceKind::LValue), " &"),
            (reference == Some(ReferenceKind::RValue), " &&"),
        ] {
            if is_set {
                self.text(text)?;
            }
        }
        Ok(())
    }

    /// The name of a class without scopes and arguments.
    fn base_name(&mut self, id: NodeId) -> fmt::Result {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let Some(resolved) = self.resolved(id) else {
                return Ok(());
            };
            id = match &self.nodes[resolved.0] {
                NameNode::Nested(_, name) | NameNode::Local(_, name) => *name,
                NameNode::Template(name, _) | NameNode::Tagged(name, _) => *name,
                NameNode::Known(text) => return self.text(text.rsplit("::").next().unwrap_or(text)),
                _ => return self.print(resolved),
            };
        }
        Err(fmt::Error)
    }

    /// The pattern once for each element of the packs in it.
    fn expand(&mut self, pattern: NodeId) -> fmt::Result {
        let outer = self.expansion.replace(Expansion { index: 0 });
        let length = self.pack_length(pattern, 0);
        let result = match length {
            // A pack of function parameters.
            None => self.print(pattern).and_then(|()| self.text("...")),
            Some(length) => self.elements(pattern, length),
        };
        self.expansion = outer;
        result
    }

    fn elements(&mut self, pattern: NodeId, length: usize) -> fmt::Result {
        let start = self.written;
        for index in 0..length {
            self.expansion = Some(Expansion { index });
            self.separate(start);
            self.print(pattern)?;
        }
        self.end_list(start);
        Ok(())
    }

    /// The length of the first pack in a pattern that is not expanded inside of it.
    fn pack_length(&mut self, id: NodeId, depth: usize) -> Option<usize> {
        self.steps += 1;
        if depth > MAX_DEPTH || self.steps > MAX_STEPS {
            return None;
        }
        let nodes = self.nodes;
        let mut first = |ids: &[NodeId]| ids.iter().find_map(|&id| self.pack_length(id, depth + 1));
        match &nodes[id.0] {
            NameNode::Parameter(index) => match &nodes[self.arguments.get(*index)?.0] {
                NameNode::Pack(elements) => Some(elements.len()),
                _ => None,
            },
            NameNode::Nested(scope, name) | NameNode::Local(scope, name) => first(&[*scope, *name]),
            NameNode::Template(name, arguments) => first(&[*name]).or_else(|| first(arguments)),
            NameNode::Qualified(of, _)
            | NameNode::Vendor(of, _)
            | NameNode::Pointer(of)
            | NameNode::Reference(of, _)
            | NameNode::Tagged(of, _)
            | NameNode::Conversion(of) => first(&[*of]),
            NameNode::Array(of, length) => first(&[*of]).or_else(|| first(length.as_slice())),
            NameNode::MemberPointer(class, member) => first(&[*class, *member]),
            NameNode::FunctionType(function) => {
                first(&[function.returns]).or_else(|| first(&function.params))
            }
            NameNode::Sequence(pieces) => pieces.iter().find_map(|piece| match piece {
                Piece::Text(_) => None,
                Piece::Node(node) => first(&[*node]),
                Piece::List(items) => first(items),
            }),
            _ => None,
        }
    }
}

/// What decides whether a pointer to a type needs brackets.
enum Shape {
    Array,
    Function,
    Other,
}
