// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The functions of an ELF file by name, from all sources of symbols.
//!
//! In this order: dynamic symbols; `.symtab` or, if that was stripped, a debug file, MiniDebugInfo or Go's
//! function table; and for code that no symbol covers, the unwind tables. Functions from unwind tables are
//! named `fn_0x1234`, after their virtual address.

mod frames;
mod go;
mod mangling;
mod stripped;
#[cfg(test)]
mod tests;

pub use stripped::{debug_files, shared_file};

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};

use super::similar::similar;
use super::spec::NamePattern;
use crate::find::elf::{ElfFile, FunctionSymbol, SymbolTable};
use crate::find::stack::demangle::{ReadableName, demangle};
pub use frames::FrameExtent;
pub use frames::{described, moved_parts, sizes};

/// Prefix of the name of functions without a symbol, followed by their address.
const NAMELESS_PREFIX: &str = "fn_";

impl FunctionSymbol {
    /// The name as in the source code, for C++, Rust and the like.
    pub fn demangled(&self) -> Cow<'_, str> {
        demangle(&self.name)
    }
}

/// The functions of `elf` that match `pattern`, by address, each address once.
///
/// An exact name means the exported function; if there is none, for all local functions of that name; if
/// there is none, for the demangled name, which without parameters includes all overloads. A pattern matches
/// symbols and demangled names. Each function has the best of its matching names. `path` is where to look for
/// debug files.
///
/// # Errors
/// A symbol table of the file itself cannot be read.
pub fn select(elf: &ElfFile, path: &Path, pattern: &NamePattern) -> Result<Vec<FunctionSymbol>> {
    // Fast path: a GNU hash lookup reads no table.
    if let Some(name) = pattern.exact()
        && let Some(function) = elf.dynamic_function(name)?
    {
        return Ok(with_sizes(elf, vec![function]));
    }
    let tables = SymbolTables::read(elf, path)?;
    let names = tables.names()?;
    if let Some(name) = pattern.exact() {
        let found = functions(elf, named(&names, name));
        if !found.is_empty() {
            return Ok(with_sizes(elf, found));
        }
    }
    let filter = NameFilter::new(pattern);
    let is_match = |name: &&SymbolName| !is_part(name.text) && filter.matches(name.text);
    let mut found = functions(elf, names.iter().filter(is_match).copied().collect());
    let frames = frames::functions(elf);
    add_sizes(&mut found, &frames);
    let nameless = nameless(elf, &names, &frames);
    let wanted = nameless.filter(|function| pattern.matches(&function.name));
    found.extend(wanted);
    found.sort_unstable_by_key(|function| function.addr);
    Ok(found)
}

/// All functions of `elf`, by address, each address once and under its best name.
///
/// # Errors
/// As for [`select`].
#[cfg(test)]
pub fn all(elf: &ElfFile, path: &Path) -> Result<Vec<FunctionSymbol>> {
    select(elf, path, &NamePattern::any())
}

/// The function, or cold part of one, that contains the virtual address `addr`.
///
/// # Errors
/// As for [`select`].
pub fn containing(elf: &ElfFile, path: &Path, addr: u64) -> Result<Option<FunctionSymbol>> {
    let tables = SymbolTables::read(elf, path)?;
    let names = tables.names()?;
    let frames = frames::functions(elf);
    let mut functions = functions(
        elf,
        names.iter().filter(|name| name.addr <= addr).copied().collect(),
    );
    add_sizes(&mut functions, &frames);
    functions.extend(nameless(elf, &names, &frames).filter(|function| function.addr <= addr));
    let is_inside = |function: &FunctionSymbol| addr - function.addr < function.size.max(1);
    let inside = functions.into_iter().filter(is_inside);
    Ok(inside.max_by_key(|function| function.addr))
}

/// The cold parts that the compiler moved out of functions, by the symbol of the function. Empty for files
/// without `.symtab`.
///
/// # Errors
/// As for [`select`].
pub fn cold_parts(elf: &ElfFile, path: &Path) -> Result<HashMap<String, Vec<FunctionSymbol>>> {
    let tables = SymbolTables::read(elf, path)?;
    let names = tables
        .names()?
        .into_iter()
        .filter(|name| is_part(name.text))
        .collect();
    let mut parts: HashMap<String, Vec<FunctionSymbol>> = HashMap::new();
    for part in functions(elf, names) {
        let end = [".cold", ".warm"].iter().find_map(|end| part.name.rfind(end));
        if let Some(owner) = end.and_then(|end| part.name.get(..end)) {
            parts.entry(owner.to_owned()).or_default().push(part);
        }
    }
    Ok(parts)
}

