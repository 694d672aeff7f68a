// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The dynamic section: what the dynamic loader reads.

use anyhow::{Result, ensure};
use object::LittleEndian;
use object::elf::{self, Dyn64};

use super::source::{ElfSource, FileExtent};
use super::{ElfFile, LE, MAX_STRING, RawSymbol, SymbolTable};

/// The entries of the dynamic section. Addresses are virtual, strings are offsets into the string table.
#[derive(Debug, Default)]
pub struct DynamicSection {
    pub symtab: Option<u64>,
    pub strtab: Option<u64>,
    pub strsz: u64,
    pub hash: Option<u64>,
    pub gnu_hash: Option<u64>,
    pub versym: Option<u64>,
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
                elf::DT_STRTAB => dynamic.strtab = Some(value),
                elf::DT_STRSZ => dynamic.strsz = value,
                elf::DT_HASH => dynamic.hash = Some(value),
                elf::DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                elf::DT_VERSYM => dynamic.versym = Some(value),
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
}

impl ElfFile {
    /// `DT_SONAME`: the name under which other files need this library.
    pub fn soname(&self) -> Option<String> {
        self.dynamic_string(self.dynamic.soname?)
    }

    /// `DT_NEEDED`: the sonames of the libraries that this file needs, in order.
    pub fn needed(&self) -> Vec<String> {
        let needed = self.dynamic.needed.iter();
        needed.filter_map(|&at| self.dynamic_string(at)).collect()
    }

    /// `DT_RUNPATH`, split at colons. `$ORIGIN` and the like are not expanded.
    pub fn runpath(&self) -> Vec<String> {
        self.path_list(self.dynamic.runpath)
    }

    /// `DT_RPATH`, split at colons. `$ORIGIN` and the like are not expanded.
    pub fn rpath(&self) -> Vec<String> {
        self.path_list(self.dynamic.rpath)
    }

    /// The dynamic symbols, or `None` if there are none.
    ///
    /// # Errors
    /// A table cannot be read or lies outside of the file.
    pub(in crate::find) fn dynamic_symbols(&self) -> Result<Option<SymbolTable>> {
        let (Some(symtab), Some(strtab)) = (self.dynamic.symtab, self.dynamic.strtab) else {
            return Ok(None);
        };
        let Some(count) = self.dynamic_symbol_count()? else {
            return Ok(None);
        };
        let file_len = self.view.source.len();
        let size = count.saturating_mul(size_of::<RawSymbol>() as u64);
        ensure!(
            size.saturating_add(self.dynamic.strsz) <= file_len,
            self.damaged("dynamic symbols are longer than the file")
        );
        let table = self.read_at_address(symtab, size, "dynamic symbols")?;
        let strings = self.read_at_address(strtab, self.dynamic.strsz, "dynamic strings")?;
        let versions = match self.dynamic.versym {
            Some(at) => Some(self.read_at_address(at, count.saturating_mul(2), "symbol versions")?),
            None => None,
        };
        Ok(Some(SymbolTable::new(table, strings, versions, file_len)))
    }

    /// The number of dynamic symbols. No dynamic tag has it: it follows from a hash table or, in a file
    /// without one, from the section header.
    fn dynamic_symbol_count(&self) -> Result<Option<u64>> {
        if let Some(at) = self.dynamic.hash {
            let header = self.read_at_address(at, 8, "symbol hash table")?;
            return Ok(Some(u64::from(header.u32_at(4))));
        }
        if let Some(at) = self.dynamic.gnu_hash {
            return self.gnu_hash_count(at).map(Some);
        }
        let section = self.view.section(elf::SHT_DYNSYM);
        Ok(section.map(|extent| extent.size / size_of::<RawSymbol>() as u64))
    }

    fn dynamic_string(&self, at: u64) -> Option<String> {
        let strings = self.content_at(self.dynamic.strtab?)?;
        let room = strings.size.min(self.dynamic.strsz).checked_sub(at)?;
        let text = self
            .view
            .source
            .string(strings.offset + at, room.min(MAX_STRING))?;
        String::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    fn path_list(&self, at: Option<u64>) -> Vec<String> {
        let list = at.and_then(|at| self.dynamic_string(at)).unwrap_or_default();
        list.split(':')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }
}
