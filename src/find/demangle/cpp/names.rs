// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names, and the arguments of templates in them.

use super::NameParser;
use super::encodings::NameState;
use super::nodes::{Lambda, NameNode, NodeId, Piece, Qualifiers, ReferenceKind};

/// Operators by their codes.
pub const OPERATORS: [(&str, &str); 49] = [
    ("aN", "&="),
    ("aS", "="),
    ("aa", "&&"),
    ("ad", "&"),
    ("an", "&"),
    ("aw", " co_await"),
    ("cl", "()"),
    ("cm", ","),
    ("co", "~"),
    ("dV", "/="),
    ("da", " delete[]"),
    ("de", "*"),
    ("dl", " delete"),
    ("dv", "/"),
    ("eO", "^="),
    ("eo", "^"),
    ("eq", "=="),
    ("ge", ">="),
    ("gt", ">"),
    ("ix", "[]"),
    ("lS", "<<="),
    ("le", "<="),
    ("ls", "<<"),
    ("lt", "<"),
    ("mI", "-="),
    ("mL", "*="),
    ("mi", "-"),
    ("ml", "*"),
    ("mm", "--"),
    ("na", " new[]"),
    ("ne", "!="),
    ("ng", "-"),
    ("nt", "!"),
    ("nw", " new"),
    ("oR", "|="),
    ("oo", "||"),
    ("or", "|"),
    ("pL", "+="),
    ("pl", "+"),
    ("pm", "->*"),
    ("pp", "++"),
    ("ps", "+"),
    ("pt", "->"),
    ("qu", "?"),
    ("rM", "%="),
    ("rS", ">>="),
    ("rm", "%"),
    ("rs", ">>"),
    ("ss", "<=>"),
]; // fmt: skip

/// Names of the standard library that have a code of one letter.
const STANDARD: [(&str, &str); 6] = [
    ("Sa", "std::allocator"),
    ("Sb", "std::basic_string"),
    ("Ss", "std::string"),
    ("Si", "std::istream"),
    ("So", "std::ostream"),
    ("Sd", "std::iostream"),
];

impl<'n> NameParser<'n> {
    pub fn name(&mut self, state: &mut NameState) -> Option<NodeId> {
        self.deeper(|parser| match parser.byte() {
            b'N' => parser.nested_name(state),
            b'Z' => parser.local_name(state),
            _ => parser.unscoped_name(state),
        })
    }

    /// A name without qualifiers or with `std::`, or a template of such a name.
    fn unscoped_name(&mut self, state: &mut NameState) -> Option<NodeId> {
        let is_known = self.byte() == b'S' && self.byte_at(1) != b't';
        let name = match () {
            () if is_known => self.substitution()?,
            () if self.take("St") => {
                let scope = self.add(NameNode::Text("std"))?;
                self.unqualified_name(state, Some(scope))?
            }
            () => self.unqualified_name(state, None)?,
        };
        if self.byte() != b'I' {
            return (!is_known).then_some(name);
        }
        if !is_known {
            self.substitutions.push(name);
        }
        let arguments = self.template_arguments()?;
        state.is_template = true;
        state.arguments.clone_from(&arguments);
        self.add(NameNode::Template(name, arguments))
    }

    fn nested_name(&mut self, state: &mut NameState) -> Option<NodeId> {
        self.expect("N")?;
        // An explicit object parameter, which is among the parameters.
        self.take("H");
        state.qualifiers = self.qualifiers();
        state.qualifiers.reference = self.reference_qualifier();
        let mut so_far: Option<NodeId> = None;
        while !self.take("E") {
            state.is_template = false;
            so_far = Some(match self.byte() {
                b'T' if so_far.is_none() => self.template_parameter()?,
                b'I' => {
                    let name = so_far?;
                    let arguments = self.template_arguments()?;
                    state.is_template = true;
                    state.arguments.clone_from(&arguments);
                    self.add(NameNode::Template(name, arguments))?
                }
                b'D' if matches!(self.byte_at(1), b't' | b'T') && so_far.is_none() => self.decltype()?,
                b'S' if so_far.is_some() => return None,
                b'S' => {
                    so_far = Some(match self.take("St") {
                        true => self.add(NameNode::Text("std"))?,
                        false => self.substitution()?,
                    });
                    continue;
                }
                _ => self.unqualified_name(state, so_far)?,
            });
            self.substitutions.extend(so_far);
            // A closure in the initializer of a member.
            self.take("M");
        }
        self.substitutions.pop()?;
        so_far
    }

