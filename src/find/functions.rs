// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The functions of an ELF file by name, from all sources of symbols.
//!
//! In this order: dynamic symbols; `.symtab` or, if that was stripped, a debug file, MiniDebugInfo or Go's
//! function table; and for code that no symbol covers, the unwind tables. Functions from unwind tables are
//! named `fn_0x1234`, after their virtual address.

mod frame_pointers;
mod frames;
mod go;
mod index;
mod mangling;
mod spelling;
mod stripped;
#[cfg(test)]
mod tests;
mod untyped;

pub use spelling::without_copy;
pub use stripped::{debug_files, shared_file};

use std::borrow::Cow;
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::similar::similar;
use super::spec::NamePattern;
use crate::find::demangle::{ReadableName, demangle};
use crate::find::elf::{ElfFile, FunctionSymbol, SymbolEntry, SymbolTable};
pub use frame_pointers::FramePointers;
pub use frames::FrameExtent;
pub use frames::{described, moved_parts, sizes};
pub use index::FunctionIndex;

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
/// An exact name means the exported function in all its versions; if there is none, all local functions of that name;
/// if there is none, the demangled name, which without parameters includes all overloads, then that without unnamed
/// namespaces and traits. Copies that the compiler has specialized, such as `f.constprop.0`, are the function `f`. A
/// pattern is tried as a name first if it can be one, and otherwise matches symbols and demangled names. Each function
/// has the best of its matching names. `path` is where to look for debug files.
///
/// # Errors
/// A symbol table of the file itself cannot be read.
pub fn select(elf: &ElfFile, path: &Path, pattern: &NamePattern) -> Result<Vec<FunctionSymbol>> {
    // Fast path: a GNU hash lookup reads no table.
    if let Some(name) = pattern.as_name() {
        let found = exported(elf, name)?;
        if !found.is_empty() && found.iter().all(|function| function.size != 0) {
            return Ok(found);
        }
    }
    let tables = SymbolTables::read(elf, path)?;
    let mut names = tables.names()?;
    let frames = OnceCell::new();
    let frames = || frames.get_or_init(|| frames::functions(elf));
    let has_unsized = names.iter().any(|name| name.size == 0);
    let ends = has_unsized.then(|| tables.function_ends(&names));
    let sized = |mut functions: Vec<FunctionSymbol>| {
        if functions.iter().any(|function| function.size == 0) {
            add_sizes(&mut functions, frames());
            if let Some(ends) = &ends {
                ends.add_sizes(elf, &mut functions);
            }
        }
        functions
    };
    if let Some(name) = pattern.as_name() {
        let mut found = exported(elf, name)?;
        if found.is_empty() {
            found = functions(elf, named(&names, name));
        }
        if found.is_empty() {
            let name = NamePattern::Exact(name.to_owned());
            found = functions(elf, matching(&names, &NameFilter::new(&name)));
            if found.is_empty() {
                found = functions(elf, matching(&names, &NameFilter::loose(&name)));
            }
        }
        if !found.is_empty() {
            return Ok(sized(found));
        }
    }
    let extents = names.iter().map(|name| (name.addr, name.size)).collect();
    let nameless = nameless(elf, extents, frames());
    let wanted = nameless.filter(|function| pattern.matches(&function.name));
    let wanted: Vec<FunctionSymbol> = wanted.collect();
    // In place: there can be hundreds of thousands.
    let filter = NameFilter::new(pattern);
    names.retain(|name| is_match(&filter, name));
    let mut found = sized(functions(elf, names));
    found.extend(wanted);
    found.sort_unstable_by_key(|function| function.addr);
    Ok(found)
}

/// The exported functions of a name, which may end in `@VERSION`, and their specialized copies.
fn exported(elf: &ElfFile, name: &str) -> Result<Vec<FunctionSymbol>> {
    let mut found = elf.dynamic_functions(name, None)?;
    if found.is_empty()
        && let Some((name, version)) = name.split_once('@')
    {
        return elf.dynamic_functions(name, Some(version.trim_start_matches('@')));
    }
    if !found.is_empty()
        && let Some(symbols) = elf.static_symbols()?
    {
        for symbol in symbols.functions() {
            if let Some(suffix) = symbols.suffix(&symbol, name.as_bytes())
                && let text = format!("{name}{suffix}")
                && spelling::without_copy(&text) == name
                && let Some(offset) = elf.offset_of(symbol.addr)
            {
                found.push(symbol.function(&text, offset));
            }
        }
        found.sort_by_key(|function| function.addr);
        found.dedup_by_key(|function| function.addr);
    }
    Ok(found)
}

