// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions whose symbols have no type, as assembly without `.type` has them.
//!
//! Labels inside functions have no type either. Exported ones outside of other functions are functions; a local one is
//! a function only if the unwind tables say so, or if it is called.

use std::collections::{BTreeMap, HashSet};

use super::SymbolName;
use super::frames::described;
use crate::find::code::loads::calls;
use crate::find::elf::ElfFile;

/// Symbols that linkers define at the borders of sections.
const BORDERS: [&str; 5] = ["etext", "_etext", "__etext", "__executable_start", "__ehdr_start"];
/// Prefixes of such symbols, of labels that assemblers keep, and of marks for code and data.
const NOT_FUNCTIONS: [&str; 5] = ["__start_", "__stop_", ".L", "$x", "$d"];

/// How much code is read at once to find calls, in bytes.
const CHUNK: u64 = 1 << 20;
/// How many of these are read of a file.
const MOST_CHUNKS: usize = 16;

/// Keeps those of `found`, symbols without a type, that are functions. `typed` are the functions with a type.
pub fn keep_functions(elf: &ElfFile, found: &mut Vec<SymbolName>, typed: &[SymbolName]) {
    let is_named =
        |name: &str| !BORDERS.contains(&name) && !NOT_FUNCTIONS.iter().any(|prefix| name.starts_with(prefix));
    found.retain(|name| is_named(name.text));
    // The unwind tables take a while to read, and few files need them here.
    if found.is_empty() {
        return;
    }
    let frames = described(elf);
    let starts: HashSet<u64> = frames.iter().map(|extent| extent.addr).collect();
    let of_frames = frames.iter().map(|extent| (extent.addr, extent.size));
    let of_symbols = typed.iter().map(|name| (name.addr, name.size));
    let mut covered: Vec<(u64, u64)> = of_frames.chain(of_symbols).collect();
    covered.sort_unstable();
    found.sort_by_key(|name| name.addr);
    let mut covered = covered.into_iter().peekable();
    // End of the functions that start before the symbol.
    let mut reach = 0;
    found.retain(|name| {
        while let Some((start, size)) = covered.next_if(|&(start, _)| start < name.addr) {
            reach = reach.max(start.saturating_add(size));
        }
        name.addr >= reach
    });
    let is_known = |name: &SymbolName| name.rank.exported || starts.contains(&name.addr);
    let unknown = found.iter().filter(|name| !is_known(name)).map(|name| name.addr);
    let called = called(elf, unknown);
    found.retain(|name| is_known(name) || called.contains(&name.addr));
}

/// What the code around some addresses calls.
fn called(elf: &ElfFile, around: impl Iterator<Item = u64>) -> HashSet<u64> {
    let sections = around.filter_map(|addr| elf.code_around(addr));
    let sections: BTreeMap<u64, u64> = sections.map(|section| (section.start, section.end)).collect();
    let chunks = sections.into_iter().flat_map(|(start, end)| {
        let starts = std::iter::successors(Some(start), |start| start.checked_add(CHUNK));
        starts
            .take_while(move |&start| start < end)
            .map(move |start| (start, CHUNK.min(end - start)))
    });
    chunks
        .take(MOST_CHUNKS)
        .flat_map(|(addr, size)| calls(&elf.code(addr, size).unwrap_or_default(), addr))
        .collect()
}
