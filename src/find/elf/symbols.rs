// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Symbol tables.

use std::rc::Rc;

use object::elf::{self, Sym64};
use object::{LittleEndian, U16};

use super::source::{ElfBlock, LE};

/// An entry as it is in the file.
pub type RawSymbol = Sym64<LittleEndian>;

/// A function in a symbol table of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSymbol {
    /// The symbol without its version.
    pub name: Rc<str>,
    /// File offset of the first instruction.
    pub offset: u64,
    /// Virtual address of the first instruction, before relocation.
    pub addr: u64,
    /// Length in bytes; 0 if unknown.
    pub size: u64,
    /// The code at `offset` is a resolver that chooses the implementation: callers do not call it.
    pub ifunc: bool,
}

/// Precedence among symbols of one name; greater wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SymbolRank {
    pub exported: bool,
    pub default: bool,
}

/// A function among others of its name.
pub type RankedFunction = (SymbolRank, FunctionSymbol);

/// A symbol table with its strings.
pub struct SymbolTable {
    table: ElfBlock,
    strings: ElfBlock,
    /// Bytes of the strings up to the last NUL. No name ends after it, so the rest is not searched again and
    /// again.
    terminated: usize,
    /// One number per symbol; dynamic symbols only.
    versions: Option<ElfBlock>,
    /// Most bytes that the names have together, as far as the file has real content.
    pub most_text: u64,
}

/// A defined function symbol.
pub struct SymbolEntry {
    pub addr: u64,
    pub size: u64,
    pub ifunc: bool,
    /// Start of its name in the strings.
    pub name: usize,
    pub local: bool,
    /// An old version, kept for programs linked against it.
    pub hidden: bool,
}

impl SymbolEntry {
    /// `None` unless the file defines the symbol and it is a function.
    pub fn new(raw: &RawSymbol, hidden: bool) -> Option<SymbolEntry> {
        let is_function = matches!(raw.st_type(), elf::STT_GNU_IFUNC | elf::STT_FUNC);
        SymbolEntry::defined(raw, hidden).filter(|_| is_function)
    }

    /// `None` unless the file defines the symbol.
    fn defined(raw: &RawSymbol, hidden: bool) -> Option<SymbolEntry> {
        let addr = raw.st_value.get(LE);
        let is_defined = addr != 0 && raw.st_shndx.get(LE) != elf::SHN_UNDEF;
        is_defined.then(|| SymbolEntry {
            addr,
            size: raw.st_size.get(LE),
            ifunc: raw.st_type() == elf::STT_GNU_IFUNC,
            name: raw.st_name.get(LE) as usize,
            local: raw.st_bind() == elf::STB_LOCAL,
            hidden,
        })
    }

    /// The function by this name, whose code is at a file offset.
    pub fn function(&self, name: &str, offset: u64) -> FunctionSymbol {
        FunctionSymbol {
            name: name.into(),
            offset,
            addr: self.addr,
            size: self.size,
            ifunc: self.ifunc,
        }
    }
}

impl SymbolTable {
    pub fn new(
        table: ElfBlock,
        strings: ElfBlock,
        versions: Option<ElfBlock>,
        most_text: u64,
    ) -> SymbolTable {
        let last = strings.bytes().iter().rposition(|&byte| byte == 0);
        SymbolTable {
            terminated: last.map_or(0, |last| last + 1),
            table,
            strings,
            versions,
            most_text,
        }
    }

    /// The first byte of a symbol's name.
    pub fn first_byte(&self, symbol: &SymbolEntry) -> Option<u8> {
        self.strings.bytes().get(symbol.name).copied()
    }

    /// The defined functions, in the order of the table.
    pub fn functions(&self) -> impl Iterator<Item = SymbolEntry> {
        self.entries()
            .filter_map(|(raw, hidden)| SymbolEntry::new(raw, hidden))
    }

