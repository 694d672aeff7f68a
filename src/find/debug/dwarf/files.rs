// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The debug information of a file and of its supplementary file: entries and what they refer to, in either of them.

use std::ops::ControlFlow;
use std::string::FromUtf8Error;

use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::unit::{EntryValue, Unit};
use super::units::UnitTable;

/// Steps from a function to its origin: the function that was inlined or cloned, and its declaration.
const MAX_ORIGINS: usize = 8;
/// Namespaces in a name.
const MAX_NAMESPACES: usize = 8;

/// An entry, its origin, the origin of that, and so on.
pub type OriginChain = Vec<DebugEntry>;

/// The units of a file and of its supplementary file.
pub struct DebugFiles {
    pub main: UnitTable,
    shared: Option<UnitTable>,
}

impl DebugFiles {
    pub fn new(main: UnitTable, shared: Option<UnitTable>) -> DebugFiles {
        DebugFiles { main, shared }
    }

    /// Whether something could not be read so far.
    pub fn met_damage(&self) -> bool {
        self.main.met_damage() || self.shared.as_ref().is_some_and(UnitTable::met_damage)
    }

    fn units(&self, at: EntryOffset) -> Option<&UnitTable> {
        if at.shared {
            self.shared.as_ref()
        } else {
            Some(&self.main)
        }
    }

    pub fn entry(&self, at: EntryOffset) -> Option<DebugEntry> {
        self.units(at)?.entry(at)
    }

    /// The entry that an attribute refers to.
    pub fn reference(&self, entry: &DebugEntry, name: gimli::DwAt) -> Option<EntryOffset> {
        self.units(entry.offset)?.reference(entry, name)
    }

    /// The text of an attribute, unless it is empty.
    pub fn text(&self, entry: &DebugEntry, name: gimli::DwAt) -> Option<String> {
        let text = self.string(entry, &entry.value(name)?)?;
        let lossy = |error: FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
        (!text.is_empty()).then(|| String::from_utf8(text).unwrap_or_else(lossy))
    }

    /// What an entry's compiler calls itself.
    pub fn producer(&self, entry: &DebugEntry) -> Option<Vec<u8>> {
        self.string(entry, entry.unit.root.producer.as_ref()?)
    }

    /// A text that the root of a unit of the main file refers to.
    pub fn unit_text(&self, unit: &Unit, value: &EntryValue) -> Option<String> {
        let text = self.main.text(self.shared.as_ref(), unit, value)?;
        String::from_utf8(text).ok()
    }

    fn string(&self, entry: &DebugEntry, value: &EntryValue) -> Option<Vec<u8>> {
        let units = self.units(entry.offset)?;
        units.text(self.shared.as_ref(), &entry.unit, value)
    }

    /// The names of the namespaces around an entry, outermost first.
    pub fn namespaces(&self, entry: &DebugEntry) -> Vec<String> {
        let offsets = self.units(entry.offset).map(|units| units.namespaces(entry));
        let mut names: Vec<String> = offsets
            .unwrap_or_default()
            .into_iter()
            .take(MAX_NAMESPACES)
            .filter_map(|at| self.text(&self.entry(at)?, dw::DW_AT_name))
            .collect();
        names.reverse();
        names
    }

    /// Whether the unit of an entry describes the parameters and results of functions.
    pub fn has_types(&self, entry: &DebugEntry) -> bool {
        let units = self.units(entry.offset);
        units.is_some_and(|units| units.index(&entry.unit).has_types)
    }

    /// Calls `visit` with each child of an entry, until it breaks.
    pub fn children(
        &self,
        parent: &DebugEntry,
        visit: impl FnMut(DebugEntry) -> ControlFlow<()>,
    ) -> Option<()> {
        self.units(parent.offset)?.children(parent, visit)
    }

    /// The entry at `at` with its origins. Empty if there is none.
    pub fn origin_chain(&self, at: EntryOffset) -> OriginChain {
        self.entry(at)
            .map(|entry| self.chain_from(entry))
            .unwrap_or_default()
    }

    /// An entry with its origins.
    pub fn chain_from(&self, entry: DebugEntry) -> OriginChain {
        let mut chain = Vec::new();
        let mut next = Some(entry);
        while let Some(entry) = next
            && chain.len() < MAX_ORIGINS
        {
            let origin = self
                .reference(&entry, dw::DW_AT_abstract_origin)
                .or_else(|| self.reference(&entry, dw::DW_AT_specification));
            next = origin.and_then(|at| self.entry(at));
            chain.push(entry);
        }
        chain
    }

    /// The entry that the attribute refers to, in the first entry of the chain that has it.
    pub fn inherited(&self, chain: &[DebugEntry], name: gimli::DwAt) -> Option<EntryOffset> {
        chain.iter().find_map(|entry| self.reference(entry, name))
    }
}
