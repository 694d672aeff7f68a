// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The linking view of an ELF file: its sections. In debug files they are all that counts, because the
//! segments describe the file that the debug information was taken from.
//!
//! Programs run without section headers, and some packers leave garbage there. Headers that lie outside of
//! the file are therefore treated as absent.

use std::cell::OnceCell;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf::{self, FileHeader64, SectionHeader64};

use super::source::{ElfBlock, ElfSource, FileExtent, LE};
use super::symbols::SymbolTable;
use crate::error::Failure;

type SectionHeader = SectionHeader64<LittleEndian>;
const HEADER_SIZE: u64 = size_of::<SectionHeader>() as u64;

/// `e_machine` of the files that are read, and its name.
#[cfg(target_arch = "x86_64")]
pub const MACHINE: (u16, &str) = (elf::EM_X86_64, "x86_64");
/// `e_machine` of the files that are read, and its name.
#[cfg(target_arch = "aarch64")]
pub const MACHINE: (u16, &str) = (elf::EM_AARCH64, "aarch64");

/// Most section headers that are read. Programs have some dozens.
const MOST_SECTIONS: u64 = 1 << 16;
/// Most sections with names that start alike. Programs have four that start with `.plt`.
const MOST_ALIKE: usize = 64;
/// Longest build ID that is accepted, in bytes; linkers make 8, 16 or 20.
const MAX_BUILD_ID: usize = 64;

/// The content and the header of an ELF file of this machine's architecture.
#[derive(Debug)]
pub struct LinkView {
    pub source: ElfSource,
    pub header: FileHeader64<LittleEndian>,
    /// Read on first use; `None` if there are none.
    sections: OnceCell<Option<SectionHeaders>>,
}

impl LinkView {
    /// # Errors
    /// The file is not ELF, or is of another class or machine.
    pub fn open(source: ElfSource) -> Result<LinkView> {
        let header = read_file_header(&source)?;
        Ok(LinkView {
            source,
            header,
            sections: OnceCell::new(),
        })
    }

    /// The symbols of `.symtab`, or `None` if the file is stripped.
    ///
    /// # Errors
    /// A table cannot be read, or is longer than the file.
    pub fn symbols(&self) -> Result<Option<SymbolTable>> {
        let found = self.sections().and_then(|sections| {
            let section = sections
                .table()
                .iter()
                .find(|section| kind(section) == elf::SHT_SYMTAB)?;
            let strings = sections.table().get(section.sh_link.get(LE) as usize)?;
            Some((extent(section), extent(strings)))
        });
        let Some((table, strings)) = found else {
            return Ok(None);
        };
        let symbols = SymbolTable::new(
            self.source.read(table.offset, table.size)?,
            self.source.read_texts(strings.offset, strings.size)?,
            None,
            self.source.budget.most_at_once(),
        );
        Ok(Some(symbols))
    }

    /// The extent of the first section of that type.
    pub fn section(&self, wanted: u32) -> Option<FileExtent> {
        let sections = self.sections()?;
        sections
            .table()
            .iter()
            .find(|section| kind(section) == wanted)
            .map(extent)
    }

    /// The section of that name, if it has content. Several that follow one another in the file are one: GCC writes a
    /// `.debug_info.dwo` for each type unit, and that of the compilation unit last.
    pub fn section_named(&self, name: &str) -> Option<SectionExtent> {
        let sections = self.sections()?;
        let is_wanted = |section: &&SectionHeader| {
            let rest = sections.name_onwards(section);
            let after = rest.and_then(|rest| rest.strip_prefix(name.as_bytes()));
            kind(section) != elf::SHT_NOBITS && after.is_some_and(|after| after.first() == Some(&0))
        };
        let found = sections
            .table()
            .iter()
            .filter(is_wanted)
            .map(|section| SectionExtent {
                addr: section.sh_addr.get(LE),
                extent: extent(section),
                compressed: section.sh_flags.get(LE) & u64::from(elf::SHF_COMPRESSED) != 0,
            });
        found.reduce(SectionExtent::joined)
    }

    /// The sections whose names start with `prefix`, as ranges of virtual addresses.
    pub fn sections_starting(&self, prefix: &str) -> Vec<Range<u64>> {
        let Some(sections) = self.sections() else {
            return Vec::new();
        };
        let is_wanted = |section: &&SectionHeader| {
            let rest = sections.name_onwards(section);
            rest.is_some_and(|rest| rest.starts_with(prefix.as_bytes()))
        };
        let found = sections.table().iter().filter(is_wanted);
        found.map(range).take(MOST_ALIKE).collect()
    }

    /// The section with code that contains `addr`, as a range of virtual addresses.
    pub fn section_around(&self, addr: u64) -> Option<Range<u64>> {
        let sections = self.sections()?.table().iter();
        let code = u64::from(elf::SHF_ALLOC | elf::SHF_EXECINSTR);
        let is_code = |section: &&SectionHeader| section.sh_flags.get(LE) & code == code;
        sections
            .filter(is_code)
            .map(range)
            .find(|range| range.contains(&addr))
    }