/// At most `n` names of functions that are similar to `name`, best first; see [`similar`]. Empty if the
/// symbols cannot be read.
pub fn nearest(elf: &ElfFile, path: &Path, name: &str, n: usize) -> Vec<String> {
    let Ok(tables) = SymbolTables::read(elf, path) else {
        return Vec::new();
    };
    let bare = |name: &SymbolName| match ReadableName::new(name.text) {
        Some(readable) => readable.bare().to_owned(),
        None => name.text.to_owned(),
    };
    let names = tables.names().unwrap_or_default();
    let whole = names.iter().filter(|name| !is_part(name.text));
    similar(name, whole.map(bare), n)
}

/// The symbol tables of a file, the best first.
struct SymbolTables<'e> {
    elf: &'e ElfFile,
    dynamic: Option<SymbolTable>,
    others: Option<SymbolTable>,
    go: Option<go::GoTable>,
}

/// One name of a function.
#[derive(Clone, Copy)]
struct SymbolName<'t> {
    text: &'t str,
    rank: NameRank,
    addr: u64,
    size: u64,
    ifunc: bool,
}

/// Precedence among the names of a function; greater wins.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct NameRank {
    dynamic: bool,
    exported: bool,
    default: bool,
}

impl<'e> SymbolTables<'e> {
    fn read(elf: &'e ElfFile, path: &Path) -> Result<SymbolTables<'e>> {
        let dynamic = elf.dynamic_symbols()?;
        let others = elf.static_symbols()?.or_else(|| stripped::symbols(elf, path));
        let go = match &others {
            Some(_) => None,
            None => go::GoTable::read(elf),
        };
        Ok(SymbolTables {
            elf,
            dynamic,
            others,
            go,
        })
    }

    /// All names of all functions. Skips old versions of names that have a default version, and names that
    /// are not UTF-8.
    fn names(&self) -> Result<Vec<SymbolName<'_>>> {
        let mut names = Vec::new();
        for (table, dynamic) in [(&self.dynamic, true), (&self.others, false)] {
            let Some(table) = table else {
                continue;
            };
            let mut budget = NameBudget::new(self.elf, table.most_text);
            for symbol in table.functions() {
                let Some((name, default)) = table.name(&symbol) else {
                    continue;
                };
                let exported = !symbol.local;
                names.extend(budget.take(name)?.map(|text| SymbolName {
                    text,
                    rank: NameRank {
                        dynamic,
                        exported,
                        default,
                    },
                    addr: symbol.addr,
                    size: symbol.size,
                    ifunc: symbol.ifunc,
                }));
            }
        }
        drop_old_versions(&mut names);
        if let Some(table) = &self.go {
            let mut budget = NameBudget::new(self.elf, table.len());
            for function in table.functions() {
                names.extend(budget.take(function.name)?.map(|text| SymbolName {
                    text,
                    rank: NameRank::default(),
                    addr: function.addr,
                    size: function.size,
                    ifunc: false,
                }));
            }
        }
        Ok(names)
    }
}

/// Limits the total length of names. Names can share text, so that a small file could claim terabytes of
/// names.
struct NameBudget<'e> {
    elf: &'e ElfFile,
    left: u64,
}

impl NameBudget<'_> {
    fn new(elf: &ElfFile, left: u64) -> NameBudget<'_> {
        NameBudget { elf, left }
    }

    /// `None` if the name is not UTF-8.
    fn take<'n>(&mut self, name: &'n [u8]) -> Result<Option<&'n str>> {
        let left = self.left.checked_sub(name.len() as u64);
        self.left = left.with_context(|| self.elf.damaged("symbol names are longer than the file"))?;
        Ok(std::str::from_utf8(name).ok())
    }
}

fn drop_old_versions(names: &mut Vec<SymbolName>) {
    let old: HashSet<&str> = names
        .iter()
        .filter(|name| !name.rank.default)
        .map(|name| name.text)
        .collect();
    if old.is_empty() {
        return;
    }
    let renewed: HashSet<&str> = names
        .iter()
        .filter(|name| name.rank.default && old.contains(name.text))
        .map(|name| name.text)
        .collect();
    names.retain(|name| name.rank.default || !renewed.contains(name.text));
}

