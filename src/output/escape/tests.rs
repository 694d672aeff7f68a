// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Escaping, character by character.

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
        // Even where a joiner would pass.
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
fn joiners_pass_only_after_a_visible_character() {
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
        "after an invalid byte"
    );
}

#[test]
fn invalid_utf8_is_escaped_byte_by_byte() {
    assert_eq!(printable(b"a\xffb"), r"a\xffb");
    assert_eq!(printable(b"\x9b31m"), r"\x9b31m");
    assert_eq!(printable(b"\xc3"), r"\xc3", "truncated character");
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
fn json_escapes_the_same_characters_as_text() {
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
fn json_is_lossless_for_every_character() {
    let every: String = ('\0'..=char::MAX).collect();
    let (text, valid) = json(every.as_bytes());
    assert!(valid);
    assert_eq!(serde_json::from_str::<String>(&text).unwrap(), every);
}

#[test]
fn json_reports_invalid_utf8() {
    assert_eq!(json(b"a\xffb\x1b"), ("\"a\u{fffd}b\\u001b\"".into(), false));
    assert_eq!(
        json("\u{fffd}".as_bytes()),
        ("\"\u{fffd}\"".into(), true),
        "U+FFFD in the input"
    );
}

#[test]
fn escaping_is_idempotent() {
    let once = printable(b"\x1b\xff\xe2\x80\xae\xe2\x80\x8d");
    assert_eq!(printable(once.as_bytes()), once);
}

/// Every byte value at every position of texts around the lengths where the fast paths change.
#[test]
fn fast_paths_match_the_slow_path() {
    for len in (0..=18).chain([31, 32, 33]) {
        for at in 0..len {
            for byte in 0..=255 {
                let mut bytes: Vec<u8> = (b'a'..=b'z').cycle().take(len).collect();
                bytes[at] = byte;
                let (mut text, mut slow_text) = (Vec::new(), Vec::new());
                push_text(&mut text, &bytes);
                let valid = push_escaped(&mut slow_text, &bytes, EscapeStyle::Text);
                assert_eq!(text, slow_text, "{bytes:x?}");
                let mut slow_json = b"\"".to_vec();
                push_escaped(&mut slow_json, &bytes, EscapeStyle::Json);
                slow_json.push(b'"');
                let slow_json = String::from_utf8(slow_json).unwrap();
                assert_eq!(json(&bytes), (slow_json, valid), "{bytes:x?}");
            }
        }
    }
}
