// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Values whose type is known only at run time, such as the arguments of a traced function.

use super::append::{push_bool, push_display, quoted};
use super::escape::{push_hex_member, push_json, push_json_key, push_text};
use super::number::{push_address, push_decimal, push_signed};

/// A value of a traced program, with what it contains. Borrows its bytes from the record and its names from the types.
/// Names and text are untrusted.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum<'a> {
    U64(u64),
    I64(i64),
    /// An address: `0x7f00`, in JSON a string.
    Hex(u64),
    F64(f64),
    Bool(bool),
    /// The name of a number: an enumerator, or flags.
    Name(&'a str),
    /// A character, shown in quotes.
    Char(char),
    /// A character of one byte in an unknown encoding, shown in quotes.
    Byte(u8),
    /// Text, shown in quotes, followed by `...` if it is truncated.
    Text {
        bytes: &'a [u8],
        truncated: bool,
    },
    Fields(Vec<(&'a str, Datum<'a>)>),
    List(Vec<Datum<'a>>),
    NullPointer,
    /// The memory could not be read.
    Fault,
    /// The value is not available, and why.
    Unknown(&'static str),
}

impl Datum<'_> {
    /// Appends the value as in text and CSV.
    pub(super) fn push_plain(&self, out: &mut Vec<u8>) {
        match self {
            Self::U64(number) => push_decimal(out, *number),
            Self::I64(number) => push_signed(out, *number),
            Self::Hex(number) => push_address(out, *number),
            Self::F64(number) => push_display(out, number),
            Self::Bool(yes) => push_bool(out, *yes),
            Self::Name(name) => push_text(out, name.as_bytes()),
            Self::Char(char) => push_quoted(out, char.encode_utf8(&mut [0; 4]).as_bytes()),
            Self::Byte(byte) => push_quoted(out, &[*byte]),
            Self::Text { bytes, truncated } => {
                push_quoted(out, bytes);
                out.extend_from_slice(if *truncated { b"..." } else { b"" });
            }
            Self::Fields(fields) => {
                out.push(b'{');
                push_fields(out, fields);
                out.push(b'}');
            }
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    out.extend_from_slice(if index > 0 { b", " } else { b"" });
                    item.push_plain(out);
                }
                out.push(b']');
            }
            Self::NullPointer => out.extend_from_slice(b"NULL"),
            Self::Fault => out.extend_from_slice(b"<fault>"),
            Self::Unknown(why) => push_display(out, format_args!("<{why}>")),
        }
    }

    /// Appends the value as in JSON, after the key. Text that is not UTF-8 adds a second member, as with
    /// [`super::Value::Bytes`].
    pub(super) fn push_json(&self, out: &mut Vec<u8>, key: &str) {
        match self {
            Self::U64(_) | Self::I64(_) | Self::Bool(_) => self.push_plain(out),
            Self::F64(number) if number.is_finite() => self.push_plain(out),
            Self::Hex(_) => quoted(out, |out| self.push_plain(out)),
            Self::Name(name) => _ = push_json(out, name.as_bytes()),
            Self::Char(char) => _ = push_json(out, char.encode_utf8(&mut [0; 4]).as_bytes()),
            Self::Byte(byte) => push_json_bytes(out, key, &[*byte]),
            Self::Text { bytes, .. } => push_json_bytes(out, key, bytes),
            Self::Fields(fields) => push_json_fields(out, fields),
            Self::List(items) => push_json_list(out, items),
            Self::F64(_) | Self::NullPointer | Self::Fault | Self::Unknown(_) => {
                out.extend_from_slice(b"null")
            }
        }
    }
}

/// Appends an array. Its text has no second member for what is not UTF-8.
fn push_json_list(out: &mut Vec<u8>, items: &[Datum<'_>]) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b"," } else { b"" });
        match item {
            Datum::Text { bytes, .. } => _ = push_json(out, bytes),
            Datum::Byte(byte) => _ = push_json(out, &[*byte]),
            item => item.push_json(out, ""),
        }
    }
    out.push(b']');
}