    fn local_name(&mut self, state: &mut NameState) -> Option<NodeId> {
        self.expect("Z")?;
        let function = self.encoding()?;
        self.expect("E")?;
        let name = match () {
            () if self.take("s") => self.add(NameNode::Text("string literal"))?,
            // In a default argument.
            () if self.take("d") => {
                self.number();
                self.expect("_")?;
                self.name(state)?
            }
            () => self.name(state)?,
        };
        self.discriminator();
        self.add(NameNode::Local(function, name))
    }

    fn discriminator(&mut self) {
        let before = self.rest;
        if self.take("__") {
            if self.number().is_some() && self.take("_") {
                return;
            }
        } else if self.take("_") && self.byte().is_ascii_digit() {
            self.rest = &self.rest[1..];
            return;
        }
        self.rest = before;
    }

    pub fn unqualified_name(&mut self, state: &mut NameState, scope: Option<NodeId>) -> Option<NodeId> {
        let is_friend = scope.is_some() && self.take("F");
        self.take("L");
        let name = match (self.byte(), self.byte_at(1)) {
            (b'0'..=b'9', _) => self.source_name()?,
            (b'U', _) => self.unnamed_type()?,
            (b'D', b'C') => self.binding()?,
            (b'C', _) | (b'D', b'0'..=b'5') => self.constructor(state, scope?)?,
            _ => self.operator_name(state)?,
        };
        let name = self.tagged(name)?;
        let name = match is_friend {
            true => self.add(NameNode::Friend(name))?,
            false => name,
        };
        match scope {
            Some(scope) => self.add(NameNode::Nested(scope, name)),
            None => Some(name),
        }
    }

    /// ABI tags behind a name.
    fn tagged(&mut self, name: NodeId) -> Option<NodeId> {
        let mut name = name;
        while self.take("B") {
            let tag = self.identifier()?;
            name = self.add(NameNode::Tagged(name, tag))?;
        }
        Some(name)
    }

    /// A length and as many characters.
    pub fn identifier(&mut self) -> Option<&'n str> {
        let length = self.number().filter(|&length| length > 0)?;
        let (name, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(name)
    }

    pub fn source_name(&mut self) -> Option<NodeId> {
        let name = self.identifier()?;
        self.add(match name.starts_with("_GLOBAL__N") {
            true => NameNode::Known("(anonymous namespace)"),
            false => NameNode::Text(name),
        })
    }

    fn unnamed_type(&mut self) -> Option<NodeId> {
        if self.take("Ut") {
            let number = self.index()?;
            return self.add(NameNode::Unnamed(number + 1));
        }
        self.expect("Ul")?;
        let params = self.lambda_parameters()?;
        self.expect("E")?;
        let number = self.index()? + 1;
        self.add(NameNode::Lambda(Lambda { params, number }))
    }

    fn lambda_parameters(&mut self) -> Option<Vec<NodeId>> {
        while self.is_template_declaration() {
            self.template_declaration()?;
        }
        let mut params = Vec::new();
        if !self.take("v") {
            while !matches!(self.byte(), b'E' | b'Q') {
                params.push(self.ty()?);
            }
        }
        if self.take("Q") {
            self.expression()?;
        }
        Some(params)
    }

    fn binding(&mut self) -> Option<NodeId> {
        self.expect("DC")?;
        let names = self.until("E", NameParser::source_name)?;
        self.add(NameNode::Binding(names))
    }

    fn constructor(&mut self, state: &mut NameState, scope: NodeId) -> Option<NodeId> {
        state.no_return_type = true;
        let is_destructor = self.byte() == b'D';
        let is_inherited = self.rest.starts_with("CI");
        let kind = self.byte_at(if is_inherited { 2 } else { 1 });
        if !matches!(kind, b'0'..=b'5') {
            return None;
        }
        self.rest = self.rest.get(if is_inherited { 3 } else { 2 }..)?;
        if is_inherited {
            self.name(&mut NameState::default())?;
        }
        self.add(match is_destructor {
            true => NameNode::Destructor(scope),
            false => NameNode::Constructor(scope),
        })
    }

