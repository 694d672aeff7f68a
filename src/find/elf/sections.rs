//! Sections of an ELF file by name. Works for separate debug files too, whose program headers describe
//! another file.

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use object::LittleEndian;
use object::elf::{self, CompressionHeader64};

use super::link_view::SectionExtent;
use super::source::FileExtent;
use super::{ElfBlock, ElfSource, LinkView};

/// Reads the sections of a file, which stays open.
pub struct SectionReader(LinkView);

impl SectionReader {
    /// # Errors
    /// The file cannot be read, or is not an ELF file for this machine.
    pub fn open(file: File) -> Result<SectionReader> {
        LinkView::open(ElfSource::new(file)?).map(SectionReader)
    }

    /// Whether there is a section of that name that has content.
    pub fn has(&self, name: &str) -> bool {
        self.0.section_named(name).is_some()
    }

    /// The content of the first section of that name, decompressed; `None` if there is none with content.
    ///
    /// # Errors
    /// It is longer than `limit` bytes, lies outside of the file, or is damaged or not compressed with zlib.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(section) = self.0.section_named(name) else {
            return Ok(None);
        };
        let content = self.content(&section, limit);
        content.map(Some).with_context(|| format!("bad section {name}"))
    }

    fn content(&self, section: &SectionExtent, limit: u64) -> Result<Vec<u8>> {
        let FileExtent { offset, size } = section.extent;
        ensure!(size <= limit, "more than {limit} bytes");
        if !section.compressed {
            return self.0.source.read_bytes(offset, size);
        }
        inflate(&self.0.source.read(offset, size)?, limit)
    }
}

fn inflate(compressed: &ElfBlock, limit: u64) -> Result<Vec<u8>> {
    type Compression = CompressionHeader64<LittleEndian>;
    let header = compressed.table::<Compression>().first();
    let header = header.context("no compression header")?;
    match header.ch_type.get(LittleEndian) {
        elf::ELFCOMPRESS_ZLIB => {}
        elf::ELFCOMPRESS_ZSTD => bail!("compressed with zstd, which is not supported"),
        other => bail!("unknown compression {other}"),
    }
    let size = header.ch_size.get(LittleEndian);
    ensure!(size <= limit, "more than {limit} bytes");
    // Deflate expands one byte to 1032 at most.
    ensure!(
        size / 1032 <= compressed.bytes().len() as u64,
        "damaged compression"
    );
    let mut content = vec![0; usize::try_from(size)?];
    let stream = compressed
        .bytes()
        .get(size_of::<Compression>()..)
        .unwrap_or_default();
    let written = decompress_slice_iter_to_slice(&mut content, std::iter::once(stream), true, true);
    ensure!(
        written.is_ok_and(|written| written as u64 == size),
        "damaged compression"
    );
    Ok(content)
}
