// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names of C++ functions, as the Itanium C++ ABI mangles them, with the constraints of C++20 and what else GCC and
//! clang 19 write.
//!
//! <https://itanium-cxx-abi.github.io/cxx-abi/abi.html#mangling>. Text is like that of `c++filt`. Constraints are read,
//! but not shown: people do not write them.
//!
//! The crate cpp_demangle (0.5) reads no constraints, and misplaces packs and references: of 33,524 functions of LLVM
//! 19, it names 2,363 otherwise than c++filt and llvm-cxxfilt do. Of 45,762 names there, 4 differ here.

mod encodings;
mod expressions;
mod names;
mod nodes;
mod printing;
mod types;

use std::fmt;

use nodes::{NameNode, NodeId};
use printing::Printer;

/// Names inside of names, such as template arguments.
const MAX_DEPTH: usize = 192;
/// Parts of a name: many times what real ones have.
const MAX_NODES: usize = 1 << 16;

/// A name that has been read, and can be written.
pub struct CppName<'n> {
    nodes: Vec<NameNode<'n>>,
    root: NodeId,
}

/// Which parts of a name are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CppForm {
    /// With parameters, and the return type of a template.
    Full,
    /// Without parameters, return types and qualifiers.
    Short,
}

impl<'n> CppName<'n> {
    /// `None` if it is not a valid mangled name.
    pub fn parse(mangled: &'n str) -> Option<CppName<'n>> {
        let mut parser = NameParser {
            rest: mangled.strip_prefix("_Z")?,
            nodes: Vec::new(),
            substitutions: Vec::new(),
            no_arguments: false,
            depth: 0,
        };
        let mut root = parser.encoding()?;
        while let Some(suffix) = parser.clone_suffix() {
            root = parser.add(NameNode::Clone(root, suffix))?;
        }
        parser.rest.is_empty().then_some(CppName {
            nodes: parser.nodes,
            root,
        })
    }

    /// The number of parameters of a function. `None` if it depends on the arguments of a template, or is not known.
    pub fn parameters(&self) -> Option<usize> {
        let NameNode::Function(function) = &self.nodes[self.root.0] else {
            return None;
        };
        let is_one = |param: &NodeId| {
            !matches!(
                self.nodes[param.0],
                NameNode::Expansion(_) | NameNode::Known("...")
            )
        };
        function
            .params
            .iter()
            .all(is_one)
            .then_some(function.params.len())
    }

    /// # Errors
    /// Those of `out`, or a name that is too deep or too long to be written.
    pub fn write(&self, out: &mut dyn fmt::Write, form: CppForm) -> fmt::Result {
        Printer::new(&self.nodes, form, out).print_all(self.root)
    }
}

/// Reads a mangled name from left to right.
struct NameParser<'n> {
    rest: &'n str,
    nodes: Vec<NameNode<'n>>,
    /// What `S_`, `S0_` and so on stand for.
    substitutions: Vec<NodeId>,
    /// What follows the type of a conversion operator are the arguments of the operator, not of the type.
    no_arguments: bool,
    depth: usize,
}

impl<'n> NameParser<'n> {
    fn add(&mut self, node: NameNode<'n>) -> Option<NodeId> {
        if self.nodes.len() >= MAX_NODES {
            return None;
        }
        self.nodes.push(node);
        Some(NodeId(self.nodes.len() - 1))
    }

    /// Calls `read` unless it is too deep.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let found = read(self);
        self.depth -= 1;
        found
    }

    fn looks_at(&self, text: &str) -> bool {
        self.rest.starts_with(text)
    }

    fn byte(&self) -> u8 {
        self.rest.as_bytes().first().copied().unwrap_or(0)
    }

    fn byte_at(&self, at: usize) -> u8 {
        self.rest.as_bytes().get(at).copied().unwrap_or(0)
    }

    fn take(&mut self, text: &str) -> bool {
        let after = self.rest.strip_prefix(text);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, text: &str) -> Option<()> {
        self.take(text).then_some(())
    }

    /// The longest start of the rest whose characters `is_part` accepts.
    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> &'n str {
        let end = self.rest.bytes().position(|byte| !is_part(byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn number(&mut self) -> Option<usize> {
        self.take_while(|byte| byte.is_ascii_digit()).parse().ok()
    }

    /// `_` for 0, `0_` for 1, `1_` for 2.
    fn index(&mut self) -> Option<usize> {
        if self.take("_") {
            return Some(0);
        }
        let index = self.number()?.checked_add(1)?;
        self.expect("_").map(|()| index)
    }

    /// As [`NameParser::index`], in base 36.
    fn sequence_number(&mut self) -> Option<usize> {
        if self.take("_") {
            return Some(0);
        }
        let digits = self.take_while(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        let index = usize::from_str_radix(digits, 36).ok()?.checked_add(1)?;
        self.expect("_").map(|()| index)
    }

    /// Reads items until `end`, which is taken.
    fn until(&mut self, end: &str, mut read: impl FnMut(&mut Self) -> Option<NodeId>) -> Option<Vec<NodeId>> {
        let mut items = Vec::new();
        while !self.take(end) {
            items.push(read(self)?);
        }
        Some(items)
    }

    /// `.isra.0` and the like, each by itself.
    fn clone_suffix(&mut self) -> Option<&'n str> {
        let text = self.rest;
        let after = text.strip_prefix('.')?;
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let word = after.bytes().take_while(|&byte| is_word(byte)).count();
        let digits = |at: usize| text[at..].bytes().take_while(u8::is_ascii_digit).count();
        let mut end = 1 + word;
        if word == 0 {
            end += digits(end);
        }
        if end == 1 {
            return None;
        }
        while text[end..].starts_with('.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
        }
        let (suffix, rest) = text.split_at(end);
        self.rest = rest;
        Some(suffix)
    }
}
