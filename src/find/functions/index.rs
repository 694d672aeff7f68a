// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The function at an address of a file.

use std::path::Path;

use anyhow::Result;

use super::{FunctionEnds, SymbolTables, add_sizes, frames, functions, nameless};
use crate::find::elf::{ElfFile, FunctionSymbol};

/// How many functions that start before an address are looked at. Only hand-written assembly nests them.
const MOST_NESTED: usize = 64;

/// Functions of a file and cold parts of them, by address, from the sources that [`select`](super::select) has.
#[derive(Debug, Default)]
pub struct FunctionIndex {
    functions: Vec<FunctionSymbol>,
    /// Whether the symbols include those of local functions: the file is not stripped, or what was stripped was found.
    pub has_local_symbols: bool,
}

impl FunctionIndex {
    /// The functions that have symbols of their type, which are nearly all: the others take many times as long to find.
    /// `path` is where to look for debug files.
    ///
    /// # Errors
    /// A symbol table of the file itself cannot be read.
    pub fn typed(elf: &ElfFile, path: &Path) -> Result<FunctionIndex> {
        let tables = SymbolTables::read(elf, path)?;
        Ok(FunctionIndex {
            functions: functions(elf, tables.typed_names()?),
            has_local_symbols: tables.others.is_some(),
        })
    }

    /// All functions, also those without a symbol.
    ///
    /// # Errors
    /// As above.
    pub fn complete(elf: &ElfFile, path: &Path) -> Result<FunctionIndex> {
        let tables = SymbolTables::read(elf, path)?;
        let has_local_symbols = tables.others.is_some();
        let mut functions = functions(elf, tables.names()?);
        let frames = frames::functions(elf);
        let extents = functions.iter().map(|function| (function.addr, function.size));
        let nameless: Vec<FunctionSymbol> = nameless(elf, extents.collect(), &frames).collect();
        add_sizes(&mut functions, &frames);
        if has_local_symbols {
            let starts = functions.iter().map(|function| function.addr).collect();
            FunctionEnds { starts }.add_sizes(elf, &mut functions);
        }
        functions.extend(nameless);
        functions.sort_by_key(|function| function.addr);
        Ok(FunctionIndex {
            functions,
            has_local_symbols,
        })
    }

    /// The function, or cold part of one, that contains the virtual address `addr`.
    pub fn at(&self, addr: u64) -> Option<&FunctionSymbol> {
        let after = self.functions.partition_point(|function| function.addr <= addr);
        let before = self.functions.get(..after)?.iter().rev().take(MOST_NESTED);
        let mut inside = before.filter(|function| addr - function.addr < function.size.max(1));
        inside.next()
    }
}
