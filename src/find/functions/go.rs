// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names of Go functions by the table that the Go runtime uses for stack traces (pclntab). It survives
//! stripping.
//!
//! Its header has the offsets of the names and of the list of functions. The list has pairs of an address and
//! the offset of a record, which starts with the address and the offset of the name. Since Go 1.18, addresses
//! are relative to the start of the code; before, they were absolute.

use crate::find::elf::{ElfBlock, ElfFile};

/// Sections with the table; position-independent programs have the second one.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Magic numbers of the table, by the first version of Go that used them.
const GO_1_16: u64 = 0xffff_fffa;
const GO_1_18: u64 = 0xffff_fff0;
const GO_1_20: u64 = 0xffff_fff1;

/// The function table of a Go program.
pub struct GoTable {
    bytes: ElfBlock,
    layout: GoTableLayout,
}

/// A function of the table.
pub struct GoFunction<'t> {
    pub name: &'t [u8],
    /// Virtual address.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
}

/// The offsets in the table.
pub struct GoTableLayout {
    count: usize,
    names_at: usize,
    list_at: usize,
    /// Bytes per number in the list.
    width: usize,
    /// The virtual address that addresses are relative to.
    text: u64,
}

impl GoTable {
    /// `None` if the file has no table, or its version is unknown.
    pub fn read(elf: &ElfFile) -> Option<GoTable> {
        let (_, bytes) = SECTIONS.iter().find_map(|name| elf.section_named(name))?;
        let mut layout = GoTableLayout::parse(bytes.bytes())?;
        // The dynamic loader fills it in.
        if layout.width == 4 && layout.text == 0 {
            layout.text = elf.sections_starting(".text").first()?.start;
        }
        Some(GoTable { bytes, layout })
    }

    /// The functions, up to the first damaged entry.
    pub fn functions(&self) -> impl Iterator<Item = GoFunction<'_>> {
        self.layout.functions(self.bytes.bytes())
    }

    /// Length of the table in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.bytes().len() as u64
    }
}

impl GoTableLayout {
    pub fn parse(table: &[u8]) -> Option<GoTableLayout> {
        let word = |index: usize| number(table, 8 + index * 8, 8);
        let place = |index| usize::try_from(word(index)?).ok();
        let (width, text, first) = match number(table, 0, 4)? {
            GO_1_16 => (8, 0, 2),
            GO_1_18 | GO_1_20 => (4, word(2)?, 3),
            _ => return None,
        };
        Some(GoTableLayout {
            count: place(0)?,
            names_at: place(first)?,
            list_at: place(first + 4)?,
            width,
            text,
        })
    }

    pub fn functions<'t>(&self, table: &'t [u8]) -> impl Iterator<Item = GoFunction<'t>> {
        (0..self.count).map_while(|index| self.function(table, index))
    }

    fn function<'t>(&self, table: &'t [u8], index: usize) -> Option<GoFunction<'t>> {
        let entry = self.list_at.checked_add(index.checked_mul(2 * self.width)?)?;
        let field = |index: usize| number(table, entry.checked_add(index * self.width)?, self.width);
        let (start, record, end) = (field(0)?, usize::try_from(field(1)?).ok()?, field(2)?);
        let name_at = self.list_at.checked_add(record)?.checked_add(self.width)?;
        let name_at = usize::try_from(number(table, name_at, 4)?)
            .ok()?
            .checked_add(self.names_at)?;
        let rest = table.get(name_at..)?;
        Some(GoFunction {
            name: &rest[..rest.iter().position(|&byte| byte == 0)?],
            addr: self.text.checked_add(start)?,
            size: end.saturating_sub(start),
        })
    }
}

/// The little-endian number of `width` bytes at `at`.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(
        field
            .iter()
            .rfold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}
