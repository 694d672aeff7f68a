// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! One ELF file: headers, symbols, dynamic section, code and data.
//!
//! The file belongs to the user who runs the traced program and is not trusted: the size of every table is
//! checked against what the file has on disk before memory is allocated for it, and every walk and the sum of
//! all reads are bounded (`budget`). The file is read with `pread` and never mapped, because truncating a
//! mapped file kills the reader with SIGBUS.
//!
//! Dynamic symbols are found through `PT_DYNAMIC`, as the loader finds them, so that files without section
//! headers work too. Only `.symtab`, which the loader does not use, needs section headers.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use dynamic::DynamicSection;
use relocation::RelocatedPointers;
use segments::ExecutionView;
use source::{FileExtent, LE};

pub(super) use link_view::LinkView;
pub(super) use source::{ElfBlock, ElfSource};
pub use symbols::FunctionSymbol;
pub(super) use symbols::{SymbolEntry, SymbolTable};

mod budget;
mod dynamic;
mod gnu_hash;
#[cfg(test)]
pub mod image;
mod link_view;
mod lookup;
pub mod relocation;
pub mod sections;
mod segments;
mod source;
mod symbols;
#[cfg(test)]
mod tests;

/// Owner and type of a note that only Go programs have.
const GO_NOTE: (&[u8], u32) = (b"Go\0\0", 4);
/// Sections that only Go programs have.
const GO_SECTIONS: [&str; 2] = [".go.buildinfo", ".gopclntab"];

