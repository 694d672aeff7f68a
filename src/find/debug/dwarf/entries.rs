//! The debugging information entries of one file: from a place to the entry, its text and what it refers to.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

use gimli::constants as dw;
use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebuggingInformationEntry, Dwarf, EndianSlice, LittleEndian,
    Section, UnitHeader, UnitOffset, UnitType,
};

use super::index::{Index, Namespace};
use super::{Content, MAX_NAME};

pub type Bytes<'a> = EndianSlice<'a, LittleEndian>;
type Value<'a> = AttributeValue<Bytes<'a>>;

/// Entries that may be read besides those that go with the size of the file.
const MIN_READS: usize = 1 << 20;

/// A compilation unit, a partial one or a type.
pub struct Unit<'a> {
    pub unit: gimli::Unit<Bytes<'a>>,
    /// Where it is in the debug information, in bytes.
    pub start: usize,
    pub end: usize,
    pub language: Option<gimli::DwLang>,
    /// Go's own code passes values in registers (since 1.17, on arm64 1.18), and the compiler's name says so.
    pub go_in_registers: bool,
}

impl<'a> Deref for Unit<'a> {
    type Target = gimli::Unit<Bytes<'a>>;

    fn deref(&self) -> &Self::Target {
        &self.unit
    }
}

impl<'a> Unit<'a> {
    /// `None` if its first entry cannot be read. `gimli::Unit::new` would read the line table too.
    fn new(
        dwarf: &Dwarf<Bytes<'a>>,
        header: UnitHeader<Bytes<'a>>,
        abbreviations: Arc<Abbreviations>,
    ) -> Option<Unit<'a>> {
        let start = header.debug_info_offset()?.0;
        let length = header.length_including_self();
        let encoding = header.encoding();
        let mut unit = gimli::Unit {
            abbreviations,
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: gimli::DebugStrOffsetsBase::default_for_encoding_and_file(
                encoding,
                dwarf.file_type,
            ),
            addr_base: gimli::DebugAddrBase(0),
            loclists_base: gimli::DebugLocListsBase::default_for_encoding_and_file(encoding, dwarf.file_type),
            rnglists_base: gimli::DebugRngListsBase::default_for_encoding_and_file(encoding, dwarf.file_type),
            line_program: None,
            dwo_id: None,
            header,
        };
        let root = unit.entry(unit.header.root_offset()).ok()?;
        let mut language = None;
        let (mut low, mut producer) = (None, None);
        for attribute in root.attrs() {
            match (attribute.name(), attribute.value()) {
                (_, AttributeValue::DebugStrOffsetsBase(base)) => unit.str_offsets_base = base,
                (_, AttributeValue::DebugAddrBase(base)) => unit.addr_base = base,
                (_, AttributeValue::DebugLocListsBase(base)) => unit.loclists_base = base,
                (_, AttributeValue::DebugRngListsBase(base)) => unit.rnglists_base = base,
                (_, AttributeValue::Language(value)) => language = Some(value),
                (dw::DW_AT_low_pc, value) => low = Some(value),
                (dw::DW_AT_producer, value) => producer = Some(value),
                _ => {}
            }
        }
        let low = low.and_then(|low| dwarf.attr_address(&unit, low).ok().flatten());
        unit.low_pc = low.unwrap_or(0);
        let producer = producer.and_then(|producer| dwarf.attr_string(&unit, producer).ok());
        let go_in_registers = language == Some(dw::DW_LANG_Go)
            && producer.is_some_and(|producer| producer.slice().ends_with(b"regabi"));
        Some(Unit {
            unit,
            start,
            end: start.checked_add(length)?,
            language,
            go_in_registers,
        })
    }

    /// Where an entry of this unit is in the debug information.
    pub fn global(&self, at: UnitOffset) -> usize {
        self.start + at.0
    }
}

/// Where an entry is: in which file, and in bytes from the start of its debug information.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    pub shared: bool,
    pub at: usize,
}

