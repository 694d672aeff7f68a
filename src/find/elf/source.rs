// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The bytes of an ELF file, read on demand.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use object::{LittleEndian, Pod, U32, pod};

use super::budget::ReadBudget;

/// The byte order of all files that are read.
pub const LE: LittleEndian = LittleEndian;

/// Texts of twice as many bytes are not read from string tables, and shorter ones are only if they do not fill an
/// aligned part of this size. Templates make names of some ten thousand bytes.
const TEXT_PART: usize = 64 << 10;

/// A file with its length at the time of opening, or a file decompressed into memory.
#[derive(Debug)]
pub struct ElfSource {
    content: SourceBytes,
    len: u64,
    pub budget: ReadBudget,
    skipped_texts: Cell<bool>,
}

#[derive(Debug)]
enum SourceBytes {
    File(File),
    Memory(Vec<u8>),
}

impl ElfSource {
    /// The bytes of an opened file.
    ///
    /// # Errors
    /// Its length cannot be read.
    pub fn new(file: File) -> Result<ElfSource> {
        let meta = file.metadata()?;
        Ok(ElfSource {
            content: SourceBytes::File(file),
            len: meta.len(),
            budget: ReadBudget::of_file(&meta),
            skipped_texts: Cell::new(false),
        })
    }

    /// Bytes in memory, such as a decompressed file.
    pub fn in_memory(bytes: Vec<u8>) -> ElfSource {
        let len = bytes.len() as u64;
        ElfSource {
            content: SourceBytes::Memory(bytes),
            len,
            budget: ReadBudget::new(len),
            skipped_texts: Cell::new(false),
        }
    }

    /// The file.
    ///
    /// # Errors
    /// The bytes are in memory, or file descriptors run out.
    pub fn try_clone_file(&self) -> io::Result<File> {
        match &self.content {
            SourceBytes::File(file) => file.try_clone(),
            SourceBytes::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// `size` bytes from `offset` on. Fails before allocating memory if the file is shorter, or its [`ReadBudget`] does
    /// not allow it.
    pub fn read(&self, offset: u64, size: u64) -> Result<ElfBlock> {
        let len = self.checked_len(offset, size)?;
        let mut words = vec![0_u64; len.div_ceil(8)];
        self.read_into(&mut pod::bytes_of_slice_mut(&mut words)[..len], offset)?;
        Ok(ElfBlock { words, len })
    }

    /// As [`ElfSource::read`], for a table of texts that end with NUL. Very long texts are skipped: in their place are
    /// zeros, which take no memory.
    pub fn read_texts(&self, offset: u64, size: u64) -> Result<ElfBlock> {
        let len = self.checked_len(offset, size)?;
        let mut words = vec![0_u64; len.div_ceil(8)];
        let bytes = &mut pod::bytes_of_slice_mut(&mut words)[..len];
        let mut part = vec![0; TEXT_PART.min(len)];
        // Where the text begins that goes on in the next part. None in a text that is skipped.
        let mut begun = Some(0);
        for start in (0..len).step_by(TEXT_PART) {
            let part = &mut part[..TEXT_PART.min(len - start)];
            self.read_into(part, offset + start as u64)?;
            let end = part.iter().position(|&byte| byte == 0);
            match (end, begun) {
                (None, text) if part.len() == TEXT_PART => {
                    bytes[text.unwrap_or(start)..start].fill(0);
                    begun = None;
                    self.skipped_texts.set(true);
                    continue;
                }
                (_, Some(_)) => bytes[start..start + part.len()].copy_from_slice(part),
                (Some(end), None) => bytes[start + end..start + part.len()].copy_from_slice(&part[end..]),
                (None, None) => {}
            }
            if let Some(last) = part.iter().rposition(|&byte| byte == 0) {
                begun = Some(start + last + 1);
            }
        }
        Ok(ElfBlock { words, len })
    }

    /// Whether texts were skipped by [`ElfSource::read_texts`].
    pub fn has_skipped_texts(&self) -> bool {
        self.skipped_texts.get()
    }

    /// As [`ElfSource::read`], as bytes.
    pub fn read_bytes(&self, offset: u64, size: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.checked_len(offset, size)?];
        self.read_into(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn checked_len(&self, offset: u64, size: u64) -> Result<usize> {
        let end = offset.checked_add(size).filter(|&end| end <= self.len);
        ensure!(end.is_some(), "truncated ELF file");
        self.budget.take(size)?;
        Ok(usize::try_from(size)?)
    }

    fn read_into(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        match &self.content {
            SourceBytes::File(file) => file.read_exact_at(bytes, offset)?,
            SourceBytes::Memory(all) => {
                let rest = usize::try_from(offset).ok().and_then(|start| all.get(start..));
                let part = rest.and_then(|rest| rest.get(..bytes.len()));
                bytes.copy_from_slice(part.context("truncated ELF file")?);
            }
        }
        Ok(())
    }

    /// The bytes from `offset` to the next NUL, which must be within `room` bytes.
    pub fn string(&self, offset: u64, room: u64) -> Option<Vec<u8>> {
        let block = self.read(offset, room.min(self.len.checked_sub(offset)?)).ok()?;
        let text = block.bytes();
        Some(text[..text.iter().position(|&byte| byte == 0)?].to_vec())
    }
}

/// A part of the file, aligned in memory for the 8-byte fields of ELF tables.
#[derive(Debug)]
pub struct ElfBlock {
    words: Vec<u64>,
    len: usize,
}

impl ElfBlock {
    /// The part as bytes.
    pub fn bytes(&self) -> &[u8] {
        &pod::bytes_of_slice(&self.words)[..self.len]
    }

    /// The part as a table; an incomplete entry at the end is dropped.
    pub fn table<T: Pod>(&self) -> &[T] {
        let count = self.len / size_of::<T>();
        pod::slice_from_bytes(self.bytes(), count).map_or(&[], |(table, _)| table)
    }

    /// The 32-bit number at byte `at` (a multiple of 4), or 0 past the end.
    pub fn u32_at(&self, at: usize) -> u32 {
        self.table::<U32<LittleEndian>>()
            .get(at / 4)
            .map_or(0, |number| number.get(LE))
    }
}

/// A range of the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct FileExtent {
    pub offset: u64,
    pub size: u64,
}

impl FileExtent {
    /// The offset after the last byte.
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}