    pub fn operator_name(&mut self, state: &mut NameState) -> Option<NodeId> {
        if self.take("cv") {
            state.no_return_type = true;
            let outer = std::mem::replace(&mut self.no_arguments, true);
            let ty = self.ty();
            self.no_arguments = outer;
            let ty = ty?;
            return self.add(NameNode::Conversion(ty));
        }
        if self.take("li") {
            let name = self.source_name()?;
            return self.add(NameNode::Literal(name));
        }
        if self.byte() == b'v' && self.byte_at(1).is_ascii_digit() {
            self.rest = &self.rest[2..];
            let ty = self.source_name()?;
            return self.add(NameNode::Conversion(ty));
        }
        let code = self.rest.get(..2)?;
        let (_, text) = OPERATORS.iter().find(|(known, _)| *known == code)?;
        self.rest = &self.rest[2..];
        let pieces = vec![Piece::Text("operator"), Piece::Text(text)];
        self.add(NameNode::Sequence(pieces))
    }

    pub fn qualifiers(&mut self) -> Qualifiers {
        Qualifiers {
            restrict: self.take("r"),
            volatile: self.take("V"),
            constant: self.take("K"),
            reference: None,
        }
    }

    pub fn reference_qualifier(&mut self) -> Option<ReferenceKind> {
        match () {
            () if self.take("O") => Some(ReferenceKind::RValue),
            () if self.take("R") => Some(ReferenceKind::LValue),
            () => None,
        }
    }

    /// `S_`, `S0_`, or a name of the standard library. `St` is a part of a name.
    pub fn substitution(&mut self) -> Option<NodeId> {
        for (code, name) in STANDARD {
            if self.take(code) {
                let known = self.add(NameNode::Known(name))?;
                let tagged = self.tagged(known)?;
                if tagged != known {
                    self.substitutions.push(tagged);
                }
                return Some(tagged);
            }
        }
        self.expect("S")?;
        let number = self.sequence_number()?;
        self.substitutions.get(number).copied()
    }

    pub fn template_arguments(&mut self) -> Option<Vec<NodeId>> {
        self.expect("I")?;
        let no_arguments = std::mem::take(&mut self.no_arguments);
        let mut arguments = Vec::new();
        while !self.take("E") {
            arguments.push(self.template_argument()?);
            if self.take("Q") {
                self.expression()?;
                self.expect("E")?;
                break;
            }
        }
        self.no_arguments = no_arguments;
        Some(arguments)
    }

    pub fn template_argument(&mut self) -> Option<NodeId> {
        self.deeper(|parser| match parser.byte() {
            b'X' => {
                parser.expect("X")?;
                let value = parser.expression()?;
                parser.expect("E").map(|()| value)
            }
            b'J' => {
                parser.expect("J")?;
                let pack = parser.until("E", NameParser::template_argument)?;
                parser.add(NameNode::Pack(pack))
            }
            b'L' if parser.byte_at(1) == b'Z' => {
                parser.expect("LZ")?;
                let function = parser.encoding()?;
                parser
                    .expect("EE")
                    .or_else(|| parser.expect("E"))
                    .map(|()| function)
            }
            b'L' => parser.literal(),
            b'T' if parser.is_template_declaration() => {
                parser.template_declaration()?;
                parser.template_argument()
            }
            _ => parser.ty(),
        })
    }

    pub fn is_template_declaration(&self) -> bool {
        self.byte() == b'T' && matches!(self.byte_at(1), b'y' | b'k' | b'n' | b't' | b'p')
    }

    /// The declaration of a template parameter.
    fn template_declaration(&mut self) -> Option<()> {
        self.deeper(|parser| {
            let kind = parser.byte_at(1);
            parser.rest = parser.rest.get(2..)?;
            match kind {
                b'k' => _ = parser.name(&mut NameState::default())?,
                b'n' => _ = parser.ty()?,
                b'p' => parser.template_declaration()?,
                b't' => {
                    while !parser.take("E") {
                        match parser.take("Q") {
                            true => _ = parser.expression()?,
                            false => parser.template_declaration()?,
                        }
                    }
                }
                _ => {}
            }
            Some(())
        })
    }

    /// `T_`, `T0_`, or `TL0__` for a parameter of a template inside of a template.
    pub fn template_parameter(&mut self) -> Option<NodeId> {
        self.expect("T")?;
        let is_inner = self.take("L");
        if is_inner {
            self.number()?;
            self.expect("_")?;
        }
        let index = self.index()?;
        self.add(match is_inner {
            true => NameNode::Auto(index),
            false => NameNode::Parameter(index),
        })
    }
}
