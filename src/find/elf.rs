// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One ELF file: headers, symbols, dynamic section, code and data.
//!
//! The file belongs to the user who runs the traced program and is not trusted: the size of every table is
//! checked against the length of the file before memory is allocated for it, and every walk is bounded. The
//! file is read with `pread` and never mapped, because truncating a mapped file kills the reader with SIGBUS.
//!
//! Dynamic symbols are found through `PT_DYNAMIC`, as the loader finds them, so that files without section
//! headers work too. Only `.symtab`, which the loader does not use, needs section headers.

use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::{self, ProgramHeader64};

use dynamic::DynamicSection;
use segments::{LoadSegment, read_program_headers};
use source::FileExtent;
use symbols::RawSymbol;

pub(super) use link_view::LinkView;
pub use relocation::{PointerSlot, SlotBinding};
pub(super) use source::{ElfBlock, ElfSource};
pub use symbols::FunctionSymbol;
pub(super) use symbols::SymbolTable;

mod dynamic;
mod gnu_hash;
#[cfg(test)]
pub mod image;
mod link_view;
mod lookup;
mod relocation;
pub mod sections;
mod segments;
mod source;
mod symbols;
#[cfg(test)]
mod tests;

const LE: LittleEndian = LittleEndian;

/// Longest soname, run path or interpreter that is read, in bytes: the kernel's `PATH_MAX`.
const MAX_STRING: u64 = 4096;
/// Owner and type of a note that only Go programs have.
const GO_NOTE: (&[u8], u32) = (b"Go\0\0", 4);
/// Sections that only Go programs have.
const GO_SECTIONS: [&str; 2] = [".go.buildinfo", ".gopclntab"];

/// An opened ELF file of this machine's architecture.
#[derive(Debug)]
pub struct ElfFile {
    view: LinkView,
    /// The path for messages.
    shown: PathBuf,
    /// Loadable segments, by address.
    loads: Vec<LoadSegment>,
    interpreter: Option<FileExtent>,
    /// Virtual address of `PT_DYNAMIC`.
    dynamic_addr: Option<u64>,
    dynamic: DynamicSection,
    /// `PT_NOTE`.
    notes: Vec<FileExtent>,
    /// Virtual address of `PT_GNU_EH_FRAME`, the index of the unwind tables.
    frame_index: Option<u64>,
}

impl ElfFile {
    /// Reads the headers of `file`; `shown` is its path for messages.
    ///
    /// # Errors
    /// The file cannot be read, is not ELF, is of another class or machine, or its headers point past its
    /// end.
    pub fn open(file: File, shown: &Path) -> Result<ElfFile> {
        Self::read_headers(file, shown).with_context(|| format!("failed to read {}", shown.display()))
    }

    fn read_headers(file: File, shown: &Path) -> Result<ElfFile> {
        let mut this = ElfFile {
            view: LinkView::open(ElfSource::new(file)?)?,
            shown: shown.to_path_buf(),
            loads: Vec::new(),
            interpreter: None,
            dynamic_addr: None,
            dynamic: DynamicSection::default(),
            notes: Vec::new(),
            frame_index: None,
        };
        let mut dynamic = None;
        for segment in read_program_headers(&this.view)?.table::<ProgramHeader64<LittleEndian>>() {
            let extent = FileExtent {
                offset: segment.p_offset.get(LE),
                size: segment.p_filesz.get(LE),
            };
            match segment.p_type.get(LE) {
                elf::PT_LOAD => this
                    .loads
                    .push(LoadSegment::new(segment, extent, this.view.source.len())?),
                elf::PT_INTERP => this.interpreter = Some(extent),
                elf::PT_DYNAMIC => {
                    dynamic = Some(extent);
                    this.dynamic_addr = Some(segment.p_vaddr.get(LE));
                }
                elf::PT_NOTE => this.notes.push(extent),
                elf::PT_GNU_EH_FRAME => this.frame_index = Some(segment.p_vaddr.get(LE)),
                _ => {}
            }
        }
        this.loads.sort_by_key(|load| load.addr);
        if let Some(extent) = dynamic {
            this.dynamic = DynamicSection::read(&this.view.source, extent).context("bad dynamic section")?;
        }
        Ok(this)
    }

