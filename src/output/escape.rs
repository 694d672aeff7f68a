// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Makes text from a traced process safe to print.
//!
//! A tracer runs as root in an operator's terminal, and the traced process chooses the bytes. Anything that moves the
//! cursor, reorders the line or is invisible is therefore escaped here, and only here.
//!
//! | input                                                          | text and CSV     | JSON               |
//! |----------------------------------------------------------------|------------------|--------------------|
//! | printable characters: CJK, emoji, combining marks, ...         | unchanged        | unchanged          |
//! | newline, tab, carriage return                                  | `\n` `\t` `\r`   | `\n` `\t` `\r`     |
//! | other C0 controls and DEL                                      | `\x1b`           | `\u001b`           |
//! | C1 controls, line separators, bidirectional and invisible ones | `\u{202e}`       | `\u202e`           |
//! | bytes that are not UTF-8                                       | `\xff`           | U+FFFD, see [`push_json`] |
//!
//! A backslash is printable and stays single in text and CSV: these two formats are meant for reading and are
//! ambiguous there. JSON is lossless.
//!
//! Zero-width joiners and variation selectors build emoji (family, keycap) and shape Persian and Indic words, but in a
//! command line they can also make a different word look like `rm`. They pass where such writing needs them, after a
//! visible character outside ASCII and at most two in a row, and are escaped everywhere else. Tag characters are always
//! escaped: they can carry a hidden message, and only three flags in use need them.

mod short;

use super::append::push_prefix;
use super::number::push_hex_number;
pub(super) use short::ShortText;

/// Appends untrusted bytes for text and CSV.
pub fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    if let Some(short) = ShortText::printable(bytes) {
        push_prefix(out, &short.padded(), short.len());
    } else if bytes.iter().fold(true, |plain, byte| plain & is_printable(*byte)) {
        out.extend_from_slice(bytes);
    } else {
        push_escaped(out, bytes, EscapeStyle::Text);
    }
}

/// Appends untrusted bytes as a JSON string, with its quotes.
///
/// Returns false if the bytes are not UTF-8: each invalid sequence is then replaced by U+FFFD, and the caller has to
/// add the bytes in another form.
pub fn push_json(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let plain = |byte: u8| is_printable(byte) & (byte != b'"') & (byte != b'\\');
    let mut valid = true;
    out.push(b'"');
    if let Some(short) = ShortText::printable_json(bytes) {
        push_prefix(out, &short.padded(), short.len());
    } else if bytes.iter().fold(true, |all, byte| all & plain(*byte)) {
        out.extend_from_slice(bytes);
    } else {
        valid = push_escaped(out, bytes, EscapeStyle::Json);
    }
    out.push(b'"');
    valid
}

/// Untrusted bytes as [`push_text`] writes them, for messages.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    push_text(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

/// Appends `,"key":`, the start of a member that is not the first.
pub(super) fn push_json_key(out: &mut Vec<u8>, key: &str) {
    out.push(b',');
    push_json(out, key.as_bytes());
    out.push(b':');
}

/// Appends `,"key_hex":` and the bytes in hexadecimal: the second member of a string that is not UTF-8.
pub(super) fn push_hex_member(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    push_json_key(out, key);
    // Replace the closing quote and the colon.
    out.truncate(out.len() - 2);
    out.extend_from_slice(b"_hex\":\"");
    push_hex(out, bytes);
    out.push(b'"');
}

/// Appends two lower-case hexadecimal digits for each byte.
fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

/// The hexadecimal digit of a value below 16.
fn digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0xf)]
}

/// Which format's escapes to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EscapeStyle {
    Text,
    Json,
}

/// The slow path of both formats. Returns whether all bytes are UTF-8.
fn push_escaped(out: &mut Vec<u8>, bytes: &[u8], style: EscapeStyle) -> bool {
    let mut valid = true;
    let mut joiners = JoinerRule::default();
    for chunk in bytes.utf8_chunks() {
        push_escaped_str(out, chunk.valid(), style, &mut joiners);
        let bad = chunk.invalid();
        if !bad.is_empty() {
            valid = false;
            joiners = JoinerRule::default();
            push_invalid(out, bad, style);
        }
    }
    valid
}

/// Copies runs of characters that pass in one piece, and escapes those in between.
fn push_escaped_str(out: &mut Vec<u8>, text: &str, style: EscapeStyle, joiners: &mut JoinerRule) {
    let mut copied = 0;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let quoted = style == EscapeStyle::Json && matches!(c, '"' | '\\');
        if joiners.passes(c, &text[end..]) && !quoted {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[copied..at]);
        copied = end;
        match style {
            EscapeStyle::Text => push_text_escape(out, c),
            EscapeStyle::Json => push_json_escape(out, c),
        }
    }
    out.extend_from_slice(&text.as_bytes()[copied..]);
}

