// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One unit of the debug information: its header, its abbreviations and the attributes of its root entry.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use gimli::constants as dw;
use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfo, DebugTypes,
    DebuggingInformationEntry, EndianRcSlice, EndianSlice, EntriesRaw, LittleEndian, UnitHeader, UnitOffset,
};

use super::index::UnitIndex;

/// Bytes of debug information, shared with the unit that they are from.
pub type UnitBytes = EndianRcSlice<LittleEndian>;
pub type EntryValue = AttributeValue<UnitBytes>;

/// A compilation unit, a partial unit or a type unit.
pub struct Unit {
    header: UnitHeader<UnitBytes>,
    abbreviations: Rc<Abbreviations>,
    /// Offset in the debug information, in bytes.
    pub start: usize,
    pub end: usize,
    pub root: UnitRoot,
    index: OnceCell<UnitIndex>,
}

/// What the first entry of a unit says about all of them.
#[derive(Default)]
pub struct UnitRoot {
    pub language: Option<gimli::DwLang>,
    pub low_pc: Option<EntryValue>,
    pub high_pc: Option<EntryValue>,
    pub ranges: Option<EntryValue>,
    pub producer: Option<EntryValue>,
    pub split: SplitRoot,
    pub addr_base: usize,
    pub str_offsets_base: usize,
    pub loclists_base: Option<usize>,
    pub rnglists_base: Option<usize>,
    is_partial: bool,
}

/// What connects a unit with the rest of it in another file.
#[derive(Default)]
pub struct SplitRoot {
    /// The name of the file.
    pub name: Option<EntryValue>,
    /// Where the compiler ran.
    pub directory: Option<EntryValue>,
    /// The same in both.
    pub id: Option<u64>,
}

impl Unit {
    /// A unit from its bytes alone, which begin at offset `start`, in `.debug_types` if `is_in_types`. `None` if its
    /// header or its first entry is damaged.
    pub fn parse(
        start: usize,
        bytes: Vec<u8>,
        is_in_types: bool,
        abbreviations: impl FnOnce(usize) -> Option<Rc<Abbreviations>>,
    ) -> Option<Unit> {
        let end = start.checked_add(bytes.len())?;
        let bytes = UnitBytes::new(bytes.into(), LittleEndian);
        let header = match is_in_types {
            true => DebugTypes::from(bytes).units().next(),
            false => DebugInfo::from(bytes).units().next(),
        };
        let header = header.ok()??;
        let abbreviations = abbreviations(header.debug_abbrev_offset().0)?;
        let root = header.entry(&abbreviations, header.root_offset()).ok()?;
        let mut root = UnitRoot::new(&root);
        if let gimli::UnitType::SplitCompilation(id) | gimli::UnitType::Skeleton(id) = header.type_() {
            root.split.id = Some(id.0);
        }
        if matches!(
            header.type_(),
            gimli::UnitType::SplitCompilation(_) | gimli::UnitType::SplitType { .. }
        ) {
            // Behind the headers of their sections, as units in such files do not say.
            let header = |fields: usize| usize::from(header.format().initial_length_size()) + fields;
            root.str_offsets_base = header(4);
            root.loclists_base = Some(header(8));
            root.rnglists_base = Some(header(8));
        }
        Some(Unit {
            root,
            header,
            abbreviations,
            start,
            end,
            index: OnceCell::new(),
        })
    }

    pub fn encoding(&self) -> gimli::Encoding {
        self.header.encoding()
    }

    /// Whether the unit can have functions with code: partial units and type units have declarations only.
    pub fn may_have_code(&self) -> bool {
        use gimli::UnitType::{SplitType, Type};
        !self.root.is_partial && !matches!(self.header.type_(), Type { .. } | SplitType { .. })
    }

    /// The functions and namespaces of the unit, found by `walk` on the first call.
    pub fn index(&self, walk: impl FnOnce() -> UnitIndex) -> &UnitIndex {
        self.index.get_or_init(walk)
    }

    /// The offset in the debug information of an entry of this unit.
    pub fn global(&self, at: UnitOffset) -> usize {
        self.start + at.0
    }

