//! CSV records after RFC 4180, with a newline alone as line end, as Unix tools want it.

/// Writes one record at a time and keeps its buffers from one to the next.
pub(super) struct Record {
    writer: csv_core::Writer,
    field: Vec<u8>,
    open: bool,
}

impl Record {
    pub fn new() -> Self {
        Self {
            writer: csv_core::Writer::new(),
            field: Vec::new(),
            open: false,
        }
    }

    /// Appends one field, which `push` gives without quotes.
    pub fn field(&mut self, out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
        self.field.clear();
        push(&mut self.field);
        let start = out.len();
        // Both quotes, each byte a doubled quote, and the delimiter before it.
        out.resize(start + 2 * self.field.len() + 3, 0);
        let mut end = start;
        if self.open {
            end += self.writer.delimiter(&mut out[end..]).1;
        }
        end += self.writer.field(&self.field, &mut out[end..]).2;
        out.truncate(end);
        self.open = true;
    }

    /// Ends the record.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        // A closing quote and the line end; or the two quotes of a record that is one empty field, and the line end.
        out.resize(start + 4, 0);
        let written = self.writer.terminator(&mut out[start..]).1;
        out.truncate(start + written);
        self.open = false;
    }
}