fn push_invalid(out: &mut Vec<u8>, bad: &[u8], style: EscapeStyle) {
    match style {
        EscapeStyle::Text => bad.iter().for_each(|byte| push_byte_escape(out, *byte)),
        EscapeStyle::Json => out.extend_from_slice("\u{fffd}".as_bytes()),
    }
}

fn push_byte_escape(out: &mut Vec<u8>, byte: u8) {
    out.extend_from_slice(b"\\x");
    push_hex(out, &[byte]);
}

fn push_text_escape(out: &mut Vec<u8>, c: char) {
    match c {
        '\n' => out.extend_from_slice(b"\\n"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\0'..='\x7f' => push_byte_escape(out, c as u8),
        _ => {
            out.extend_from_slice(b"\\u{");
            push_hex_number(out, u64::from(u32::from(c)));
            out.push(b'}');
        }
    }
}

fn push_json_escape(out: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
        '\n' => out.extend_from_slice(b"\\n"),
        '\t' => out.extend_from_slice(b"\\t"),
        '\r' => out.extend_from_slice(b"\\r"),
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                push_hex(out, &unit.to_be_bytes());
            }
        }
    }
}

/// How many joiners may follow a visible character: a variation selector and a zero-width joiner, as in the
/// emoji of a rainbow flag.
const JOINERS: u8 = 2;

/// Decides, character by character, what passes unescaped.
#[derive(Default)]
struct JoinerRule {
    /// How many more joiners pass here.
    room: u8,
}

impl JoinerRule {
    /// `rest` is the text after `c`.
    fn passes(&mut self, c: char, rest: &str) -> bool {
        match classify(c) {
            CharClass::Visible => {
                self.room = if c.is_ascii() { 0 } else { JOINERS };
                true
            }
            // A keycap is the one emoji whose selector follows ASCII.
            CharClass::Joiner if c == '\u{fe0f}' && rest.starts_with('\u{20e3}') => true,
            CharClass::Joiner if self.room > 0 => {
                self.room -= 1;
                true
            }
            CharClass::Joiner => false,
            CharClass::Hostile => {
                self.room = 0;
                false
            }
        }
    }
}

enum CharClass {
    Visible,
    /// Invisible, but needed in ordinary writing after a character that it joins.
    Joiner,
    /// Controls the terminal, reorders the line, or is invisible.
    Hostile,
}

/// Hostile is everything that Unicode classifies as a control, a format character or default-ignorable, except the
/// prepended marks of Arabic and a few other scripts, which are visible.
fn classify(c: char) -> CharClass {
    match c {
        ' '..='~' => CharClass::Visible,
        '\0'..='\u{9f}' => CharClass::Hostile, // C0, DEL, C1
        '\u{ad}' => CharClass::Hostile,        // soft hyphen
        '\u{34f}' => CharClass::Hostile,       // combining grapheme joiner
        '\u{61c}' => CharClass::Hostile,       // Arabic letter mark
        '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' => CharClass::Hostile, // Hangul fillers
        '\u{17b4}'..='\u{17b5}' => CharClass::Hostile, // Khmer inherent vowels
        '\u{180b}'..='\u{180f}' => CharClass::Hostile, // Mongolian selectors and separator
        '\u{200c}'..='\u{200d}' => CharClass::Joiner, // zero-width non-joiner and joiner
        '\u{200b}'..='\u{200f}' => CharClass::Hostile, // zero-width space, direction marks
        '\u{2028}'..='\u{202e}' => CharClass::Hostile, // line separators, embeddings, overrides
        '\u{2060}'..='\u{206f}' => CharClass::Hostile, // word joiner, invisible operators, isolates
        '\u{fe00}'..='\u{fe0f}' => CharClass::Joiner, // variation selectors
        '\u{feff}' => CharClass::Hostile,      // byte order mark
        '\u{fff0}'..='\u{fffb}' => CharClass::Hostile, // interlinear annotation
        '\u{13430}'..='\u{1343f}' => CharClass::Hostile, // hieroglyph joiners
        '\u{1bca0}'..='\u{1bca3}' => CharClass::Hostile, // shorthand controls
        '\u{1d173}'..='\u{1d17a}' => CharClass::Hostile, // musical beams and slurs
        '\u{e0100}'..='\u{e01ef}' => CharClass::Joiner, // variation selectors for ideographs
        '\u{e0000}'..='\u{e0fff}' => CharClass::Hostile, // tags
        _ => CharClass::Visible,
    }
}

#[cfg(test)]
mod tests;