    fn local(&self, at: usize) -> Option<UnitOffset> {
        at.checked_sub(self.start).map(UnitOffset)
    }

    pub fn entry(&self, at: usize) -> Option<DebuggingInformationEntry<UnitBytes>> {
        self.header.entry(&self.abbreviations, self.local(at)?).ok()
    }

    /// Entries from `at` on, or all of them.
    pub fn entries_raw(&self, at: Option<UnitOffset>) -> gimli::Result<EntriesRaw<'_, UnitBytes>> {
        self.header.entries_raw(&self.abbreviations, at)
    }
}

impl UnitRoot {
    fn new(root: &DebuggingInformationEntry<UnitBytes>) -> UnitRoot {
        let mut found = UnitRoot {
            is_partial: root.tag() == dw::DW_TAG_partial_unit,
            ..UnitRoot::default()
        };
        for attribute in root.attrs() {
            match (attribute.name(), attribute.value()) {
                (_, AttributeValue::DebugStrOffsetsBase(base)) => found.str_offsets_base = base.0,
                (_, AttributeValue::DebugAddrBase(base)) => found.addr_base = base.0,
                (_, AttributeValue::DebugLocListsBase(base)) => found.loclists_base = Some(base.0),
                (_, AttributeValue::DebugRngListsBase(base)) => found.rnglists_base = Some(base.0),
                (_, AttributeValue::DwoId(id)) => found.split.id = Some(id.0),
                (_, AttributeValue::Language(language)) => found.language = Some(language),
                (dw::DW_AT_low_pc, value) => found.low_pc = Some(value),
                (dw::DW_AT_high_pc, value) => found.high_pc = Some(value),
                (dw::DW_AT_ranges, value) => found.ranges = Some(value),
                (dw::DW_AT_producer, value) => found.producer = Some(value),
                (dw::DW_AT_dwo_name | dw::DW_AT_GNU_dwo_name, value) => found.split.name = Some(value),
                (dw::DW_AT_comp_dir, value) => found.split.directory = Some(value),
                _ => {}
            }
        }
        found
    }
}

/// The start of a unit's header, as much of it as leads to other units.
pub struct UnitHead {
    pub range: Range<usize>,
    /// For a type unit: its signature, and the offset of the type in the debug information.
    pub signature: Option<(u64, usize)>,
}

impl UnitHead {
    /// Bytes of the longest header.
    pub const SIZE: usize = 40;

    /// The header at offset `start`, of which `bytes` has the first [`UnitHead::SIZE`] bytes, or all that there are.
    /// `None` if it is damaged or the unit is longer than the section.
    pub fn parse(start: usize, bytes: &[u8], section_size: usize) -> Option<UnitHead> {
        let number = |at: usize, size: usize| {
            let mut number = [0; 8];
            number
                .get_mut(..size)?
                .copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
            Some(u64::from_le_bytes(number))
        };
        let (length, length_size, word) = match number(0, 4)? {
            0xffff_ffff => (number(4, 8)?, 12, 8),
            // Reserved.
            0xffff_fff0.. => return None,
            length => (length, 4, 4),
        };
        let end = start.checked_add(length_size)?;
        let end = end.checked_add(usize::try_from(length).ok()?)?;
        if length == 0 || end > section_size {
            return None;
        }
        let version = number(length_size, 2);
        let kind = number(length_size + 2, 1);
        // Version, kind, address size, offset of the abbreviations.
        let at = length_size + 4 + word;
        let is_type_kind = |kind| {
            [dw::DW_UT_type, dw::DW_UT_split_type]
                .iter()
                .any(|ty| kind == u64::from(ty.0))
        };
        let is_type = version == Some(5) && kind.is_some_and(is_type_kind);
        let type_at = number(at + 8, word).and_then(|at| start.checked_add(usize::try_from(at).ok()?));
        Some(UnitHead {
            range: start..end,
            signature: number(at, 8).zip(type_at).filter(|_| is_type),
        })
    }
}