/// The names that match, and are not those of parts of functions.
fn matching<'t>(names: &[SymbolName<'t>], filter: &NameFilter<'_>) -> Vec<SymbolName<'t>> {
    let matches = names.iter().filter(|name| is_match(filter, name));
    matches.copied().collect()
}

fn is_match(filter: &NameFilter, name: &SymbolName) -> bool {
    !is_part(name.text) && filter.matches(name.text)
}

/// Whether each of `patterns` matches a function of `elf` by any of its names.
///
/// # Errors
/// As for [`select`].
pub fn matched(elf: &ElfFile, path: &Path, patterns: &[&NamePattern]) -> Result<Vec<bool>> {
    let tables = SymbolTables::read(elf, path)?;
    let names = tables.names()?;
    let extents = names.iter().map(|name| (name.addr, name.size)).collect();
    let frames = frames::functions(elf);
    let nameless: Vec<FunctionSymbol> = nameless(elf, extents, &frames).collect();
    let is_matched = |pattern: &&NamePattern| {
        let filter = NameFilter::new(pattern);
        names.iter().any(|name| is_match(&filter, name))
            || nameless.iter().any(|function| pattern.matches(&function.name))
    };
    Ok(patterns.iter().map(is_matched).collect())
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
    let index = FunctionIndex::complete(elf, path)?;
    Ok(index.at(addr).cloned())
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

/// At most `n` names of functions that are similar to `name`, best first; see [`similar`]. If only the parameters are
/// others, these are the overloads with their parameters. Empty if the symbols cannot be read.
pub fn nearest(elf: &ElfFile, path: &Path, name: &str, n: usize) -> Vec<String> {
    let Ok(tables) = SymbolTables::read(elf, path) else {
        return Vec::new();
    };
    let bare = |name: &SymbolName| match ReadableName::new(name.text) {
        Some(readable) => readable.bare().to_owned(),
        None => name.text.to_owned(),
    };
    let names = tables.names().unwrap_or_default();
    let bare_name = spelling::without_parameters(name);
    if let Some(bare) = bare_name {
        let bare = NamePattern::Exact(bare.to_owned());
        let overloads = functions(elf, matching(&names, &NameFilter::new(&bare)));
        if !overloads.is_empty() {
            let overloads = overloads.iter().map(|function| function.demangled().into_owned());
            return overloads.take(n).collect();
        }
    }
    let whole = names.iter().filter(|name| !is_part(name.text));
    similar(bare_name.unwrap_or(name), whole.map(bare), n)
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

    /// All names of all functions. Skips names that are not UTF-8.
    fn names(&self) -> Result<Vec<SymbolName<'_>>> {
        let mut names = self.typed_names()?;
        self.add_untyped(&mut names)?;
        Ok(names)
    }

    /// As above, without symbols that have no type.
    fn typed_names(&self) -> Result<Vec<SymbolName<'_>>> {
        let mut names = Vec::new();
        for (table, dynamic) in [(&self.dynamic, true), (&self.others, false)] {
            let Some(table) = table else {
                continue;
            };
            let mut budget = NameBudget::new(self.elf, table.most_text);
            for symbol in table.functions() {
                names.extend(table_name(table, dynamic, &symbol, &mut budget)?);
            }
        }
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

    /// Adds the functions whose symbols have no type.
    fn add_untyped<'t>(&'t self, names: &mut Vec<SymbolName<'t>>) -> Result<()> {
        let mut found = Vec::new();
        for (table, dynamic) in [(&self.dynamic, true), (&self.others, false)] {
            let Some(table) = table else {
                continue;
            };
            let mut budget = NameBudget::new(self.elf, table.most_text);
            for symbol in table
                .untyped()
                .filter(|symbol| self.elf.offset_of(symbol.addr).is_some())
            {
                found.extend(table_name(table, dynamic, &symbol, &mut budget)?);
            }
        }
        untyped::keep_functions(self.elf, &mut found, names);
        names.extend(found);
        Ok(())
    }

    /// Where functions without a size end: at the next one. Unknown without `.symtab`, since others may be between.
    fn function_ends(&self, names: &[SymbolName]) -> FunctionEnds {
        let starts = self
            .others
            .iter()
            .flat_map(|_| names.iter().map(|name| name.addr));
        let mut starts: Vec<u64> = starts.collect();
        starts.sort_unstable();
        FunctionEnds { starts }
    }
}

