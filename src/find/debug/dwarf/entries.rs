// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Debugging information entries: their attributes, their children, and what they refer to.

use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::constants as dw;
use gimli::{AttributeValue, DebuggingInformationEntry, EntriesRaw, Format};

use super::unit::{EntryValue, Unit, UnitBytes};
use super::units::UnitTable;

/// Bytes of a name that are read. Mangled names are long.
const MAX_NAME: usize = 4096;

/// The position of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryOffset {
    /// In the supplementary file, which several debug files share.
    pub shared: bool,
    /// Bytes from the start of that file's debug information.
    pub bytes: usize,
}

/// An entry with the unit that it is in.
pub struct DebugEntry {
    pub entry: DebuggingInformationEntry<UnitBytes>,
    pub unit: Rc<Unit>,
    pub offset: EntryOffset,
}

impl DebugEntry {
    pub fn tag(&self) -> gimli::DwTag {
        self.entry.tag()
    }

    pub fn value(&self, name: gimli::DwAt) -> Option<EntryValue> {
        self.entry.attr_value(name)
    }

    pub fn number(&self, name: gimli::DwAt) -> Option<u64> {
        self.value(name)?.udata_value()
    }

    pub fn is_set(&self, name: gimli::DwAt) -> bool {
        self.value(name) == Some(AttributeValue::Flag(true))
    }

    /// Assemblers describe functions without their parameters.
    pub fn is_assembly(&self) -> bool {
        self.unit.root.language == Some(dw::DW_LANG_Mips_Assembler)
    }

    pub fn is_go(&self) -> bool {
        self.unit.root.language == Some(dw::DW_LANG_Go)
    }

    pub fn is_rust(&self) -> bool {
        self.unit.root.language == Some(dw::DW_LANG_Rust)
    }
}

impl UnitTable {
    pub fn entry(&self, offset: EntryOffset) -> Option<DebugEntry> {
        let read = || {
            self.count_entry()?;
            let unit = self.unit_at(offset.bytes)?;
            let entry = unit.entry(offset.bytes)?;
            Some(DebugEntry { entry, unit, offset })
        };
        self.required(read())
    }

    /// Calls `visit` with each child of the entry, in order, until it breaks. `None` if there is damage before the end.
    pub fn children(
        &self,
        parent: &DebugEntry,
        visit: impl FnMut(DebugEntry) -> ControlFlow<()>,
    ) -> Option<()> {
        self.required(self.visit_children(parent, visit))
    }

    fn visit_children(
        &self,
        parent: &DebugEntry,
        mut visit: impl FnMut(DebugEntry) -> ControlFlow<()>,
    ) -> Option<()> {
        let unit = &parent.unit;
        if !parent.entry.has_children() {
            return Some(());
        }
        let mut entries = unit.entries_raw(Some(parent.entry.offset())).ok()?;
        let abbreviation = entries.read_abbreviation().ok()??;
        entries.skip_attributes(abbreviation.attributes()).ok()?;
        while !entries.is_empty() {
            self.count_entry()?;
            let mut entry = DebuggingInformationEntry::null();
            if !entries.read_entry(&mut entry).ok()? {
                break;
            }
            let (has_children, sibling) = (entry.has_children(), entry.attr_value(dw::DW_AT_sibling));
            let next = entries.next_offset();
            let child = DebugEntry {
                offset: EntryOffset {
                    bytes: unit.global(entry.offset()),
                    ..parent.offset
                },
                entry,
                unit: Rc::clone(unit),
            };
            if visit(child).is_break() {
                break;
            }
            match sibling {
                _ if !has_children => {}
                Some(AttributeValue::UnitRef(sibling)) if sibling > next => {
                    entries = unit.entries_raw(Some(sibling)).ok()?;
                }
                _ => skip_children(&mut entries).ok()?,
            }
        }
        Some(())
    }

    /// The entry that an attribute refers to.
    pub fn reference(&self, entry: &DebugEntry, name: gimli::DwAt) -> Option<EntryOffset> {
        let EntryOffset { shared, .. } = entry.offset;
        let (shared, at) = match entry.value(name)? {
            AttributeValue::UnitRef(at) => (shared, entry.unit.start.checked_add(at.0)?),
            AttributeValue::DebugInfoRef(at) => (shared, at.0),
            AttributeValue::DebugInfoRefSup(at) => (true, at.0),
            AttributeValue::DebugTypesRef(signature) => (shared, self.type_with_signature(signature.0)?),
            _ => return None,
        };
        Some(EntryOffset { shared, bytes: at })
    }

    /// The first `MAX_NAME` bytes of a string. `shared` are the units of the supplementary file.
    pub fn text(&self, shared: Option<&UnitTable>, unit: &Unit, value: &EntryValue) -> Option<Vec<u8>> {
        let (section, at) = match value {
            AttributeValue::String(text) => {
                let text = text.bytes();
                return Some(text[..text.len().min(MAX_NAME)].to_vec());
            }
            AttributeValue::DebugStrRef(at) => (&self.sections.str, at.0),
            AttributeValue::DebugLineStrRef(at) => (&self.sections.line_str, at.0),
            AttributeValue::DebugStrRefSup(at) => (&shared?.sections.str, at.0),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                (&self.sections.str, self.string_offset(unit, index.0)?)
            }
            _ => return None,
        };
        self.required(section.text(at, MAX_NAME))
    }

    fn string_offset(&self, unit: &Unit, index: usize) -> Option<usize> {
        let (base, offsets) = (unit.root.str_offsets_base, &self.sections.str_offsets);
        match unit.encoding().format {
            Format::Dwarf32 => {
                let offset = offsets.read_u32(base.checked_add(index.checked_mul(4)?)?)?;
                Some(offset as usize)
            }
            Format::Dwarf64 => {
                let offset = offsets.read_u64(base.checked_add(index.checked_mul(8)?)?)?;
                usize::try_from(offset).ok()
            }
        }
    }

    /// The offsets of the namespaces around an entry, innermost first.
    pub fn namespaces(&self, entry: &DebugEntry) -> Vec<EntryOffset> {
        let spans = self.index(&entry.unit).namespaces(entry.offset.bytes);
        let offset = |bytes| EntryOffset {
            bytes,
            ..entry.offset
        };
        spans.map(|span| offset(span.start)).collect()
    }
}

/// Skips the children of the entry that was just read, and their children.
fn skip_children(entries: &mut EntriesRaw<'_, UnitBytes>) -> gimli::Result<()> {
    let mut depth = 1;
    while depth > 0 && !entries.is_empty() {
        match entries.read_abbreviation()? {
            Some(abbreviation) => {
                entries.skip_attributes(abbreviation.attributes())?;
                depth += usize::from(abbreviation.has_children());
            }
            None => depth -= 1,
        }
    }
    Ok(())
}
