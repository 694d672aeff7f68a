// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! CSV as in RFC 4180, but with LF as the line end, as Unix tools expect.

/// Writes rows field by field.
#[derive(Default)]
pub(super) struct CsvWriter {
    /// Fields of this row so far.
    fields: usize,
    /// Where the row begins in the buffer.
    row_start: usize,
}

impl CsvWriter {
    /// Appends one field. `push` writes it without quotes; `plain` if it never needs them.
    #[inline]
    pub fn field(&mut self, out: &mut Vec<u8>, plain: bool, push: impl FnOnce(&mut Vec<u8>)) {
        match self.fields {
            0 => self.row_start = out.len(),
            _ => out.push(b','),
        }
        self.fields += 1;
        let start = out.len();
        push(out);
        if !plain
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
