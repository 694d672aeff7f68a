//! Sections of an ELF file by name, also of a file with debug information alone, whose program headers describe the
//! file it was taken from.

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use miniz_oxide::inflate::decompress_slice_iter_to_slice;
use object::LittleEndian;
use object::elf::{self, CompressionHeader64, SectionHeader64};

use super::{Block, LE, Source, read_file_header};

type Header = SectionHeader64<LittleEndian>;

/// The section headers of a file, which stays open.
pub struct Sections {
    source: Source,
    headers: Block,
    names: Block,
}

impl Sections {
    /// # Errors
    /// The file cannot be read, is not ELF of this machine, or its section headers lie outside of it.
    pub fn open(file: File) -> Result<Sections> {
        let source = Source::new(file)?;
        let header = read_file_header(&source)?;
        let (offset, entry_size) = (header.e_shoff.get(LE), header.e_shentsize.get(LE));
        if offset == 0 {
            return Ok(Sections {
                headers: source.read(0, 0)?,
                names: source.read(0, 0)?,
                source,
            });
        }
        let header_size = size_of::<Header>() as u64;
        ensure!(u64::from(entry_size) == header_size, "odd section headers");
        // With 65280 sections or more, their number and the index of the names are in section 0.
        let first = source.read(offset, header_size)?;
        let first = first.table::<Header>().first();
        let count = match u64::from(header.e_shnum.get(LE)) {
            0 => first.map_or(0, |first| first.sh_size.get(LE)),
            count => count,
        };
        let names_at = match u32::from(header.e_shstrndx.get(LE)) {
            index if index == u32::from(elf::SHN_XINDEX) => first.map_or(0, |first| first.sh_link.get(LE)),
            index => index,
        };
        let size = count.checked_mul(header_size).context("too many sections")?;
        let headers = source.read(offset, size)?;
        let names = match headers.table::<Header>().get(names_at as usize) {
            Some(names) => source.read(names.sh_offset.get(LE), names.sh_size.get(LE))?,
            None => source.read(0, 0)?,
        };
        Ok(Sections {
            source,
            headers,
            names,
        })
    }

    /// Whether there is a section of that name with content.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The content of the first section of that name, decompressed; `None` if there is none with content.
    ///
    /// # Errors
    /// It is longer than `limit` bytes, lies outside of the file, or its compression is damaged or not zlib's.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(header) = self.find(name) else {
            return Ok(None);
        };
        let content = self.content(header, limit);
        content.map(Some).with_context(|| format!("bad section {name}"))
    }

    fn find(&self, name: &str) -> Option<&Header> {
        self.headers.table::<Header>().iter().find(|header| {
            let at = header.sh_name.get(LE) as usize;
            let rest = self.names.bytes().get(at..).unwrap_or_default();
            let rest = rest.strip_prefix(name.as_bytes());
            header.sh_type.get(LE) != elf::SHT_NOBITS && rest.is_some_and(|rest| rest.first() == Some(&0))
        })
    }

    fn content(&self, header: &Header, limit: u64) -> Result<Vec<u8>> {
        let (offset, size) = (header.sh_offset.get(LE), header.sh_size.get(LE));
        ensure!(size <= limit, "more than {limit} bytes");
        if header.sh_flags.get(LE) & u64::from(elf::SHF_COMPRESSED) == 0 {
            return self.source.read_bytes(offset, size);
        }
        let compressed = self.source.read(offset, size)?;
        inflate(&compressed, limit)
    }
}

fn inflate(compressed: &Block, limit: u64) -> Result<Vec<u8>> {
    type Compression = CompressionHeader64<LittleEndian>;
    let header = compressed.table::<Compression>().first();
    let header = header.context("no compression header")?;
    match header.ch_type.get(LE) {
        elf::ELFCOMPRESS_ZLIB => {}
        elf::ELFCOMPRESS_ZSTD => bail!("compressed with zstd, which is not supported"),
        other => bail!("unknown compression {other}"),
    }
    let size = header.ch_size.get(LE);
    ensure!(size <= limit, "more than {limit} bytes");
    // Deflate makes at most 1032 bytes of one.
    ensure!(size / 1032 <= compressed.len as u64, "damaged compression");
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
