// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One walk over the entries of a unit, which finds its functions and its namespaces.

use gimli::constants as dw;
use gimli::{Abbreviation, AttributeValue, EntriesRaw, UnitOffset};

use super::index::{NamespaceSpan, UnitIndex};
use super::sections::DebugSections;
use super::unit::{EntryValue, Unit, UnitBytes};

/// Nested namespaces.
const MAX_DEPTH: usize = 1024;

/// The functions and namespaces of a unit, and whether these are all. Damage ends the walk; what comes before it is
/// kept.
pub fn index_unit(sections: &DebugSections, unit: &Unit) -> (UnitIndex, bool) {
    let mut walk = UnitWalk {
        index: UnitIndex::default(),
        sections,
        unit,
        depth: 0,
        function_depth: None,
        open: Vec::new(),
    };
    let is_whole = walk.run().is_ok();
    let mut index = walk.index;
    for namespace in index.namespaces.iter_mut().filter(|namespace| namespace.end == 0) {
        namespace.end = unit.end;
    }
    index.functions.sort_unstable();
    (index, is_whole)
}

struct UnitWalk<'u> {
    index: UnitIndex,
    sections: &'u DebugSections,
    unit: &'u Unit,
    depth: usize,
    /// The depth of the outermost function around this entry.
    function_depth: Option<usize>,
    /// The namespaces around this entry: depth and index.
    open: Vec<(usize, usize)>,
}

impl UnitWalk<'_> {
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
            self.index.has_types |= is_type(abbreviation.tag());
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

    /// Whether an entry with this tag has no functions with an address below it. GCC puts the functions of a
    /// local class, including lambdas, inside the class.
    fn is_skipped(&self, tag: gimli::DwTag) -> bool {
        match tag {
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                self.function_depth.is_none()
            }
            dw::DW_TAG_compile_unit
            | dw::DW_TAG_partial_unit
            | dw::DW_TAG_type_unit
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
            self.index.namespaces.push(NamespaceSpan {
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
        entries: &mut EntriesRaw<'_, UnitBytes>,
        abbreviation: &Abbreviation,
        at: UnitOffset,
    ) -> gimli::Result<()> {
        let (mut low, mut entry, mut ranges) = (None, None, None);
        for spec in abbreviation.attributes() {
            let attribute = entries.read_attribute(*spec)?;
            match attribute.name() {
                dw::DW_AT_low_pc => low = self.sections.address(self.unit, &attribute.value()),
                dw::DW_AT_entry_pc => entry = self.sections.address(self.unit, &attribute.value()),
                dw::DW_AT_ranges => ranges = Some(attribute.value()),
                dw::DW_AT_inline if is_inlined(attribute.value()) => {
                    self.index.inlined.push(self.unit.global(at));
                }
                _ => {}
            }
        }
        let first = || ranges.and_then(|ranges| self.first_range(&ranges));
        let addr = entry.or(low).or_else(first);
        // Linkers write 0 for a function that they discarded.
        if let Some(addr) = addr.filter(|&addr| addr != 0) {
            self.index.functions.push((addr, self.unit.global(at)));
        }
        Ok(())
    }

    /// A function in several parts starts with the first of them.
    fn first_range(&self, value: &EntryValue) -> Option<u64> {
        let ranges = self.sections.address_ranges(self.unit, value, 1)?;
        ranges.first().map(|range| range.start)
    }
}

fn sibling(
    entries: &mut EntriesRaw<'_, UnitBytes>,
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

/// Also a parameter, and a unit that may have types.
fn is_type(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_formal_parameter
            | dw::DW_TAG_unspecified_parameters
            | dw::DW_TAG_base_type
            | dw::DW_TAG_unspecified_type
            | dw::DW_TAG_typedef
            | dw::DW_TAG_const_type
            | dw::DW_TAG_pointer_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_array_type
            | dw::DW_TAG_structure_type
            | dw::DW_TAG_class_type
            | dw::DW_TAG_union_type
            | dw::DW_TAG_enumeration_type
            | dw::DW_TAG_subroutine_type
            | dw::DW_TAG_imported_unit
    )
}

fn is_inlined(value: EntryValue) -> bool {
    matches!(
        value,
        AttributeValue::Inline(dw::DW_INL_inlined | dw::DW_INL_declared_inlined)
    )
}
