//! One walk through the entries of a unit, for what has to be known before anything is asked.

use gimli::constants as dw;
use gimli::{Abbreviation, AttributeValue, Dwarf, EntriesRaw, LittleEndian, UnitOffset};

use super::entries::{Bytes, Unit};

/// Entries of a range list that are read in search of the first one that is not empty.
const MAX_RANGES: usize = 16;
/// Namespaces inside of each other.
const MAX_DEPTH: usize = 1024;

/// What was found in a unit or in several. Places in the debug information count from its start.
#[derive(Default)]
pub struct Index {
    /// Address of each function's first instruction, and where the function is.
    pub functions: Vec<(u64, usize)>,
    /// Functions that were put into their callers.
    pub inlined: Vec<usize>,
    pub namespaces: Vec<Namespace>,
}

/// A namespace, with everything between `start` and `end`.
pub struct Namespace {
    pub start: usize,
    pub end: usize,
    /// The index of the namespace around it.
    pub parent: Option<usize>,
}

impl Index {
    /// Adds what the unit has. Damage ends the walk: what was found before it stays.
    pub fn add<'a>(&mut self, dwarf: &Dwarf<Bytes<'a>>, unit: &Unit<'a>) {
        let first_open = self.namespaces.len();
        let mut walk = Walk {
            index: self,
            dwarf,
            unit,
            depth: 0,
            function_depth: None,
            open: Vec::new(),
        };
        // Damage is no error here.
        let _ = walk.run();
        for namespace in &mut self.namespaces[first_open..] {
            if namespace.end == 0 {
                namespace.end = unit.end;
            }
        }
    }
}

struct Walk<'w, 'a> {
    index: &'w mut Index,
    dwarf: &'w Dwarf<Bytes<'a>>,
    unit: &'w Unit<'a>,
    depth: usize,
    /// How deep the outermost function around this entry is.
    function_depth: Option<usize>,
    /// The namespaces around this entry: depth and index.
    open: Vec<(usize, usize)>,
}

impl<'a> Walk<'_, 'a> {
    fn run(&mut self) -> gimli::Result<()> {
        let mut entries = self.unit.entries_raw(None)?;
        while !entries.is_empty() {
            let at = entries.next_offset();
            let Some(abbreviation) = entries.read_abbreviation()? else {
                self.close(at);
                if self.depth == 0 {
                    break;
                }
                continue;
            };
            let sibling = match abbreviation.tag() {
                dw::DW_TAG_subprogram => {
                    self.function(&mut entries, abbreviation, at)?;
                    None
                }
                tag if abbreviation.has_children() && self.is_skipped(tag) => {
                    sibling(&mut entries, abbreviation)?
                }
                _ => {
                    entries.skip_attributes(abbreviation.attributes())?;
                    None
                }
            };
            if let Some(sibling) = sibling.filter(|sibling| sibling.0 > at.0) {
                entries = self.unit.entries_raw(Some(sibling))?;
                continue;
            }
            if abbreviation.has_children() {
                self.enter(abbreviation.tag(), at);
            }
        }
        Ok(())
    }

    /// Whether no function with an address lies below such an entry. GCC puts the functions of a local class, lambdas
    /// among them, into the class.
    fn is_skipped(&self, tag: gimli::DwTag) -> bool {
        match tag {
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                self.function_depth.is_none()
            }
            dw::DW_TAG_compile_unit
            | dw::DW_TAG_partial_unit
            | dw::DW_TAG_namespace
            | dw::DW_TAG_lexical_block => false,
            _ => true,
        }
    }

    fn enter(&mut self, tag: gimli::DwTag, at: UnitOffset) {
        if tag == dw::DW_TAG_subprogram && self.function_depth.is_none() {
            self.function_depth = Some(self.depth);
        }
        if tag == dw::DW_TAG_namespace && self.open.len() < MAX_DEPTH {
            self.open.push((self.depth, self.index.namespaces.len()));
            let parent = self.open.iter().rev().nth(1).map(|&(_, index)| index);
            self.index.namespaces.push(Namespace {
                start: self.unit.global(at),
                end: 0,
                parent,
            });
        }
        self.depth += 1;
    }

    /// The children of an entry end at `at`.
    fn close(&mut self, at: UnitOffset) {
        self.depth = self.depth.saturating_sub(1);
        if self.function_depth == Some(self.depth) {
            self.function_depth = None;
        }
        if let Some((_, index)) = self.open.pop_if(|(depth, _)| *depth == self.depth) {
            self.index.namespaces[index].end = self.unit.global(at);
        }
    }

    fn function(
        &mut self,
        entries: &mut EntriesRaw<'_, Bytes<'a>>,
        abbreviation: &Abbreviation,
        at: UnitOffset,
    ) -> gimli::Result<()> {
        let (mut low, mut entry, mut ranges) = (None, None, None);
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            match attribute.name() {
                dw::DW_AT_low_pc => low = self.address(attribute.value()),
                dw::DW_AT_entry_pc => entry = self.address(attribute.value()),
                dw::DW_AT_ranges => ranges = Some(attribute.value()),
                dw::DW_AT_inline if is_inlined(attribute.value()) => {
                    self.index.inlined.push(self.unit.global(at));
                }
                _ => {}
            }
        }
        let first = || ranges.and_then(|ranges| self.first_range(ranges));
        let addr = entry.or(low).or_else(first);
        // The linker leaves 0 where it took a function away.
        if let Some(addr) = addr.filter(|&addr| addr != 0) {
            self.index.functions.push((addr, self.unit.global(at)));
        }
        Ok(())
    }

    fn address(&self, value: AttributeValue<Bytes<'a>>) -> Option<u64> {
        self.dwarf.attr_address(&self.unit.unit, value).ok()?
    }

    /// A function in several parts begins with the first of them.
    fn first_range(&self, value: AttributeValue<Bytes<'a>>) -> Option<u64> {
        let mut ranges = self.dwarf.attr_ranges(&self.unit.unit, value).ok()??;
        for _ in 0..MAX_RANGES {
            let range = ranges.next().ok()??;
            if range.begin < range.end {
                return Some(range.begin);
            }
        }
        None
    }
}

fn sibling(
    entries: &mut EntriesRaw<'_, gimli::EndianSlice<'_, LittleEndian>>,
    abbreviation: &Abbreviation,
) -> gimli::Result<Option<UnitOffset>> {
    let mut sibling = None;
    for spec in abbreviation.attributes() {
        if spec.name() != dw::DW_AT_sibling {
            entries.skip_attributes(std::slice::from_ref(spec))?;
        } else if let AttributeValue::UnitRef(offset) = entries.read_attribute(*spec)?.value() {
            sibling = Some(offset);
        }
    }
    Ok(sibling)
}

fn is_inlined(value: AttributeValue<Bytes<'_>>) -> bool {
    matches!(
        value,
        AttributeValue::Inline(dw::DW_INL_inlined | dw::DW_INL_declared_inlined)
    )
}