/// An entry with the unit it is in.
pub struct Entry<'e, 'a> {
    pub entry: DebuggingInformationEntry<Bytes<'a>>,
    pub unit: &'e Unit<'a>,
    pub spot: Spot,
}

impl<'a> Entry<'_, 'a> {
    pub fn tag(&self) -> gimli::DwTag {
        self.entry.tag()
    }

    pub fn value(&self, name: gimli::DwAt) -> Option<Value<'a>> {
        self.entry.attr_value(name)
    }

    pub fn number(&self, name: gimli::DwAt) -> Option<u64> {
        self.value(name)?.udata_value()
    }

    pub fn is_set(&self, name: gimli::DwAt) -> bool {
        self.value(name) == Some(AttributeValue::Flag(true))
    }

    /// Assemblers tell of functions, but not of parameters.
    pub fn is_assembly(&self) -> bool {
        self.unit.language == Some(dw::DW_LANG_Mips_Assembler)
    }

    pub fn is_go(&self) -> bool {
        self.unit.language == Some(dw::DW_LANG_Go)
    }

    pub fn is_rust(&self) -> bool {
        self.unit.language == Some(dw::DW_LANG_Rust)
    }
}

/// All entries of a file.
pub struct Entries<'a> {
    pub dwarf: Dwarf<Bytes<'a>>,
    /// By place.
    units: Vec<Unit<'a>>,
    /// Types that have units of their own, by signature.
    types: HashMap<u64, usize>,
    pub index: Index,
    /// How many more entries are read.
    reads: Cell<usize>,
}

impl<'a> Entries<'a> {
    pub fn new(content: &'a Content) -> Entries<'a> {
        let dwarf = content.borrow(|part| EndianSlice::new(part, LittleEndian));
        let mut entries = Entries {
            units: units(&dwarf),
            types: HashMap::new(),
            index: Index::default(),
            reads: Cell::new(dwarf.debug_info.reader().len() + MIN_READS),
            dwarf,
        };
        for unit in &entries.units {
            if let UnitType::Type {
                type_signature,
                type_offset,
            } = unit.header.type_()
            {
                entries.types.insert(type_signature.0, unit.global(type_offset));
            }
            entries.index.add(&entries.dwarf, unit);
        }
        entries.index.functions.sort_unstable();
        entries
    }

    fn unit_at(&self, at: usize) -> Option<&Unit<'a>> {
        let after = self.units.partition_point(|unit| unit.start <= at);
        self.units.get(after.checked_sub(1)?).filter(|unit| at < unit.end)
    }

    pub fn entry(&self, spot: Spot) -> Option<Entry<'_, 'a>> {
        self.count_read()?;
        let unit = self.unit_at(spot.at)?;
        let entry = unit.entry(UnitOffset(spot.at - unit.start)).ok()?;
        Some(Entry { entry, unit, spot })
    }

