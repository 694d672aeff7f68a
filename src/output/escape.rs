//! Text from a traced process, made safe to show.
//!
//! A tracer runs as root in an operator's terminal, and whoever is traced chooses the bytes. So nothing that
//! moves the cursor, reorders the line, or takes no room on it leaves this module as it came.
//!
//! | in the text                                                    | text and CSV     | JSON               |
//! |----------------------------------------------------------------|------------------|--------------------|
//! | printable characters: CJK, emoji, combining marks, ...         | as they are      | as they are        |
//! | newline, tab, carriage return                                  | `\n` `\t` `\r`   | `\n` `\t` `\r`     |
//! | other C0 controls and DEL                                      | `\x1b`           | `\u001b`           |
//! | C1 controls, line separators, bidirectional and invisible ones | `\u{202e}`       | `\u202e`           |
//! | bytes that are not UTF-8                                       | `\xff`           | U+FFFD (and see [`push_json`]) |
//!
//! A backslash is printable and stays single in text and CSV, so those two are for reading. JSON gives back
//! every character.
//!
//! Zero-width joiners and variation selectors build emoji (family, keycap) and shape Persian and Indic
//! words, but in a command line they can also make `rm` look like `rm` and be another word. They pass where such
//! writing needs them, after a visible character outside ASCII and at most two in a row, and are escaped
//! everywhere else. Tag characters are always escaped: they can carry a whole hidden message, and only three
//! flags in use need them.

/// Appends untrusted bytes for text and CSV.
pub fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes
        .iter()
        .fold(true, |plain, byte| plain & matches!(byte, 0x20..=0x7e))
    {
        out.extend_from_slice(bytes);
    } else {
        scan(out, bytes, Style::Text);
    }
}

/// Appends untrusted bytes as a JSON string, with its quotes.
///
/// Returns false when some bytes were not UTF-8 and U+FFFD stands in their place; the caller then has to hand
/// out the bytes in another way.
pub fn push_json(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    out.push(b'"');
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7e) & (*byte != b'"') & (*byte != b'\\');
    let valid = if bytes.iter().fold(true, |all, byte| all & plain(byte)) {
        out.extend_from_slice(bytes);
        true
    } else {
        scan(out, bytes, Style::Json)
    };
    out.push(b'"');
    valid
}

/// Untrusted bytes as [`push_text`] shows them, for messages.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    push_text(&mut out, bytes);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends `,"key":`, the start of a member that is not the first.
pub(super) fn push_json_key(out: &mut Vec<u8>, key: &str) {
    out.push(b',');
    push_json(out, key.as_bytes());
    out.push(b':');
}

/// Appends two lower-case hexadecimal digits for each byte.
pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
}

/// The hexadecimal digit of a value below 16.
pub(super) fn digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0xf)]
}

/// Whose escapes to write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Text,
    Json,
}

/// The slow path of both formats. Returns whether everything was UTF-8.
fn scan(out: &mut Vec<u8>, bytes: &[u8], style: Style) -> bool {
    let mut valid = true;
    let mut gate = Gate::default();
    for chunk in bytes.utf8_chunks() {
        scan_valid(out, chunk.valid(), style, &mut gate);
        let bad = chunk.invalid();
        if !bad.is_empty() {
            valid = false;
            gate = Gate::default();
            push_invalid(out, bad, style);
        }
    }
    valid
}

/// Copies the stretches that pass as they are, in one piece each, and escapes what lies between.
fn scan_valid(out: &mut Vec<u8>, text: &str, style: Style, gate: &mut Gate) {
    let mut copied = 0;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        let quoted = style == Style::Json && matches!(c, '"' | '\\');
        if gate.passes(c, &text[end..]) && !quoted {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[copied..at]);
        copied = end;
        match style {
            Style::Text => push_text_escape(out, c),
            Style::Json => push_json_escape(out, c),
        }
    }
    out.extend_from_slice(&text.as_bytes()[copied..]);
}

