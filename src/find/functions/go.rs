//! The names of Go functions by the table that the Go runtime prints its stacks from: it stays when symbols are stripped.
//!
//! Its header says where the names are, and where the list of functions: pairs of an address and of the place of a record,
//! which begins with the address and the place of the name. Before Go 1.18 addresses were absolute, since then they
//! count from the start of the code.

use crate::find::elf::{Block, ElfFile};

/// Where the table is; in position-independent programs it is the second one.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// What the table begins with, by the first version of Go that wrote it.
const GO_1_16: u64 = 0xffff_fffa;
const GO_1_18: u64 = 0xffff_fff0;
const GO_1_20: u64 = 0xffff_fff1;

/// The table of a Go program.
pub struct GoTable {
    bytes: Block,
    layout: GoTableLayout,
}

/// A function in the table.
pub struct GoFunction<'t> {
    pub name: &'t [u8],
    /// Virtual address.
    pub addr: u64,
    /// In bytes.
    pub size: u64,
}

/// Where things are in the table.
pub struct GoTableLayout {
    count: usize,
    names_at: usize,
    list_at: usize,
    /// Bytes of a number in the list.
    width: usize,
    /// The virtual address that addresses count from.
    text: u64,
}

impl GoTable {
    /// None if the file has no such table, or one of an unknown kind.
    pub fn read(elf: &ElfFile) -> Option<GoTable> {
        let (_, bytes) = SECTIONS.iter().find_map(|name| elf.section_named(name))?;
        let mut layout = GoTableLayout::parse(bytes.bytes())?;
        // It is left to the dynamic loader to fill in.
        if layout.width == 4 && layout.text == 0 {
            layout.text = elf.sections_starting(".text").first()?.start;
        }
        Some(GoTable { bytes, layout })
    }

    /// Its functions, up to the first that is damaged.
    pub fn functions(&self) -> impl Iterator<Item = GoFunction<'_>> {
        self.layout.functions(self.bytes.bytes())
    }

    /// In bytes.
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

/// The number of `width` bytes at `at`.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(
        field
            .iter()
            .rfold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}
