// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Text to tree. The grammar and its precedence are those of C, as in bpftrace, without assignment; `^=` is
//! "begins with".

use super::error::ExprError;
use super::tree::{BinaryOperator, CastType, EQUALITY, Expr, Node, RELATION, UnaryOperator};

/// Bytes of the text.
const MOST_TEXT: usize = 4096;
/// Depth of nesting: parentheses, casts, unary operators.
const MOST_NESTED: usize = 32;
/// Names, numbers and operators.
const MOST_NODES: usize = 512;

/// Longer operators come first: `<<` before `<`.
const OPERATORS: [(&str, BinaryOperator); 19] = [
    ("||", BinaryOperator::Or),
    ("&&", BinaryOperator::And),
    ("==", BinaryOperator::Equal),
    ("!=", BinaryOperator::NotEqual),
    ("^=", BinaryOperator::Begins),
    ("<<", BinaryOperator::ShiftLeft),
    (">>", BinaryOperator::ShiftRight),
    ("<=", BinaryOperator::LessEqual),
    (">=", BinaryOperator::GreaterEqual),
    ("<", BinaryOperator::Less),
    (">", BinaryOperator::Greater),
    ("|", BinaryOperator::BitOr),
    ("^", BinaryOperator::BitXor),
    ("&", BinaryOperator::BitAnd),
    ("+", BinaryOperator::Add),
    ("-", BinaryOperator::Subtract),
    ("*", BinaryOperator::Multiply),
    ("/", BinaryOperator::Divide),
    ("%", BinaryOperator::Remainder),
];

/// The types of casts: size in bytes, and whether they are signed.
const TYPES: [(&str, u8, bool); 14] = [
    ("u8", 1, false),
    ("u16", 2, false),
    ("u32", 4, false),
    ("u64", 8, false),
    ("i8", 1, true),
    ("i16", 2, true),
    ("i32", 4, true),
    ("i64", 8, true),
    ("bool", 1, false),
    ("char", 1, true),
    ("short", 2, true),
    ("int", 4, true),
    ("long", 8, true),
    ("size_t", 8, false),
];

/// Accepts `u32` and the names of bpftrace and C: `uint32`, `uint32_t`, `int32`.
fn type_named(name: &str) -> Option<(u8, bool)> {
    let plain = name.strip_suffix("_t").unwrap_or(name);
    let short = match (plain.strip_prefix("uint"), plain.strip_prefix("int")) {
        (Some(bits), _) if !bits.is_empty() => format!("u{bits}"),
        (_, Some(bits)) if !bits.is_empty() => format!("i{bits}"),
        _ => name.to_owned(),
    };
    TYPES
        .iter()
        .find(|(known, ..)| *known == short)
        .map(|&(_, bytes, signed)| (bytes, signed))
}

/// Parses one expression.
///
/// # Errors
/// A syntax error, with its place in the text.
pub fn parse(text: &str) -> Result<Expr, ExprError> {
    let mut parser = Parser::new(text)?;
    let expr = parser.expr(0)?;
    match parser.rest().is_empty() {
        true => Ok(expr),
        false => Err(parser.unexpected("an operator such as && or ==")),
    }
}

/// Parses comma-separated expressions.
///
/// # Errors
/// A syntax error, with its place in the text.
pub fn parse_list(text: &str) -> Result<Vec<Expr>, ExprError> {
    let mut parser = Parser::new(text)?;
    let mut list = vec![parser.expr(0)?];
    while !parser.rest().is_empty() {
        if !parser.take(",") {
            return Err(parser.unexpected("an operator or a comma"));
        }
        list.push(parser.expr(0)?);
    }
    Ok(list)
}

