// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Expressions in the arguments of templates, in `decltype` and in constraints.

use super::NameParser;
use super::encodings::NameState;
use super::names::OPERATORS;
use super::nodes::{NameNode, NodeId, Piece};

/// Operators between two operands.
const BINARY: &str =
    "aN aS aa an cm dV dv eO eo eq ge gt lS le ls lt mI mL mi ml ne oR oo or pL pl rM rS rm rs ss ds pm";
const UNARY: &str = "ad aw co de mm ng nt pp ps";
const PARAMETER: Piece = Piece::Text("{parm#");

#[derive(Clone, Copy)]
enum Operand {
    Type,
    Value,
}

/// Operators that are written like functions.
const AROUND: [(&str, &str, Operand); 11] = [
    ("dl", "delete (", Operand::Value),
    ("da", "delete[] (", Operand::Value),
    ("ti", "typeid (", Operand::Type),
    ("te", "typeid (", Operand::Value),
    ("st", "sizeof (", Operand::Type),
    ("sz", "sizeof (", Operand::Value),
    ("at", "alignof (", Operand::Type),
    ("az", "alignof (", Operand::Value),
    ("nx", "noexcept (", Operand::Value),
    ("sZ", "sizeof...(", Operand::Value),
    ("tw", "throw (", Operand::Value),
];

impl<'n> NameParser<'n> {
    pub fn expression(&mut self) -> Option<NodeId> {
        self.deeper(|parser| {
            let no_arguments = std::mem::take(&mut parser.no_arguments);
            let found = parser.any_expression();
            parser.no_arguments = no_arguments;
            found
        })
    }

    fn any_expression(&mut self) -> Option<NodeId> {
        match (self.byte(), self.byte_at(1)) {
            (b'L', _) => return self.literal(),
            (b'T', _) => return self.template_parameter(),
            (b'f', b'p') | (b'f', b'L') if self.byte_at(1) == b'p' || self.byte_at(2).is_ascii_digit() => {
                return self.function_parameter();
            }
            (b'f', b'l' | b'r' | b'L' | b'R') => return self.fold(),
            (b'0'..=b'9', _) => return self.unresolved_name(),
            (b'u', _) => return self.vendor_expression(),
            _ => {}
        }
        if self.take("gs") {
            let inner = self.expression()?;
            return self.sequence(vec![Piece::Text("::"), Piece::Node(inner)]);
        }
        let code = self.rest.get(..2)?;
        if let Some((_, before, of)) = AROUND.iter().find(|(known, ..)| *known == code) {
            self.rest = &self.rest[2..];
            return self.around(before, *of);
        }
        if let Some(found) = self.operand(code) {
            return found;
        }
        let has = |codes: &str| codes.split(' ').any(|known| known == code);
        let text = match code {
            "ds" => ".*",
            _ => OPERATORS
                .iter()
                .find(|(known, _)| *known == code)
                .map(|(_, text)| *text)?,
        };
        if has(BINARY) {
            self.rest = &self.rest[2..];
            return self.binary(text);
        }
        if has(UNARY) {
            self.rest = &self.rest[2..];
            let is_postfix = matches!(code, "pp" | "mm") && !self.take("_");
            let operand = self.operand_of_operator()?;
            return self.sequence(match is_postfix {
                true => vec![Piece::Node(operand), Piece::Text(text)],
                false => vec![Piece::Text(text), Piece::Node(operand)],
            });
        }
        None
    }