    /// The build ID, which a separate debug file shares.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let extent = self.section_named(".note.gnu.build-id")?.extent;
        build_id(self.source.read(extent.offset, extent.size).ok()?.bytes())
    }

    fn sections(&self) -> Option<&SectionHeaders> {
        self.sections.get_or_init(|| self.read_sections()).as_ref()
    }

    fn read_sections(&self) -> Option<SectionHeaders> {
        let offset = self.header.e_shoff.get(LE);
        if offset == 0 || u64::from(self.header.e_shentsize.get(LE)) != HEADER_SIZE {
            return None;
        }
        let first = self.source.read(offset, HEADER_SIZE).ok()?;
        let first = first.table::<SectionHeader>().first()?;
        // With 65280 sections or more, both counts are in section 0.
        let count = match self.header.e_shnum.get(LE) {
            0 => first.sh_size.get(LE),
            count => u64::from(count),
        };
        let names = match self.header.e_shstrndx.get(LE) {
            elf::SHN_XINDEX => first.sh_link.get(LE) as usize,
            index => usize::from(index),
        };
        if count > MOST_SECTIONS {
            return None;
        }
        let headers = self.source.read(offset, count.checked_mul(HEADER_SIZE)?).ok()?;
        let names = headers.table::<SectionHeader>().get(names).map(extent);
        let names = names.and_then(|names| self.source.read(names.offset, names.size).ok());
        Some(SectionHeaders { headers, names })
    }
}

/// Where a section is: its virtual address before relocation, and its extent in the file.
pub struct SectionExtent {
    pub addr: u64,
    pub extent: FileExtent,
    /// The content starts with a compression header.
    pub compressed: bool,
}

impl SectionExtent {
    /// With the bytes of another section, if they are the next ones in the file.
    fn joined(mut self, next: SectionExtent) -> SectionExtent {
        if self.extent.end() == next.extent.offset && !self.compressed && !next.compressed {
            self.extent.size = self.extent.size.saturating_add(next.extent.size);
        }
        self
    }
}

#[derive(Debug)]
struct SectionHeaders {
    headers: ElfBlock,
    names: Option<ElfBlock>,
}

impl SectionHeaders {
    fn table(&self) -> &[SectionHeader] {
        self.headers.table()
    }

    /// The name of a section and all names after it: looking for the end of a long one again and again takes too long.
    fn name_onwards(&self, section: &SectionHeader) -> Option<&[u8]> {
        let names = self.names.as_ref()?.bytes();
        names.get(section.sh_name.get(LE) as usize..)
    }
}

fn kind(section: &SectionHeader) -> u32 {
    section.sh_type.get(LE)
}

/// Its virtual addresses, before relocation.
fn range(section: &SectionHeader) -> Range<u64> {
    let start = section.sh_addr.get(LE);
    start..start.saturating_add(section.sh_size.get(LE))
}

fn extent(section: &SectionHeader) -> FileExtent {
    FileExtent {
        offset: section.sh_offset.get(LE),
        size: section.sh_size.get(LE),
    }
}

/// The build ID among these notes.
pub fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let content = note(notes, b"GNU\0", elf::NT_GNU_BUILD_ID)?;
    (2..=MAX_BUILD_ID)
        .contains(&content.len())
        .then(|| content.to_vec())
}

/// The content of the first note of that owner and type.
pub fn note<'n>(mut notes: &'n [u8], owner: &[u8], kind: u32) -> Option<&'n [u8]> {
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let (name_len, len) = (number(0)? as usize, number(4)? as usize);
        let content = rest.get(name_len.next_multiple_of(4)..)?;
        if number(8)? == kind && rest.get(..name_len)? == owner {
            return content.get(..len);
        }
        notes = content.get(len.next_multiple_of(4)..)?;
    }
}

fn read_file_header(source: &ElfSource) -> Result<FileHeader64<LittleEndian>> {
    let ident = source.read(0, source.len().min(16))?;
    let ident = ident.bytes();
    if ident.starts_with(b"#!") {
        let failure = Failure::failed("a script has no functions that can be traced");
        return Err(failure.hint("name the program that it runs").into());
    }
    ensure!(ident.starts_with(&elf::ELFMAG), "not an ELF file");
    ensure!(ident.len() == 16, "truncated ELF file");
    match ident[4] {
        elf::ELFCLASS64 => {}
        elf::ELFCLASS32 => bail!("a 32-bit ELF file"),
        other => bail!("an ELF file of unknown class {other}"),
    }
    ensure!(ident[5] == elf::ELFDATA2LSB, "a big-endian ELF file");
    let block = source.read(0, size_of::<FileHeader64<LittleEndian>>() as u64)?;
    let header = *block
        .table::<FileHeader64<LittleEndian>>()
        .first()
        .context("truncated ELF file")?;
    let machine = header.e_machine.get(LE);
    let (expected, this) = MACHINE;
    ensure!(
        machine == expected,
        "an ELF file for {}, this machine is {this}",
        machine_name(machine)
    );
    Ok(header)
}

fn machine_name(machine: u16) -> String {
    match machine {
        elf::EM_386 => "i386".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_PPC64 => "ppc64".to_owned(),
        elf::EM_S390 => "s390".to_owned(),
        other => format!("machine {other}"),
    }
}
