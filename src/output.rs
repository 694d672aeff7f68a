// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Output: rows as text, JSON or CSV.
//!
//! A tool declares its columns as a constant, makes a [`Table`] of them, and passes each event as a slice of [`Value`]s
//! to [`Output::row`]. Rows are collected in one buffer, which [`Output::flush`] writes once per batch.
//!
//! A row costs no allocation, and little more than the copy of its bytes: fixed parts are prepared in the [`Table`],
//! short pieces are copied with constant length, and what was just written is not read back.

mod append;
mod create;
mod csv;
mod datum;
pub mod distribution;
pub mod escape;
pub mod histogram;
mod json_key;
pub mod messages;
mod number;
mod sink;
mod stdout;
mod table;
mod time;
mod value;

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::sync::atomic::AtomicU32;

pub use create::create;
pub use datum::Datum;
pub use sink::Destination;
pub use stdout::require_stdout;
pub use table::{Column, Table};
pub use value::{StackLines, Value};

use append::{push_prefix, push_spaces};
use csv::{CellContent, CsvWriter};
use escape::ShortText;
use json_key::JsonKey;
use table::{Align, TextColumn};
use time::{TimeFormatter, WallClock};

/// The format of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, for reading
    Text,
    /// One JSON object a line, for programs
    Json,
    /// Comma-separated values, for spreadsheets
    Csv,
}

/// The size in bytes at which the buffer should be flushed.
const FULL: usize = 64 * 1024;

/// Formats rows and writes them to their destination.
pub struct Output {
    format: Format,
    destination: Destination,
    quiet: bool,
    /// Set when a signal ends the run.
    end_signals: &'static AtomicU32,
    buffer: Vec<u8>,
    clock: Cell<WallClock>,
    times: TimeFormatter,
    csv: CsvWriter,
    /// The kind of row that the last CSV header was for.
    headed: Option<&'static str>,
    rows: u64,
}

impl Output {
    /// `quiet` suppresses the header of text. Once `end_signals` counts one, [`Output::flush`] does not wait forever.
    pub fn new(
        format: Format,
        destination: Destination,
        quiet: bool,
        end_signals: &'static AtomicU32,
    ) -> Self {
        Self {
            format,
            destination,
            quiet,
            end_signals,
            // Room for the row that exceeds the limit.
            buffer: Vec::with_capacity(FULL + FULL / 8),
            clock: Cell::new(WallClock::new()),
            times: TimeFormatter::new(),
            csv: CsvWriter::default(),
            headed: None,
            rows: 0,
        }
    }

    /// The number of rows so far, not counting records and headers.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Converts `bpf_ktime_get_ns()` to nanoseconds since the Unix epoch, for [`Value::Time`]. A change of the clock
    /// takes effect with the next batch.
    pub fn wall(&self, monotonic_ns: u64) -> u64 {
        let mut clock = self.clock.get();
        // An empty buffer: a batch begins, perhaps after a long sleep.
        if self.buffer.is_empty() {
            clock.refresh();
            self.clock.set(clock);
        }
        clock.epoch_ns(monotonic_ns)
    }

    /// The time of day in nanoseconds since the Unix epoch, for rows that are not about a single event.
    pub fn wall_now(&self) -> u64 {
        time::now_ns()
    }

    /// Adds the header: in text each time, unless quiet; in CSV the line of keys, unless the last header was for the
    /// same kind of row; in JSON nothing.
    pub fn header(&mut self, table: &Table) {
        match self.format {
            Format::Text if !self.quiet && !table.text_columns().is_empty() => self.text_header(table),
            Format::Csv if self.headed != Some(table.kind()) => self.csv_header(table),
            _ => {}
        }
    }

    /// Adds a row. `values` has one value for each declared column, in order, including disabled ones.
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

    /// Adds a JSON record that is not a row, such as `attached` or `summary`. Does nothing in text and CSV, where the
    /// caller reports it on stderr.
    pub fn record(&mut self, kind: &str, fields: &[(&str, Value)]) {
        if self.format != Format::Json {
            return;
        }
        let out = &mut self.buffer;
        out.extend_from_slice(b"{\"type\":");
        escape::push_json(out, kind.as_bytes());
        for (key, value) in fields {
            value.push_json(out, &JsonKey::new(key), &mut self.times);
        }
        out.extend_from_slice(b"}\n");
    }

    /// Adds lines to text only: titles, histograms, empty lines. `push` appends whole lines to the buffer and escapes
    /// untrusted bytes with [`escape::push_text`].
    pub fn text(&mut self, push: impl FnOnce(&mut Vec<u8>)) {
        if self.format == Format::Text {
            push(&mut self.buffer);
        }
    }

