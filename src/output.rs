//! SHOW: rows, declared once, as text, JSON or CSV.
//!
//! A tool declares its columns as a constant, makes a [`Table`] of them, and hands each event as a slice of
//! [`Value`]s to [`Output::row`]. Rows collect in one buffer that [`Output::flush`] writes out, once a batch.

mod csv;
mod datum;
pub mod distribution;
pub mod escape;
pub mod histogram;
pub mod messages;
mod sink;
mod table;
mod time;
mod value;

use std::cell::Cell;
use std::io;
use std::sync::atomic::AtomicBool;

pub use datum::Datum;
pub use sink::Destination;
pub use table::{Column, Table};
pub use value::Value;

use table::{Align, TextCell};
use time::{Clock, Stamps};

/// How rows are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for people
    Text,
    /// One JSON object a line, for programs
    Json,
    /// Comma-separated values, for spreadsheets
    Csv,
}

/// From this many bytes on the buffer wants to be flushed.
const FULL: usize = 64 * 1024;

/// Turns rows into bytes and brings them to their destination.
pub struct Output {
    format: Format,
    destination: Destination,
    quiet: bool,
    /// Set by a signal.
    ending: &'static AtomicBool,
    buffer: Vec<u8>,
    clock: Cell<Clock>,
    stamps: Stamps,
    csv: csv::Record,
    /// The kind of the last CSV header.
    headed: Option<&'static str>,
    rows: u64,
}

impl Output {
    /// `quiet` leaves out the header of text.
    pub fn new(format: Format, destination: Destination, quiet: bool, ending: &'static AtomicBool) -> Self {
        Self {
            format,
            destination,
            quiet,
            ending,
            // Room for the row that makes it full.
            buffer: Vec::with_capacity(FULL + FULL / 8),
            clock: Cell::new(Clock::new()),
            stamps: Stamps::new(),
            csv: csv::Record::new(),
            headed: None,
            rows: 0,
        }
    }

    /// How many rows there were since the start; records and headers do not count.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The time of day for a time of a BPF program: nanoseconds since the Unix epoch for those of
    /// `bpf_ktime_get_ns()`, for [`Value::Time`]. Follows a change of the clock with the next batch.
    pub fn wall(&self, monotonic_ns: u64) -> u64 {
        let mut clock = self.clock.get();
        // Nothing waits to be written: a batch begins, perhaps after a long sleep.
        if self.buffer.is_empty() {
            clock.refresh();
            self.clock.set(clock);
        }
        clock.epoch_ns(monotonic_ns)
    }

    /// The time of day in nanoseconds since the Unix epoch, for rows that no single event stands behind.
    pub fn wall_now(&self) -> u64 {
        time::now_ns()
    }

    /// Adds the header: in text each time, unless quiet; in CSV the line of keys, unless the last header was of the
    /// same kind; in JSON nothing.
    pub fn header(&mut self, table: &Table) {
        match self.format {
            Format::Text if !self.quiet && !table.cells().is_empty() => self.text_header(table),
            Format::Csv if self.headed != Some(table.kind()) => self.csv_header(table),
            _ => {}
        }
    }

    /// Adds a row. `values` has one value for each declared column, in order, also for those that are off.
    pub fn row(&mut self, table: &Table, values: &[Value]) {
        debug_assert_eq!(
            table.columns(),
            values.len(),
            "values of a row of {}",
            table.kind()
        );
        self.rows += 1;
        match self.format {
            Format::Text => self.text_row(table, values),
            Format::Json => self.json_row(table, values),
            Format::Csv => self.csv_row(table, values),
        }
    }

    /// Adds a record that is no row, such as `attached` or `summary`. Only JSON has it; in text and CSV it is for
    /// the caller to tell on stderr.
    pub fn record(&mut self, kind: &str, fields: &[(&str, Value)]) {
        if self.format != Format::Json {
            return;
        }
        let out = &mut self.buffer;
        out.extend_from_slice(b"{\"type\":");
        escape::push_json(out, kind.as_bytes());
        let mut json_key = Vec::new();
        for (key, value) in fields {
            json_key.clear();
            escape::push_json_key(&mut json_key, key);
            value.push_json(out, key, &json_key, &mut self.stamps);
        }
        out.extend_from_slice(b"}\n");
    }

