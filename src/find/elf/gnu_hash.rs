// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The GNU hash table of dynamic symbols.

use anyhow::{Context, Result, ensure};
use object::elf;
use object::{LittleEndian, U16, U32};

use super::lookup::SymbolRank;
use super::source::ElfBlock;
use super::symbols::{SymbolEntry, is_hidden};
use super::{ElfFile, FunctionSymbol, LE, RawSymbol};

/// Bytes of a hash chain read at a time while looking for the end of the last chain.
const CHAIN_CHUNK: u64 = 4096;
/// Bytes of a hash chain read at a time while looking for one name.
const LINKS_CHUNK: u64 = 64;
/// Most symbols in one chain that are looked at. Real chains have two or three on average.
const MAX_CHAIN: u64 = 4096;
const GNU_HASH: &str = "GNU hash table";

/// A GNU hash table. Each bucket has the index of the first symbol of a chain, and each symbol from `first`
/// on has a link.
pub struct GnuHash {
    buckets: u64,
    first: u64,
    /// Virtual addresses.
    buckets_at: u64,
    chains_at: u64,
}

impl ElfFile {
    /// The table at virtual address `at`.
    pub(super) fn gnu_hash(&self, at: u64) -> Result<GnuHash> {
        let header = self.read_at_address(at, 16, GNU_HASH)?;
        let [buckets, first, bloom] = [0, 4, 8].map(|at| u64::from(header.u32_at(at)));
        let buckets_at = at.saturating_add(16 + bloom * 8);
        let chains_at = buckets_at.saturating_add(buckets * 4);
        Ok(GnuHash {
            buckets,
            first,
            buckets_at,
            chains_at,
        })
    }

    /// The number of dynamic symbols: the end of the chain that starts last.
    pub(super) fn gnu_hash_count(&self, at: u64) -> Result<u64> {
        let table = self.gnu_hash(at)?;
        let heads = self.read_at_address(table.buckets_at, table.buckets * 4, GNU_HASH)?;
        let last = heads
            .table::<U32<LittleEndian>>()
            .iter()
            .map(|head| head.get(LE))
            .max();
        let mut index = u64::from(last.unwrap_or(0));
        if index < table.first {
            return Ok(table.first);
        }
        loop {
            let links = self.links(&table, index, CHAIN_CHUNK)?;
            let links = links.table::<U32<LittleEndian>>();
            if let Some(end) = links.iter().position(|link| link.get(LE) & 1 == 1) {
                return Ok(index + end as u64 + 1);
            }
            index += links.len() as u64;
        }
    }

    /// Looks up one name as the loader does; of several versions, the default one.
    pub(super) fn hashed(&self, table: &GnuHash, name: &str) -> Result<Option<(SymbolRank, FunctionSymbol)>> {
        if table.buckets == 0 || name.is_empty() {
            return Ok(None);
        }
        let hash = elf::gnu_hash(name.as_bytes());
        let bucket_at = table
            .buckets_at
            .saturating_add(u64::from(hash) % table.buckets * 4);
        let head = u64::from(self.read_at_address(bucket_at, 4, GNU_HASH)?.u32_at(0));
        let mut best: Option<(SymbolRank, FunctionSymbol)> = None;
        let mut index = head;
        while index >= table.first && index - head < MAX_CHAIN {
            let links = self.links(table, index, LINKS_CHUNK)?;
            for link in links.table::<U32<LittleEndian>>().iter().map(|link| link.get(LE)) {
                // The lowest bit of a link marks the end of the chain, the others are the symbol's hash.
                if link | 1 == hash | 1
                    && let Some(candidate) = self.dynamic_symbol(index, name)?
                    && best.as_ref().is_none_or(|(rank, _)| candidate.0 > *rank)
                {
                    best = Some(candidate);
                }
                if link & 1 == 1 {
                    return Ok(best);
                }
                index += 1;
            }
        }
        // A head below the first symbol is an empty chain.
        ensure!(head < table.first, self.damaged("a hash chain is too long"));
        Ok(None)
    }

    /// The links of the hash chains from symbol `index` on: at least one, at most `size` bytes.
    fn links(&self, table: &GnuHash, index: u64, size: u64) -> Result<ElfBlock> {
        let addr = index
            .checked_sub(table.first)
            .and_then(|index| table.chains_at.checked_add(index * 4));
        let extent = addr
            .and_then(|addr| self.content_at(addr))
            .filter(|extent| extent.size >= 4);
        let extent = extent.with_context(|| self.damaged("a hash chain has no end"))?;
        self.view.source.read(extent.offset, extent.size.min(size) & !3)
    }

    /// The dynamic symbol at `index` if it is a function of that name.
    fn dynamic_symbol(&self, index: u64, name: &str) -> Result<Option<(SymbolRank, FunctionSymbol)>> {
        let (Some(symtab), Some(strtab)) = (self.dynamic.symtab, self.dynamic.strtab) else {
            return Ok(None);
        };
        let size = size_of::<RawSymbol>() as u64;
        let raw = self.read_at_address(symtab.saturating_add(index * size), size, "a dynamic symbol")?;
        let hidden = match self.dynamic.versym {
            Some(at) => {
                let version = self.read_at_address(at.saturating_add(index * 2), 2, "a symbol version")?;
                version
                    .table::<U16<LittleEndian>>()
                    .iter()
                    .any(|version| is_hidden(*version))
            }
            None => false,
        };
        let Some(symbol) = raw
            .table::<RawSymbol>()
            .first()
            .and_then(|raw| SymbolEntry::new(raw, hidden))
        else {
            return Ok(None);
        };
        let text_at = strtab.saturating_add(symbol.name as u64);
        let text = self.read_at_address(text_at, name.len() as u64 + 1, "a symbol name")?;
        if text.bytes().strip_prefix(name.as_bytes()) != Some(&[0]) {
            return Ok(None);
        }
        let rank = SymbolRank {
            exported: !symbol.local,
            default: !hidden,
        };
        Ok(self
            .offset_of(symbol.addr)
            .map(|offset| (rank, symbol.function(name, offset))))
    }
}
