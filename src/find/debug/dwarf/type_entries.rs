// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Entries of types: what is below their typedefs and qualifiers, and their sizes.

use std::ops::ControlFlow;

use gimli::DwTag;
use gimli::constants as dw;

use super::entries::{DebugEntry, EntryOffset};
use super::files::DebugFiles;

/// Types inside each other, such as a pointer to a `const typedef`.
pub const MAX_DEPTH: usize = 24;

impl DebugFiles {
    /// The type without typedefs and qualifiers.
    pub fn underlying(&self, at: EntryOffset) -> Option<DebugEntry> {
        self.strip(at, |tag| is_qualifier(tag) || tag == dw::DW_TAG_typedef)
    }

    /// The type without qualifiers at its top level.
    pub fn unqualified(&self, at: EntryOffset) -> Option<DebugEntry> {
        self.strip(at, is_qualifier)
    }

    /// The type in its type unit, of which other units have a part only.
    pub fn whole(&self, entry: DebugEntry) -> DebugEntry {
        let whole = self.reference(&entry, dw::DW_AT_signature);
        whole.and_then(|whole| self.entry(whole)).unwrap_or(entry)
    }

    fn strip(&self, at: EntryOffset, is_stripped: impl Fn(DwTag) -> bool) -> Option<DebugEntry> {
        let mut entry = self.entry(at)?;
        for _ in 0..MAX_DEPTH {
            if !is_stripped(entry.tag()) {
                return Some(self.whole(entry));
            }
            entry = self.entry(self.reference(&entry, dw::DW_AT_type)?)?;
        }
        None
    }

    /// In bytes; 0 if it is unknown.
    pub fn size(&self, core: &DebugEntry) -> u64 {
        if let Some(size) = core.number(dw::DW_AT_byte_size) {
            return size;
        }
        match core.tag() {
            // A pointer to a member function has an offset for `this`, too.
            dw::DW_TAG_ptr_to_member_type => {
                let target = self.target(core);
                let is_function = target.is_some_and(|target| target.tag() == dw::DW_TAG_subroutine_type);
                u64::from(core.unit.encoding().address_size) * if is_function { 2 } else { 1 }
            }
            // `std::nullptr_t` is the only C++ type that compilers leave unspecified.
            tag if is_pointer(tag) || tag == dw::DW_TAG_unspecified_type => {
                u64::from(core.unit.encoding().address_size)
            }
            dw::DW_TAG_array_type => {
                // An array of arrays has the lengths of both.
                let element = self.target(core);
                let element = element.filter(|element| element.tag() != dw::DW_TAG_array_type);
                let bytes = element.map_or(0, |element| self.size(&element));
                self.array_length(core).unwrap_or(0).saturating_mul(bytes)
            }
            _ => 0,
        }
    }

    /// The type that an entry refers to, without typedefs and qualifiers.
    pub fn target(&self, entry: &DebugEntry) -> Option<DebugEntry> {
        self.underlying(self.reference(entry, dw::DW_AT_type)?)
    }

    /// The number of elements, of all dimensions together.
    pub fn array_length(&self, array: &DebugEntry) -> Option<u64> {
        let lengths = self.array_dimensions(array);
        let all = |length: u64, next: &u64| length.checked_mul(*next);
        (!lengths.is_empty()).then(|| lengths.iter().try_fold(1, all))?
    }

    /// The number of elements of each dimension; 0 if it is unknown.
    pub fn array_dimensions(&self, array: &DebugEntry) -> Vec<u64> {
        let mut lengths = Vec::new();
        self.children(array, |child| {
            if child.tag() == dw::DW_TAG_subrange_type {
                let bound = child
                    .number(dw::DW_AT_upper_bound)
                    .and_then(|last| last.checked_add(1));
                let count = child.number(dw::DW_AT_count).or(bound).unwrap_or(0);
                lengths.push(count);
            }
            match lengths.len() {
                MAX_DEPTH.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        lengths
    }
}

fn is_qualifier(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_const_type | dw::DW_TAG_volatile_type | dw::DW_TAG_restrict_type | dw::DW_TAG_atomic_type
    )
}

/// Also classes and unions.
pub fn is_structure(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type
    )
}

/// Also references.
pub fn is_pointer(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type
    )
}

/// The first bit of a bit-field, from the start of the structure, and the number of its bits. `None` for any other
/// member.
pub fn bit_position(member: &DebugEntry, type_bytes: u64) -> Option<(u64, u64)> {
    let width = member.number(dw::DW_AT_bit_size)?;
    let start = member_offset(member)?.checked_mul(8)?;
    // Up to DWARF 3, and by GCC in DWARF 4, the offset counts from the highest bit of a number.
    let Some(from_top) = member.number(dw::DW_AT_bit_offset) else {
        return Some((member.number(dw::DW_AT_data_bit_offset).unwrap_or(start), width));
    };
    let number = member
        .number(dw::DW_AT_byte_size)
        .unwrap_or(type_bytes)
        .checked_mul(8)?;
    let above = from_top.checked_add(width)?;
    Some((start.checked_add(number)?.checked_sub(above)?, width))
}

/// Bytes from the start of the structure to a member. `None` where it has to be computed, as for a virtual base class.
pub fn member_offset(member: &DebugEntry) -> Option<u64> {
    match member.value(dw::DW_AT_data_member_location) {
        None => Some(member.number(dw::DW_AT_data_bit_offset).unwrap_or(0) / 8),
        Some(value) => value.udata_value(),
    }
}
