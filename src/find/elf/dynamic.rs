// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The dynamic section: what the dynamic loader reads.

use anyhow::{Result, ensure};
use object::elf::{self, Dyn64, Verdaux, Verdef};
use object::{LittleEndian, U16};

use super::gnu_hash::GnuHash;
use super::segments::ExecutionView;
use super::source::{ElfBlock, ElfSource, FileExtent, LE};
use super::symbols::{RankedFunction, RawSymbol, SymbolEntry, SymbolRank, SymbolTable, is_hidden};

/// The entries of the dynamic section. Addresses are virtual, strings are offsets into the string table.
#[derive(Debug, Default)]
pub struct DynamicSection {
    pub symtab: Option<u64>,
    /// Address and bytes of the string table.
    pub strtab: (Option<u64>, u64),
    pub hash: Option<u64>,
    pub gnu_hash: Option<u64>,
    pub versym: Option<u64>,
    /// Address and number of the version definitions.
    pub verdef: (Option<u64>, u64),
    /// Address and bytes of the two relocation tables.
    pub rela: (Option<u64>, u64),
    pub jmprel: (Option<u64>, u64),
    pub soname: Option<u64>,
    pub rpath: Option<u64>,
    pub runpath: Option<u64>,
    pub needed: Vec<u64>,
}

impl DynamicSection {
    /// Reads the entries of `PT_DYNAMIC`.
    ///
    /// # Errors
    /// The section cannot be read, or is longer than the file.
    pub fn read(source: &ElfSource, extent: FileExtent) -> Result<DynamicSection> {
        let block = source.read(extent.offset, extent.size)?;
        let mut dynamic = DynamicSection::default();
        for entry in block.table::<Dyn64<LittleEndian>>() {
            let value = entry.d_val.get(LE);
            // All tags of interest fit in 32 bits.
            match u32::try_from(entry.d_tag.get(LE)).unwrap_or(u32::MAX) {
                elf::DT_NULL => break,
                elf::DT_SYMTAB => dynamic.symtab = Some(value),
                elf::DT_STRTAB => dynamic.strtab.0 = Some(value),
                elf::DT_STRSZ => dynamic.strtab.1 = value,
                elf::DT_HASH => dynamic.hash = Some(value),
                elf::DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                elf::DT_VERSYM => dynamic.versym = Some(value),
                elf::DT_VERDEF => dynamic.verdef.0 = Some(value),
                elf::DT_VERDEFNUM => dynamic.verdef.1 = value,
                elf::DT_RELA => dynamic.rela.0 = Some(value),
                elf::DT_RELASZ => dynamic.rela.1 = value,
                elf::DT_JMPREL => dynamic.jmprel.0 = Some(value),
                elf::DT_PLTRELSZ => dynamic.jmprel.1 = value,
                elf::DT_SONAME => dynamic.soname = Some(value),
                elf::DT_RPATH => dynamic.rpath = Some(value),
                elf::DT_RUNPATH => dynamic.runpath = Some(value),
                elf::DT_NEEDED => dynamic.needed.push(value),
                _ => {}
            }
        }
        Ok(dynamic)
    }

    /// `DT_SONAME`.
    pub fn soname(&self, view: &ExecutionView) -> Option<String> {
        self.string(view, self.soname?)
    }

    /// `DT_NEEDED`.
    pub fn needed(&self, view: &ExecutionView) -> Vec<String> {
        let needed = self.needed.iter();
        needed.filter_map(|&at| self.string(view, at)).collect()
    }

    /// `DT_RUNPATH`, split at colons.
    pub fn runpath(&self, view: &ExecutionView) -> Vec<String> {
        self.path_list(view, self.runpath)
    }

    /// `DT_RPATH`, split at colons.
    pub fn rpath(&self, view: &ExecutionView) -> Vec<String> {
        self.path_list(view, self.rpath)
    }

    /// The string table, or `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read or lies outside of the file.
    pub fn strings(&self, view: &ExecutionView) -> Result<Option<ElfBlock>> {
        let read = |strtab| view.dynamic_strings(strtab, self.strtab.1);
        self.strtab.0.map(read).transpose()
    }

    /// The dynamic symbols, or `None` if there are none.
    ///
    /// # Errors
    /// A table cannot be read or lies outside of the file.
    pub fn symbols(&self, view: &ExecutionView) -> Result<Option<SymbolTable>> {
        let (Some(symtab), Some(strtab)) = (self.symtab, self.strtab.0) else {
            return Ok(None);
        };
        let Some(count) = self.symbol_count(view)? else {
            return Ok(None);
        };
        let most = view.link.source.budget.most_at_once();
        let size = count.saturating_mul(size_of::<RawSymbol>() as u64);
        ensure!(
            size.saturating_add(self.strtab.1) <= most,
            view.damaged("dynamic symbols are longer than the file")
        );
        let table = view.read_at_address(symtab, size, "dynamic symbols")?;
        let strings = view.dynamic_strings(strtab, self.strtab.1)?;
        let versions = match self.versym {
            Some(at) => Some(view.read_at_address(at, count.saturating_mul(2), "symbol versions")?),
            None => None,
        };
        Ok(Some(SymbolTable::new(table, strings, versions, most)))
    }

