//! What a kind of row looks like: its columns, declared once for every format.

use super::escape;

/// On which side of its column a value stands, in text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// Where a column appears unless the run says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    /// In text only.
    Text,
    /// In JSON and CSV only.
    Data,
    /// Everywhere.
    Both,
    /// Everywhere; in text not in the row but on indented lines below it, as stacks and payloads are.
    Below,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    header: &'static str,
    key: &'static str,
    width: usize,
    align: Align,
    shown: Shown,
}

impl Column {
    /// A column of words. `header` heads it in text, where it is at least `width` characters wide; `key` names it in
    /// JSON and CSV, with the unit: `size_bytes`.
    pub const fn left(header: &'static str, key: &'static str, width: usize) -> Self {
        Self {
            header,
            key,
            width,
            align: Align::Left,
            shown: Shown::Both,
        }
    }

    /// A column of numbers, like [`Column::left`] otherwise.
    pub const fn right(header: &'static str, key: &'static str, width: usize) -> Self {
        Self {
            align: Align::Right,
            ..Self::left(header, key, width)
        }
    }

    /// A column that text shows below the row, without a header.
    pub const fn below(key: &'static str) -> Self {
        Self {
            shown: Shown::Below,
            ..Self::left("", key, 0)
        }
    }

    /// The same column in text only.
    pub const fn text_only(self) -> Self {
        Self {
            shown: Shown::Text,
            ..self
        }
    }

    /// The same column in JSON and CSV only, until [`Table::in_text`] asks for it.
    pub const fn data_only(self) -> Self {
        Self {
            shown: Shown::Data,
            ..self
        }
    }
}

/// A kind of row, and which of its columns are on in this run.
#[derive(Clone, Debug)]
pub struct Table {
    kind: &'static str,
    slots: Vec<Slot>,
    /// `{"type":"event"`: how each JSON row begins.
    json_start: Vec<u8>,
    // What the slots come to, so that no row has to ask them.
    cells: Vec<TextCell>,
    below: Vec<usize>,
    members: Vec<Member>,
}

/// A column and where it is on.
#[derive(Clone, Debug)]
struct Slot {
    column: Column,
    text: bool,
    data: bool,
}

/// A column in text rows.
#[derive(Clone, Debug)]
pub(super) struct TextCell {
    /// Of the row's values.
    pub index: usize,
    pub header: &'static str,
    /// None for words at the right end, where nothing is padded.
    pub width: usize,
    pub align: Align,
}

/// A column in JSON and CSV.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Of the row's values.
    pub index: usize,
    pub key: &'static str,
    /// `,"size_bytes":`
    pub json_key: Vec<u8>,
}

impl Slot {
    /// In the text row itself.
    fn in_row(&self) -> bool {
        self.text && self.column.shown != Shown::Below
    }

    /// On lines of its own after the text row.
    fn below(&self) -> bool {
        self.text && self.column.shown == Shown::Below
    }

    fn cell(&self, index: usize) -> TextCell {
        TextCell {
            index,
            header: self.column.header,
            width: self.column.width,
            align: self.column.align,
        }
    }

    fn member(&self, index: usize) -> Member {
        let mut json_key = Vec::new();
        escape::push_json_key(&mut json_key, self.column.key);
        Member {
            index,
            key: self.column.key,
            json_key,
        }
    }
}

impl From<Column> for Slot {
    fn from(column: Column) -> Self {
        Self {
            text: column.shown != Shown::Data,
            data: column.shown != Shown::Text,
            column,
        }
    }
}

impl Table {
    /// `kind` is the `type` of its rows in JSON. Keys may appear twice when one column is for text and the other for
    /// data.
    pub fn new(kind: &'static str, columns: &[Column]) -> Self {
        let mut json_start = b"{\"type\":".to_vec();
        escape::push_json(&mut json_start, kind.as_bytes());
        Self::of(
            kind,
            columns.iter().copied().map(Slot::from).collect(),
            json_start,
        )
    }

    fn of(kind: &'static str, slots: Vec<Slot>, json_start: Vec<u8>) -> Self {
        let indexed = || slots.iter().enumerate();
        let in_row = indexed().filter(|(_, slot)| slot.in_row());
        let mut cells: Vec<TextCell> = in_row.map(|(index, slot)| slot.cell(index)).collect();
        if let Some(last) = cells.last_mut().filter(|cell| cell.align == Align::Left) {
            last.width = 0;
        }
        let below = indexed().filter(|(_, slot)| slot.below());
        let data = indexed().filter(|(_, slot)| slot.data);
        Self {
            kind,
            json_start,
            cells,
            below: below.map(|(index, _)| index).collect(),
            members: data.map(|(index, slot)| slot.member(index)).collect(),
            slots,
        }
    }

    /// Switches a column off in every format. A key that no column has is a mistake of the caller, caught in debug
    /// builds.
    #[must_use]
    pub fn without(self, key: &str) -> Self {
        self.change(key, |slot| (slot.text, slot.data) = (false, false))
    }

    /// Says whether text shows a column; JSON and CSV go on as declared. A key that no column has is a mistake of the
    /// caller, caught in debug builds.
    #[must_use]
    pub fn in_text(self, key: &str, on: bool) -> Self {
        self.change(key, |slot| slot.text = on)
    }

    fn change(mut self, key: &str, change: impl Fn(&mut Slot)) -> Self {
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

    /// How many values a row has: one for each declared column.
    pub(super) fn columns(&self) -> usize {
        self.slots.len()
    }

    /// What stands in a text row, from left to right.
    pub(super) fn cells(&self) -> &[TextCell] {
        &self.cells
    }

    /// Which values text has below the row.
    pub(super) fn below(&self) -> &[usize] {
        &self.below
    }

    /// What JSON and CSV have, in order.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }
}