/// The name of a symbol. `None` if it is not UTF-8.
fn table_name<'t>(
    table: &'t SymbolTable,
    dynamic: bool,
    symbol: &SymbolEntry,
    budget: &mut NameBudget<'_>,
) -> Result<Option<SymbolName<'t>>> {
    let Some((name, default)) = table.name(symbol) else {
        return Ok(None);
    };
    let exported = !symbol.local;
    Ok(budget.take(name)?.map(|text| SymbolName {
        text,
        rank: NameRank {
            dynamic,
            exported,
            default,
        },
        addr: symbol.addr,
        size: symbol.size,
        ifunc: symbol.ifunc,
    }))
}

/// The starts of all functions of a file, sorted.
struct FunctionEnds {
    starts: Vec<u64>,
}

impl FunctionEnds {
    /// Sets missing sizes of functions.
    fn add_sizes(&self, elf: &ElfFile, functions: &mut [FunctionSymbol]) {
        for function in functions.iter_mut().filter(|function| function.size == 0) {
            let next = self.starts.partition_point(|&start| start <= function.addr);
            let code = elf.code_around(function.addr).filter(|_| next > 0);
            let Some(code) = code else {
                continue;
            };
            let end = self.starts.get(next).copied().unwrap_or(code.end).min(code.end);
            function.size = end - function.addr;
        }
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

/// The functions of exactly that name: exported ones, otherwise local ones, and specialized copies.
fn named<'t>(names: &[SymbolName<'t>], wanted: &str) -> Vec<SymbolName<'t>> {
    let is_wanted = |name: &&SymbolName| spelling::without_copy(name.text) == wanted || name.text == wanted;
    let mut found: Vec<SymbolName> = names.iter().filter(is_wanted).copied().collect();
    found.retain(|name| !is_part(name.text));
    let is_exported = found.iter().any(|name| name.rank.exported);
    found.retain(|name| name.rank.exported || !is_exported || name.text != wanted);
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

/// The functions in the unwind tables that no symbol covers. `covered` are the addresses and sizes of symbols.
fn nameless(
    elf: &ElfFile,
    mut covered: Vec<(u64, u64)>,
    frames: &[FrameExtent],
) -> impl Iterator<Item = FunctionSymbol> {
    covered.sort_unstable();
    let mut covered = covered.into_iter().peekable();
    // End of the symbols that start before the function.
    let mut reach = 0;
    frames.iter().filter_map(move |extent| {
        while let Some((start, size)) = covered.next_if(|&(start, _)| start <= extent.addr) {
            reach = reach.max(start.saturating_add(size.max(1)));
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
    /// An exact name in the spelling of [`spelling::plain`].
    plain: Option<String>,
    /// Text that a mangled name must contain to be worth demangling.
    word: Option<String>,
    /// Names are compared in the spelling of [`spelling::loose`].
    is_loose: bool,
}

impl NameFilter<'_> {
    fn new(pattern: &NamePattern) -> NameFilter<'_> {
        NameFilter {
            pattern,
            plain: pattern.exact().map(spelling::plain),
            word: mangling::required_text(pattern),
            is_loose: false,
        }
    }

    /// Also matches names that omit parts.
    fn loose(pattern: &NamePattern) -> NameFilter<'_> {
        let strict = NameFilter::new(pattern);
        NameFilter {
            plain: strict.plain.as_deref().map(spelling::loose),
            is_loose: true,
            ..strict
        }
    }

    fn matches(&self, symbol: &str) -> bool {
        let copied = spelling::without_copy(symbol);
        if self.pattern.matches(symbol) || (copied != symbol && self.pattern.matches(copied)) {
            return true;
        }
        if self.word.as_ref().is_some_and(|word| !symbol.contains(word)) {
            return false;
        }
        if let (Some(wanted), Some(generic)) = (&self.plain, spelling::generic(symbol)) {
            return generic.iter().any(|form| form == wanted);
        }
        self.matches_demangled(symbol) || (copied != symbol && self.matches_demangled(copied))
    }

    fn matches_demangled(&self, symbol: &str) -> bool {
        ReadableName::new(symbol).is_some_and(|name| {
            let forms = [&name.full, &name.short, name.bare()];
            let without_type = name.without_return_type();
            forms.iter().any(|form| self.matches_form(form))
                || (without_type != name.full && self.matches_form(without_type))
                || self.matches_form(spelling::unqualified(without_type))
        })
    }

    fn matches_form(&self, form: &str) -> bool {
        if self.pattern.matches(form) {
            return true;
        }
        match &self.plain {
            Some(wanted) if self.is_loose => spelling::loose(&spelling::plain(form)) == *wanted,
            Some(wanted) => spelling::plain(form) == *wanted,
            None => spelling::is_long(form) && self.pattern.matches(&spelling::plain(form)),
        }
    }
}