    /// The number of dynamic symbols. No dynamic tag has it: it follows from a hash table or, in a file
    /// without one, from the section header.
    fn symbol_count(&self, view: &ExecutionView) -> Result<Option<u64>> {
        if let Some(at) = self.hash {
            let header = view.read_at_address(at, 8, "symbol hash table")?;
            return Ok(Some(u64::from(header.u32_at(4))));
        }
        if let Some(at) = self.gnu_hash {
            let room = self.symtab.and_then(|at| view.content_at(at));
            let room = room.map_or(0, |extent| {
                extent.size.min(view.link.source.budget.most_at_once())
            });
            let most = room / size_of::<RawSymbol>() as u64;
            return GnuHash::read(view, at)?.symbol_count(view, most).map(Some);
        }
        let section = view.link.section(elf::SHT_DYNSYM);
        Ok(section.map(|extent| extent.size / size_of::<RawSymbol>() as u64))
    }

    /// The symbol at `index` if it is a function of that name.
    ///
    /// # Errors
    /// The symbol, its version or its name lies outside of the file.
    pub fn symbol_named(
        &self,
        view: &ExecutionView,
        index: u64,
        name: &str,
    ) -> Result<Option<RankedFunction>> {
        let (Some(symtab), Some(strtab)) = (self.symtab, self.strtab.0) else {
            return Ok(None);
        };
        let size = size_of::<RawSymbol>() as u64;
        let raw = view.read_at_address(symtab.saturating_add(index * size), size, "a dynamic symbol")?;
        let hidden = self.version(view, index)?.is_some_and(is_hidden);
        let Some(symbol) = raw
            .table::<RawSymbol>()
            .first()
            .and_then(|raw| SymbolEntry::new(raw, hidden))
        else {
            return Ok(None);
        };
        let text_at = strtab.saturating_add(symbol.name as u64);
        let text = view.read_at_address(text_at, name.len() as u64 + 1, "a symbol name")?;
        if text.bytes().strip_prefix(name.as_bytes()) != Some(&[0]) {
            return Ok(None);
        }
        let rank = SymbolRank {
            exported: !symbol.local,
            default: !hidden,
        };
        Ok(view
            .offset_of(symbol.addr)
            .map(|offset| (rank, symbol.function(name, offset))))
    }

    /// The number of the version of the symbol at `index`.
    ///
    /// # Errors
    /// It lies outside of the file.
    pub fn version_at(&self, view: &ExecutionView, index: u64) -> Result<Option<u16>> {
        let version = self.version(view, index)?;
        Ok(version.map(|version| version.get(LE) & elf::VERSYM_VERSION))
    }

    fn version(&self, view: &ExecutionView, index: u64) -> Result<Option<U16<LittleEndian>>> {
        let Some(at) = self.versym else {
            return Ok(None);
        };
        let version = view.read_at_address(at.saturating_add(index * 2), 2, "a symbol version")?;
        Ok(version.table().first().copied())
    }

    /// The number of the version of that name that the file defines.
    pub fn version_number(&self, view: &ExecutionView, name: &str) -> Option<u16> {
        /// glibc defines some 40.
        const MOST: u64 = 4096;
        let (mut at, count) = (self.verdef.0?, self.verdef.1.min(MOST));
        for _ in 0..count {
            let block = view.read_at_address(at, size_of::<Verdef<LittleEndian>>() as u64, "versions");
            let block = block.ok()?;
            let definition = block.table::<Verdef<LittleEndian>>().first()?;
            let names_at = at.checked_add(u64::from(definition.vd_aux.get(LE)))?;
            let names = view.read_at_address(names_at, size_of::<Verdaux<LittleEndian>>() as u64, "versions");
            let names = names.ok()?;
            let own = names.table::<Verdaux<LittleEndian>>().first()?;
            if self.string(view, u64::from(own.vda_name.get(LE))).as_deref() == Some(name) {
                return Some(definition.vd_ndx.get(LE) & elf::VERSYM_VERSION);
            }
            at = at.checked_add(u64::from(definition.vd_next.get(LE)))?;
        }
        None
    }

    fn string(&self, view: &ExecutionView, at: u64) -> Option<String> {
        let strings = view.content_at(self.strtab.0?)?;
        let room = strings.size.min(self.strtab.1).checked_sub(at)?;
        let text = view.string(FileExtent {
            offset: strings.offset + at,
            size: room,
        })?;
        String::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    fn path_list(&self, view: &ExecutionView, at: Option<u64>) -> Vec<String> {
        let list = at.and_then(|at| self.string(view, at)).unwrap_or_default();
        list.split(':')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }
}
