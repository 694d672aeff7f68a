//! A value and how each format writes it.

use std::rc::Rc;

use super::datum::{Datum, push_fields, push_json_fields};
use super::escape::{push_hex, push_hex_number, push_json, push_json_key, push_text};
use super::histogram::Bucket;
use super::time::{Stamps, push_padded};

/// One value of a row. Borrows, so that a row costs no allocation.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    U64(u64),
    /// An address or a bit mask: `0x7f00`, in JSON a string.
    Hex(u64),
    Bool(bool),
    /// Unknown or not applicable: `-` in text, `null` in JSON, an empty field in CSV.
    Null,
    /// Text that the tool itself chose. Names out of a traced program are [`Value::Bytes`].
    Str(&'a str),
    /// Text from outside, any bytes. Text and CSV escape it. JSON holds all of it; when it is not UTF-8, the member
    /// has U+FFFD for the broken bytes and a second one, `<key>_hex`, has all bytes in hexadecimal.
    Bytes(&'a [u8]),
    /// Lines from outside, such as the frames of a stack, innermost first. JSON has an array of strings; CSV, and text
    /// inside a row, put `;` between them.
    Lines(&'a [Rc<str>]),
    /// A moment in nanoseconds since the Unix epoch. Text shows local `HH:MM:SS`, JSON and CSV RFC 3339 in UTC with
    /// nanoseconds.
    Time(u64),
    /// A duration in nanoseconds. Text shows microseconds with three decimals, and the header names them; JSON and CSV
    /// have the nanoseconds.
    Micros(u64),
    /// A part of a whole, from 0 to 1, with four decimals.
    Share(f64),
    /// A [histogram](super::histogram). JSON has an array of `{"lo":..,"hi":..,"count":..}`, CSV and text
    /// `lo-hi:count` with `;` between them.
    Buckets(&'a [Bucket]),
    /// What is known only when it is there. An address is a string in JSON, what could not be read is `null`.
    Datum(&'a Datum),
    /// Several of them with their names: `name=value, ...`, in JSON an object.
    Fields(&'a [(Rc<str>, Datum)]),
}

impl Value<'_> {
    /// Appends the value as a text row has it, without padding.
    pub(super) fn push_text(&self, out: &mut Vec<u8>, stamps: &mut Stamps) {
        match *self {
            Self::Null => out.push(b'-'),
            Self::Time(epoch_ns) => stamps.push_local(out, epoch_ns),
            Self::Micros(ns) => push_micros(out, ns),
            _ => self.push_plain(out, stamps),
        }
    }

    /// Whether what [`Value::push_text`] appends is sure to be ASCII.
    pub(super) fn is_ascii(&self) -> bool {
        match self {
            Self::Str(text) => text.is_ascii(),
            Self::Bytes(bytes) => bytes.is_ascii(),
            Self::Lines(_) | Self::Datum(_) | Self::Fields(_) => false,
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

    /// Appends the value as a CSV field has it, before quoting.
    pub(super) fn push_plain(&self, out: &mut Vec<u8>, stamps: &mut Stamps) {
        match *self {
            Self::U64(number) | Self::Micros(number) => push_number(out, number),
            Self::Hex(number) => push_address(out, number),
            Self::Bool(yes) => push_bool(out, yes),
            Self::Null => {}
            Self::Str(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => push_text(out, bytes),
            Self::Lines(lines) => push_joined(out, lines, |out, line| push_text(out, line.as_bytes())),
            Self::Time(epoch_ns) => stamps.push_utc(out, epoch_ns),
            Self::Share(share) => push_share(out, share),
            Self::Buckets(buckets) => push_joined(out, buckets, push_range),
            Self::Datum(datum) => datum.push_plain(out),
            Self::Fields(fields) => push_fields(out, fields),
        }
    }

    /// Appends what text shows below a row: each line indented, so that no line of a traced program can pass for a
    /// row. A carriage return before a newline counts as part of it.
    pub(super) fn push_below(&self, out: &mut Vec<u8>, stamps: &mut Stamps) {
        match *self {
            Self::Null | Self::Bytes(b"") => {}
            Self::Lines(lines) => lines.iter().for_each(|line| push_indented(out, line.as_bytes())),
            Self::Bytes(bytes) => {
                let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
                for line in lines.split(|byte| *byte == b'\n') {
                    push_indented(out, line.strip_suffix(b"\r").unwrap_or(line));
                }
            }
            _ => {
                out.extend_from_slice(INDENT);
                self.push_text(out, stamps);
                out.push(b'\n');
            }
        }
    }

    /// Appends `,"key":` and the value, and the second member that broken UTF-8 needs. `json_key` is that of
    /// [`push_json_key`] for `key`.
    pub(super) fn push_json(&self, out: &mut Vec<u8>, key: &str, json_key: &[u8], stamps: &mut Stamps) {
        out.extend_from_slice(json_key);
        match *self {
            Self::U64(number) | Self::Micros(number) => push_number(out, number),
            Self::Bool(yes) => push_bool(out, yes),
            Self::Null => out.extend_from_slice(b"null"),
            Self::Hex(number) => quoted(out, |out| push_address(out, number)),
            Self::Time(epoch_ns) => quoted(out, |out| stamps.push_utc(out, epoch_ns)),
            Self::Str(text) => _ = push_json(out, text.as_bytes()),
            Self::Share(share) => push_share(out, share),
            Self::Bytes(bytes) => push_json_bytes(out, key, bytes),
            Self::Lines(lines) => push_array(out, lines, |out, line| _ = push_json(out, line.as_bytes())),
            Self::Buckets(buckets) => push_array(out, buckets, push_bucket),
            Self::Datum(datum) => datum.push_json(out, key),
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

pub(super) fn push_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Rounded to ten-thousandths.
fn push_share(out: &mut Vec<u8>, share: f64) {
    out.extend_from_slice(format!("{share:.4}").as_bytes());
}

pub(super) fn push_address(out: &mut Vec<u8>, address: u64) {
    out.extend_from_slice(b"0x");
    push_hex_number(out, address);
}

pub(super) fn push_bool(out: &mut Vec<u8>, yes: bool) {
    out.extend_from_slice(if yes { b"true" } else { b"false" });
}

pub(super) fn quoted(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    push(out);
    out.push(b'"');
}

fn push_json_bytes(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    if push_json(out, bytes) {
        return;
    }
    push_json_key(out, key);
    // From `,"key":` to `,"key_hex":`.
    out.truncate(out.len() - 2);
    out.extend_from_slice(b"_hex\":");
    quoted(out, |out| push_hex(out, bytes));
}

fn push_array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) {
    out.push(b'[');
    push_separated(out, b',', items, push);
    out.push(b']');
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
        push_number(out, number);
    }
    out.push(b'}');
}

fn push_range(out: &mut Vec<u8>, bucket: &Bucket) {
    push_number(out, bucket.lo);
    out.push(b'-');
    push_number(out, bucket.hi);
    out.push(b':');
    push_number(out, bucket.count);
}

fn push_micros(out: &mut Vec<u8>, ns: u64) {
    push_number(out, ns / 1_000);
    out.push(b'.');
    push_padded(out, ns % 1_000, 3);
}

#[cfg(test)]
mod tests {
    use super::super::histogram::powers_of_two;
    use super::*;

    fn pushed(push: impl FnOnce(&mut Vec<u8>, &mut Stamps)) -> String {
        let mut out = Vec::new();
        push(&mut out, &mut Stamps::new());
        String::from_utf8(out).unwrap()
    }

    fn text(value: Value) -> String {
        pushed(|out, stamps| value.push_text(out, stamps))
    }

    fn plain(value: Value) -> String {
        pushed(|out, stamps| value.push_plain(out, stamps))
    }

    fn below(value: Value) -> String {
        pushed(|out, stamps| value.push_below(out, stamps))
    }

    fn json(value: Value) -> String {
        let member = pushed(|out, stamps| value.push_json(out, "k", b",\"k\":", stamps));
        member.strip_prefix(",\"k\":").unwrap().to_string()
    }

    #[test]
    fn scalars_in_text_csv_and_json() {
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
    fn lists_in_text_csv_and_json() {
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
    fn microseconds_keep_their_zeros() {
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
    fn lines_below_a_row_are_indented_one_by_one() {
        let payload = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n12:00:00 1 fake row\n\x1b]0;title";
        let expected = "    GET / HTTP/1.1\n    Host: x\n    \n    12:00:00 1 fake row\n    \\x1b]0;title\n";
        assert_eq!(below(Value::Bytes(payload)), expected);
        assert_eq!(below(Value::Bytes(b"a\rb\n")), "    a\\rb\n");
        assert_eq!(
            below(Value::Lines(&["f\n".into(), "g".into()])),
            "    f\\n\n    g\n"
        );
        assert_eq!(below(Value::Lines(&[])), "");
        assert_eq!(below(Value::Bytes(b"")), "");
        assert_eq!(below(Value::Null), "");
        assert_eq!(below(Value::U64(7)), "    7\n");
    }
}
