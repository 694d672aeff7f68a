// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The text of a command: encodings, control characters, line breaks and length.

use super::{RawTool, start};
use crate::pty::Shell;

#[test]
fn unicode_text_is_shown_unchanged() {
    let lines = [
        ": naïve Grüße 日本語",
        ": e\u{301} n\u{303}\u{323}",
        ": 🦀 👩\u{200d}👩\u{200d}👧 \u{10ffff}",
        ": \"a\\b\" 'c'\tend",
    ];
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    lines.iter().for_each(|line| bash.paste(line));
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), lines);
    assert!(
        run.rows.iter().all(|row| row.get("command_hex").is_none()),
        "{:?}",
        run.rows
    );
}

#[test]
fn multi_line_paste_is_one_row() {
    let mut bash = Shell::bash();
    let pid = bash.pid().to_string();
    let (tool, text) = (start(["-p", &pid]), RawTool::start(["-p", &pid]));
    bash.terminal
        .press(b"\x1b[200~: one\necho $((40 + 2))\x1b[201~\n");
    bash.terminal.wait_for("42\r\n");
    assert_eq!(tool.stop().all_lines(), [": one\necho $((40 + 2))"]);
    let shown = text.stop().stdout;
    assert!(
        shown.ends_with(" : one\\necho $((40 + 2))\n") && shown.lines().count() == 2,
        "{shown}"
    );
}

#[test]
fn invalid_utf8_is_replaced_and_kept_as_hex() {
    let line = b": \xff\xfe cut \xe2\x82 end";
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.paste(line);
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": \u{fffd}\u{fffd} cut \u{fffd} end"]);
    let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(run.rows[0]["command_hex"], hex);
}

#[test]
fn control_characters_are_escaped_in_text_and_csv() {
    let line = "# \x1b]0;title\x07 \x1b[2J\x1b[31m \u{9b}2J \u{202e}txt.exe\u{2066} \x7f\x08 end";
    for format in ["text", "csv"] {
        let mut bash = Shell::bash();
        let tool = RawTool::start(["--format", format, "-p", &bash.pid().to_string()]);
        bash.paste(line);
        let shown = tool.stop().stdout;
        let risky = |c: char| (c.is_control() && c != '\n') || ('\u{2000}'..'\u{2070}').contains(&c);
        assert!(!shown.contains(risky), "{shown:?}");
        assert!(shown.contains(r"# \x1b]0;title\x07 \x1b[2J"), "{shown:?}");
    }
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.paste(line);
    assert_eq!(tool.stop().lines_of(bash.pid()), [line]);
}

/// Covers each buffer size of the BPF program and the lengths next to it.
#[test]
fn lines_longer_than_16_kib_are_truncated_and_marked() {
    const MAX_LENGTH: usize = 16384;
    let line = |len: usize| -> String { ": ".chars().chain(('a'..='z').cycle()).take(len).collect() };
    let lens = [
        254,
        255,
        256,
        257,
        4095,
        4096,
        4097,
        MAX_LENGTH - 1,
        MAX_LENGTH,
        MAX_LENGTH + 1,
        20000,
    ];
    let mut bash = Shell::bash();
    let pid = bash.pid().to_string();
    let tool = start(["-p", &pid]);
    let text = RawTool::start(["-p", &pid]);
    lens.iter().for_each(|&len| bash.enter(line(len)));
    let run = tool.stop();
    let shown = text.stop().stdout;

    assert_eq!(run.rows.len(), lens.len());
    for ((row, shown), len) in run.rows.iter().zip(shown.lines().skip(1)).zip(lens) {
        assert!(
            row["command"] == line(len.min(MAX_LENGTH)),
            "{len} bytes became {row}"
        );
        assert_eq!(row["truncated"], len > MAX_LENGTH, "{len} bytes");
        assert_eq!(
            shown.ends_with(" [truncated after 16384 bytes]"),
            len > MAX_LENGTH,
            "{len} bytes"
        );
        assert!(shown.contains(&line(len.min(MAX_LENGTH))), "{len} bytes");
    }
}