impl UnitHead {
    /// With the signature that all units in `.debug_types` have, after the fields of other units of DWARF 4.
    pub fn in_types(self, bytes: &[u8]) -> Option<UnitHead> {
        let is_long = bytes.get(..4)? == [0xff; 4];
        let (at, word) = if is_long {
            (12 + 2 + 8 + 1, 8)
        } else {
            (4 + 2 + 4 + 1, 4)
        };
        let signature = bytes.get(at..at + 8)?.try_into().ok()?;
        let mut type_at = [0; 8];
        type_at[..word].copy_from_slice(bytes.get(at + 8..at + 8 + word)?);
        let type_at = usize::try_from(u64::from_le_bytes(type_at)).ok()?;
        Some(UnitHead {
            signature: Some((
                u64::from_le_bytes(signature),
                self.range.start.checked_add(type_at)?,
            )),
            ..self
        })
    }
}

/// Bytes of the table of abbreviations at the start of `bytes`. `None` if its end is not among them.
pub fn abbreviations_size(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let number = |rest: &mut &[u8]| -> Option<u64> {
        let size = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let (number, after) = rest.split_at(size);
        *rest = after;
        // Large numbers may lose bits: only 0 and DW_FORM_implicit_const matter.
        let low = number.iter().take(9).rev();
        Some(low.fold(0, |all, byte| all << 7 | u64::from(byte & 0x7f)))
    };
    // Code, tag, whether there are children; then name and form of each attribute, up to two zeros.
    while number(&mut rest)? != 0 {
        number(&mut rest)?;
        rest = rest.get(1..)?;
        loop {
            let (name, form) = (number(&mut rest)?, number(&mut rest)?);
            if form == u64::from(dw::DW_FORM_implicit_const.0) {
                number(&mut rest)?;
            }
            if (name, form) == (0, 0) {
                break;
            }
        }
    }
    Some(bytes.len() - rest.len())
}

/// A table of abbreviations that `bytes` consists of.
pub fn parse_abbreviations(bytes: &[u8]) -> Option<Abbreviations> {
    let section = DebugAbbrev::from(EndianSlice::new(bytes, LittleEndian));
    section.abbreviations(DebugAbbrevOffset(0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_has_the_range_and_the_signature() {
        let mut unit = vec![36, 0, 0, 0, 5, 0, dw::DW_UT_type.0, 8, 0, 0, 0, 0];
        unit.extend_from_slice(&0x1234_u64.to_le_bytes());
        unit.extend_from_slice(&30_u32.to_le_bytes());
        let head = UnitHead::parse(100, &unit, 140).unwrap();
        assert_eq!((head.range, head.signature), (100..140, Some((0x1234, 130))));
        assert!(UnitHead::parse(100, &unit, 139).is_none());
        unit[6] = dw::DW_UT_compile.0;
        assert_eq!(UnitHead::parse(100, &unit, 140).unwrap().signature, None);
        let long = [0xff, 0xff, 0xff, 0xff, 20, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        assert_eq!(UnitHead::parse(0, &long, 99).unwrap().range, 0..32);
        for damaged in [&[][..], &[0; 40], &[0xf0, 0xff, 0xff, 0xff], &[0xff; 12]] {
            assert!(UnitHead::parse(0, damaged, usize::MAX).is_none(), "{damaged:x?}");
        }
    }

    #[test]
    fn abbreviations_end_at_their_terminator() {
        // 1: compile unit with children, name as string; 2: constant -1, implicit; end
        let implicit = dw::DW_FORM_implicit_const.0 as u8;
        let table = [1, 0x11, 1, 3, 8, 0, 0, 2, 0x34, 0, 0x1c, implicit, 0x7f, 0, 0, 0];
        assert_eq!(
            abbreviations_size(&[&table[..], &[1, 2, 3]].concat()),
            Some(table.len())
        );
        assert!(parse_abbreviations(&table).is_some());
        for size in 0..table.len() {
            assert_eq!(abbreviations_size(&table[..size]), None, "{size}");
        }
        assert_eq!(abbreviations_size(&[0x80; 64]), None);
    }
}
