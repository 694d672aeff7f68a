//! Sections of an ELF file by name, also of a file with debug information alone, whose program headers describe the
//! file it was taken from.

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use object::LittleEndian;
use object::elf::{self, CompressionHeader64};

use super::link_view::SectionExtent;
use super::source::FileExtent;
use super::{Block, LinkView, Source};

/// The sections of a file, which stays open.
pub struct Sections(LinkView);

impl Sections {
    /// # Errors
    /// The file cannot be read, or is not ELF of this machine.
    pub fn open(file: File) -> Result<Sections> {
        LinkView::open(Source::new(file)?).map(Sections)
    }

    /// Whether there is a section of that name with content.
    pub fn has(&self, name: &str) -> bool {
        self.0.section_named(name).is_some()
    }

    /// The content of the first section of that name, decompressed; `None` if there is none with content.
    ///
    /// # Errors
    /// It is longer than `limit` bytes, lies outside of the file, or its compression is damaged or not zlib's.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.0.section_named(name) else {
            return Ok(None);
        };
        let content = self.content(&place, limit);
        content.map(Some).with_context(|| format!("bad section {name}"))
    }

    fn content(&self, place: &SectionExtent, limit: u64) -> Result<Vec<u8>> {
        let FileExtent { offset, size } = place.extent;
        ensure!(size <= limit, "more than {limit} bytes");
        if !place.compressed {
            return self.0.source.read_bytes(offset, size);
        }
        inflate(&self.0.source.read(offset, size)?, limit)
    }
}

fn inflate(compressed: &Block, limit: u64) -> Result<Vec<u8>> {
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
    // Deflate makes at most 1032 bytes of one.
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
