// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! CSV as in RFC 4180, but with LF as the line end, as Unix tools expect, and with text that is not a formula.

/// What a field may contain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CellContent {
    /// Nothing that needs quotes, and no text.
    Plain,
    /// A number, perhaps negative, or text of the tool.
    Trusted,
    /// Anything.
    Untrusted,
}

/// Whether a spreadsheet evaluates text, which a traced program may have chosen to run a command. The wide forms of the
/// characters count as well.
fn is_formula(text: &[u8]) -> bool {
    const WIDE: [&str; 4] = ["\u{ff1d}", "\u{ff0b}", "\u{ff0d}", "\u{ff20}"];
    matches!(
        text.first(),
        Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\n')
    ) || WIDE.iter().any(|sign| text.starts_with(sign.as_bytes()))
}

/// Writes rows field by field.
#[derive(Default)]
pub(super) struct CsvWriter {
    /// Fields of this row so far.
    fields: usize,
    /// Where the row begins in the buffer.
    row_start: usize,
}

impl CsvWriter {
    /// Appends one field. `push` writes it without quotes.
    #[inline]
    pub fn field(&mut self, out: &mut Vec<u8>, content: CellContent, push: impl FnOnce(&mut Vec<u8>)) {
        match self.fields {
            0 => self.row_start = out.len(),
            _ => out.push(b','),
        }
        self.fields += 1;
        let start = out.len();
        push(out);
        if content == CellContent::Untrusted && is_formula(&out[start..]) {
            out.insert(start, b'\'');
        }
        if content != CellContent::Plain
            && out[start..]
                .iter()
                .any(|byte| matches!(byte, b'"' | b',' | b'\n' | b'\r'))
        {
            quote(out, start);
        }
    }

    /// Ends the row. A row of one empty field is quoted: an empty line is not a row.
    pub fn end_row(&mut self, out: &mut Vec<u8>) {
        if self.fields == 1 && out.len() == self.row_start {
            out.extend_from_slice(b"\"\"");
        }
        out.push(b'\n');
        self.fields = 0;
    }
}

/// Puts the bytes from `start` on in quotes, and doubles the quotes in them. In place, from the end.
fn quote(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    let quotes = out[start..].iter().filter(|byte| **byte == b'"').count();
    out.resize(end + quotes + 2, b'"');
    let mut to = out.len() - 1;
    for from in (start..end).rev() {
        to -= 1;
        out[to] = out[from];
        if out[to] == b'"' {
            to -= 1;
            out[to] = b'"';
        }
    }
    out[start] = b'"';
}