    /// Adds what only text has: titles, histograms, empty lines. `push` appends whole lines to the buffer and escapes
    /// what comes from outside, see [`escape::push_text`].
    pub fn text(&mut self, push: impl FnOnce(&mut Vec<u8>)) {
        if self.format == Format::Text {
            push(&mut self.buffer);
        }
    }

    /// Adds a line with the local time, in text.
    pub fn time(&mut self, epoch_ns: u64) {
        if self.format == Format::Text {
            self.stamps.push_local(&mut self.buffer, epoch_ns);
            self.buffer.push(b'\n');
        }
    }

    /// Whether the buffer is past 64 KiB and the caller should flush before the next row.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= FULL
    }

    /// Writes the buffer out. Blocks as long as the destination does.
    ///
    /// # Errors
    ///
    /// Those of write(2), with their kind, saying what could not be written to. `BrokenPipe` means that the reader
    /// has gone. What was not written stays in the buffer.
    pub fn flush(&mut self) -> io::Result<()> {
        let (written, result) = self.destination.write(&self.buffer, self.ending);
        self.buffer.drain(..written);
        result.map_err(|error| {
            let message = format!("failed to write to {}: {error}", self.destination.name());
            io::Error::new(error.kind(), message)
        })
    }

    fn text_header(&mut self, table: &Table) {
        self.text_line(table, |cell| Value::Str(cell.header));
    }

    fn text_row(&mut self, table: &Table, values: &[Value]) {
        if !table.cells().is_empty() {
            self.text_line(table, |cell| values[cell.index]);
        }
        for index in table.below() {
            values[*index].push_below(&mut self.buffer, &mut self.stamps);
        }
    }

    fn text_line<'v>(&mut self, table: &Table, value: impl Fn(&TextCell) -> Value<'v>) {
        let out = &mut self.buffer;
        for (index, cell) in table.cells().iter().enumerate() {
            if index > 0 {
                out.push(b' ');
            }
            push_cell(out, cell, &value(cell), &mut self.stamps);
        }
        out.push(b'\n');
    }

    fn json_row(&mut self, table: &Table, values: &[Value]) {
        let out = &mut self.buffer;
        out.extend_from_slice(table.json_start());
        for member in table.members() {
            values[member.index].push_json(out, member.key, &member.json_key, &mut self.stamps);
        }
        out.extend_from_slice(b"}\n");
    }

    fn csv_header(&mut self, table: &Table) {
        for member in table.members() {
            self.csv.field(&mut self.buffer, |out| {
                out.extend_from_slice(member.key.as_bytes())
            });
        }
        self.csv.end(&mut self.buffer);
        self.headed = Some(table.kind());
    }

    fn csv_row(&mut self, table: &Table, values: &[Value]) {
        for member in table.members() {
            let value = &values[member.index];
            self.csv
                .field(&mut self.buffer, |out| value.push_plain(out, &mut self.stamps));
        }
        self.csv.end(&mut self.buffer);
    }
}

/// Appends a value, brought to the width of its column. Counts characters, which is right for all but wide and
/// combining ones; nothing is ever cut.
fn push_cell(out: &mut Vec<u8>, cell: &TextCell, value: &Value, stamps: &mut Stamps) {
    let start = out.len();
    if let (Align::Right, Value::U64(number)) = (cell.align, value) {
        // Most cells on the right are numbers, whose length is known before: they need not be moved.
        push_spaces(out, cell.width.saturating_sub(digits(*number)));
    }
    value.push_text(out, stamps);
    // What has just been written byte by byte is slow to read back.
    let width = match value.is_ascii() {
        true => out.len() - start,
        false => characters(&out[start..]),
    };
    let missing = cell.width.saturating_sub(width);
    if missing > 0 {
        push_spaces(out, missing);
        if cell.align == Align::Right {
            out[start..].rotate_right(missing);
        }
    }
}

fn push_spaces(out: &mut Vec<u8>, spaces: usize) {
    out.resize(out.len() + spaces, b' ');
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The characters of UTF-8 text: all bytes but the continuations.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| (**byte as i8) >= -0x40).count()
}

#[cfg(test)]
mod tests;
