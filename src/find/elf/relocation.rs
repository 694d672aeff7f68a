// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Slots that the dynamic loader fills with addresses of functions.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::{self, Rela64};

use super::ElfFile;
use super::source::LE;
use super::symbols::RawSymbol;

/// Pointers that are relocated, by virtual address.
pub type RelocatedPointers = HashMap<u64, Option<u64>>;
type RelaEntry = Rela64<LittleEndian>;

/// Relocation types: the result of a resolver (IRELATIVE), and the address of a symbol in the PLT, in the GOT
/// and in data.
#[cfg(target_arch = "x86_64")]
const TYPES: (u32, [u32; 3]) = (
    elf::R_X86_64_IRELATIVE,
    [elf::R_X86_64_JUMP_SLOT, elf::R_X86_64_GLOB_DAT, elf::R_X86_64_64],
);
#[cfg(target_arch = "aarch64")]
const TYPES: (u32, [u32; 3]) = (
    elf::R_AARCH64_IRELATIVE,
    [
        elf::R_AARCH64_JUMP_SLOT,
        elf::R_AARCH64_GLOB_DAT,
        elf::R_AARCH64_ABS64,
    ],
);

/// The type for which the loader ignores the addend: with `-z mark-plt`, that is the address of the PLT entry.
#[cfg(target_arch = "x86_64")]
const WITHOUT_ADDEND: Option<u32> = Some(elf::R_X86_64_JUMP_SLOT);
#[cfg(target_arch = "aarch64")]
const WITHOUT_ADDEND: Option<u32> = None;

/// The relocation type of a pointer into the same file.
#[cfg(target_arch = "x86_64")]
const RELATIVE: u32 = elf::R_X86_64_RELATIVE;
#[cfg(target_arch = "aarch64")]
const RELATIVE: u32 = elf::R_AARCH64_RELATIVE;

/// A pointer that the loader sets to the address of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointerSlot {
    /// Virtual address of the slot, before relocation.
    pub addr: u64,
    pub binding: SlotBinding,
}

/// The function that a slot points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotBinding {
    /// The one that the resolver at this virtual address of the same file returns.
    Resolver(u64),
    /// The one of this name (without version), in the file in which the loader finds it.
    Named(String),
}

impl ElfFile {
    /// All slots, in the order of the file.
    ///
    /// # Errors
    /// A table lies outside of the file, or the names together are longer than the file.
    pub fn slots(&self) -> Result<Vec<PointerSlot>> {
        let relocations = self.relocations()?;
        let (irelative, named) = TYPES;
        let last_symbol = relocations
            .iter()
            .filter(|relocation| named.contains(&relocation.r_type(LE, false)))
            .map(|relocation| relocation.r_sym(LE, false))
            .max();
        let names = self.dynamic_names(last_symbol)?;
        // A small file could have many slots that share one long name.
        let mut budget = self.view.link.source.budget.most_at_once();
        let mut slots = Vec::new();
        for relocation in &relocations {
            let kind = relocation.r_type(LE, false);
            let addend = relocation.r_addend.get(LE);
            let binding = if kind == irelative {
                SlotBinding::Resolver(addend as u64)
            } else if named.contains(&kind)
                && (addend == 0 || Some(kind) == WITHOUT_ADDEND)
                && let Some(name) = names.get(relocation.r_sym(LE, false))
            {
                let left = budget.checked_sub(name.len() as u64);
                budget = left.with_context(|| self.damaged("symbol names are longer than the file"))?;
                SlotBinding::Named(name.to_owned())
            } else {
                continue;
            };
            slots.push(PointerSlot {
                addr: relocation.r_offset.get(LE),
                binding,
            });
        }
        Ok(slots)
    }

    /// The names of exported functions that also have an old version, kept for programs linked against it.
    ///
    /// # Errors
    /// The symbols lie outside of the file, or their names together are longer than it.
    pub fn versioned_names(&self) -> Result<HashSet<String>> {
        let Some(symbols) = self.dynamic_symbols()? else {
            return Ok(HashSet::new());
        };
        let mut names = HashSet::new();
        let mut budget = self.view.link.source.budget.most_at_once();
        for symbol in symbols.functions().filter(|symbol| symbol.hidden) {
            let name = symbols.name(&symbol).map_or(&b""[..], |(name, _)| name);
            let left = budget.checked_sub(name.len() as u64);
            budget = left.with_context(|| self.damaged("symbol names are longer than the file"))?;
            names.insert(String::from_utf8_lossy(name).into_owned());
        }
        Ok(names)
    }

