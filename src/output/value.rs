// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One value of a row, in each format.

use std::ops::Range;
use std::rc::Rc;

use super::append::{push_bool, push_display, quoted};
use super::csv::CellContent;
use super::datum::{Datum, push_fields, push_json_fields};
use super::escape::{push_json, push_text};
use super::histogram::Bucket;
use super::json_key::JsonKey;
use super::number::{decimal_len, push_address, push_decimal, push_three_digits};
use super::time::TimeFormatter;

/// One value of a row. Borrows its data, so that a row needs no allocation.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    U64(u64),
    /// An address or a bit mask: `0x7f00`; a string in JSON.
    Hex(u64),
    Bool(bool),
    /// Unknown or not applicable: `-` in text, `null` in JSON, an empty field in CSV.
    Null,
    /// Trusted text, chosen by the tool. Names from a traced program are [`Value::Bytes`].
    Str(&'a str),
    /// Untrusted text, any bytes. Text and CSV escape it. JSON is lossless: for bytes that are not UTF-8, the member
    /// has U+FFFD in place of the invalid sequences and a second member, `<key>_hex`, has all bytes in hexadecimal.
    Bytes(&'a [u8]),
    /// Untrusted lines, such as stack frames, innermost first. An array of strings in JSON; joined with `;` in CSV and
    /// inside a text row.
    Lines(&'a [Rc<str>]),
    /// As [`Value::Lines`]. Text below a row marks frames that are not certain with `?`.
    Stack(&'a StackLines),
    /// Nanoseconds since the Unix epoch. Local `HH:MM:SS` in text, RFC 3339 in UTC with nanoseconds in JSON and CSV.
    Time(u64),
    /// A duration in nanoseconds. Text shows microseconds with three decimals, so the header should end in `us`; JSON
    /// and CSV have nanoseconds.
    Micros(u64),
    /// A fraction from 0 to 1, with four decimals.
    Share(f64),
    /// A [histogram](super::histogram). An array of `{"lo":..,"hi":..,"count":..}` in JSON; `lo-hi:count`, joined with
    /// `;`, in CSV and text.
    Buckets(&'a [Bucket]),
    /// A value whose type is known only at run time. Addresses are strings in JSON, unreadable values are `null`.
    Datum(&'a Datum<'a>),
    /// Named values: `name=value, ...`; an object in JSON.
    Fields(&'a [(&'a str, Datum<'a>)]),
}

/// The lines of a stack.
#[derive(Debug, Default)]
pub struct StackLines {
    pub lines: Vec<Rc<str>>,
    /// Which of them are frames that may not be frames of the stack, or behind a missing one.
    pub uncertain: Range<usize>,
}

impl StackLines {
    /// How many frames are certain, from the first one on.
    pub fn certain(&self) -> Value<'static> {
        Value::U64(self.uncertain.start as u64)
    }
}

impl Value<'_> {
    /// Appends the value as in a text row, without padding.
    pub(super) fn push_text(&self, out: &mut Vec<u8>, times: &mut TimeFormatter) {
        match *self {
            Self::Null => out.push(b'-'),
            Self::Time(epoch_ns) => times.push_local(out, epoch_ns),
            Self::Micros(ns) => push_micros(out, ns),
            _ => self.push_plain(out, times),
        }
    }

    /// The length of the value in text, for numbers, whose length is known in advance.
    pub(super) fn number_len(&self) -> Option<usize> {
        match *self {
            Self::U64(number) => Some(decimal_len(number)),
            Self::Micros(ns) => Some(decimal_len(ns / 1_000) + ".000".len()),
            _ => None,
        }
    }

    /// What [`Value::push_plain`] appends to a CSV field.
    pub(super) fn csv_content(&self) -> CellContent {
        match self {
            Self::U64(_)
            | Self::Hex(_)
            | Self::Bool(_)
            | Self::Null
            | Self::Time(_)
            | Self::Micros(_)
            | Self::Share(_) => CellContent::Plain,
            Self::Str(_) | Self::Datum(Datum::U64(_) | Datum::I64(_) | Datum::F64(_)) => CellContent::Trusted,
            Self::Bytes(_)
            | Self::Lines(_)
            | Self::Stack(_)
            | Self::Buckets(_)
            | Self::Datum(_)
            | Self::Fields(_) => CellContent::Untrusted,
        }
    }

    /// Whether [`Value::push_text`] is known to append only ASCII.
    pub(super) fn is_ascii(&self) -> bool {
        match self {
            Self::Str(text) => text.is_ascii(),
            Self::Bytes(bytes) => bytes.is_ascii(),
            Self::Lines(_) | Self::Stack(_) | Self::Datum(_) | Self::Fields(_) => false,
            Self::U64(_)
            | Self::Hex(_)
            | Self::Bool(_)
            | Self::Null
            | Self::Time(_)
            | Self::Micros(_)
            | Self::Share(_)
            | Self::Buckets(_) => true,
        }
    }

    /// Appends the value as in a CSV field, before quoting.
    pub(super) fn push_plain(&self, out: &mut Vec<u8>, times: &mut TimeFormatter) {
        match *self {
            Self::U64(number) | Self::Micros(number) => push_decimal(out, number),
            Self::Hex(number) => push_address(out, number),
            Self::Bool(yes) => push_bool(out, yes),
            Self::Null => {}
            Self::Str(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => push_text(out, bytes),
            Self::Lines(lines) => push_joined(out, lines, |out, line| push_text(out, line.as_bytes())),
            Self::Stack(stack) => Self::Lines(&stack.lines).push_plain(out, times),
            Self::Time(epoch_ns) => times.push_utc(out, epoch_ns),
            Self::Share(share) => push_share(out, share),
            Self::Buckets(buckets) => push_joined(out, buckets, push_range),
            Self::Datum(datum) => datum.push_plain(out),
            Self::Fields(fields) => push_fields(out, fields),
        }
    }

    /// Appends the value as indented lines below a text row. The indentation keeps lines from a traced program from
    /// being mistaken for rows. CRLF counts as one line end.
    pub(super) fn push_below(&self, out: &mut Vec<u8>, times: &mut TimeFormatter) {
        match *self {
            Self::Null | Self::Bytes(b"") => {}
            Self::Lines(lines) => lines.iter().for_each(|line| push_indented(out, line.as_bytes())),
            Self::Stack(stack) => push_stack(out, stack),
            Self::Bytes(bytes) => {
                let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                for line in lines.split(|byte| *byte == b'\n') {
                    push_indented(out, line.strip_suffix(b"\r").unwrap_or(line));
                }
            }
            _ => {
                out.extend_from_slice(INDENT);
                self.push_text(out, times);
                out.push(b'\n');
            }
        }
    }

    /// Appends `,"key":` and the value, and the second member of bytes that are not UTF-8.
    #[inline]
    pub(super) fn push_json(&self, out: &mut Vec<u8>, key: &JsonKey, times: &mut TimeFormatter) {
        key.push(out);
        match *self {
            Self::U64(number) | Self::Micros(number) => push_decimal(out, number),
            Self::Bool(yes) => push_bool(out, yes),
            Self::Null => out.extend_from_slice(b"null"),
            Self::Hex(number) => quoted(out, |out| push_address(out, number)),
            Self::Time(epoch_ns) => times.push_quoted_utc(out, epoch_ns),
            Self::Str(text) => _ = push_json(out, text.as_bytes()),
            Self::Share(share) => push_share(out, share),
            Self::Bytes(bytes) => key.push_bytes(out, bytes),
            Self::Lines(lines) => push_lines(out, lines),
            Self::Stack(stack) => push_lines(out, &stack.lines),
            Self::Buckets(buckets) => push_array(out, buckets, push_bucket),
            Self::Datum(datum) => datum.push_json(out, key.name),
            Self::Fields(fields) => push_json_fields(out, fields),
        }
    }
}

const INDENT: &[u8] = b"    ";

fn push_indented(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(INDENT);
    push_text(out, line);
    out.push(b'\n');
}

fn push_stack(out: &mut Vec<u8>, stack: &StackLines) {
    for (index, line) in stack.lines.iter().enumerate() {
        out.extend_from_slice(INDENT);
        if stack.uncertain.contains(&index) {
            out.extend_from_slice(b"? ");
        }
        push_text(out, line.as_bytes());
        out.push(b'\n');
    }
}

/// Rounded to ten-thousandths.
fn push_share(out: &mut Vec<u8>, share: f64) {
    push_display(out, format_args!("{share:.4}"));
}

fn push_array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    push_separated(out, b',', items, push);
    out.push(b']');
}

fn push_lines(out: &mut Vec<u8>, lines: &[Rc<str>]) {
    push_array(out, lines, |out, line| _ = push_json(out, line.as_bytes()));
}

fn push_joined<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    push_separated(out, b';', items, push);
}

fn push_separated<T>(
    out: &mut Vec<u8>,
    separator: u8,
    items: impl IntoIterator<Item = T>,
    push: impl Fn(&mut Vec<u8>, T),
) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(separator);
        }
        push(out, item);
    }
}

