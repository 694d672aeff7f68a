// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The columns of a kind of row, declared once for all formats.

use super::escape;
use super::json_key::JsonKey;

/// The alignment of a column in text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// Where a column appears by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ColumnVisibility {
    /// In text only.
    Text,
    /// In JSON and CSV only.
    Data,
    /// Everywhere.
    Both,
    /// Everywhere; in text on indented lines below the row, as stacks and payloads.
    Below,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    header: &'static str,
    key: &'static str,
    width: usize,
    align: Align,
    shown: ColumnVisibility,
}

impl Column {
    /// A left-aligned column, for words. In text it has the heading `header` and a minimum width in characters; in JSON
    /// and CSV it is named `key`, which includes the unit: `size_bytes`.
    pub const fn left(header: &'static str, key: &'static str, width: usize) -> Self {
        Self {
            header,
            key,
            width,
            align: Align::Left,
            shown: ColumnVisibility::Both,
        }
    }

    /// A right-aligned column, for numbers. Parameters as for [`Column::left`].
    pub const fn right(header: &'static str, key: &'static str, width: usize) -> Self {
        Self {
            align: Align::Right,
            ..Self::left(header, key, width)
        }
    }

    /// A column that text shows below the row, without a heading.
    pub const fn below(key: &'static str) -> Self {
        Self {
            shown: ColumnVisibility::Below,
            ..Self::left("", key, 0)
        }
    }

    /// Restricts the column to text.
    pub const fn text_only(self) -> Self {
        Self {
            shown: ColumnVisibility::Text,
            ..self
        }
    }

    /// Restricts the column to JSON and CSV, unless [`Table::in_text`] enables it.
    pub const fn data_only(self) -> Self {
        Self {
            shown: ColumnVisibility::Data,
            ..self
        }
    }
}

/// A kind of row, and which of its columns are enabled in this run.
#[derive(Clone, Debug)]
pub struct Table {
    kind: &'static str,
    slots: Vec<ColumnState>,
    /// The start of each JSON row: `{"type":"event"`.
    json_start: Vec<u8>,
    // Derived from the slots, once.
    text_columns: Vec<TextColumn>,
    below: Vec<usize>,
    data_columns: Vec<DataColumn>,
}

/// A column and where it is enabled.
#[derive(Clone, Debug)]
struct ColumnState {
    column: Column,
    text: bool,
    data: bool,
}

/// A column in text rows.
#[derive(Clone, Debug)]
pub(super) struct TextColumn {
    /// Index into the values of a row.
    pub index: usize,
    pub header: &'static str,
    /// The minimum; 0 for a left-aligned column at the end of the row, which is not padded.
    pub width: usize,
    pub align: Align,
}

/// A column in JSON and CSV.
#[derive(Clone, Debug)]
pub(super) struct DataColumn {
    /// Index into the values of a row.
    pub index: usize,
    pub key: JsonKey<'static>,
}

impl ColumnState {
    /// Whether text shows the column inside the row.
    fn in_row(&self) -> bool {
        self.text && self.column.shown != ColumnVisibility::Below
    }

    /// Whether text shows the column below the row.
    fn below(&self) -> bool {
        self.text && self.column.shown == ColumnVisibility::Below
    }

    fn text_column(&self, index: usize) -> TextColumn {
        TextColumn {
            index,
            header: self.column.header,
            width: self.column.width,
            align: self.column.align,
        }
    }

    fn data_column(&self, index: usize) -> DataColumn {
        DataColumn {
            index,
            key: JsonKey::new(self.column.key),
        }
    }
}

impl From<Column> for ColumnState {
    fn from(column: Column) -> Self {
        Self {
            text: column.shown != ColumnVisibility::Data,
            data: column.shown != ColumnVisibility::Text,
            column,
        }
    }
}

impl Table {
    /// `kind` is the `type` of the rows in JSON. A key may occur twice if one column is for text and the other for
    /// JSON and CSV.
    pub fn new(kind: &'static str, columns: &[Column]) -> Self {
        let mut json_start = b"{\"type\":".to_vec();
        escape::push_json(&mut json_start, kind.as_bytes());
        Self::of(
            kind,
            columns.iter().copied().map(ColumnState::from).collect(),
            json_start,
        )
    }

    fn of(kind: &'static str, slots: Vec<ColumnState>, json_start: Vec<u8>) -> Self {
        let indexed = || slots.iter().enumerate();
        let in_row = indexed().filter(|(_, slot)| slot.in_row());
        let mut cells: Vec<TextColumn> = in_row.map(|(index, slot)| slot.text_column(index)).collect();
        if let Some(last) = cells.last_mut().filter(|cell| cell.align == Align::Left) {
            last.width = 0;
        }
        let below = indexed().filter(|(_, slot)| slot.below());
        let data = indexed().filter(|(_, slot)| slot.data);
        Self {
            kind,
            json_start,
            text_columns: cells,
            below: below.map(|(index, _)| index).collect(),
            data_columns: data.map(|(index, slot)| slot.data_column(index)).collect(),
            slots,
        }
    }

    /// Disables a column in all formats.
    ///
    /// # Panics
    ///
    /// In debug builds, if no column has this key.
    #[must_use]
    pub fn without(self, key: &str) -> Self {
        self.change(key, |slot| (slot.text, slot.data) = (false, false))
    }

    /// Enables or disables a column in text. JSON and CSV are not affected.
    ///
    /// # Panics
    ///
    /// In debug builds, if no column has this key.
    #[must_use]
    pub fn in_text(self, key: &str, on: bool) -> Self {
        self.change(key, |slot| slot.text = on)
    }

    fn change(mut self, key: &str, change: impl Fn(&mut ColumnState)) -> Self {
        let mut named = self
            .slots
            .iter_mut()
            .filter(|slot| slot.column.key == key)
            .peekable();
        debug_assert!(named.peek().is_some(), "no column {key} in {}", self.kind);
        named.for_each(change);
        Self::of(self.kind, self.slots, self.json_start)
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn json_start(&self) -> &[u8] {
        &self.json_start
    }

    /// The number of values of a row: one for each declared column.
    pub(super) fn columns(&self) -> usize {
        self.slots.len()
    }

    /// The columns inside a text row, from left to right.
    pub(super) fn text_columns(&self) -> &[TextColumn] {
        &self.text_columns
    }

    /// The indices of the values below a text row.
    pub(super) fn below(&self) -> &[usize] {
        &self.below
    }

    /// The columns of JSON and CSV, in order.
    pub(super) fn data_columns(&self) -> &[DataColumn] {
        &self.data_columns
    }
}