    /// An expression with a special form; `None` for others.
    fn operand(&mut self, code: &str) -> Option<Option<NodeId>> {
        let read: fn(&mut Self) -> Option<NodeId> = match code {
            "il" => |parser| parser.listed("{", "}"),
            "tl" => |parser| {
                let ty = parser.ty()?;
                let list = parser.listed("{", "}")?;
                parser.sequence(vec![Piece::Node(ty), Piece::Node(list)])
            },
            "sr" => return Some(self.unresolved_name()),
            "on" | "dn" => return Some(self.unresolved_name()),
            "nw" | "na" => |parser| parser.new_expression(),
            "tr" => |parser| parser.add(NameNode::Text("throw")),
            "sP" => |parser| {
                let list = parser.until("E", NameParser::template_argument)?;
                parser.sequence(vec![
                    Piece::Text("sizeof...("),
                    Piece::List(list),
                    Piece::Text(")"),
                ])
            },
            "sp" => |parser| {
                let pattern = parser.expression()?;
                parser.add(NameNode::Expansion(pattern))
            },
            "cl" | "cp" => |parser| {
                let called = parser.expression()?;
                let list = parser.listed("(", ")")?;
                parser.sequence(vec![Piece::Node(called), Piece::Node(list)])
            },
            "cv" => |parser| parser.conversion(),
            "dc" | "sc" | "cc" | "rc" => return Some(self.named_cast()),
            "dt" => |parser| parser.member("."),
            "pt" => |parser| parser.member("->"),
            "ix" => |parser| {
                let object = parser.expression()?;
                let index = parser.expression()?;
                parser.sequence(vec![
                    Piece::Node(object),
                    Piece::Text("["),
                    Piece::Node(index),
                    Piece::Text("]"),
                ])
            },
            "qu" => |parser| parser.choice(),
            "rq" | "rQ" => return Some(self.requires()),
            "mc" => |parser| parser.member_pointer_conversion(),
            "so" => |parser| parser.subobject(),
            _ => return None,
        };
        self.rest = &self.rest[2..];
        Some(read(self))
    }

    fn around(&mut self, before: &'n str, of: Operand) -> Option<NodeId> {
        let inner = match of {
            Operand::Type => self.ty()?,
            Operand::Value => self.expression()?,
        };
        self.sequence(vec![Piece::Text(before), Piece::Node(inner), Piece::Text(")")])
    }

    /// Expressions up to `E`.
    fn listed(&mut self, before: &'n str, after: &'n str) -> Option<NodeId> {
        let list = self.until("E", NameParser::expression)?;
        self.sequence(vec![Piece::Text(before), Piece::List(list), Piece::Text(after)])
    }

    fn binary(&mut self, text: &'n str) -> Option<NodeId> {
        let left = self.operand_of_operator()?;
        let right = self.operand_of_operator()?;
        self.sequence(vec![Piece::Node(left), Piece::Text(text), Piece::Node(right)])
    }

    /// In brackets, unless it is a name.
    fn operand_of_operator(&mut self) -> Option<NodeId> {
        let operand = self.expression()?;
        match &self.nodes[operand.0] {
            NameNode::Text(_) | NameNode::Nested(..) => Some(operand),
            NameNode::Sequence(pieces) if pieces.first() == Some(&PARAMETER) => Some(operand),
            _ => self.sequence(vec![Piece::Text("("), Piece::Node(operand), Piece::Text(")")]),
        }
    }

    fn member(&mut self, operator: &'n str) -> Option<NodeId> {
        let object = self.expression()?;
        let member = self.expression()?;
        self.sequence(vec![
            Piece::Node(object),
            Piece::Text(operator),
            Piece::Node(member),
        ])
    }

    /// `CONDITION ? THEN : ELSE`
    fn choice(&mut self) -> Option<NodeId> {
        let [condition, then, other] = [self.expression()?, self.expression()?, self.expression()?];
        let (text, node) = (Piece::Text, Piece::Node);
        self.sequence(vec![
            node(condition),
            text(" ? "),
            node(then),
            text(" : "),
            node(other),
        ])
    }

    fn new_expression(&mut self) -> Option<NodeId> {
        let placement = self.until("_", NameParser::expression)?;
        let ty = self.ty()?;
        let mut pieces = vec![Piece::Text("new ")];
        if !placement.is_empty() {
            pieces.extend([Piece::Text("("), Piece::List(placement), Piece::Text(") ")]);
        }
        pieces.push(Piece::Node(ty));
        if self.take("pi") {
            pieces.push(Piece::Node(self.listed("(", ")")?));
        } else if self.byte() == b'i' {
            pieces.push(Piece::Node(self.expression()?));
        } else {
            self.expect("E")?;
        }
        self.sequence(pieces)
    }

    /// A type, and what is converted to it.
    fn conversion(&mut self) -> Option<NodeId> {
        let outer = std::mem::replace(&mut self.no_arguments, false);
        let ty = self.ty();
        self.no_arguments = outer;
        let ty = ty?;
        let values = match self.take("_") {
            true => self.until("E", NameParser::expression)?,
            false => vec![self.expression()?],
        };
        let text = Piece::Text;
        self.sequence(vec![
            text("("),
            Piece::Node(ty),
            text(")("),
            Piece::List(values),
            text(")"),
        ])
    }