/// A recursive-descent parser. `at` is never at a blank.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    nested: usize,
    nodes: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, ExprError> {
        if text.len() > MOST_TEXT {
            return Err(ExprError::new(0, format!("longer than {MOST_TEXT} bytes")));
        }
        let mut parser = Self {
            text,
            at: 0,
            nested: 0,
            nodes: 0,
        };
        parser.skip_blanks();
        Ok(parser)
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Skips this many bytes, and blanks after them.
    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
        self.skip_blanks();
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.skip(word.len());
        }
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), ExprError> {
        match self.take(word) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{word}`"))),
        }
    }

    fn unexpected(&self, wanted: &str) -> ExprError {
        let found = match self.rest().chars().next() {
            None => "the end of the text".to_owned(),
            Some('=') if !self.rest().starts_with("==") => {
                return ExprError::new(self.at, "`=` does not compare").hint("use == to compare");
            }
            Some(_) => match self.word() {
                "" => format!("`{}`", self.rest().chars().next().unwrap_or(' ')),
                word => format!("`{word}`"),
            },
        };
        ExprError::new(self.at, format!("expected {wanted}, found {found}"))
    }

    /// The letters, digits and underscores that come next.
    fn word(&self) -> &'a str {
        word(self.rest())
    }

    /// As `word`, with those that `::` joins to it: `Mode::Write`.
    fn path(&self) -> &'a str {
        let rest = self.rest();
        let mut end = self.word().len();
        while let Some(next) = rest[end..]
            .strip_prefix("::")
            .map(word)
            .filter(|next| !next.is_empty())
        {
            end += "::".len() + next.len();
        }
        &rest[..end]
    }

    fn node(&mut self, start: usize, node: Node) -> Result<Expr, ExprError> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(ExprError::new(
                start,
                format!("more than {MOST_NODES} names, numbers and operators"),
            ));
        }
        let end = start + self.text[start..self.at].trim_end().len();
        Ok(Expr { node, at: start..end })
    }

    /// An expression whose operators all bind more tightly than `level`.
    fn expr(&mut self, level: u8) -> Result<Expr, ExprError> {
        let start = self.at;
        let mut left = self.operand()?;
        let mut compared = 0;
        while let Some((sign, operator)) = self.operator().filter(|(_, operator)| operator.level() > level) {
            if matches!(operator.level(), EQUALITY | RELATION) && compared == operator.level() {
                return Err(ExprError::new(self.at, "comparisons do not chain").hint("join two with &&"));
            }
            compared = operator.level();
            self.skip(sign.len());
            let right = self.expr(operator.level())?;
            left = self.node(start, Node::Binary(operator, Box::new(left), Box::new(right)))?;
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(&'static str, BinaryOperator)> {
        OPERATORS
            .iter()
            .copied()
            .find(|(sign, _)| self.rest().starts_with(sign))
    }

    /// An operand of a binary operator. All nesting goes through here.
    fn operand(&mut self) -> Result<Expr, ExprError> {
        self.nested += 1;
        if self.nested > MOST_NESTED {
            return Err(ExprError::new(
                self.at,
                format!("nested more than {MOST_NESTED} levels deep"),
            ));
        }
        let operand = self.unary();
        self.nested -= 1;
        operand
    }

    fn unary(&mut self) -> Result<Expr, ExprError> {
        let start = self.at;
        for (sign, unary) in [
            ("-", UnaryOperator::Negate),
            ("!", UnaryOperator::Not),
            ("~", UnaryOperator::Invert),
            ("*", UnaryOperator::Follow),
        ] {
            if self.take(sign) {
                let of = self.operand()?;
                return self.node(start, Node::Unary(unary, Box::new(of)));
            }
        }
        if let Some(cast) = self.cast()? {
            let of = self.operand()?;
            return self.node(start, Node::Cast(cast, Box::new(of)));
        }
        self.members(start)
    }

    /// `(u32)` or `(u32*)`; None if this is not a cast.
    fn cast(&mut self) -> Result<Option<CastType>, ExprError> {
        let start = self.at;
        if !self.take("(") {
            return Ok(None);
        }
        let (name_at, name) = (self.at, self.word());
        self.skip(name.len());
        let pointer = self.take("*");
        let closed = self.take(")");
        match type_named(name) {
            Some((bytes, signed)) if closed => {
                return Ok(Some(CastType {
                    bytes,
                    signed,
                    pointer,
                }));
            }
            // Only a cast looks like `(name*)`.
            None if closed && pointer && !name.is_empty() => return Err(unknown_type(name_at, name)),
            _ => {}
        }
        self.at = start;
        Ok(None)
    }

    /// A value, and members and elements of it.
    fn members(&mut self, start: usize) -> Result<Expr, ExprError> {
        let mut of = self.primary()?;
        loop {
            if self.take("[") {
                let index = self.expr(0)?;
                self.expect("]")?;
                of = self.node(start, Node::Element(Box::new(of), Box::new(index)))?;
                continue;
            }
            let arrow = self.rest().starts_with("->");
            if !arrow && !self.rest().starts_with('.') {
                return Ok(of);
            }
            self.skip(if arrow { 2 } else { 1 });
            let name = self.path().to_owned();
            if name.is_empty() {
                return Err(self.unexpected("a member name"));
            }
            self.skip(name.len());
            of = self.node(
                start,
                Node::Member {
                    of: Box::new(of),
                    name,
                    arrow,
                },
            )?;
        }
    }

    fn primary(&mut self) -> Result<Expr, ExprError> {
        let start = self.at;
        match self.rest().chars().next() {
            Some('(') => {
                self.skip(1);
                let inner = self.expr(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            Some('"') => {
                let text = self.quoted('"')?;
                self.node(start, Node::Text(text))
            }
            Some('\'') => {
                let text = self.quoted('\'')?;
                match text[..] {
                    [byte] => self.node(start, Node::Number(byte.into())),
                    _ => Err(ExprError::new(start, "expected one character between '...'")
                        .hint("use \"...\" for text")),
                }
            }
            Some(c) if c.is_ascii_digit() => {
                let number = self.number()?;
                self.node(start, Node::Number(number))
            }
            Some(c) if c.is_alphabetic() || c == '_' => self.named(),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// A name or a call.
    fn named(&mut self) -> Result<Expr, ExprError> {
        let start = self.at;
        let name = self.path().to_owned();
        self.skip(name.len());
        if !self.take("(") {
            return self.node(start, Node::Name(name));
        }
        let mut args = Vec::new();
        while !self.take(")") {
            if !args.is_empty() {
                self.expect(",")?;
            }
            args.push(self.expr(0)?);
        }
        self.node(start, Node::Call(name, args))
    }

    /// Text up to the closing quote, with C's escapes.
    fn quoted(&mut self, quote: char) -> Result<Vec<u8>, ExprError> {
        let mut text = Vec::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((index, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    self.skip(index + 1);
                    return Ok(text);
                }
                '\\' => text.push(escaped(&mut chars).ok_or_else(|| {
                    ExprError::new(self.at + index, "unknown escape sequence")
                        .hint("available: \\n \\t \\r \\\\ \\\" \\' and two hexadecimal digits: \\x1b")
                })?),
                _ => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(ExprError::new(self.at, format!("the closing {quote} is missing")))
    }

    /// A number with its unit: `0x10`, `64K`, `10ms`.
    fn number(&mut self) -> Result<u64, ExprError> {
        let word = self.word();
        let wrong = |message: String| {
            ExprError::new(self.at, message).hint("examples: 4096, 0x1f, 64K, 1M, 10ms, 5us")
        };
        let number = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(digits) => {
                u64::from_str_radix(digits, 16).map_err(|_| wrong(format!("`{word}` is not a number")))?
            }
            None => {
                let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
                let (digits, unit) = word.split_at(digits);
                let scale = scale(unit).ok_or_else(|| wrong(format!("unknown unit `{unit}`")))?;
                digits
                    .parse::<u64>()
                    .ok()
                    .and_then(|number| number.checked_mul(scale))
                    .ok_or_else(|| wrong(format!("`{word}` needs more than 64 bits")))?
            }
        };
        self.skip(word.len());
        Ok(number)
    }
}

/// The letters, digits and underscores at the start of a text.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

fn unknown_type(at: usize, name: &str) -> ExprError {
    let known: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
    ExprError::new(at, format!("unknown type `{name}`")).hint(format!("available: {}", known.join(" ")))
}

/// Size units are powers of 1024; durations are in nanoseconds.
fn scale(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "ns" => 1,
        "K" | "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    })
}

/// The byte after a backslash.
fn escaped(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<u8> {
    let (_, c) = chars.next()?;
    Some(match c {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        '\\' | '"' | '\'' => c as u8,
        'x' => {
            let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(16));
            let (high, low) = (digit()?, digit()?);
            (high << 4 | low) as u8
        }
        _ => return None,
    })
}
