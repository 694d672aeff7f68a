// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions, and what compilers make: thunks, vtables and guards.

use super::NameParser;
use super::nodes::{Function, NameNode, NodeId, Piece, Qualifiers};

/// What a name turned out to be.
#[derive(Default)]
pub struct NameState {
    /// It ends with template arguments, so a return type follows.
    pub is_template: bool,
    /// Constructors, destructors and conversions have no return type.
    pub no_return_type: bool,
    pub qualifiers: Qualifiers,
    /// Those of the template, or of the one around a member.
    pub arguments: Vec<NodeId>,
}

impl<'n> NameParser<'n> {
    /// A function or variable.
    pub fn encoding(&mut self) -> Option<NodeId> {
        self.deeper(|parser| {
            let no_arguments = std::mem::take(&mut parser.no_arguments);
            let found = parser.encoding_inside();
            parser.no_arguments = no_arguments;
            found
        })
    }

    fn encoding_inside(&mut self) -> Option<NodeId> {
        if matches!(self.byte(), b'T' | b'G') {
            return self.special();
        }
        let mut state = NameState::default();
        let name = self.name(&mut state)?;
        if self.is_end() {
            return Some(name);
        }
        if self.take("Ua9enable_ifI") {
            self.until("E", NameParser::template_argument)?;
        }
        let has_return_type = state.is_template && !state.no_return_type;
        let returns = match has_return_type {
            true => Some(self.ty()?),
            false => None,
        };
        let mut params = Vec::new();
        if !self.take("v") {
            while !(self.is_end() || self.byte() == b'Q') || params.is_empty() {
                params.push(self.ty()?);
            }
        }
        self.constraint()?;
        self.add(NameNode::Function(Function {
            returns,
            name,
            params,
            qualifiers: state.qualifiers,
            arguments: state.arguments,
        }))
    }

    /// Whether no parameters follow.
    fn is_end(&self) -> bool {
        matches!(self.byte(), 0 | b'E' | b'.' | b'_')
    }

    /// A trailing `requires`, if there is one.
    fn constraint(&mut self) -> Option<()> {
        if self.take("Q") {
            self.expression()?;
        }
        Some(())
    }

    fn special(&mut self) -> Option<NodeId> {
        const OF_TYPES: [(&str, &str); 5] = [
            ("TV", "vtable for "),
            ("TT", "VTT for "),
            ("TI", "typeinfo for "),
            ("TS", "typeinfo name for "),
            ("TA", "template parameter object for "),
        ];
        const OF_NAMES: [(&str, &str); 3] = [
            ("TH", "TLS init function for "),
            ("TW", "TLS wrapper function for "),
            ("GV", "guard variable for "),
        ];
        for (mark, what) in OF_TYPES {
            if self.take(mark) {
                let of = match mark {
                    "TA" => self.template_argument()?,
                    _ => self.ty()?,
                };
                return self.add(NameNode::Special(what, of));
            }
        }
        for (mark, what) in OF_NAMES {
            if self.take(mark) {
                let of = self.name(&mut NameState::default())?;
                return self.add(NameNode::Special(what, of));
            }
        }
        if self.take("GR") {
            let of = self.name(&mut NameState::default())?;
            if !self.is_end() || self.byte() == b'_' {
                self.sequence_number()?;
            }
            return self.add(NameNode::Special("reference temporary for ", of));
        }
        if self.take("TC") {
            let of = self.ty()?;
            self.number()?;
            self.expect("_")?;
            let inside = self.ty()?;
            let pieces = vec![Piece::Node(of), Piece::Text("-in-"), Piece::Node(inside)];
            let pair = self.add(NameNode::Sequence(pieces))?;
            return self.add(NameNode::Special("construction vtable for ", pair));
        }
        self.thunk()
    }

    fn thunk(&mut self) -> Option<NodeId> {
        let what = match &self.rest.as_bytes()[..self.rest.len().min(2)] {
            b"Th" => "non-virtual thunk to ",
            b"Tv" => "virtual thunk to ",
            b"Tc" => "covariant return thunk to ",
            b"GT" => "transaction clone for ",
            _ => return None,
        };
        match what {
            "transaction clone for " => self.rest = self.rest.get(3..)?,
            "covariant return thunk to " => {
                self.rest = &self.rest[2..];
                self.call_offset()?;
                self.call_offset()?;
            }
            _ => {
                self.rest = &self.rest[1..];
                self.call_offset()?;
            }
        }
        let to = self.encoding()?;
        self.add(NameNode::Special(what, to))
    }

    /// `h NUMBER _` or `v NUMBER _ NUMBER _`
    fn call_offset(&mut self) -> Option<()> {
        let numbers = match () {
            () if self.take("h") => 1,
            () if self.take("v") => 2,
            () => return None,
        };
        for _ in 0..numbers {
            self.take("n");
            self.number()?;
            self.expect("_")?;
        }
        Some(())
    }
}