/// The functions of exactly that name: exported ones, otherwise local ones.
fn named<'t>(names: &[SymbolName<'t>], wanted: &str) -> Vec<SymbolName<'t>> {
    let is_wanted = |name: &&SymbolName| name.text == wanted && !is_part(name.text);
    let mut found: Vec<SymbolName> = names.iter().filter(is_wanted).copied().collect();
    let is_exported = found.iter().any(|name| name.rank.exported);
    found.retain(|name| name.rank.exported || !is_exported);
    found
}

/// The functions of these names, by address, each with the best of its names.
fn functions(elf: &ElfFile, mut names: Vec<SymbolName>) -> Vec<FunctionSymbol> {
    let underscores = |name: &str| name.bytes().take_while(|&byte| byte == b'_').count();
    names.sort_unstable_by_key(|name| {
        (
            name.addr,
            Reverse(name.rank),
            underscores(name.text),
            name.text.len(),
            name.text,
        )
    });
    names.dedup_by(|other, best| {
        let is_same = other.addr == best.addr;
        if is_same {
            best.size = best.size.max(other.size);
            best.ifunc |= other.ifunc;
        }
        is_same
    });
    let function = |name: SymbolName| {
        Some(FunctionSymbol {
            name: name.text.into(),
            offset: elf.offset_of(name.addr)?,
            addr: name.addr,
            size: name.size,
            ifunc: name.ifunc,
        })
    };
    names.into_iter().filter_map(function).collect()
}

/// Whether the name is that of a rarely executed part that the compiler or BOLT moved out of a function. Such
/// parts are jumped to, so a return probe on one would mistake something else on the stack for the return
/// address.
fn is_part(name: &str) -> bool {
    let name = name.trim_end_matches(|char: char| char.is_ascii_digit());
    [".cold", ".cold.", ".warm"].iter().any(|end| name.ends_with(end))
}

/// Sets missing sizes from the unwind tables. Symbols of hand-written assembly often have no size.
fn add_sizes(functions: &mut [FunctionSymbol], frames: &[FrameExtent]) {
    for function in functions.iter_mut().filter(|function| function.size == 0) {
        if let Ok(at) = frames.binary_search_by_key(&function.addr, |extent| extent.addr) {
            function.size = frames[at].size;
        }
    }
}

fn with_sizes(elf: &ElfFile, mut functions: Vec<FunctionSymbol>) -> Vec<FunctionSymbol> {
    if functions.iter().any(|function| function.size == 0) {
        add_sizes(&mut functions, &frames::functions(elf));
    }
    functions
}

/// The functions in the unwind tables that no symbol covers.
fn nameless(
    elf: &ElfFile,
    names: &[SymbolName],
    frames: &[FrameExtent],
) -> impl Iterator<Item = FunctionSymbol> {
    let mut covered: Vec<(u64, u64)> = names
        .iter()
        .map(|name| (name.addr, name.addr.saturating_add(name.size.max(1))))
        .collect();
    covered.sort_unstable();
    let mut covered = covered.into_iter().peekable();
    // End of the symbols that start before the function.
    let mut reach = 0;
    frames.iter().filter_map(move |extent| {
        while let Some((_, end)) = covered.next_if(|&(start, _)| start <= extent.addr) {
            reach = reach.max(end);
        }
        let offset = elf.offset_of(extent.addr).filter(|_| extent.addr >= reach)?;
        Some(FunctionSymbol {
            name: format!("{NAMELESS_PREFIX}{:#x}", extent.addr).into(),
            offset,
            addr: extent.addr,
            size: extent.size,
            ifunc: false,
        })
    })
}

/// Matches symbols by their mangled and demangled names.
struct NameFilter<'p> {
    pattern: &'p NamePattern,
    /// Text that a mangled name must contain to be worth demangling.
    word: Option<&'p str>,
}

impl NameFilter<'_> {
    fn new(pattern: &NamePattern) -> NameFilter<'_> {
        NameFilter {
            pattern,
            word: mangling::required_text(pattern),
        }
    }

    fn matches(&self, symbol: &str) -> bool {
        self.pattern.matches(symbol)
            || self.word.is_none_or(|word| symbol.contains(word)) && self.matches_demangled(symbol)
    }

    fn matches_demangled(&self, symbol: &str) -> bool {
        ReadableName::new(symbol).is_some_and(|name| {
            let forms = [&name.full, &name.short, name.bare()];
            forms.iter().any(|form| self.pattern.matches(form))
        })
    }
}