    /// Adds a line with the local time, to text only.
    pub fn time(&mut self, epoch_ns: u64) {
        if self.format == Format::Text {
            self.times.push_local(&mut self.buffer, epoch_ns);
            self.buffer.push(b'\n');
        }
    }

    /// Begins a new line of text on a terminal, which has echoed `^C` to the current one.
    pub fn after_ctrl_c(&mut self) {
        if matches!(self.destination, Destination::Stdout) && io::stdout().is_terminal() {
            self.text(|buffer| buffer.push(b'\n'));
        }
    }

    /// Whether the buffer has reached 64 KiB, so that the caller should flush before the next row.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= FULL
    }

    /// Writes the buffer to the destination. Blocks as long as the destination does.
    ///
    /// # Errors
    ///
    /// Those of write(2), with their kind and the name of the destination. `BrokenPipe` means that the reader has
    /// closed the pipe. Bytes that were not written stay in the buffer.
    pub fn flush(&mut self) -> io::Result<()> {
        let (written, result) = self.destination.write(&self.buffer, self.end_signals);
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
        if !table.text_columns().is_empty() {
            self.text_line(table, |cell| values[cell.index]);
        }
        for index in table.below() {
            values[*index].push_below(&mut self.buffer, &mut self.times);
        }
    }

    fn text_line<'v>(&mut self, table: &Table, value: impl Fn(&TextColumn) -> Value<'v>) {
        let out = &mut self.buffer;
        for (index, cell) in table.text_columns().iter().enumerate() {
            if index > 0 {
                out.push(b' ');
            }
            push_cell(out, cell, &value(cell), &mut self.times);
        }
        out.push(b'\n');
    }

    fn json_row(&mut self, table: &Table, values: &[Value]) {
        let out = &mut self.buffer;
        out.extend_from_slice(table.json_start());
        for column in table.data_columns() {
            values[column.index].push_json(out, &column.key, &mut self.times);
        }
        out.extend_from_slice(b"}\n");
    }

    fn csv_header(&mut self, table: &Table) {
        for column in table.data_columns() {
            let key = column.key.name.as_bytes();
            self.csv.field(&mut self.buffer, CellContent::Trusted, |out| {
                out.extend_from_slice(key)
            });
        }
        self.csv.end_row(&mut self.buffer);
        self.headed = Some(table.kind());
    }

    fn csv_row(&mut self, table: &Table, values: &[Value]) {
        for column in table.data_columns() {
            let value = &values[column.index];
            self.csv.field(&mut self.buffer, value.csv_content(), |out| {
                value.push_plain(out, &mut self.times)
            });
        }
        self.csv.end_row(&mut self.buffer);
    }
}

/// Appends a value, padded to the width of its column and never cut.
#[inline]
fn push_cell(out: &mut Vec<u8>, cell: &TextColumn, value: &Value, times: &mut TimeFormatter) {
    let text = match *value {
        Value::Str(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        _ => return push_other_cell(out, cell, value, times),
    };
    match ShortText::printable(text) {
        Some(short) if cell.align == Align::Left => {
            let padded = cell.width.min(ShortText::MAX).max(short.len());
            push_prefix(out, &short.padded(), padded);
            push_spaces(out, cell.width.saturating_sub(ShortText::MAX));
        }
        _ => push_any_cell(out, cell, value, times),
    }
}

/// The same for values other than strings.
#[inline]
fn push_other_cell(out: &mut Vec<u8>, cell: &TextColumn, value: &Value, times: &mut TimeFormatter) {
    match (cell.align, value, value.number_len()) {
        (Align::Right, Value::U64(number), _) => number::push_decimal_right(out, *number, cell.width),
        (Align::Right, _, Some(len)) => {
            push_spaces(out, cell.width.saturating_sub(len));
            value.push_text(out, times);
        }
        _ => push_any_cell(out, cell, value, times),
    }
}

/// The same for any value: the slow path. Counts characters, which is right except for wide and combining ones.
fn push_any_cell(out: &mut Vec<u8>, cell: &TextColumn, value: &Value, times: &mut TimeFormatter) {
    let start = out.len();
    value.push_text(out, times);
    if cell.width == 0 {
        return;
    }
    let width = match value.is_ascii() {
        true => out.len() - start,
        false => characters(&out[start..]),
    };
    let missing = cell.width.saturating_sub(width);
    push_spaces(out, missing);
    if cell.align == Align::Right {
        out[start..].rotate_right(missing);
    }
}

/// The number of characters of UTF-8 text: all bytes except continuation bytes.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| (**byte as i8) >= -0x40).count()
}

#[cfg(test)]
mod tests;
