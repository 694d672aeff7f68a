//! One ELF file: its exported functions, what it tells the dynamic loader, and the tables that `functions` reads.
//!
//! The file belongs to whoever runs the traced program, so nothing in it is believed: every table is checked
//! against the length of the file before memory is allocated for it, and every walk has an end. The file is
//! read with `pread` and never mapped, because a mapped file that somebody truncates kills the reader with
//! SIGBUS.
//!
//! Dynamic symbols are found through `PT_DYNAMIC`, as the loader finds them, so that files without section
//! headers work too. Only `.symtab`, which the loader does not know, needs section headers.

use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::elf::{self, Dyn64, ProgramHeader64};
use object::{LittleEndian, U16, U32};

use symbols::{RawSymbol, SymbolEntry, is_hidden};

pub(super) use link_view::LinkView;
pub use relocation::{PointerSlot, SlotBinding};
use source::FileExtent;
pub(super) use source::{Block, Source};
pub(super) use symbols::SymbolTable;

mod content;
#[cfg(test)]
pub mod image;
mod link_view;
mod relocation;
pub mod sections;
mod source;
mod symbols;
#[cfg(test)]
mod tests;

const LE: LittleEndian = LittleEndian;

#[cfg(target_arch = "x86_64")]
const MACHINE: (u16, &str) = (elf::EM_X86_64, "x86_64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (u16, &str) = (elf::EM_AARCH64, "aarch64");

/// The kernel refuses to run a file with more than 64 KiB of program headers.
const MAX_PROGRAM_HEADERS: usize = 65536 / size_of::<ProgramHeader64<LittleEndian>>();
/// Longest soname, run path or interpreter that is read, in bytes: the kernel's `PATH_MAX`.
const MAX_STRING: u64 = 4096;
/// Bytes of a hash chain read at a time: while the end of the last chain is looked for, and for one name.
const CHAIN_CHUNK: u64 = 4096;
const LINKS_CHUNK: u64 = 64;
/// Most symbols that may share a place in a hash table. Real tables have two or three on average.
const MAX_CHAIN: u64 = 4096;
/// What only Go programs have: owner and type of a note, and sections.
const GO_NOTE: (&[u8], u32) = (b"Go\0\0", 4);
const GO_SECTIONS: [&str; 2] = [".go.buildinfo", ".gopclntab"];
/// Segments are mapped in pages, whose size is at least this many bytes.
const PAGE: u64 = 4096;

/// A function of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSymbol {
    /// The symbol without its version.
    pub name: String,
    /// Where in the file the first instruction is, in bytes.
    pub offset: u64,
    /// The virtual address that the file asks for, before relocation.
    pub addr: u64,
    /// Length in bytes; 0 if the symbol does not say.
    pub size: u64,
    /// The code at `offset` only chooses the implementation; it is not what callers call.
    pub ifunc: bool,
}

/// An opened ELF file of this machine's own architecture.
#[derive(Debug)]
pub struct ElfFile {
    view: LinkView,
    shown: PathBuf,
    /// Loadable segments, by address.
    loads: Vec<LoadSegment>,
    interpreter: Option<FileExtent>,
    /// Virtual address of `PT_DYNAMIC`.
    dynamic_addr: Option<u64>,
    dynamic: DynamicSection,
    /// `PT_NOTE`: what the linker and the compiler left about the file.
    notes: Vec<FileExtent>,
    /// Virtual address of `PT_GNU_EH_FRAME`, the index of how to unwind the stack.
    frame_index: Option<u64>,
}

impl ElfFile {
    /// Reads the headers of `file`; `shown` is the name for error messages.
    ///
    /// # Errors
    /// The file cannot be read, is not ELF, is of another class or machine, or its headers point past its end.
    pub fn open(file: File, shown: &Path) -> Result<ElfFile> {
        Self::read_headers(file, shown).with_context(|| format!("failed to read {}", shown.display()))
    }