    fn named_cast(&mut self) -> Option<NodeId> {
        let name = match self.rest.get(..2)? {
            "dc" => "dynamic_cast<",
            "sc" => "static_cast<",
            "cc" => "const_cast<",
            _ => "reinterpret_cast<",
        };
        self.rest = &self.rest[2..];
        let ty = self.ty()?;
        let value = self.expression()?;
        let text = Piece::Text;
        self.sequence(vec![
            text(name),
            Piece::Node(ty),
            text(">("),
            Piece::Node(value),
            text(")"),
        ])
    }

    /// `fp_`, `fL0p_`, or `fpT` for `this`.
    fn function_parameter(&mut self) -> Option<NodeId> {
        if self.take("fpT") {
            return self.add(NameNode::Text("this"));
        }
        if self.take("fL") {
            self.number()?;
            self.expect("p")?;
        } else {
            self.expect("fp")?;
        }
        self.qualifiers();
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        self.expect("_")?;
        self.sequence(vec![PARAMETER, Piece::Text(one_more(digits)), Piece::Text("}")])
    }

    fn fold(&mut self) -> Option<NodeId> {
        let (is_left, has_start) = match self.byte_at(1) {
            b'l' => (true, false),
            b'r' => (false, false),
            b'L' => (true, true),
            _ => (false, true),
        };
        let operator = self.rest.get(2..4)?;
        let (_, text) = OPERATORS.iter().find(|(known, _)| *known == operator)?;
        self.rest = &self.rest[4..];
        let first = self.expression()?;
        let second = if has_start { Some(self.expression()?) } else { None };
        let mut pieces = vec![Piece::Text("(")];
        match (is_left, second) {
            (true, None) => pieces.extend([Piece::Text("..."), Piece::Text(text), Piece::Node(first)]),
            (false, None) => pieces.extend([Piece::Node(first), Piece::Text(text), Piece::Text("...")]),
            (_, Some(second)) => {
                pieces.extend([Piece::Node(first), Piece::Text(text), Piece::Text("...")]);
                pieces.extend([Piece::Text(text), Piece::Node(second)]);
            }
        }
        pieces.push(Piece::Text(")"));
        self.sequence(pieces)
    }

    fn vendor_expression(&mut self) -> Option<NodeId> {
        self.expect("u")?;
        let name = self.source_name()?;
        let arguments = self.until("E", NameParser::template_argument)?;
        self.sequence(vec![
            Piece::Node(name),
            Piece::Text("("),
            Piece::List(arguments),
            Piece::Text(")"),
        ])
    }

    fn requires(&mut self) -> Option<NodeId> {
        if self.take("rQ") {
            while !self.take("_") {
                self.ty()?;
            }
        } else {
            self.expect("rq")?;
        }
        loop {
            if self.take("X") {
                self.expression()?;
                self.take("N");
                if self.take("R") {
                    self.name(&mut NameState::default())?;
                }
            } else if self.take("T") {
                self.ty()?;
            } else if self.take("Q") {
                self.expression()?;
            }
            if self.take("E") {
                return self.add(NameNode::Text("requires {...}"));
            }
            if !matches!(self.byte(), b'X' | b'T' | b'Q') {
                return None;
            }
        }
    }

    fn member_pointer_conversion(&mut self) -> Option<NodeId> {
        let ty = self.ty()?;
        let value = self.expression()?;
        self.take("n");
        self.number();
        self.expect("E")?;
        let text = Piece::Text;
        self.sequence(vec![text("("), Piece::Node(ty), text(")"), Piece::Node(value)])
    }

    fn subobject(&mut self) -> Option<NodeId> {
        let ty = self.ty()?;
        let value = self.expression()?;
        self.take("n");
        self.number();
        while self.take("_") {
            self.number();
        }
        self.take("p");
        self.expect("E")?;
        self.sequence(vec![
            Piece::Node(value),
            Piece::Text(".<"),
            Piece::Node(ty),
            Piece::Text(">"),
        ])
    }