    /// Calls `visit` with each child of the entry, in order, until it breaks.
    pub fn children<'e>(
        &'e self,
        parent: &Entry<'e, 'a>,
        mut visit: impl FnMut(Entry<'e, 'a>) -> ControlFlow<()>,
    ) -> Option<()> {
        let unit = parent.unit;
        let mut cursor = unit.entries_at_offset(parent.entry.offset()).ok()?;
        cursor.next_dfs().ok()?;
        if !cursor.current()?.has_children() {
            return Some(());
        }
        cursor.next_entry().ok()?;
        while let Some(entry) = cursor.current().filter(|entry| !entry.is_null()) {
            self.count_read()?;
            let spot = Spot {
                at: unit.global(entry.offset()),
                ..parent.spot
            };
            let child = Entry {
                entry: entry.clone(),
                unit,
                spot,
            };
            if visit(child).is_break() {
                break;
            }
            if cursor.next_sibling().ok()?.is_none() {
                break;
            }
        }
        Some(())
    }

    fn count_read(&self) -> Option<()> {
        self.reads.set(self.reads.get().checked_sub(1)?);
        Some(())
    }

    /// What an attribute refers to.
    pub fn reference(&self, entry: &Entry<'_, 'a>, name: gimli::DwAt) -> Option<Spot> {
        let Spot { shared, .. } = entry.spot;
        let (shared, at) = match entry.value(name)? {
            AttributeValue::UnitRef(at) => (shared, entry.unit.start.checked_add(at.0)?),
            AttributeValue::DebugInfoRef(at) => (shared, at.0),
            AttributeValue::DebugInfoRefSup(at) => (true, at.0),
            AttributeValue::DebugTypesRef(signature) => (shared, *self.types.get(&signature.0)?),
            _ => return None,
        };
        Some(Spot { shared, at })
    }

    /// The first `MAX_NAME` bytes of a text; `shared` are the entries of the file with what several share.
    pub fn text(&self, shared: Option<&Entries<'a>>, unit: &Unit<'a>, value: Value<'a>) -> Option<&'a [u8]> {
        let (table, at): (&'a [u8], usize) = match value {
            AttributeValue::String(text) => (text.slice(), 0),
            AttributeValue::DebugStrRef(at) => (self.dwarf.debug_str.reader().slice(), at.0),
            AttributeValue::DebugLineStrRef(at) => (self.dwarf.debug_line_str.reader().slice(), at.0),
            AttributeValue::DebugStrRefSup(at) => (shared?.dwarf.debug_str.reader().slice(), at.0),
            AttributeValue::DebugStrOffsetsIndex(index) => {
                let at = self.dwarf.string_offset(unit, index).ok()?;
                (self.dwarf.debug_str.reader().slice(), at.0)
            }
            _ => return None,
        };
        let rest = table.get(at..)?;
        let rest = &rest[..rest.len().min(MAX_NAME)];
        rest.split(|&byte| byte == 0).next()
    }

    /// The namespaces around a place, the innermost first.
    pub fn namespaces(&self, at: usize) -> impl Iterator<Item = &Namespace> {
        let all = &self.index.namespaces;
        let after = all.partition_point(|namespace| namespace.start <= at);
        let nearest = after.checked_sub(1).and_then(|index| all.get(index));
        let parent = |namespace: &&Namespace| namespace.parent.and_then(|parent| all.get(parent));
        std::iter::successors(nearest, parent).filter(move |namespace| at < namespace.end)
    }
}

/// The units that can be read, in order.
fn units<'a>(dwarf: &Dwarf<Bytes<'a>>) -> Vec<Unit<'a>> {
    let abbreviations = dwarf.debug_abbrev.reader().slice();
    let mut headers = Vec::new();
    let mut iterator = dwarf.units();
    while let Ok(Some(header)) = iterator.next() {
        headers.push(header);
    }
    // A table ends where the next one begins. Without this many units could each have nearly all of the section.
    let starts: BTreeSet<usize> = headers
        .iter()
        .map(|header| header.debug_abbrev_offset().0)
        .collect();
    let mut tables: HashMap<usize, Arc<Abbreviations>> = HashMap::new();
    let mut ends = starts.iter().skip(1).copied().chain([abbreviations.len()]);
    for (start, end) in starts.iter().copied().zip(&mut ends) {
        let Some(table) = abbreviations.get(start..end) else {
            continue;
        };
        let table = DebugAbbrev::from(EndianSlice::new(table, LittleEndian));
        if let Ok(table) = table.abbreviations(gimli::DebugAbbrevOffset(0)) {
            tables.insert(start, Arc::new(table));
        }
    }
    let unit = |header: UnitHeader<Bytes<'a>>| {
        let table = tables.get(&header.debug_abbrev_offset().0)?;
        Unit::new(dwarf, header, Arc::clone(table))
    };
    headers.into_iter().filter_map(unit).collect()
}