    /// The dynamic loader that the kernel starts for this program.
    pub fn interpreter(&self) -> Option<PathBuf> {
        let extent = self.interpreter?;
        let text = self
            .view
            .source
            .string(extent.offset, extent.size.min(MAX_STRING))?;
        (!text.is_empty()).then(|| PathBuf::from(OsString::from_vec(text)))
    }

    /// Whether the program runs without a dynamic loader.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.dynamic.needed.is_empty()
    }

    /// Virtual address of the entry point, before relocation; 0 for most libraries.
    pub fn entry(&self) -> u64 {
        self.view.header.e_entry.get(LE)
    }

    /// Virtual address of the dynamic section, before relocation.
    pub fn dynamic_address(&self) -> Option<u64> {
        self.dynamic_addr
    }

    /// Whether the Go compiler built the program. Go moves stacks, so return probes crash Go programs.
    pub fn is_go(&self) -> bool {
        let has_go_note = |extent: &FileExtent| {
            let notes = self.view.source.read(extent.offset, extent.size);
            notes.is_ok_and(|notes| link_view::note(notes.bytes(), GO_NOTE.0, GO_NOTE.1).is_some())
        };
        self.notes.iter().any(has_go_note)
            || GO_SECTIONS
                .iter()
                .any(|name| self.view.section_named(name).is_some())
    }

    /// Whether exceptions or panics may unwind the stack through functions of this file, because it uses
    /// functions that throw or propagate them. A static program without dynamic symbols counts if it has
    /// tables of handlers.
    pub fn may_unwind(&self) -> bool {
        const NAMES: [&[u8]; 3] = [b"_Unwind_Resume", b"_Unwind_RaiseException", b"__cxa_throw"];
        let strings = self.dynamic.strtab.and_then(|strtab| {
            self.read_at_address(strtab, self.dynamic.strsz, "dynamic strings")
                .ok()
        });
        match strings {
            Some(strings) => strings
                .bytes()
                .split(|&byte| byte == 0)
                .any(|name| NAMES.contains(&name)),
            None => self.view.section_named(".gcc_except_table").is_some(),
        }
    }

    /// The build ID, which a separate debug file shares.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let in_segment = self.notes.iter().find_map(|extent| {
            let notes = self.view.source.read(extent.offset, extent.size).ok()?;
            link_view::build_id(notes.bytes())
        });
        in_segment.or_else(|| self.view.build_id())
    }

    /// Virtual address and content of the section of that name, if it has content.
    pub(super) fn section_named(&self, name: &str) -> Option<(u64, ElfBlock)> {
        let section = self.view.section_named(name)?;
        let block = self
            .view
            .source
            .read(section.extent.offset, section.extent.size)
            .ok()?;
        Some((section.addr, block))
    }

    /// The sections whose names start with `prefix`, as ranges of virtual addresses.
    pub(super) fn sections_starting(&self, prefix: &str) -> Vec<Range<u64>> {
        self.view.sections_starting(prefix)
    }

    /// Virtual address of the index of the unwind tables.
    pub(super) fn frame_index(&self) -> Option<u64> {
        self.frame_index
    }

    /// The symbols of `.symtab`, or `None` if the file is stripped.
    pub(super) fn static_symbols(&self) -> Result<Option<SymbolTable>> {
        self.view
            .symbols()
            .with_context(|| self.damaged("cannot read the symbol table"))
    }

    /// The virtual addresses of all symbols, sorted and each once. Tables that cannot be read are skipped.
    pub(super) fn symbol_addresses(&self) -> Vec<u64> {
        let tables = [self.dynamic_symbols(), self.static_symbols()];
        let tables = tables.iter().flatten().flatten();
        let mut addresses: Vec<u64> = tables.flat_map(SymbolTable::addresses).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The message for a damaged symbol table.
    pub(super) fn damaged(&self, what: &str) -> String {
        format!("failed to read symbols of {}: {what}", self.shown.display())
    }
}