    /// A name that depends on template parameters.
    fn unresolved_name(&mut self) -> Option<NodeId> {
        if !self.take("sr") {
            return self.base_unresolved_name();
        }
        let mut so_far = None;
        if self.take("N") {
            so_far = Some(self.unresolved_type()?);
            while !self.take("E") {
                let next = self.simple_name()?;
                so_far = Some(self.scoped(so_far, next)?);
            }
        } else if self.byte().is_ascii_digit() {
            while !self.take("E") || so_far.is_none() {
                let next = self.simple_name()?;
                so_far = Some(self.scoped(so_far, next)?);
            }
        } else {
            so_far = Some(self.unresolved_type()?);
        }
        let base = self.base_unresolved_name()?;
        self.scoped(so_far, base)
    }

    fn scoped(&mut self, scope: Option<NodeId>, name: NodeId) -> Option<NodeId> {
        match scope {
            Some(scope) => self.add(NameNode::Nested(scope, name)),
            None => Some(name),
        }
    }

    fn unresolved_type(&mut self) -> Option<NodeId> {
        let ty = match self.byte() {
            b'T' => {
                let parameter = self.template_parameter()?;
                self.substitutions.push(parameter);
                parameter
            }
            b'D' => {
                let ty = self.decltype()?;
                self.substitutions.push(ty);
                ty
            }
            _ if self.take("St") => {
                let scope = self.add(NameNode::Text("std"))?;
                let name = self.source_name()?;
                let ty = self.add(NameNode::Nested(scope, name))?;
                self.substitutions.push(ty);
                ty
            }
            _ => self.substitution()?,
        };
        self.with_arguments(ty)
    }

    fn with_arguments(&mut self, name: NodeId) -> Option<NodeId> {
        if self.byte() != b'I' {
            return Some(name);
        }
        let arguments = self.template_arguments()?;
        self.add(NameNode::Template(name, arguments))
    }

    fn simple_name(&mut self) -> Option<NodeId> {
        let name = self.source_name()?;
        self.with_arguments(name)
    }

    fn base_unresolved_name(&mut self) -> Option<NodeId> {
        if self.byte().is_ascii_digit() {
            return self.simple_name();
        }
        if self.take("dn") {
            let name = match self.byte().is_ascii_digit() {
                true => self.simple_name()?,
                false => self.unresolved_type()?,
            };
            return self.sequence(vec![Piece::Text("~"), Piece::Node(name)]);
        }
        self.take("on");
        let operator = self.operator_name(&mut NameState::default())?;
        self.with_arguments(operator)
    }

    /// `L TYPE VALUE E`
    pub fn literal(&mut self) -> Option<NodeId> {
        self.expect("L")?;
        if self.take("_Z") || self.take("Z") {
            let function = self.encoding()?;
            return self.expect("E").map(|()| function);
        }
        if self.take("DnE") || self.take("Dn0E") {
            return self.add(NameNode::Text("nullptr"));
        }
        if self.take("b0E") {
            return self.add(NameNode::Text("false"));
        }
        if self.take("b1E") {
            return self.add(NameNode::Text("true"));
        }
        let code = self.byte();
        let ty = self.ty()?;
        let sign = if self.take("n") { "-" } else { "" };
        let value = self.take_while(|byte| byte.is_ascii_alphanumeric() && byte != b'E' || byte == b'_');
        self.expect("E")?;
        let suffix = match code {
            _ if value.is_empty() => return Some(ty),
            b'i' => "",
            b'j' => "u",
            b'l' => "l",
            b'm' => "ul",
            b'x' => "ll",
            b'y' => "ull",
            _ => {
                let text = Piece::Text;
                return self.sequence(vec![
                    text("("),
                    Piece::Node(ty),
                    text(")"),
                    text(sign),
                    text(value),
                ]);
            }
        };
        self.sequence(vec![Piece::Text(sign), Piece::Text(value), Piece::Text(suffix)])
    }
}

/// The number of a parameter, from its code: none for the first.
fn one_more(digits: &str) -> &'static str {
    const NUMBERS: [&str; 10] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
    let index = match digits {
        "" => Some(0),
        _ => digits
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_add(1)),
    };
    index.and_then(|index| NUMBERS.get(index)).copied().unwrap_or("N")
}