/// An opened ELF file of this machine's architecture.
#[derive(Debug)]
pub struct ElfFile {
    view: ExecutionView,
    dynamic: DynamicSection,
    pointers: OnceCell<Option<RelocatedPointers>>,
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
        let link = LinkView::open(ElfSource::new(file)?)?;
        let view = ExecutionView::read(link, shown)?;
        let dynamic = match view.dynamic {
            Some((_, extent)) => {
                DynamicSection::read(&view.link.source, extent).context("bad dynamic section")?
            }
            None => DynamicSection::default(),
        };
        Ok(ElfFile {
            view,
            dynamic,
            pointers: OnceCell::new(),
        })
    }

    /// Allows as much reading again as when the file was opened: for the next question of the user.
    pub fn renew_budget(&self) {
        self.view.link.source.budget.renew();
    }

    /// Whether functions may be missing because their names are too long.
    pub fn has_skipped_names(&self) -> bool {
        self.view.link.source.has_skipped_texts()
    }

    /// Checks that nothing is missing because reading it would have taken too long.
    ///
    /// # Errors
    /// The file has tables or functions that overlap so much that they were not all read.
    pub fn check_budget(&self) -> Result<()> {
        let checked = self.view.link.source.budget.check();
        checked.with_context(|| format!("failed to read {}", self.view.shown.display()))
    }

    /// The dynamic loader that the kernel starts for this program.
    pub fn interpreter(&self) -> Option<PathBuf> {
        let text = self.view.string(self.view.interpreter?)?;
        (!text.is_empty()).then(|| PathBuf::from(OsString::from_vec(text)))
    }

    /// Whether the program runs without a dynamic loader.
    pub fn is_static(&self) -> bool {
        self.view.interpreter.is_none() && self.dynamic.needed.is_empty()
    }

    /// Virtual address of the entry point, before relocation; 0 for most libraries.
    pub fn entry(&self) -> u64 {
        self.view.link.header.e_entry.get(LE)
    }

    /// Virtual address of the dynamic section, before relocation.
    pub fn dynamic_address(&self) -> Option<u64> {
        self.view.dynamic.map(|(addr, _)| addr)
    }

    /// Whether the Go compiler built the program. Go moves stacks, so return probes crash Go programs.
    pub fn is_go(&self) -> bool {
        let has_go_note = |extent: &FileExtent| {
            let notes = self.view.link.source.read(extent.offset, extent.size);
            notes.is_ok_and(|notes| link_view::note(notes.bytes(), GO_NOTE.0, GO_NOTE.1).is_some())
        };
        self.view.notes.iter().any(has_go_note)
            || GO_SECTIONS
                .iter()
                .any(|name| self.view.link.section_named(name).is_some())
    }

    /// Whether exceptions or panics may unwind the stack through functions of this file, because it uses
    /// functions that throw or propagate them. A static program without dynamic symbols counts if it has
    /// tables of handlers.
    pub fn may_unwind(&self) -> bool {
        const NAMES: [&[u8]; 3] = [b"_Unwind_Resume", b"_Unwind_RaiseException", b"__cxa_throw"];
        match self.dynamic.strings(&self.view).ok().flatten() {
            Some(strings) => strings
                .bytes()
                .split(|&byte| byte == 0)
                .any(|name| NAMES.contains(&name)),
            None => self.view.link.section_named(".gcc_except_table").is_some(),
        }
    }

    /// Whether functions of this file may run on several stacks in turn, or on that of a signal handler, because it
    /// uses functions for that. Programs that do it in assembly are not detected.
    pub fn may_switch_stacks(&self) -> bool {
        const NAMES: [&str; 4] = ["makecontext", "sigaltstack", "sigstack", "swapcontext"];
        NAMES.iter().any(|name| self.imports(name))
    }

    /// Whether the file uses a function of another file; in a static program, whether it has it.
    pub fn imports(&self, name: &str) -> bool {
        let Ok(Some(strings)) = self.dynamic.strings(&self.view) else {
            return self.defines(name);
        };
        let mut names = strings.bytes().split(|&byte| byte == 0);
        // The C library defines what others import from it.
        names.any(|used| used == name.as_bytes()) && !self.defines(name)
    }

    /// `DT_SONAME`: the name under which other files need this library.
    pub fn soname(&self) -> Option<String> {
        self.dynamic.soname(&self.view)
    }

    /// `DT_NEEDED`: the sonames of the libraries that this file needs, in order.
    pub fn needed(&self) -> Vec<String> {
        self.dynamic.needed(&self.view)
    }

    /// `DT_RUNPATH`, split at colons. `$ORIGIN` and the like are not expanded.
    pub fn runpath(&self) -> Vec<String> {
        self.dynamic.runpath(&self.view)
    }

    /// `DT_RPATH`, split at colons. `$ORIGIN` and the like are not expanded.
    pub fn rpath(&self) -> Vec<String> {
        self.dynamic.rpath(&self.view)
    }

    /// File offset of the instruction at virtual address `addr`. `None` if `addr` is not in the part of an
    /// executable segment that comes from the file.
    pub fn offset_of(&self, addr: u64) -> Option<u64> {
        self.view.offset_of(addr)
    }

    /// Virtual address of the byte at file offset `offset`, as executable segments map it. The inverse of
    /// [`ElfFile::offset_of`], but for whole pages: any offset that a mapping can have.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        self.view.address_of(offset)
    }

    /// See [`ExecutionView::is_writable_code`].
    pub fn is_writable_code(&self, offset: u64) -> bool {
        self.view.is_writable_code(offset)
    }

    /// File offset of the byte at virtual address `addr`, code or data. `None` if it does not come from the
    /// file.
    pub fn data_offset_of(&self, addr: u64) -> Option<u64> {
        self.view.content_at(addr).map(|extent| extent.offset)
    }

    /// The `size` bytes of code at virtual address `addr`, at most 1 MiB.
    ///
    /// # Errors
    /// They are not in the part of an executable segment that comes from the file, are too many, or cannot be
    /// read.
    pub fn code(&self, addr: u64, size: u64) -> Result<Vec<u8>> {
        self.view.code(addr, size)
    }

    /// The 8 bytes at virtual address `addr` as they are in the file, before relocation.
    pub fn word(&self, addr: u64) -> Option<u64> {
        let block = self.view.read_at_address(addr, 8, "data").ok()?;
        block.bytes().try_into().ok().map(u64::from_le_bytes)
    }

    /// The virtual addresses of the executable segment around `addr`, as far as they come from the file.
    pub(super) fn code_segment(&self, addr: u64) -> Option<Range<u64>> {
        self.view.code_segment(addr)
    }

    /// The virtual addresses of the code around `addr`: its section, or without section headers its segment.
    pub(super) fn code_around(&self, addr: u64) -> Option<Range<u64>> {
        let segment = self.view.code_segment(addr)?;
        Some(match self.view.link.section_around(addr) {
            Some(section) => section.start.max(segment.start)..section.end.min(segment.end),
            None => segment,
        })
    }

    /// The content of a range of virtual addresses within one segment. `None` if it cannot be read.
    pub(super) fn content_of(&self, addrs: &Range<u64>) -> Option<ElfBlock> {
        self.view.content_of(addrs)
    }

    /// The content from virtual address `addr` to the end of the segment. `None` if it cannot be read.
    pub(super) fn content_from(&self, addr: u64) -> Option<ElfBlock> {
        self.view.content_from(addr)
    }

    /// The build ID, which a separate debug file shares.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let in_segment = self.view.notes.iter().find_map(|extent| {
            let notes = self.view.link.source.read(extent.offset, extent.size).ok()?;
            link_view::build_id(notes.bytes())
        });
        in_segment.or_else(|| self.view.link.build_id())
    }

    /// Virtual address and content of the section of that name, if it has content.
    pub(super) fn section_named(&self, name: &str) -> Option<(u64, ElfBlock)> {
        let section = self.view.link.section_named(name)?;
        let block = self
            .view
            .link
            .source
            .read(section.extent.offset, section.extent.size)
            .ok()?;
        Some((section.addr, block))
    }

    /// The sections whose names start with `prefix`, as ranges of virtual addresses.
    pub(super) fn sections_starting(&self, prefix: &str) -> Vec<Range<u64>> {
        self.view.link.sections_starting(prefix)
    }

    /// Virtual address of the index of the unwind tables.
    pub(super) fn frame_index(&self) -> Option<u64> {
        self.view.frame_index
    }

    /// The dynamic symbols, or `None` if there are none.
    ///
    /// # Errors
    /// A table cannot be read or lies outside of the file.
    pub(super) fn dynamic_symbols(&self) -> Result<Option<SymbolTable>> {
        self.dynamic.symbols(&self.view)
    }

    /// The symbols of `.symtab`, or `None` if the file is stripped.
    pub(super) fn static_symbols(&self) -> Result<Option<SymbolTable>> {
        self.view
            .link
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

    /// The virtual addresses of all dynamic symbols. Empty if they cannot be read.
    pub(super) fn exported_addresses(&self) -> HashSet<u64> {
        let symbols = self.dynamic_symbols().ok().flatten();
        symbols.iter().flat_map(SymbolTable::addresses).collect()
    }

    /// The message for a damaged symbol table.
    pub(super) fn damaged(&self, what: &str) -> String {
        self.view.damaged(what)
    }
}
