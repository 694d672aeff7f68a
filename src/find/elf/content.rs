//! Pieces of a file: code, data and whole sections.

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{self, SectionHeader64};

use super::{ElfFile, Extent, LE, read_file_header};

type Section = SectionHeader64<LittleEndian>;

/// Largest function that is read, in bytes.
const MAX_CODE: u64 = 1 << 20;

impl ElfFile {
    /// The `size` bytes of code at virtual address `addr`, at most 1 MiB.
    ///
    /// # Errors
    /// They do not lie in the part of an executable segment that comes from the file, they are too many, or they
    /// cannot be read.
    pub fn code(&self, addr: u64, size: u64) -> Result<Vec<u8>> {
        let what = || format!("failed to read the code of {} at {addr:#x}", self.shown.display());
        ensure!(size <= MAX_CODE, "{}: {size} bytes are too many", what());
        ensure!(
            self.offset_of(addr).is_some(),
            "{}: there is none in the file",
            what()
        );
        Ok(self.read_at_address(addr, size, "code")?.bytes().to_vec())
    }

    /// Where in the file the byte at virtual address `addr` is, be it code or data. `None` if it does not come from
    /// the file.
    pub fn data_offset_of(&self, addr: u64) -> Option<u64> {
        self.content_at(addr).map(|extent| extent.offset)
    }

    /// The eight bytes at virtual address `addr` as they are in the file, before relocation.
    pub fn word(&self, addr: u64) -> Option<u64> {
        let block = self.read_at_address(addr, 8, "data").ok()?;
        block.bytes().try_into().ok().map(u64::from_le_bytes)
    }

    /// The content of the section of that name, at most `limit` bytes, or `None` if there is no such section or the
    /// file does not hold its content.
    ///
    /// # Errors
    /// It is larger, or lies outside of the file.
    pub fn section_content(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.section_named(name) else {
            return Ok(None);
        };
        if section.sh_type.get(LE) == elf::SHT_NOBITS {
            return Ok(None);
        }
        let Extent { offset, size } = extent_of(&section);
        let what = || format!("failed to read {name} of {}", self.shown.display());
        ensure!(size <= limit, "{}: {size} bytes are too many", what());
        let block = self.source.read(offset, size).with_context(what)?;
        Ok(Some(block.bytes().to_vec()))
    }

    /// The virtual address of the section of that name.
    pub fn section_address(&self, name: &str) -> Option<u64> {
        self.section_named(name).map(|section| section.sh_addr.get(LE))
    }

    fn section_named(&self, name: &str) -> Option<Section> {
        let (offset, count, _) = self.sections;
        let header = read_file_header(&self.source).ok()?;
        let headers = self
            .source
            .read(offset, u64::from(count) * size_of::<Section>() as u64)
            .ok()?;
        let sections = headers.table::<Section>();
        let names = extent_of(sections.get(usize::from(header.e_shstrndx.get(LE)))?);
        let names = self.source.read(names.offset, names.size).ok()?;
        let is_named = |section: &&Section| {
            let rest = names.bytes().get(section.sh_name.get(LE) as usize..);
            let rest = rest.and_then(|rest| rest.strip_prefix(name.as_bytes()));
            rest.is_some_and(|rest| rest.first() == Some(&0))
        };
        sections.iter().find(is_named).copied()
    }
}

fn extent_of(section: &Section) -> Extent {
    Extent {
        offset: section.sh_offset.get(LE),
        size: section.sh_size.get(LE),
    }
}