fn push_invalid(out: &mut Vec<u8>, bad: &[u8], style: Style) {
    match style {
        Style::Text => bad.iter().for_each(|byte| push_byte_escape(out, *byte)),
        Style::Json => out.extend_from_slice("\u{fffd}".as_bytes()),
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

/// Appends a number in hexadecimal, without a prefix and without leading zeros.
pub(super) fn push_hex_number(out: &mut Vec<u8>, number: u64) {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(digit((number >> (place * 4)) as u8));
    }
}

/// How many joiners may follow a visible character: a variation selector and a zero-width joiner, as in the
/// emoji of a rainbow flag.
const JOINERS: u8 = 2;

/// Decides, character by character, what is shown as it is.
#[derive(Default)]
struct Gate {
    /// How many more joiners pass at this place.
    room: u8,
}

impl Gate {
    /// `rest` is the text after `c`.
    fn passes(&mut self, c: char, rest: &str) -> bool {
        match kind(c) {
            Kind::Visible => {
                self.room = if c.is_ascii() { 0 } else { JOINERS };
                true
            }
            // A keycap is the one emoji whose selector follows ASCII.
            Kind::Joiner if c == '\u{fe0f}' && rest.starts_with('\u{20e3}') => true,
            Kind::Joiner if self.room > 0 => {
                self.room -= 1;
                true
            }
            Kind::Joiner => false,
            Kind::Hostile => {
                self.room = 0;
                false
            }
        }
    }
}

enum Kind {
    Visible,
    /// Invisible, and part of honest writing: needs something to join.
    Joiner,
    /// Controls the terminal, reorders the line, or is not seen at all.
    Hostile,
}

/// Everything that Unicode calls a control, a format character or default-ignorable, apart from the prepended
/// marks of Arabic and a few more scripts, which are visible.
fn kind(c: char) -> Kind {
    match c {
        ' '..='~' => Kind::Visible,
        '\0'..='\u{9f}' => Kind::Hostile, // C0, DEL, C1
        '\u{ad}' => Kind::Hostile,        // soft hyphen
        '\u{34f}' => Kind::Hostile,       // combining grapheme joiner
        '\u{61c}' => Kind::Hostile,       // Arabic letter mark
        '\u{115f}'..='\u{1160}' | '\u{3164}' | '\u{ffa0}' => Kind::Hostile, // Hangul fillers
        '\u{17b4}'..='\u{17b5}' => Kind::Hostile, // Khmer inherent vowels
        '\u{180b}'..='\u{180f}' => Kind::Hostile, // Mongolian selectors and separator
        '\u{200c}'..='\u{200d}' => Kind::Joiner, // zero-width non-joiner and joiner
        '\u{200b}'..='\u{200f}' => Kind::Hostile, // zero-width space, direction marks
        '\u{2028}'..='\u{202e}' => Kind::Hostile, // line separators, embeddings, overrides
        '\u{2060}'..='\u{206f}' => Kind::Hostile, // word joiner, invisible operators, isolates
        '\u{fe00}'..='\u{fe0f}' => Kind::Joiner, // variation selectors
        '\u{feff}' => Kind::Hostile,      // byte order mark
        '\u{fff0}'..='\u{fffb}' => Kind::Hostile, // interlinear annotation
        '\u{13430}'..='\u{1343f}' => Kind::Hostile, // hieroglyph joiners
        '\u{1bca0}'..='\u{1bca3}' => Kind::Hostile, // shorthand controls
        '\u{1d173}'..='\u{1d17a}' => Kind::Hostile, // musical beams and slurs
        '\u{e0100}'..='\u{e01ef}' => Kind::Joiner, // variation selectors for ideographs
        '\u{e0000}'..='\u{e0fff}' => Kind::Hostile, // tags
        _ => Kind::Visible,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> (String, bool) {
        let mut out = Vec::new();
        let valid = push_json(&mut out, bytes);
        (String::from_utf8(out).unwrap(), valid)
    }

    #[test]
    fn printable_unicode_passes() {
        let texts = [
            "plain ASCII ~ \\ \"",
            "größer, naïve, e\u{301}",
            "漢字かな 한국어",
            "עברית العربية हिन्दी",
            "\u{1f600}\u{1f44d}\u{1f3fd}",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",
            "1\u{fe0f}\u{20e3}",
            "\u{645}\u{6cc}\u{200c}\u{62e}",
            "a\u{a0}b\u{3000}c",
        ];
        for text in texts {
            assert_eq!(printable(text.as_bytes()), text);
        }
    }

    #[test]
    fn c0_and_del_are_escaped() {
        assert_eq!(printable(b"a\nb\tc\rd"), r"a\nb\tc\rd");
        assert_eq!(printable(b"\x1b[31m\x07\0\x7f"), r"\x1b[31m\x07\x00\x7f");
        for byte in (0..0x20).chain([0x7f]) {
            assert!(printable(&[byte]).starts_with('\\'), "{byte:#x}");
        }
    }

    #[test]
    fn c1_is_escaped() {
        for code in 0x80..0xa0 {
            let c = char::from_u32(code).unwrap();
            assert_eq!(printable(c.to_string().as_bytes()), format!("\\u{{{code:x}}}"));
        }
    }

    #[test]
    fn reordering_and_line_breaking_marks_are_escaped() {
        let marks = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'];
        for c in marks
            .into_iter()
            .chain('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}')
        {
            // Also where a joiner would pass.
            assert_eq!(
                printable(format!("é{c}x").as_bytes()),
                format!("é\\u{{{:x}}}x", u32::from(c))
            );
        }
    }

    #[test]
    fn invisible_characters_are_escaped() {
        let hidden = [
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{2060}',
            '\u{2064}',
            '\u{3164}',
            '\u{feff}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
        ];
        for c in hidden {
            assert_eq!(
                printable(format!("é{c}x").as_bytes()),
                format!("é\\u{{{:x}}}x", u32::from(c))
            );
        }
    }

    #[test]
    fn joiners_need_something_to_join() {
        for c in ['\u{200c}', '\u{200d}', '\u{fe00}', '\u{fe0f}', '\u{e0100}'] {
            let escape = format!("\\u{{{:x}}}", u32::from(c));
            assert_eq!(
                printable(format!("{c}rm").as_bytes()),
                format!("{escape}rm"),
                "at the start"
            );
            assert_eq!(
                printable(format!("r{c}m").as_bytes()),
                format!("r{escape}m"),
                "after ASCII"
            );
            assert_eq!(
                printable(format!("é{c}").as_bytes()),
                format!("é{c}"),
                "after a letter"
            );
            assert_eq!(
                printable(format!("é{c}{c}{c}").as_bytes()),
                format!("é{c}{c}{escape}"),
                "in a row"
            );
        }
        assert_eq!(
            printable("é\u{202e}\u{200d}".as_bytes()),
            "é\\u{202e}\\u{200d}",
            "after an escape"
        );
        assert_eq!(
            printable("é\u{200d}".as_bytes().repeat(2).as_slice()),
            "é\u{200d}é\u{200d}"
        );
        assert_eq!(
            printable(b"\xc3\xa9\xff\xe2\x80\x8d"),
            "é\\xff\\u{200d}",
            "after a broken byte"
        );
    }

    #[test]
    fn broken_utf8_is_escaped_byte_by_byte() {
        assert_eq!(printable(b"a\xffb"), r"a\xffb");
        assert_eq!(printable(b"\x9b31m"), r"\x9b31m");
        assert_eq!(printable(b"\xc3"), r"\xc3", "cut in a character");
        assert_eq!(printable(b"\xe2\x82"), r"\xe2\x82");
        assert_eq!(printable(b"\xc0\xaf"), r"\xc0\xaf", "overlong");
        assert_eq!(printable(b"\xed\xa0\x80"), r"\xed\xa0\x80", "surrogate");
        assert_eq!(
            printable(b"\xf4\x90\x80\x80"),
            r"\xf4\x90\x80\x80",
            "beyond Unicode"
        );
        assert_eq!(printable(b"\xff\x1b\xc3\xa9"), r"\xff\x1bé");
    }

    #[test]
    fn json_escapes_what_text_escapes() {
        assert_eq!(json(b"plain"), (r#""plain""#.into(), true));
        assert_eq!(json(b"\"\\/"), (r#""\"\\/""#.into(), true));
        assert_eq!(json("é\"\\".as_bytes()), (r#""é\"\\""#.into(), true));
        assert_eq!(
            json(b"\n\t\r\x1b\x7f\0"),
            (r#""\n\t\r\u001b\u007f\u0000""#.into(), true)
        );
        let marks = "\u{9b}\u{202e}\u{200b}\u{feff}\u{e0041}";
        assert_eq!(
            json(marks.as_bytes()),
            (r#""\u009b\u202e\u200b\ufeff\udb40\udc41""#.into(), true)
        );
        assert_eq!(json("r\u{200d}m".as_bytes()), (r#""r\u200dm""#.into(), true));
    }

    #[test]
    fn json_gives_back_every_character() {
        let every: String = ('\0'..=char::MAX).collect();
        let (text, valid) = json(every.as_bytes());
        assert!(valid);
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), every);
    }

    #[test]
    fn json_marks_broken_utf8() {
        assert_eq!(json(b"a\xffb\x1b"), ("\"a\u{fffd}b\\u001b\"".into(), false));
        assert_eq!(
            json("\u{fffd}".as_bytes()),
            ("\"\u{fffd}\"".into(), true),
            "an honest U+FFFD"
        );
    }

    #[test]
    fn nothing_escaped_is_escaped_again() {
        let once = printable(b"\x1b\xff\xe2\x80\xae\xe2\x80\x8d");
        assert_eq!(printable(once.as_bytes()), once);
    }

    #[test]
    fn hexadecimal_numbers() {
        for number in [0, 1, 0xf, 0x10, 0x7fff_dead_beef, u64::MAX] {
            let mut out = Vec::new();
            push_hex_number(&mut out, number);
            assert_eq!(out, format!("{number:x}").into_bytes());
        }
    }
}
