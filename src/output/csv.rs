//! CSV as in RFC 4180, but with LF as the line end, as Unix tools expect.

/// Writes rows field by field. Its buffers are reused from row to row.
pub(super) struct CsvWriter {
    writer: csv_core::Writer,
    field: Vec<u8>,
    in_row: bool,
}

impl CsvWriter {
    pub fn new() -> Self {
        Self {
            writer: csv_core::Writer::new(),
            field: Vec::new(),
            in_row: false,
        }
    }

    /// Appends one field. `push` writes it without quotes.
    pub fn field(&mut self, out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
        self.field.clear();
        push(&mut self.field);
        let start = out.len();
        // The delimiter, both quotes, and each byte as a doubled quote.
        out.resize(start + 2 * self.field.len() + 3, 0);
        let mut end = start;
        if self.in_row {
            end += self.writer.delimiter(&mut out[end..]).1;
        }
        end += self.writer.field(&self.field, &mut out[end..]).2;
        out.truncate(end);
        self.in_row = true;
    }

    /// Ends the row.
    pub fn end_row(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        // A closing quote and the line end; or, for a row of one empty field, its two quotes and the line end.
        out.resize(start + 4, 0);
        let written = self.writer.terminator(&mut out[start..]).1;
        out.truncate(start + written);
        self.in_row = false;
    }
}