fn push_bucket(out: &mut Vec<u8>, bucket: &Bucket) {
    for (name, number) in [
        ("{\"lo\":", bucket.lo),
        (",\"hi\":", bucket.hi),
        (",\"count\":", bucket.count),
    ] {
        out.extend_from_slice(name.as_bytes());
        push_decimal(out, number);
    }
    out.push(b'}');
}

fn push_range(out: &mut Vec<u8>, bucket: &Bucket) {
    push_decimal(out, bucket.lo);
    out.push(b'-');
    push_decimal(out, bucket.hi);
    out.push(b':');
    push_decimal(out, bucket.count);
}

fn push_micros(out: &mut Vec<u8>, ns: u64) {
    push_decimal(out, ns / 1_000);
    out.push(b'.');
    push_three_digits(out, ns % 1_000);
}

#[cfg(test)]
mod tests {
    use super::super::histogram::powers_of_two;
    use super::*;

    fn pushed(push: impl FnOnce(&mut Vec<u8>, &mut TimeFormatter)) -> String {
        let mut out = Vec::new();
        push(&mut out, &mut TimeFormatter::new());
        String::from_utf8(out).unwrap()
    }

    fn text(value: Value) -> String {
        pushed(|out, times| value.push_text(out, times))
    }

    fn plain(value: Value) -> String {
        pushed(|out, times| value.push_plain(out, times))
    }

