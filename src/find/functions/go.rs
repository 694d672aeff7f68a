// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names of Go functions by the table that the Go runtime uses for stack traces (pclntab). It survives
//! stripping.
//!
//! Its header has the offsets of the names and of the list of functions. The list has pairs of an address and
//! the offset of a record, which starts with the address and the offset of the name. Since Go 1.18, addresses
//! are relative to the start of the Go code; before, they were absolute.
//!
//! Where the Go code starts is in the runtime's description of the module. Since Go 1.26 it is nowhere else: `.text`
//! starts earlier if a C linker made the program. In a table that does not agree with the module, every name could be
//! at the wrong address, so it is not used.

use std::ops::Range;

use crate::find::elf::{ElfBlock, ElfFile};

/// Sections with the table; position-independent programs have the second one.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Sections with the description of the module: the first since Go 1.26.
const MODULE_SECTIONS: [&str; 4] = [".go.module", ".noptrdata", ".data", ".data.rel.ro"];
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
    /// `None` if the file has no table, its version is unknown, or it does not agree with the module.
    pub fn read(elf: &ElfFile) -> Option<GoTable> {
        let (addr, bytes) = SECTIONS.iter().find_map(|name| elf.section_named(name))?;
        let layout = GoTableLayout::parse(bytes.bytes())?;
        let module = GoModule::find(elf, addr, addr.checked_add(layout.names_at as u64)?)?;
        let layout = layout.in_module(bytes.bytes(), &module)?;
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

/// What the Go runtime knows of its code (`moduledata`).
#[derive(Debug)]
pub struct GoModule {
    /// The virtual address that those in the table are relative to.
    pub text: u64,
    /// The virtual addresses of the functions in the table.
    pub functions: Range<u64>,
}

impl GoModule {
    /// Where the fields are, in bytes from the first one, in all versions since Go 1.16. The first is a pointer to the
    /// table, and the second one to its names.
    const NAMES: u64 = 8;
    const FIRST: u64 = 160;
    const END: u64 = 168;
    const TEXT: u64 = 176;

    /// The module whose table and names are at these virtual addresses.
    fn find(elf: &ElfFile, table: u64, names: u64) -> Option<GoModule> {
        let relocated = elf.pointers_to(table).into_iter();
        let mut places = relocated.chain(
            MODULE_SECTIONS
                .iter()
                .flat_map(|name| words_with(elf, name, table)),
        );
        let field = |module: u64, at: u64| elf.pointer_at(module.checked_add(at)?);
        let module = places.find(|&module| field(module, Self::NAMES) == Some(names))?;
        Some(GoModule {
            text: field(module, Self::TEXT)?,
            functions: field(module, Self::FIRST)?..field(module, Self::END)?,
        })
    }
}

/// The virtual addresses of the aligned words in a section that have this value.
fn words_with(elf: &ElfFile, section: &str, value: u64) -> Vec<u64> {
    let Some((addr, content)) = elf.section_named(section) else {
        return Vec::new();
    };
    let words = content.bytes().chunks_exact(8).zip((addr..).step_by(8));
    let found = words.filter(|(word, _)| **word == value.to_le_bytes());
    found.map(|(_, addr)| addr).collect()
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

    /// The layout with the start of the code. `None` if the module has other functions than the table, or another
    /// start.
    pub fn in_module(self, table: &[u8], module: &GoModule) -> Option<GoTableLayout> {
        let text = match self.width {
            4 => module.text,
            _ => 0,
        };
        let is_same = self.text == 0 || self.text == text;
        let layout = GoTableLayout { text, ..self };
        let end = self
            .list_at
            .checked_add(self.count.checked_mul(2 * self.width)?)?;
        let start = |entry| text.checked_add(number(table, entry, self.width)?);
        let functions = start(self.list_at)?..start(end)?;
        (is_same && functions == module.functions).then_some(layout)
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