fn push_json_bytes(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    if !push_json(out, bytes) {
        push_hex_member(out, key, bytes);
    }
}

/// Appends `name=value, ...`.
pub(super) fn push_fields(out: &mut Vec<u8>, fields: &[(&str, Datum<'_>)]) {
    for (index, (name, datum)) in fields.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        push_text(out, name.as_bytes());
        out.push(b'=');
        datum.push_plain(out);
    }
}

/// Appends an object.
pub(super) fn push_json_fields(out: &mut Vec<u8>, fields: &[(&str, Datum<'_>)]) {
    let start = out.len();
    for (name, datum) in fields {
        push_json_key(out, name);
        datum.push_json(out, name);
    }
    // The bracket replaces the comma before the first member.
    match out.get_mut(start) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// Appends text in quotes, with quotes and backslashes in it escaped, so that its end is unambiguous.
fn push_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    quoted(out, |out| {
        for part in bytes.split_inclusive(|byte| matches!(byte, b'"' | b'\\')) {
            match part {
                [rest @ .., special @ (b'"' | b'\\')] => {
                    push_text(out, rest);
                    out.extend_from_slice(&[b'\\', *special]);
                }
                part => push_text(out, part),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], truncated: bool) -> Datum<'_> {
        Datum::Text { bytes, truncated }
    }

    #[test]
    fn each_variant_in_text_and_json() {
        let fields = Datum::Fields(vec![("len", Datum::U64(3)), ("name", text(b"x", false))]);
        let all = [
            (Datum::I64(-1), "-1", "-1"),
            (Datum::Hex(0x7f00), "0x7f00", "\"0x7f00\""),
            (Datum::F64(0.5), "0.5", "0.5"),
            (Datum::F64(f64::NAN), "NaN", "null"),
            (Datum::Bool(true), "true", "true"),
            (Datum::Name("O_RDONLY\n"), "O_RDONLY\\n", "\"O_RDONLY\\n\""),
            (Datum::Char('☃'), "\"☃\"", "\"☃\""),
            (Datum::Byte(b'"'), r#""\"""#, r#""\"""#),
            (Datum::Byte(0xff), r#""\xff""#, "\"\u{fffd}\",\"k_hex\":\"ff\""),
            (text(b"a\"b\\\x1b", false), r#""a\"b\\\x1b""#, r#""a\"b\\\u001b""#),
            (text(b"ab", true), "\"ab\"...", "\"ab\""),
            (text(b"\xff", false), "\"\\xff\"", "\"\u{fffd}\",\"k_hex\":\"ff\""),
            (fields, "{len=3, name=\"x\"}", r#"{"len":3,"name":"x"}"#),
            (Datum::Fields(Vec::new()), "{}", "{}"),
            (
                Datum::List(vec![
                    Datum::I64(-1),
                    Datum::Byte(0xff),
                    text(b"\xff", false),
                    Datum::Fault,
                ]),
                r#"[-1, "\xff", "\xff", <fault>]"#,
                "[-1,\"\u{fffd}\",\"\u{fffd}\",null]",
            ),
            (Datum::List(Vec::new()), "[]", "[]"),
            (Datum::NullPointer, "NULL", "null"),
            (Datum::Fault, "<fault>", "null"),
            (Datum::Unknown("optimized out"), "<optimized out>", "null"),
        ];
        for (datum, expected, json) in all {
            let (mut plain, mut member) = (Vec::new(), Vec::new());
            datum.push_plain(&mut plain);
            datum.push_json(&mut member, "k");
            assert_eq!(String::from_utf8_lossy(&plain), expected, "{datum:?}");
            assert_eq!(String::from_utf8_lossy(&member), json, "{datum:?}");
        }
    }
}
