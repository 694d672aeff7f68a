// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The GNU hash table of dynamic symbols.

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use object::{LittleEndian, U32};

use super::segments::ExecutionView;
use super::source::{ElfBlock, LE};
use super::symbols::RankedFunction;

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

impl GnuHash {
    /// The table at virtual address `at`.
    ///
    /// # Errors
    /// It cannot be read or lies outside of the file.
    pub fn read(view: &ExecutionView, at: u64) -> Result<GnuHash> {
        let header = view.read_at_address(at, 16, GNU_HASH)?;
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

    /// The number of dynamic symbols: the end of the chain that starts last. The file has room for `most`.
    ///
    /// # Errors
    /// The table lies outside of the file, or the chain has no end.
    pub fn symbol_count(&self, view: &ExecutionView, most: u64) -> Result<u64> {
        let heads = view.read_at_address(self.buckets_at, self.buckets * 4, GNU_HASH)?;
        let last = heads
            .table::<U32<LittleEndian>>()
            .iter()
            .map(|head| head.get(LE))
            .max();
        let mut index = u64::from(last.unwrap_or(0));
        if index < self.first {
            return Ok(self.first);
        }
        while index < most {
            let links = self.links(view, index, CHAIN_CHUNK)?;
            let links = links.table::<U32<LittleEndian>>();
            if let Some(end) = links.iter().position(|link| link.get(LE) & 1 == 1) {
                return Ok(index + end as u64 + 1);
            }
            index += links.len() as u64;
        }
        bail!(view.damaged("a hash chain has no end"))
    }

    /// Looks up one name as the loader does, in all its versions. `candidate` reads the symbol at an index, and returns
    /// `None` if it is not a wanted function of that name.
    ///
    /// # Errors
    /// Those of `candidate`; or the table lies outside of the file, or a chain is too long.
    pub fn find(
        &self,
        view: &ExecutionView,
        name: &str,
        candidate: impl Fn(u64) -> Result<Option<RankedFunction>>,
    ) -> Result<Vec<RankedFunction>> {
        let mut found = Vec::new();
        if self.buckets == 0 || name.is_empty() {
            return Ok(found);
        }
        let hash = elf::gnu_hash(name.as_bytes());
        let bucket_at = self.buckets_at.saturating_add(u64::from(hash) % self.buckets * 4);
        let head = u64::from(view.read_at_address(bucket_at, 4, GNU_HASH)?.u32_at(0));
        let mut index = head;
        while index >= self.first && index - head < MAX_CHAIN {
            let links = self.links(view, index, LINKS_CHUNK)?;
            for link in links.table::<U32<LittleEndian>>().iter().map(|link| link.get(LE)) {
                // The lowest bit of a link marks the end of the chain, the others are the symbol's hash.
                if link | 1 == hash | 1 {
                    found.extend(candidate(index)?);
                }
                if link & 1 == 1 {
                    return Ok(found);
                }
                index += 1;
            }
        }
        // A head below the first symbol is an empty chain.
        ensure!(head < self.first, view.damaged("a hash chain is too long"));
        Ok(Vec::new())
    }

    /// The links of the hash chains from symbol `index` on: at least one, at most `size` bytes.
    fn links(&self, view: &ExecutionView, index: u64, size: u64) -> Result<ElfBlock> {
        let addr = index
            .checked_sub(self.first)
            .and_then(|index| self.chains_at.checked_add(index * 4));
        let extent = addr
            .and_then(|addr| view.content_at(addr))
            .filter(|extent| extent.size >= 4);
        let extent = extent.with_context(|| view.damaged("a hash chain has no end"))?;
        view.link.source.read(extent.offset, extent.size.min(size) & !3)
    }
}
