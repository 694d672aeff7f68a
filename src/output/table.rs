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

    pub(super) fn header(&self) -> &'static str {
        self.header
    }

    pub(super) fn key(&self) -> &'static str {
        self.key
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn align(&self) -> Align {
        self.align
    }
}

/// A kind of row, and which of its columns are on in this run.
#[derive(Clone, Debug)]
pub struct Table {
    kind: &'static str,
    slots: Vec<Slot>,
    /// `{"type":"event"`: how each JSON row begins.
    json_start: Vec<u8>,
}

/// A column and where it is on.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub column: Column,
    pub text: bool,
    pub data: bool,
    /// At the right end of a text row, where nothing is padded.
    pub last: bool,
    /// `,"size_bytes":`
    pub json_key: Vec<u8>,
}

impl Slot {
    fn new(column: Column) -> Self {
        let mut json_key = Vec::new();
        escape::push_json_key(&mut json_key, column.key);
        Self {
            text: column.shown != Shown::Data,
            data: column.shown != Shown::Text,
            last: false,
            column,
            json_key,
        }
    }

    /// In the text row itself.
    pub fn in_row(&self) -> bool {
        self.text && self.column.shown != Shown::Below
    }

    /// On lines of its own after the text row.
    pub fn below(&self) -> bool {
        self.text && self.column.shown == Shown::Below
    }
}

impl Table {
    /// `kind` is the `type` of its rows in JSON. Keys may appear twice when one column is for text and the other for
    /// data.
    pub fn new(kind: &'static str, columns: &[Column]) -> Self {
        let mut json_start = b"{\"type\":".to_vec();
        escape::push_json(&mut json_start, kind.as_bytes());
        let slots = columns.iter().copied().map(Slot::new).collect();
        Self {
            kind,
            slots,
            json_start,
        }
        .with_last()
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
        self.with_last()
    }

    fn with_last(mut self) -> Self {
        let last = self.slots.iter().rposition(Slot::in_row);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.last = last == Some(index);
        }
        self
    }

    /// Whether text shows any column in the row itself.
    pub(super) fn has_text(&self) -> bool {
        self.slots.iter().any(Slot::in_row)
    }

    pub(super) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn json_start(&self) -> &[u8] {
        &self.json_start
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }
}