    /// The defined symbols without a type, in sections of the file: labels of assembly, functions or not.
    pub fn untyped(&self) -> impl Iterator<Item = SymbolEntry> {
        let is_untyped =
            |raw: &RawSymbol| raw.st_type() == elf::STT_NOTYPE && raw.st_shndx.get(LE) < elf::SHN_LORESERVE;
        self.entries()
            .filter(move |(raw, _)| is_untyped(raw))
            .filter_map(|(raw, hidden)| SymbolEntry::defined(raw, hidden))
    }

    /// The defined variables, exported or not.
    pub fn variables(&self) -> impl Iterator<Item = SymbolEntry> {
        let is_variable = |raw: &RawSymbol| matches!(raw.st_type(), elf::STT_OBJECT | elf::STT_NOTYPE);
        self.entries()
            .filter(move |(raw, _)| is_variable(raw))
            .filter_map(|(raw, hidden)| SymbolEntry::defined(raw, hidden))
    }

    /// All symbols, with whether the version is an old one.
    fn entries(&self) -> impl Iterator<Item = (&RawSymbol, bool)> {
        let versions: &[U16<LittleEndian>] = self.versions.as_ref().map_or(&[], ElfBlock::table);
        let table = self.table.table::<RawSymbol>();
        table.iter().enumerate().map(move |(index, raw)| {
            let hidden = versions.get(index).is_some_and(|version| is_hidden(*version));
            (raw, hidden)
        })
    }

    /// The virtual addresses of all defined symbols, functions or not.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        let table = self.table.table::<RawSymbol>();
        let defined = table.iter().filter(|raw| raw.st_shndx.get(LE) != elf::SHN_UNDEF);
        defined.map(|raw| raw.st_value.get(LE))
    }

    /// The name without its version, and whether this is the default version.
    pub fn name(&self, symbol: &SymbolEntry) -> Option<(&[u8], bool)> {
        let rest = self.strings.bytes().get(symbol.name..self.terminated)?;
        let full = &rest[..rest.iter().position(|&byte| byte == 0)?];
        let (name, default) = match full.iter().position(|&byte| byte == b'@') {
            Some(at) if at > 0 => (&full[..at], full.get(at + 1) == Some(&b'@')),
            _ => (full, true),
        };
        (!name.is_empty()).then_some((name, default && !symbol.hidden))
    }

    /// The name, if it has no version and at most `most` bytes. Reads no more.
    pub fn short_name(&self, symbol: &SymbolEntry, most: usize) -> Option<&[u8]> {
        let rest = self.strings.bytes().get(symbol.name..)?;
        let rest = rest.get(..=most).unwrap_or(rest);
        let end = rest.iter().position(|&byte| byte == 0)?;
        rest.get(..end)
    }

    /// What follows `name` in the name of the symbol, from a dot on. `None` if it is something else, or longer than
    /// what compilers append: names of a hostile file can be long and share their text.
    pub fn suffix(&self, symbol: &SymbolEntry, name: &[u8]) -> Option<&str> {
        const MOST: usize = 256;
        let rest = self.strings.bytes().get(symbol.name..)?.strip_prefix(name)?;
        let rest = rest.strip_prefix(b".").and(rest.get(..MOST.min(rest.len())))?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// `None` if the symbol does not have this name, else whether this is the default version. Unlike
    /// [`SymbolTable::name`], reads only as many bytes as `name` has.
    pub fn is_named(&self, symbol: &SymbolEntry, name: &[u8]) -> Option<bool> {
        let rest = self.strings.bytes().get(symbol.name..)?.strip_prefix(name)?;
        match rest {
            [0, ..] | [b'@', b'@', ..] => Some(!symbol.hidden),
            [b'@', ..] => Some(false),
            _ => None,
        }
    }
}

/// Whether a version number marks an old version.
pub fn is_hidden(version: U16<LittleEndian>) -> bool {
    version.get(LE) & elf::VERSYM_HIDDEN != 0
}
