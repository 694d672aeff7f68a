// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions by exact name.

use anyhow::Result;

use super::gnu_hash::GnuHash;
use super::symbols::{RankedFunction, SymbolRank};
use super::{ElfFile, FunctionSymbol, SymbolTable};

impl ElfFile {
    /// The function of each name, in the order of `names`. Dynamic symbols win over `.symtab`, default
    /// versions over others, exported names over local ones.
    ///
    /// # Errors
    /// A symbol table cannot be read or lies outside of the file.
    pub fn lookup(&self, names: &[&str]) -> Result<Vec<Option<FunctionSymbol>>> {
        let mut search = SymbolSearch::new(names);
        self.search_dynamic(&mut search)?;
        if search.is_incomplete()
            && let Some(symbols) = self.static_symbols()?
        {
            search.scan(self, &symbols);
        }
        Ok(search
            .found
            .into_iter()
            .map(|found| found.map(|(_, function)| function))
            .collect())
    }

    /// Whether the file exports a function of that name, so that the dynamic loader can bind callers to it.
    /// False if the dynamic symbols cannot be read.
    pub fn defines(&self, name: &str) -> bool {
        let names = [name];
        let mut search = SymbolSearch::new(&names);
        let searched = self.search_dynamic(&mut search);
        searched.is_ok() && search.found.iter().flatten().any(|(rank, _)| rank.exported)
    }

    /// The exported function of that name; of several versions, the default one.
    ///
    /// # Errors
    /// The dynamic symbols cannot be read.
    pub(in crate::find) fn dynamic_function(&self, name: &str) -> Result<Option<FunctionSymbol>> {
        let names = [name];
        let mut search = SymbolSearch::new(&names);
        self.search_dynamic(&mut search)?;
        Ok(search.found.pop().flatten().map(|(_, function)| function))
    }

    /// The exported functions of that name: all versions, each address once, or only `version`.
    ///
    /// # Errors
    /// The dynamic symbols cannot be read.
    pub(in crate::find) fn dynamic_functions(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Vec<FunctionSymbol>> {
        let number = match version.map(|version| self.dynamic.version_number(&self.view, version)) {
            Some(None) => return Ok(Vec::new()),
            number => number.flatten(),
        };
        let mut found = match self.dynamic.gnu_hash {
            Some(at) => GnuHash::read(&self.view, at)?.find(&self.view, name, |index| {
                let is_wanted = match number {
                    Some(number) => self.dynamic.version_at(&self.view, index)? == Some(number),
                    None => true,
                };
                match is_wanted {
                    true => self.dynamic.symbol_named(&self.view, index, name),
                    false => Ok(None),
                }
            })?,
            None if number.is_some() => Vec::new(),
            None => return Ok(self.dynamic_function(name)?.into_iter().collect()),
        };
        found.sort_by_key(|(_, function)| function.addr);
        found.dedup_by_key(|(_, function)| function.addr);
        Ok(found.into_iter().map(|(_, function)| function).collect())
    }

    /// Searches the dynamic symbols. With a GNU hash table, which nearly every file has, that takes a few
    /// small reads per name, however many symbols there are; otherwise all of them are read.
    fn search_dynamic(&self, search: &mut SymbolSearch) -> Result<()> {
        if let Some(at) = self.dynamic.gnu_hash {
            let table = GnuHash::read(&self.view, at)?;
            for (name, found) in search.names.iter().zip(&mut search.found) {
                let candidate = |index| self.dynamic.symbol_named(&self.view, index, name);
                let versions = table.find(&self.view, name, candidate)?;
                // Of equals, the first.
                *found = versions.into_iter().rev().max_by_key(|(rank, _)| *rank);
            }
        } else if let Some(symbols) = self.dynamic_symbols()? {
            search.scan(self, &symbols);
        }
        Ok(())
    }
}

/// A search for several names at once.
struct SymbolSearch<'a> {
    names: &'a [&'a str],
    /// Indexes of the names by their first byte, which rules out nearly every symbol.
    by_first: Vec<Vec<usize>>,
    found: Vec<Option<RankedFunction>>,
}

impl<'a> SymbolSearch<'a> {
    fn new(names: &'a [&'a str]) -> SymbolSearch<'a> {
        let mut by_first = vec![Vec::new(); 256];
        for (index, name) in names.iter().enumerate() {
            if let Some(&first) = name.as_bytes().first() {
                by_first[usize::from(first)].push(index);
            }
        }
        SymbolSearch {
            names,
            by_first,
            found: vec![None; names.len()],
        }
    }

    fn is_incomplete(&self) -> bool {
        self.found.iter().any(Option::is_none)
    }

    /// Takes the best symbol of each name that no earlier table has; of equals, the first.
    fn scan(&mut self, file: &ElfFile, symbols: &SymbolTable) {
        // Loaders bind to dynamic symbols only, so those win over later tables.
        let settled: Vec<bool> = self.found.iter().map(Option::is_some).collect();
        for symbol in symbols.functions() {
            let Some(first) = symbols.first_byte(&symbol) else {
                continue;
            };
            for &index in &self.by_first[usize::from(first)] {
                let name = self.names[index];
                if settled[index] {
                    continue;
                }
                let Some(default) = symbols.is_named(&symbol, name.as_bytes()) else {
                    continue;
                };
                let rank = SymbolRank {
                    exported: !symbol.local,
                    default,
                };
                let better = self.found[index].as_ref().is_none_or(|(known, _)| rank > *known);
                if better && let Some(offset) = file.offset_of(symbol.addr) {
                    self.found[index] = Some((rank, symbol.function(name, offset)));
                }
            }
        }
    }
}