    /// The pointer at virtual address `addr` before relocation: from the file, or from the entry that relocates it.
    /// None if a symbol relocates it, or there is nothing.
    pub fn pointer_at(&self, addr: u64) -> Option<u64> {
        // Asked for each jump table of the file.
        let pointers = self.pointers.get_or_init(|| self.relocated_pointers()).as_ref()?;
        match pointers.get(&addr) {
            Some(pointer) => *pointer,
            None => self.word(addr).filter(|&word| word != 0),
        }
    }

    /// The virtual addresses of the pointers that relocation sets to `addr`, sorted.
    pub fn pointers_to(&self, addr: u64) -> Vec<u64> {
        let pointers = self.pointers.get_or_init(|| self.relocated_pointers());
        let entries = pointers.iter().flatten();
        let mut found: Vec<u64> = entries
            .filter(|(_, pointer)| **pointer == Some(addr))
            .map(|(at, _)| *at)
            .collect();
        found.sort_unstable();
        found
    }

    /// What relocation makes of pointers, by their address: None if a symbol says.
    fn relocated_pointers(&self) -> Option<RelocatedPointers> {
        let mut pointers = HashMap::new();
        for entry in self.relocations().ok()? {
            let is_relative = entry.r_type(LE, false) == RELATIVE;
            let pointer = is_relative.then(|| entry.r_addend.get(LE) as u64);
            pointers.entry(entry.r_offset.get(LE)).or_insert(pointer);
        }
        Some(pointers)
    }

    /// Both tables of the dynamic section, or the only one of a static program, which relocates itself.
    fn relocations(&self) -> Result<Vec<RelaEntry>> {
        const WHAT: &str = "relocations";
        let mut relocations = Vec::new();
        for (addr, size) in [self.dynamic.rela, self.dynamic.jmprel] {
            if let Some(addr) = addr {
                let block = self.view.read_at_address(addr, size, WHAT)?;
                relocations.extend_from_slice(block.table());
            }
        }
        if self.view.dynamic.is_none()
            && let Some(extent) = self.view.link.section(elf::SHT_RELA)
        {
            let block = self.view.link.source.read(extent.offset, extent.size);
            relocations.extend_from_slice(block.with_context(|| self.damaged(WHAT))?.table());
        }
        Ok(relocations)
    }

    /// The names of the dynamic symbols up to index `last`. Imported ones may be missing from hash tables, so
    /// their number follows from the relocations only.
    fn dynamic_names(&self, last: Option<u32>) -> Result<DynamicNames> {
        let (Some(last), Some(symtab), Some(strtab)) = (last, self.dynamic.symtab, self.dynamic.strtab.0)
        else {
            return Ok(DynamicNames::default());
        };
        let size = (u64::from(last) + 1) * size_of::<RawSymbol>() as u64;
        let table = self.view.read_at_address(symtab, size, "dynamic symbols")?;
        let strings = self
            .view
            .read_at_address(strtab, self.dynamic.strtab.1, "dynamic strings")?;
        Ok(DynamicNames {
            starts: table
                .table::<RawSymbol>()
                .iter()
                .map(|symbol| symbol.st_name.get(LE))
                .collect(),
            strings: strings.bytes().to_vec(),
        })
    }
}

/// Symbol names by index.
#[derive(Default)]
struct DynamicNames {
    /// Start of each name in `strings`.
    starts: Vec<u32>,
    strings: Vec<u8>,
}

impl DynamicNames {
    fn get(&self, symbol: u32) -> Option<&str> {
        let start = *self.starts.get(symbol as usize)?;
        let rest = self.strings.get(start as usize..)?;
        let name = &rest[..rest.iter().position(|&byte| byte == 0)?];
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty())
    }
}
