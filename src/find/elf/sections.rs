// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Sections of an ELF file by name. Works on separate debug files too, whose program headers describe the file that
//! they were split from.

use std::fs::File;
use std::io;

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf::{self, CompressionHeader64};

use super::source::FileExtent;
use super::{ElfSource, LinkView};

/// How much larger a section is than its compressed form, at most: 2 to 6 times with real debug information. Deflate
/// could expand a file of 4 MB to 4 GB.
const MOST_EXPANSION: u64 = 16;
/// Expanded in any case, in bytes.
const SMALL: u64 = 4 << 20;
/// Bytes before the stream in a section such as `.zdebug_info`.
const ZDEBUG_HEADER: u64 = 12;

/// Reads the sections of a file, which stays open.
pub struct SectionReader(LinkView);

/// Where the content of a section is in the file, and how it is stored.
#[derive(Clone, Copy, Debug)]
pub struct SectionContent {
    /// The bytes in the file, without a compression header.
    pub extent: FileExtent,
    /// Bytes after decompression.
    pub size: u64,
    pub compression: Compression,
}

/// How the content of a section is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Stored,
    Zlib,
    /// One or more frames.
    Zstd,
}

impl SectionReader {
    /// # Errors
    /// The file cannot be read, or is not an ELF file for this machine.
    pub fn open(file: File) -> Result<SectionReader> {
        LinkView::open(ElfSource::new(file)?).map(SectionReader)
    }

    /// The first section of that name, or `None` if there is none with content. For `.debug_info` also `.zdebug_info`,
    /// as the GNU tools wrote it before ELF had compressed sections.
    ///
    /// # Errors
    /// It is not inside the file, or its compression is unknown or claims an impossible size.
    pub fn find(&self, name: &str) -> Result<Option<SectionContent>> {
        let Some(section) = self.0.section_named(name) else {
            let old = name.strip_prefix(".debug_").map(|rest| format!(".zdebug_{rest}"));
            let section = old.as_ref().and_then(|old| self.0.section_named(old));
            let content = section.map(|section| self.zdebug_content(section.extent));
            return content.transpose().with_context(|| format!("bad section {name}"));
        };
        let content = match section.compressed {
            true => self.compressed_content(section.extent),
            false => self.stored_content(section.extent),
        };
        content.map(Some).with_context(|| format!("bad section {name}"))
    }

    fn stored_content(&self, extent: FileExtent) -> Result<SectionContent> {
        ensure!(extent.end() <= self.0.source.len(), "truncated ELF file");
        Ok(SectionContent {
            extent,
            size: extent.size,
            compression: Compression::Stored,
        })
    }

    /// "ZLIB", the size as a big-endian number of eight bytes, and the stream.
    fn zdebug_content(&self, extent: FileExtent) -> Result<SectionContent> {
        let header = self.read(extent.offset, extent.size.min(ZDEBUG_HEADER))?;
        let size = header.strip_prefix(b"ZLIB").and_then(|size| size.try_into().ok());
        let size = size.map(u64::from_be_bytes).context("no compression header")?;
        self.expanded(extent, ZDEBUG_HEADER, size, Compression::Zlib)
    }

    fn compressed_content(&self, extent: FileExtent) -> Result<SectionContent> {
        type Header = CompressionHeader64<LittleEndian>;
        let header_size = size_of::<Header>() as u64;
        ensure!(extent.size >= header_size, "no compression header");
        let block = self.0.source.read(extent.offset, header_size)?;
        let header = block.table::<Header>().first().context("no compression header")?;
        let compression = match header.ch_type.get(LittleEndian) {
            elf::ELFCOMPRESS_ZLIB => Compression::Zlib,
            elf::ELFCOMPRESS_ZSTD => Compression::Zstd,
            other => bail!("unknown compression {other}"),
        };
        self.expanded(extent, header_size, header.ch_size.get(LittleEndian), compression)
    }

    /// Content that is compressed to what follows a header, and has `size` bytes.
    fn expanded(
        &self,
        extent: FileExtent,
        header_size: u64,
        size: u64,
        compression: Compression,
    ) -> Result<SectionContent> {
        let stored = extent
            .size
            .checked_sub(header_size)
            .context("no compression header")?;
        let most = stored.min(self.0.source.budget.most_at_once());
        let most = most.saturating_mul(MOST_EXPANSION).saturating_add(SMALL);
        ensure!(size <= most, "its compression claims an unlikely size");
        let extent = FileExtent {
            offset: extent.offset.saturating_add(header_size),
            size: stored,
        };
        let content = self.stored_content(extent)?;
        Ok(SectionContent {
            size,
            compression,
            ..content
        })
    }

    /// The file.
    ///
    /// # Errors
    /// Those of [`ElfSource::try_clone_file`].
    pub fn try_clone_file(&self) -> io::Result<File> {
        self.0.source.try_clone_file()
    }

    /// `size` bytes of the file from `offset` on.
    ///
    /// # Errors
    /// They are not inside the file, or cannot be read.
    pub fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>> {
        self.0.source.read_bytes(offset, size)
    }
}