    fn read_headers(file: File, shown: &Path) -> Result<ElfFile> {
        let mut this = ElfFile {
            view: LinkView::open(Source::new(file)?)?,
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

    /// The function of each name, in the order of `names`. Dynamic symbols win over `.symtab`, default
    /// versions over others, exported names over local ones.
    ///
    /// # Errors
    /// A symbol table cannot be read or lies outside of the file.
    pub fn lookup(&self, names: &[&str]) -> Result<Vec<Option<FunctionSymbol>>> {
        let mut search = SymbolSearch::new(names);
        self.search_dynamic(&mut search)?;
        if search.missing()
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

    /// Whether the file exports a function of that name: what the dynamic loader could bind a caller to.
    /// False if the dynamic symbols cannot be read.
    pub fn defines(&self, name: &str) -> bool {
        let names = [name];
        let mut search = SymbolSearch::new(&names);
        let searched = self.search_dynamic(&mut search);
        searched.is_ok() && search.found.iter().flatten().any(|(rank, _)| rank.exported)
    }

    /// The name under which other files ask for this library.
    pub fn soname(&self) -> Option<String> {
        self.dynamic_string(self.dynamic.soname?)
    }

    /// The sonames this file asks for, in order.
    pub fn needed(&self) -> Vec<String> {
        self.dynamic
            .needed
            .iter()
            .filter_map(|&at| self.dynamic_string(at))
            .collect()
    }

    /// `DT_RUNPATH`, split at colons, with `$ORIGIN` and the like as they stand in the file.
    pub fn runpath(&self) -> Vec<String> {
        self.path_list(self.dynamic.runpath)
    }

    /// `DT_RPATH`, split at colons, with `$ORIGIN` and the like as they stand in the file.
    pub fn rpath(&self) -> Vec<String> {
        self.path_list(self.dynamic.rpath)
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

    /// The address of the first instruction, before relocation; 0 for most libraries.
    pub fn entry(&self) -> u64 {
        self.view.header.e_entry.get(LE)
    }

    /// The virtual address of the dynamic section, before relocation.
    pub fn dynamic_address(&self) -> Option<u64> {
        self.dynamic_addr
    }

    /// Whether the Go compiler made the program. Its stacks move, so that a return probe crashes it.
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

    /// Whether exceptions or panics may unwind the stack through functions of this file: it uses what throws or passes
    /// them on. A static program without dynamic symbols counts if it has tables of handlers.
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

    /// What the linker called this file, and what was stripped off it.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let in_segment = self.notes.iter().find_map(|extent| {
            let notes = self.view.source.read(extent.offset, extent.size).ok()?;
            link_view::build_id(notes.bytes())
        });
        in_segment.or_else(|| self.view.build_id())
    }

    /// Where in the file the instruction at virtual address `addr` is, in bytes. `None` if `addr` does not lie in
    /// the part of an executable segment that comes from the file.
    pub fn offset_of(&self, addr: u64) -> Option<u64> {
        let load = self.load_at(addr).filter(|load| load.exec)?;
        Some(load.extent.offset + (addr - load.addr))
    }

    /// The virtual address of the byte at `offset` of the file as executable segments map it, whole pages
    /// included: the inverse of [`ElfFile::offset_of`] for any offset that a mapping can have.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let load = self.loads.iter().find(|load| {
            let start = load.extent.offset & !(PAGE - 1);
            load.exec && (start..load.extent.end()).contains(&offset)
        })?;
        Some(load.addr.wrapping_sub(load.extent.offset).wrapping_add(offset))
    }

    /// The content of the section of that name and its virtual address, if it has any.
    pub(super) fn section_named(&self, name: &str) -> Option<(u64, Block)> {
        let section = self.view.section_named(name)?;
        let block = self
            .view
            .source
            .read(section.extent.offset, section.extent.size)
            .ok()?;
        Some((section.addr, block))
    }

    /// The sections whose names begin with `start`, as ranges of virtual addresses.
    pub(super) fn sections_starting(&self, start: &str) -> Vec<Range<u64>> {
        self.view.sections_starting(start)
    }

    /// What the file holds from virtual address `addr` to the end of the segment.
    pub(super) fn content_from(&self, addr: u64) -> Option<Block> {
        let extent = self.content_at(addr)?;
        self.view.source.read(extent.offset, extent.size).ok()
    }

    /// Virtual address of the index of the unwind tables.
    pub(super) fn frame_index(&self) -> Option<u64> {
        self.frame_index
    }

    /// The segment whose file content covers `addr`.
    fn load_at(&self, addr: u64) -> Option<&LoadSegment> {
        let after = self.loads.partition_point(|load| load.addr <= addr);
        let load = &self.loads[after.checked_sub(1)?];
        (addr - load.addr < load.extent.size).then_some(load)
    }

    /// What the file holds from virtual address `addr` to the end of the segment.
    fn content_at(&self, addr: u64) -> Option<FileExtent> {
        let load = self.load_at(addr)?;
        let skip = addr - load.addr;
        Some(FileExtent {
            offset: load.extent.offset + skip,
            size: load.extent.size - skip,
        })
    }

    /// `size` bytes from virtual address `addr` on.
    fn read_at_address(&self, addr: u64, size: u64, what: &str) -> Result<Block> {
        let extent = self.content_at(addr).filter(|extent| size <= extent.size);
        let extent = extent.with_context(|| self.damaged(&format!("{what} outside of the file")))?;
        self.view
            .source
            .read(extent.offset, size)
            .with_context(|| self.damaged(&format!("cannot read {what}")))
    }

    pub(super) fn damaged(&self, what: &str) -> String {
        format!("failed to read symbols of {}: {what}", self.shown.display())
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

    /// The exported function of that name, of several versions the default one.
    ///
    /// # Errors
    /// The dynamic symbols cannot be read.
    pub(super) fn dynamic_function(&self, name: &str) -> Result<Option<FunctionSymbol>> {
        let names = [name];
        let mut search = SymbolSearch::new(&names);
        self.search_dynamic(&mut search)?;
        Ok(search.found.pop().flatten().map(|(_, function)| function))
    }

    /// The symbols of `.symtab`, or `None` if the file is stripped.
    pub(super) fn static_symbols(&self) -> Result<Option<SymbolTable>> {
        self.view
            .symbols()
            .with_context(|| self.damaged("cannot read the symbol table"))
    }

    /// The addresses of all symbols in the file, in order. Tables that cannot be read have none.
    pub(super) fn symbol_addresses(&self) -> Vec<u64> {
        let tables = [self.dynamic_symbols(), self.static_symbols()];
        let tables = tables.iter().flatten().flatten();
        let mut addresses: Vec<u64> = tables.flat_map(SymbolTable::addresses).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The symbols the loader knows, or `None` if there are none.
    pub(super) fn dynamic_symbols(&self) -> Result<Option<SymbolTable>> {
        let (Some(symtab), Some(strtab)) = (self.dynamic.symtab, self.dynamic.strtab) else {
            return Ok(None);
        };
        let Some(count) = self.dynamic_symbol_count()? else {
            return Ok(None);
        };
        let size = count.saturating_mul(size_of::<RawSymbol>() as u64);
        ensure!(
            size.saturating_add(self.dynamic.strsz) <= self.view.source.len(),
            self.damaged("dynamic symbols are longer than the file")
        );
        let table = self.read_at_address(symtab, size, "dynamic symbols")?;
        let strings = self.read_at_address(strtab, self.dynamic.strsz, "dynamic strings")?;
        let versions = match self.dynamic.versym {
            Some(at) => Some(self.read_at_address(at, count.saturating_mul(2), "symbol versions")?),
            None => None,
        };
        let file_len = self.view.source.len();
        Ok(Some(SymbolTable::new(table, strings, versions, file_len)))
    }

    /// How many dynamic symbols there are. No dynamic tag says so: it follows from a hash table or, in a file
    /// that has neither, from the section header.
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

    /// Fills in what the dynamic symbols have. With a GNU hash table, which nearly every file has, that takes a few
    /// small reads a name, however many symbols there are; else all of them are read.
    fn search_dynamic(&self, search: &mut SymbolSearch) -> Result<()> {
        if let Some(at) = self.dynamic.gnu_hash {
            let table = self.gnu_hash(at)?;
            for (name, found) in search.names.iter().zip(&mut search.found) {
                *found = self.hashed(&table, name)?;
            }
        } else if let Some(symbols) = self.dynamic_symbols()? {
            search.scan(self, &symbols);
        }
        Ok(())
    }

    fn gnu_hash(&self, at: u64) -> Result<GnuHash> {
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

    /// The number of symbols by the GNU hash table: the chain that begins last is followed to its end.
    fn gnu_hash_count(&self, at: u64) -> Result<u64> {
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

    /// The links of the hash chains from symbol `index` on: at least one, at most `size` bytes of them.
    fn links(&self, table: &GnuHash, index: u64, size: u64) -> Result<Block> {
        let addr = index
            .checked_sub(table.first)
            .and_then(|index| table.chains_at.checked_add(index * 4));
        let extent = addr
            .and_then(|addr| self.content_at(addr))
            .filter(|extent| extent.size >= 4);
        let extent = extent.with_context(|| self.damaged("a hash chain has no end"))?;
        self.view.source.read(extent.offset, extent.size.min(size) & !3)
    }

    /// Looks one name up as the loader does; of several versions, the default one.
    fn hashed(&self, table: &GnuHash, name: &str) -> Result<Option<(SymbolRank, FunctionSymbol)>> {
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

/// A loadable segment. Its file range was checked against the length of the file.
#[derive(Debug)]
struct LoadSegment {
    addr: u64,
    extent: FileExtent,
    exec: bool,
}

impl LoadSegment {
    fn new(header: &ProgramHeader64<LittleEndian>, extent: FileExtent, file_len: u64) -> Result<LoadSegment> {
        let end = extent.offset.checked_add(extent.size);
        ensure!(end.is_some_and(|end| end <= file_len), "truncated ELF file");
        let exec = header.p_flags.get(LE) & elf::PF_X != 0;
        Ok(LoadSegment {
            addr: header.p_vaddr.get(LE),
            extent,
            exec,
        })
    }
}

const GNU_HASH: &str = "GNU hash table";

/// A GNU hash table: where its parts are, by virtual address. Each bucket has the index of the first symbol of a
/// chain, and each symbol from `first` on has a link.
struct GnuHash {
    buckets: u64,
    first: u64,
    buckets_at: u64,
    chains_at: u64,
}

/// What the dynamic section says; addresses are virtual, strings are offsets into the string table.
#[derive(Debug, Default)]
struct DynamicSection {
    symtab: Option<u64>,
    strtab: Option<u64>,
    strsz: u64,
    hash: Option<u64>,
    gnu_hash: Option<u64>,
    versym: Option<u64>,
    /// Address and bytes of the two relocation tables.
    rela: (Option<u64>, u64),
    jmprel: (Option<u64>, u64),
    soname: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    needed: Vec<u64>,
}

impl DynamicSection {
    fn read(source: &Source, extent: FileExtent) -> Result<DynamicSection> {
        let block = source.read(extent.offset, extent.size)?;
        let mut dynamic = DynamicSection::default();
        for entry in block.table::<Dyn64<LittleEndian>>() {
            let value = entry.d_val.get(LE);
            // Every tag of interest fits 32 bits.
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

/// How good a symbol of the right name is; more is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SymbolRank {
    exported: bool,
    default: bool,
}

/// A search for several names at once.
struct SymbolSearch<'a> {
    names: &'a [&'a str],
    /// The indexes of the names that begin with each byte: nearly every symbol is dismissed by its first letter.
    by_first: Vec<Vec<usize>>,
    found: Vec<Option<(SymbolRank, FunctionSymbol)>>,
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

    fn missing(&self) -> bool {
        self.found.iter().any(Option::is_none)
    }

    /// Takes from `symbols` what is better than what was found before; a tie goes to the earlier one.
    fn scan(&mut self, file: &ElfFile, symbols: &SymbolTable) {
        // What an earlier table gave stays: a loader binds to dynamic symbols only.
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

fn read_program_headers(view: &LinkView) -> Result<Block> {
    let header = &view.header;
    let count = usize::from(header.e_phnum.get(LE));
    let entry_size = size_of::<ProgramHeader64<LittleEndian>>();
    ensure!(
        count <= MAX_PROGRAM_HEADERS,
        "an ELF file with too many program headers ({count})"
    );
    if count > 0 {
        ensure!(
            usize::from(header.e_phentsize.get(LE)) == entry_size,
            "an ELF file with odd program headers"
        );
    }
    view.source
        .read(header.e_phoff.get(LE), (count * entry_size) as u64)
}