    fn below(value: Value) -> String {
        pushed(|out, times| value.push_below(out, times))
    }

    fn json(value: Value) -> String {
        let member = pushed(|out, times| value.push_json(out, &JsonKey::new("k"), times));
        member.strip_prefix(",\"k\":").unwrap().to_string()
    }

    #[test]
    fn scalars_in_each_format() {
        let all = [
            (Value::U64(u64::MAX), ["18446744073709551615"; 3]),
            (Value::Hex(0), ["0x0", "0x0", "\"0x0\""]),
            (
                Value::Hex(0x7f00_dead),
                ["0x7f00dead", "0x7f00dead", "\"0x7f00dead\""],
            ),
            (Value::Bool(true), ["true"; 3]),
            (Value::Bool(false), ["false"; 3]),
            (Value::Null, ["-", "", "null"]),
            (Value::Str("a b"), ["a b", "a b", "\"a b\""]),
            (Value::Bytes(b"\t"), ["\\t", "\\t", "\"\\t\""]),
            (Value::Bytes(b""), ["", "", "\"\""]),
            (Value::Micros(1_234), ["1.234", "1234", "1234"]),
        ];
        for (value, expected) in all {
            assert_eq!([text(value), plain(value), json(value)], expected, "{value:?}");
        }
    }

    #[test]
    fn lists_in_each_format() {
        let lines: [Rc<str>; 2] = ["main".into(), "a\"b\n".into()];
        let value = Value::Lines(&lines);
        assert_eq!([text(value), plain(value)], ["main;a\"b\\n"; 2]);
        assert_eq!(json(value), r#"["main","a\"b\n"]"#);
        assert_eq!(json(Value::Lines(&[])), "[]");
        let buckets = powers_of_two(&[0, 3, 0, 1, 0]);
        let value = Value::Buckets(&buckets);
        assert_eq!([text(value), plain(value)], ["1-1:3;2-3:0;4-7:1"; 2]);
        let expected = r#"[{"lo":1,"hi":1,"count":3},{"lo":2,"hi":3,"count":0},{"lo":4,"hi":7,"count":1}]"#;
        assert_eq!(json(value), expected);
        assert_eq!(json(Value::Buckets(&[])), "[]");
    }

    #[test]
    fn hostile_lines_are_escaped_in_text_and_lossless_in_json() {
        let frame = "a\x1b[2J\u{202e}b+0x0 [libx.so]";
        let lines: [Rc<str>; 1] = [frame.into()];
        let value = Value::Lines(&lines);
        let escaped = r"a\x1b[2J\u{202e}b+0x0 [libx.so]";
        assert_eq!([text(value), plain(value)], [escaped; 2]);
        assert_eq!(below(value), format!("    {escaped}\n"));
        let parsed: Vec<String> = serde_json::from_str(&json(value)).unwrap();
        assert_eq!(parsed, [frame]);
    }

    #[test]
    fn microseconds_have_three_decimals() {
        let all = [
            (0, "0.000"),
            (1, "0.001"),
            (1_002_003, "1002.003"),
            (u64::MAX, "18446744073709551.615"),
        ];
        for (ns, expected) in all {
            assert_eq!(text(Value::Micros(ns)), expected);
        }
    }

    #[test]
    fn every_line_below_a_row_is_indented() {
        let payload = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n12:00:00 1 fake row\n\x1b]0;title";
        let expected = "    GET / HTTP/1.1\n    Host: x\n    \n    12:00:00 1 fake row\n    \\x1b]0;title\n";
        assert_eq!(below(Value::Bytes(payload)), expected);
        assert_eq!(below(Value::Bytes(b"a\rb\n")), "    a\\rb\n");
        assert_eq!(
            below(Value::Lines(&["f\n".into(), "g".into()])),
            "    f\\n\n    g\n"
        );
        assert_eq!(below(Value::Lines(&[])), "");
        let stack = StackLines {
            lines: vec!["f\n".into(), "g".into(), "[truncated]".into()],
            uncertain: 1..2,
        };
        assert_eq!(
            below(Value::Stack(&stack)),
            "    f\\n\n    ? g\n    [truncated]\n"
        );
        assert_eq!(json(Value::Stack(&stack)), r#"["f\n","g","[truncated]"]"#);
        assert_eq!(plain(Value::Stack(&stack)), "f\\n;g;[truncated]");
        assert_eq!(below(Value::Bytes(b"")), "");
        assert_eq!(below(Value::Null), "");
        assert_eq!(below(Value::U64(7)), "    7\n");
    }
}
