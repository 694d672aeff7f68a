// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The other names of a function: a call by any of them is a hit of the same probe.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;

use super::demangle::demangle_bounded;
use super::elf::{ElfFile, FunctionSymbol, SymbolEntry, SymbolTable};
use super::ifunc;

/// Longest symbol that is shown as another name.
const MOST_BYTES: usize = 128;

/// Most names of one function, and most IFUNC symbols that are looked at: hostile files can have millions. glibc 2.36
/// has 4 and 92.
const MOST_NAMES: usize = 16;
const MOST_RESOLVERS: usize = 1024;

/// Global names by the virtual address of the function that they call.
#[derive(Debug, Default)]
pub struct Aliases(HashMap<u64, Vec<Rc<str>>>);

impl Aliases {
    /// The global names of `functions` in the version that programs are linked against now. `through_ifuncs` has the
    /// sizes of all functions of the file, if some of these are implementations of IFUNC symbols: others may resolve to
    /// the same ones. Symbols that cannot be read are skipped.
    pub fn of(
        elf: &ElfFile,
        functions: &[FunctionSymbol],
        through_ifuncs: Option<&HashMap<u64, u64>>,
    ) -> Aliases {
        let names = functions.iter().map(|function| (function.addr, &*function.name));
        let mut search = AliasSearch {
            elf,
            sizes: through_ifuncs,
            missing: functions.iter().map(|function| function.addr).collect(),
            wanted: names.collect(),
            resolvers: HashMap::new(),
            found: HashMap::new(),
        };
        if let Ok(Some(table)) = elf.dynamic_symbols() {
            search.scan(&table);
        }
        // Functions of a program are not among its dynamic symbols; implementations of IFUNC symbols are nowhere.
        if through_ifuncs.is_none()
            && !search.missing.is_empty()
            && let Ok(Some(table)) = elf.static_symbols()
        {
            search.scan(&table);
        }
        Aliases(search.found)
    }

    /// The names to show beside `name`, which is demangled, of the function at a virtual address.
    pub fn beside(&self, addr: u64, name: &str) -> Vec<Rc<str>> {
        let mut others: Vec<Rc<str>> = Vec::new();
        let mut names: Vec<&Rc<str>> = self.0.get(&addr).into_iter().flatten().collect();
        names.sort_unstable();
        for other in names {
            let is_known = |known: &str| known == &**other || is_large_file_name(known, other);
            if !is_known(name) && !others.iter().any(|known| is_known(known)) {
                others.push(Rc::clone(other));
            }
        }
        others
    }
}

struct AliasSearch<'a> {
    elf: &'a ElfFile,
    /// The sizes of functions, if IFUNC symbols are of interest.
    sizes: Option<&'a HashMap<u64, u64>>,
    /// The functions by virtual address, with a name that is known.
    wanted: HashMap<u64, &'a str>,
    /// Those without a symbol so far.
    missing: HashSet<u64>,
    /// Addresses of the implementations of IFUNC symbols.
    resolvers: HashMap<u64, BTreeSet<u64>>,
    found: HashMap<u64, Vec<Rc<str>>>,
}

impl AliasSearch<'_> {
    fn scan(&mut self, table: &SymbolTable) {
        for symbol in table.functions().filter(|symbol| !symbol.local && !symbol.hidden) {
            if symbol.ifunc {
                for addr in self.implementations(&symbol) {
                    self.add(table, &symbol, addr);
                }
            } else if self.wanted.contains_key(&symbol.addr) {
                self.missing.remove(&symbol.addr);
                self.add(table, &symbol, symbol.addr);
            }
        }
    }

    /// The wanted functions that an IFUNC symbol can resolve to.
    fn implementations(&mut self, symbol: &SymbolEntry) -> BTreeSet<u64> {
        let Some(sizes) = self.sizes else {
            return BTreeSet::new();
        };
        if self.resolvers.len() >= MOST_RESOLVERS && !self.resolvers.contains_key(&symbol.addr) {
            return BTreeSet::new();
        }
        let choices = self.resolvers.entry(symbol.addr).or_insert_with(|| {
            let mut choices = ifunc::choices(self.elf, &symbol.function("", 0), sizes);
            choices.retain(|addr| self.wanted.contains_key(addr));
            choices
        });
        choices.clone()
    }

    fn add(&mut self, table: &SymbolTable, symbol: &SymbolEntry, addr: u64) {
        let is_known = |name: &str| table.is_named(symbol, name.as_bytes()).is_some();
        if self.wanted.get(&addr).is_none_or(|name| is_known(name)) {
            return;
        }
        let names = self.found.entry(addr).or_default();
        if names.len() < MOST_NAMES
            && let Some(name) = shown(table, symbol)
        {
            names.push(name);
        }
    }
}

/// The name to show for a symbol: not that of an internal function, such as `__libc_malloc`.
fn shown(table: &SymbolTable, symbol: &SymbolEntry) -> Option<Rc<str>> {
    let name = std::str::from_utf8(table.short_name(symbol, MOST_BYTES)?).ok()?;
    let readable = demangle_bounded(name);
    let is_internal =
        readable.is_empty() || name.contains('@') || (readable == name && name.starts_with('_'));
    (!is_internal).then(|| readable.into())
}

/// Whether the names are those for small and large files, such as `open` and `open64`. Where `off_t` has 64 bits, they
/// mean the same.
fn is_large_file_name(one: &str, other: &str) -> bool {
    let is_large = |small: &str, large: &str| {
        large.match_indices("64").any(|(at, _)| {
            small.len() + 2 == large.len() && [&large[..at], &large[at + 2..]].concat() == small
        })
    };
    is_large(one, other) || is_large(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::host::loader::find_library;
    use crate::find::host::object_file::ObjectFile;

    fn beside(names: &[&str], name: &str) -> Vec<String> {
        let names = names.iter().map(|&name| name.into()).collect();
        let aliases = Aliases(HashMap::from([(0x1000, names)]));
        let beside = aliases.beside(0x1000, name);
        beside.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn other_names_are_those_that_mean_another_function() {
        assert_eq!(beside(&["memmove", "memcpy"], "memmove"), ["memcpy"]);
        assert_eq!(beside(&["c", "b", "a"], "b"), ["a", "c"]);
        // Two constructors of a class have one demangled name.
        assert_eq!(beside(&["A::A()", "A::A()"], "A::A()"), [""; 0]);
        assert_eq!(beside(&["open", "open64"], "open"), [""; 0]);
        assert_eq!(beside(&["open", "open64"], "open64"), [""; 0]);
        assert_eq!(beside(&["fts64_open", "fts_open"], "fts_open"), [""; 0]);
        assert_eq!(
            beside(&["strtod", "strtof32x", "strtof64"], "strtod"),
            ["strtof32x", "strtof64"]
        );
        assert_eq!(beside(&["f"], "f_local"), ["f"]);
    }

    #[test]
    fn names_of_the_running_c_library_are_found() {
        let object = ObjectFile::at(&find_library("libc").unwrap()).unwrap();
        let elf = object.elf().unwrap();
        let find = |name: &str| elf.lookup(&[name]).unwrap().remove(0).unwrap();
        let beside = |name| {
            let function = find(name);
            Aliases::of(&elf, std::slice::from_ref(&function), None).beside(function.addr, name)
        };
        assert_eq!(beside("malloc"), []);
        assert_eq!(beside("htonl"), ["ntohl".into()]);
    }
}
