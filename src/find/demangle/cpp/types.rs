// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Types.

use super::NameParser;
use super::encodings::NameState;
use super::nodes::{FunctionType, NameNode, NodeId, Piece, ReferenceKind};

const BUILT_IN: [(u8, &str); 21] = [
    (b'v', "void"),
    (b'w', "wchar_t"),
    (b'b', "bool"),
    (b'c', "char"),
    (b'a', "signed char"),
    (b'h', "unsigned char"),
    (b's', "short"),
    (b't', "unsigned short"),
    (b'i', "int"),
    (b'j', "unsigned int"),
    (b'l', "long"),
    (b'm', "unsigned long"),
    (b'x', "long long"),
    (b'y', "unsigned long long"),
    (b'n', "__int128"),
    (b'o', "unsigned __int128"),
    (b'f', "float"),
    (b'd', "double"),
    (b'e', "long double"),
    (b'g', "__float128"),
    (b'z', "..."),
]; // fmt: skip
const BUILT_IN_D: [(&str, &str); 11] = [
    ("Dd", "decimal64"),
    ("De", "decimal128"),
    ("Df", "decimal32"),
    ("Dh", "half"),
    ("Di", "char32_t"),
    ("Ds", "char16_t"),
    ("Du", "char8_t"),
    ("Da", "auto"),
    ("Dc", "decltype(auto)"),
    ("Dn", "std::nullptr_t"),
    ("DF16b", "std::bfloat16_t"),
]; // fmt: skip

impl<'n> NameParser<'n> {
    pub fn ty(&mut self) -> Option<NodeId> {
        self.deeper(|parser| {
            if let Some(built_in) = parser.built_in() {
                return parser.add(NameNode::Known(built_in));
            }
            if matches!(parser.byte(), b'S') && parser.byte_at(1) != b't' {
                let known = parser.substitution()?;
                if parser.byte() != b'I' || parser.no_arguments {
                    return Some(known);
                }
                let arguments = parser.template_arguments()?;
                let found = parser.add(NameNode::Template(known, arguments))?;
                parser.substitutions.push(found);
                return Some(found);
            }
            let found = parser.compound()?;
            parser.substitutions.push(found);
            Some(found)
        })
    }

    fn built_in(&mut self) -> Option<&'static str> {
        // Decimal types have one of these letters, too.
        for (code, name) in BUILT_IN_D {
            if self.looks_at(code) && !(code == "Df" && self.byte_at(2).is_ascii_digit()) {
                self.rest = &self.rest[code.len()..];
                return Some(name);
            }
        }
        let (_, name) = BUILT_IN.iter().find(|(code, _)| *code == self.byte())?;
        self.rest = &self.rest[1..];
        Some(name)
    }

    /// A type that can be substituted.
    fn compound(&mut self) -> Option<NodeId> {
        match self.byte() {
            b'r' | b'V' | b'K' => self.qualified(),
            b'P' => self.wrapped(NameNode::Pointer),
            b'R' => self.wrapped(|to| NameNode::Reference(to, ReferenceKind::LValue)),
            b'O' => self.wrapped(|to| NameNode::Reference(to, ReferenceKind::RValue)),
            b'C' => self.wrapped(|of| NameNode::Qualified(of, " complex")),
            b'G' => self.wrapped(|of| NameNode::Qualified(of, " imaginary")),
            b'F' => self.function_type(),
            b'A' => self.array(),
            b'M' => {
                self.expect("M")?;
                let class = self.ty()?;
                let member = self.ty()?;
                self.add(NameNode::MemberPointer(class, member))
            }
            b'U' if !matches!(self.byte_at(1), b't' | b'l') => self.vendor_qualified(),
            b'u' => {
                self.expect("u")?;
                let name = self.source_name()?;
                match self.byte() {
                    b'I' if !self.no_arguments => {
                        let arguments = self.template_arguments()?;
                        self.add(NameNode::Template(name, arguments))
                    }
                    _ => Some(name),
                }
            }
            b'D' => self.other_type(),
            b'T' if matches!(self.byte_at(1), b's' | b'u' | b'e') => {
                self.rest = &self.rest[2..];
                self.class()
            }
            b'T' => {
                let parameter = self.template_parameter()?;
                if self.byte() != b'I' || self.no_arguments {
                    return Some(parameter);
                }
                self.substitutions.push(parameter);
                let arguments = self.template_arguments()?;
                self.add(NameNode::Template(parameter, arguments))
            }
            _ => self.class(),
        }
    }

    fn class(&mut self) -> Option<NodeId> {
        self.name(&mut NameState::default())
    }

    fn wrapped(&mut self, wrap: impl FnOnce(NodeId) -> NameNode<'n>) -> Option<NodeId> {
        self.rest = &self.rest[1..];
        let inner = self.ty()?;
        self.add(wrap(inner))
    }

    fn qualified(&mut self) -> Option<NodeId> {
        let after = self.rest.trim_start_matches(['r', 'V', 'K']);
        let is_function = after.starts_with('F')
            || ["Do", "DO", "Dw", "Dx"]
                .iter()
                .any(|mark| after.starts_with(mark));
        if is_function {
            return self.function_type();
        }
        let qualifiers = self.qualifiers();
        let mut ty = self.ty()?;
        for (is_set, text) in [
            (qualifiers.constant, " const"),
            (qualifiers.volatile, " volatile"),
            (qualifiers.restrict, " restrict"),
        ] {
            if is_set {
                ty = self.add(NameNode::Qualified(ty, text))?;
            }
        }
        Some(ty)
    }

    fn vendor_qualified(&mut self) -> Option<NodeId> {
        self.expect("U")?;
        let qualifier = self.identifier()?;
        if self.byte() == b'I' {
            self.template_arguments()?;
        }
        let ty = self.ty()?;
        self.add(NameNode::Vendor(ty, qualifier))
    }

    fn function_type(&mut self) -> Option<NodeId> {
        let mut qualifiers = self.qualifiers();
        let mut suffix = "";
        if self.take("Do") {
            suffix = " noexcept";
        } else if self.take("DO") {
            self.expression()?;
            self.expect("E")?;
            suffix = " noexcept(...)";
        } else if self.take("Dw") {
            self.until("E", NameParser::ty)?;
            suffix = " throw(...)";
        }
        self.take("Dx");
        self.expect("F")?;
        self.take("Y");
        let returns = self.ty()?;
        let mut params = Vec::new();
        loop {
            if self.take("E") {
                break;
            }
            if self.take("v") {
                continue;
            }
            if self.take("RE") {
                qualifiers.reference = Some(ReferenceKind::LValue);
                break;
            }
            if self.take("OE") {
                qualifiers.reference = Some(ReferenceKind::RValue);
                break;
            }
            params.push(self.ty()?);
        }
        self.add(NameNode::FunctionType(FunctionType {
            returns,
            params,
            qualifiers,
            suffix,
        }))
    }

    fn array(&mut self) -> Option<NodeId> {
        self.expect("A")?;
        let length = match self.byte() {
            b'_' => None,
            b'0'..=b'9' => Some(self.digits()?),
            _ => Some(self.expression()?),
        };
        self.expect("_")?;
        let element = self.ty()?;
        self.add(NameNode::Array(element, length))
    }

    pub fn digits(&mut self) -> Option<NodeId> {
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        (!digits.is_empty()).then(|| self.add(NameNode::Text(digits)))?
    }

    /// Types whose codes start with `D`.
    fn other_type(&mut self) -> Option<NodeId> {
        match self.byte_at(1) {
            b't' | b'T' => self.decltype(),
            b'p' => {
                self.rest = &self.rest[2..];
                let pattern = self.ty()?;
                self.add(NameNode::Expansion(pattern))
            }
            b'v' => self.vector(),
            b'o' | b'O' | b'w' | b'x' => self.function_type(),
            b'k' | b'K' => {
                let is_plain = self.byte_at(1) == b'k';
                self.rest = &self.rest[2..];
                self.name(&mut NameState::default())?;
                self.add(NameNode::Known(if is_plain { "auto" } else { "decltype(auto)" }))
            }
            b'B' | b'U' => {
                let name = if self.byte_at(1) == b'B' {
                    "_BitInt("
                } else {
                    "unsigned _BitInt("
                };
                self.rest = &self.rest[2..];
                let bits = self.length()?;
                self.expect("_")?;
                self.sequence(vec![Piece::Text(name), Piece::Node(bits), Piece::Text(")")])
            }
            b'F' => {
                self.rest = &self.rest[2..];
                let bits = self.digits()?;
                let is_wider = self.take("x");
                if !is_wider {
                    self.expect("_")?;
                }
                let end = if is_wider { "x" } else { "" };
                self.sequence(vec![Piece::Text("_Float"), Piece::Node(bits), Piece::Text(end)])
            }
            _ => self.class(),
        }
    }

    fn length(&mut self) -> Option<NodeId> {
        match self.byte().is_ascii_digit() {
            true => self.digits(),
            false => self.expression(),
        }
    }

    fn vector(&mut self) -> Option<NodeId> {
        self.expect("Dv")?;
        let length = match self.byte() {
            b'0'..=b'9' => self.digits()?,
            b'_' => {
                self.expect("_")?;
                self.expression()?
            }
            _ => return None,
        };
        self.expect("_")?;
        let element = match self.take("p") {
            true => self.add(NameNode::Known("pixel"))?,
            false => self.ty()?,
        };
        let pieces = vec![
            Piece::Node(element),
            Piece::Text(" __vector("),
            Piece::Node(length),
            Piece::Text(")"),
        ];
        self.sequence(pieces)
    }

    pub fn decltype(&mut self) -> Option<NodeId> {
        self.expect("Dt").or_else(|| self.expect("DT"))?;
        let value = self.expression()?;
        self.expect("E")?;
        self.sequence(vec![
            Piece::Text("decltype("),
            Piece::Node(value),
            Piece::Text(")"),
        ])
    }

    pub fn sequence(&mut self, pieces: Vec<Piece<'n>>) -> Option<NodeId> {
        self.add(NameNode::Sequence(pieces))
    }
}
