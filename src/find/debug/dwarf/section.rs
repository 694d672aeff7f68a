// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A section of a file, read and decompressed only as far as it is needed: the debug information of a large program has
//! hundreds of megabytes, and the answer to one question is in a few kilobytes of them.

mod ahead;
mod zstd;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, ensure};
use fdeflate::Decompressor;

use crate::find::elf::sections::{Compression, SectionReader};
use ahead::SectionAhead;
use zstd::ZstdSection;

/// Bytes of an uncompressed section that are read and kept together.
const PAGE: usize = 16 << 10;
/// Bytes of a compressed section that are read from the file at a time.
const INPUT: u64 = 64 << 10;
/// Bytes that are decompressed beyond the needed ones.
const AHEAD: usize = 16 << 10;
/// Bytes before those that are needed, decompressed at a time and not kept.
const SKIPPED: usize = 256 << 10;
/// How far back deflate refers, bytes.
const WINDOW: usize = 32 << 10;
/// Bytes of a section from which on a thread is worth its price, and the most bytes that a thread decompresses.
const AHEAD_SIZES: Range<usize> = 256 << 10..16 << 20;
/// Bytes in which the end of a string is looked for first. Most are shorter.
const SHORT_TEXT: usize = 128;

/// A section; a missing one is empty. Bytes that cannot be read or decompressed are treated as absent.
pub struct LazySection {
    size: usize,
    content: RefCell<Content>,
}

enum Content {
    Stored(StoredPages),
    Deflated(Box<InflatedSection>),
    Zstd(Box<ZstdSection>),
    Ahead(SectionAhead),
}

impl Content {
    /// `stored` is where its bytes are in the file.
    fn new(file: &Rc<SectionReader>, stored: Range<u64>, compression: Compression) -> Content {
        match compression {
            Compression::Stored => Content::Stored(StoredPages::new(file, stored.start)),
            Compression::Zlib => Content::Deflated(Box::new(InflatedSection::new(file, stored))),
            Compression::Zstd => Content::Zstd(Box::new(ZstdSection::new(file, stored))),
        }
    }

    /// Bytes of a section of `size` bytes.
    fn get(&mut self, range: Range<usize>, size: usize) -> Option<Cow<'_, [u8]>> {
        match self {
            Content::Stored(pages) => pages.read(range, size).map(Cow::Owned),
            Content::Deflated(inflated) => inflated.get(range, size).map(Cow::Borrowed),
            Content::Zstd(frames) => frames.get(range, size).map(Cow::Borrowed),
            Content::Ahead(ahead) => ahead.get(range).map(Cow::Owned),
        }
    }
}

impl LazySection {
    /// Finds the section; its content is read later. Subtracts its size from `budget`.
    ///
    /// # Errors
    /// It is larger than `budget`, lies outside the file, or is compressed with something other than zlib and zstd.
    pub fn open(file: &Rc<SectionReader>, name: &str, budget: &mut u64) -> Result<LazySection> {
        let Some(stored) = file.find(name)? else {
            return Ok(LazySection {
                size: 0,
                content: RefCell::new(Content::Stored(StoredPages::new(file, 0))),
            });
        };
        let left = budget.checked_sub(stored.size);
        *budget = left.with_context(|| format!("section {name} is too large"))?;
        Ok(LazySection {
            size: usize::try_from(stored.size)?,
            content: RefCell::new(Content::new(
                file,
                stored.extent.offset..stored.extent.end(),
                stored.compression,
            )),
        })
    }

    /// A part of the section as a section. `None` if it is not inside, or the section is compressed.
    pub fn part(&self, range: Range<usize>) -> Option<LazySection> {
        let content = self.content.borrow();
        let (Content::Stored(pages), true) = (&*content, range.end <= self.size) else {
            return None;
        };
        let start = pages.offset.checked_add(range.start as u64)?;
        Some(LazySection {
            size: range.end.checked_sub(range.start)?,
            content: RefCell::new(Content::Stored(StoredPages::new(&pages.file, start))),
        })
    }

    /// Begins to decompress the section on a thread, if that makes sense.
    pub fn read_ahead(&self) {
        let mut content = self.content.borrow_mut();
        let Content::Deflated(inflated) = &*content else {
            return;
        };
        let DeflateStream { file, stored, .. } = &inflated.stream;
        if !AHEAD_SIZES.contains(&self.size) || inflated.valid > 0 {
            return;
        }
        let ahead = file
            .try_clone_file()
            .and_then(|file| SectionAhead::start(file, stored.clone(), self.size));
        // Without one, the section is decompressed when it is read.
        if let Ok(ahead) = ahead {
            *content = Content::Ahead(ahead);
        }
    }

    /// Bytes, decompressed.
    pub fn size(&self) -> usize {
        self.size
    }

    /// `None` unless all of the range is inside the section.
    pub fn read(&self, range: Range<usize>) -> Option<Vec<u8>> {
        if range.start > range.end || range.end > self.size {
            return None;
        }
        self.content
            .borrow_mut()
            .get(range, self.size)
            .map(Cow::into_owned)
    }

    /// At most `most` bytes from `start` on: fewer at the end of the section.
    pub fn read_up_to(&self, start: usize, most: usize) -> Option<Vec<u8>> {
        self.read(start..start.saturating_add(most).min(self.size))
    }

    pub fn read_u32(&self, at: usize) -> Option<u32> {
        let bytes = self.read(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    }

    pub fn read_u64(&self, at: usize) -> Option<u64> {
        let bytes = self.read(at..at.checked_add(8)?)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    /// The bytes from `start` to the next NUL, at most `most`.
    pub fn text(&self, start: usize, most: usize) -> Option<Vec<u8>> {
        let end = start.saturating_add(SHORT_TEXT).min(self.size);
        let short = match &mut *self.content.borrow_mut() {
            Content::Stored(pages) => pages.page(start / PAGE, self.size).and_then(|page| {
                let rest = page.get(start % PAGE..)?;
                until_nul(rest.get(..SHORT_TEXT).unwrap_or(rest))
            }),
            content => content.get(start..end, self.size).as_deref().and_then(until_nul),
        };
        short.or_else(|| {
            let text = self.read_up_to(start, most)?;
            Some(until_nul(&text).unwrap_or(text))
        })
    }
}

fn until_nul(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.get(..end).map(<[u8]>::to_vec)
}

/// An uncompressed section, whose pages are kept once they were read.
struct StoredPages {
    file: Rc<SectionReader>,
    offset: u64,
    pages: HashMap<usize, Vec<u8>>,
}

impl StoredPages {
    fn new(file: &Rc<SectionReader>, offset: u64) -> StoredPages {
        StoredPages {
            file: Rc::clone(file),
            offset,
            pages: HashMap::new(),
        }
    }

    fn read(&mut self, range: Range<usize>, size: usize) -> Option<Vec<u8>> {
        if range.len() > PAGE {
            return self.read_file(range);
        }
        let mut bytes = Vec::with_capacity(range.len());
        while bytes.len() < range.len() {
            let at = range.start + bytes.len();
            let wanted = range.len() - bytes.len();
            let rest = self.page(at / PAGE, size)?.get(at % PAGE..)?;
            bytes.extend_from_slice(rest.get(..wanted).unwrap_or(rest));
        }
        Some(bytes)
    }

    fn page(&mut self, number: usize, size: usize) -> Option<&[u8]> {
        if !self.pages.contains_key(&number) {
            let start = number.checked_mul(PAGE).filter(|&start| start < size)?;
            let page = self.read_file(start..size.min(start + PAGE))?;
            self.pages.insert(number, page);
        }
        self.pages.get(&number).map(Vec::as_slice)
    }

    fn read_file(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let offset = self.offset.checked_add(range.start as u64)?;
        self.file.read(offset, range.len() as u64).ok()
    }
}

/// A compressed section. Deflate has no random access, so all bytes up to the highest needed one are decompressed:
/// 12 ms for the 5.8 MB of libc's `.debug_info`. A first look-up far ahead, of one unit, keeps none of the bytes before
/// it: their page faults take as long again. If they are needed after all, decompression restarts and keeps everything.
struct InflatedSection {
    stream: DeflateStream,
    /// Offset in the section of the first kept byte.
    start: usize,
    /// Long enough for the rest of the section; pages of memory that were never written cost nothing.
    kept: Vec<u8>,
    /// Bytes of `kept` that are decompressed.
    valid: usize,
    keeps_all: bool,
    has_failed: bool,
}

impl InflatedSection {
    fn new(file: &Rc<SectionReader>, stored: Range<u64>) -> InflatedSection {
        InflatedSection {
            stream: DeflateStream::new(file, stored),
            start: 0,
            kept: Vec::new(),
            valid: 0,
            keeps_all: false,
            has_failed: false,
        }
    }

    fn get(&mut self, range: Range<usize>, size: usize) -> Option<&[u8]> {
        if range.start > range.end {
            return None;
        }
        if range.start < self.start {
            let DeflateStream { file, stored, .. } = &self.stream;
            *self = InflatedSection {
                keeps_all: true,
                ..InflatedSection::new(file, stored.clone())
            };
        }
        if self.kept.is_empty() {
            self.kept = vec![0; size];
        }
        if range.end > self.start + self.valid && !self.has_failed {
            self.has_failed = self.inflate(range.clone(), size).is_err();
        }
        let kept = range.start - self.start..range.end - self.start;
        self.kept.get(..self.valid)?.get(kept)
    }

    fn inflate(&mut self, range: Range<usize>, size: usize) -> Result<()> {
        if !self.keeps_all && range.start > self.start + self.valid + SKIPPED {
            self.skip_to(range.start, size)?;
        }
        let target = range.end.saturating_add(AHEAD).min(size);
        let output = self.kept.get_mut(..target - self.start).unwrap_or_default();
        while self.valid < output.len() {
            self.valid += self.stream.inflate(output, self.valid)?;
        }
        Ok(())
    }

    /// Decompresses up to `goal` and keeps only the last bytes, to which those after them may refer.
    fn skip_to(&mut self, goal: usize, size: usize) -> Result<()> {
        let valid = self.kept.get(..self.valid).unwrap_or_default();
        let last = valid
            .get(valid.len().saturating_sub(WINDOW)..)
            .unwrap_or_default();
        let mut output = SlidingOutput::new(last);
        let mut at = self.start + self.valid;
        while at < goal {
            at += output.inflate(&mut self.stream, goal - at)?.len();
        }
        let window = output.last();
        self.start = goal - window.len();
        self.valid = window.len();
        self.kept = vec![0; size - self.start];
        self.kept[..window.len()].copy_from_slice(window);
        Ok(())
    }
}

/// Decompressed bytes, of which the last are kept: those after them may refer to them.
struct SlidingOutput {
    buffer: Vec<u8>,
    filled: usize,
}

impl SlidingOutput {
    /// `last` are the bytes before, at most [`WINDOW`].
    fn new(last: &[u8]) -> SlidingOutput {
        let mut buffer = vec![0; WINDOW + SKIPPED];
        buffer[..last.len()].copy_from_slice(last);
        SlidingOutput {
            buffer,
            filled: last.len(),
        }
    }

    /// Decompresses some of the next `most` bytes, and returns them.
    fn inflate(&mut self, stream: &mut DeflateStream, most: usize) -> Result<&[u8]> {
        if self.filled == self.buffer.len() {
            self.buffer.copy_within(SKIPPED.., 0);
            self.filled = WINDOW;
        }
        let start = self.filled;
        let end = self.buffer.len().min(start.saturating_add(most));
        self.filled += stream.inflate(&mut self.buffer[..end], start)?;
        Ok(&self.buffer[start..self.filled])
    }

    fn last(&self) -> &[u8] {
        &self.buffer[self.filled.saturating_sub(WINDOW)..self.filled]
    }
}

/// The compressed bytes of a section, read and decompressed in order.
struct DeflateStream {
    file: Rc<SectionReader>,
    /// Where they are in the file.
    stored: Range<u64>,
    /// The part that is not read yet.
    rest: Range<u64>,
    input: Vec<u8>,
    /// Bytes of `input` that are consumed.
    consumed: usize,
    state: Decompressor,
}

impl DeflateStream {
    fn new(file: &Rc<SectionReader>, stored: Range<u64>) -> DeflateStream {
        let mut state = Decompressor::new();
        state.ignore_adler32();
        DeflateStream {
            file: Rc::clone(file),
            rest: stored.clone(),
            stored,
            input: Vec::new(),
            consumed: 0,
            state,
        }
    }

    /// Decompresses into `output` from `at` on, behind the `WINDOW` bytes that come before, or all of them. Returns how
    /// many bytes it wrote, which may be none while input remains.
    ///
    /// # Errors
    /// The file cannot be read, or the bytes are damaged or too few.
    fn inflate(&mut self, output: &mut [u8], at: usize) -> Result<usize> {
        if self.consumed == self.input.len() && !self.rest.is_empty() {
            let next = self.rest.end.min(self.rest.start.saturating_add(INPUT));
            self.input = self.file.read(self.rest.start, next - self.rest.start)?;
            self.consumed = 0;
            self.rest.start = next;
        }
        let input = self.input.get(self.consumed..).unwrap_or_default();
        // Never as the end of the input: that would be an error if the bytes are too few, and those before it count.
        let (read, written) = self
            .state
            .read(input, output, at, false)
            .map_err(|error| anyhow!("damaged compression: {error:?}"))?;
        self.consumed += read;
        // The next call writes none.
        ensure!(written > 0 || read > 0, "damaged compression");
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use miniz_oxide::deflate::compress_to_vec_zlib;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;
    use crate::find::elf::image::{ElfImage, file_with};

    /// Bytes that compress to about a third, with a NUL now and then.
    fn content() -> Vec<u8> {
        (0..200_000_u32)
            .map(|at| (at.wrapping_mul(at) >> 7) as u8)
            .collect()
    }

    /// Compressed in two frames.
    fn frames(content: &[u8]) -> Vec<u8> {
        let (first, second) = content.split_at(content.len() / 3);
        [first, second]
            .map(|part| compress_to_vec(part, CompressionLevel::Fastest))
            .concat()
    }

    #[test]
    fn damaged_frames_end_a_section() {
        let content = content();
        let frames = frames(&content);
        for end in [0, 1, 4, 100, frames.len() / 2, frames.len() - 1] {
            let cut = section(&frames[..end], content.len(), Compression::Zstd);
            assert_eq!(cut.read(0..content.len()), None, "{end}");
            let _ = cut.read(0..1);
        }
        let mut damaged = frames.clone();
        let last = damaged.len() - 20;
        damaged[last] ^= 0xff;
        let damaged = section(&damaged, content.len(), Compression::Zstd);
        assert_eq!(damaged.read(0..1000).as_deref(), Some(&content[..1000]));
        // More than the section says is not decompressed.
        let short = section(&frames, 100, Compression::Zstd);
        assert_eq!(short.read(0..100).as_deref(), Some(&content[..100]));
        assert_eq!(short.read(0..101), None);
    }

    /// A section with `stored` in the file, and `size` bytes decompressed.
    fn section(stored: &[u8], size: usize, compression: Compression) -> LazySection {
        let mut image = ElfImage::default().bytes();
        let start = image.len() as u64;
        image.extend_from_slice(stored);
        let file = Rc::new(SectionReader::open(file_with(&image)).unwrap());
        let content = Content::new(&file, start..image.len() as u64, compression);
        LazySection {
            size,
            content: RefCell::new(content),
        }
    }

    #[test]
    fn parts_are_read_in_any_order() {
        let content = content();
        let compressed = compress_to_vec_zlib(&content, 6);
        for section in [
            section(&content, content.len(), Compression::Stored),
            section(&compressed, content.len(), Compression::Zlib),
            section(&frames(&content), content.len(), Compression::Zstd),
        ] {
            for range in [
                70_000..70_001,
                5..40,
                16_380..16_390,
                0..100_000,
                199_999..200_000,
                7..7,
            ] {
                assert_eq!(section.read(range.clone()).as_deref(), Some(&content[range]));
            }
            assert_eq!(section.read(199_999..200_001), None);
            assert_eq!(
                section.read_up_to(199_998, 64).as_deref(),
                Some(&content[199_998..])
            );
            assert_eq!(section.read_up_to(200_001, 64), None);
            for start in [0, 1, 500, 16_383, 150_000, 199_999] {
                let rest = &content[start..];
                let most = &rest[..rest.len().min(4096)];
                let expected = most.split(|&byte| byte == 0).next();
                assert_eq!(section.text(start, 4096).as_deref(), expected, "{start}");
            }
            assert_eq!(section.text(300_000, 4096), None);
        }
    }

    #[test]
    fn only_the_needed_part_is_decompressed() {
        let content = content();
        let section = section(
            &compress_to_vec_zlib(&content, 6),
            content.len(),
            Compression::Zlib,
        );
        section.read(0..100).unwrap();
        let Content::Deflated(inflated) = &*section.content.borrow() else {
            panic!("not compressed");
        };
        assert_eq!(inflated.valid, 100 + AHEAD);
    }

    #[test]
    fn bytes_far_before_the_needed_ones_are_not_kept() {
        let content: Vec<u8> = content().into_iter().cycle().take(2_000_003).collect();
        let compressed = compress_to_vec_zlib(&content, 6);
        let section = section(&compressed, content.len(), Compression::Zlib);
        let kept = || match &*section.content.borrow() {
            Content::Deflated(inflated) => inflated.start..inflated.start + inflated.valid,
            Content::Stored(_) | Content::Zstd(_) | Content::Ahead(_) => panic!("not compressed"),
        };
        let read_alike =
            |range: Range<usize>| section.read(range.clone()).as_deref() == Some(&content[range]);
        assert_eq!(section.text(3_000_000, 4096), None);
        assert!(read_alike(3..50));
        assert!(read_alike(700_001..900_000));
        assert_eq!(kept(), 700_001 - WINDOW..900_000 + AHEAD);
        assert!(read_alike(1_999_000..2_000_003));
        assert_eq!(kept(), 1_999_000 - WINDOW..2_000_003);
        // Once an earlier byte was needed, everything is kept.
        assert!(read_alike(5..900_000));
        assert!(read_alike(1_999_000..2_000_003));
        assert_eq!(kept(), 0..2_000_003);
    }

    #[test]
    fn sections_are_decompressed_ahead() {
        let content: Vec<u8> = content().into_iter().cycle().take(2_000_003).collect();
        let mut compressed = compress_to_vec_zlib(&content, 6);
        let whole = section(&compressed, content.len(), Compression::Zlib);
        compressed.truncate(compressed.len() / 2);
        let damaged = section(&compressed, content.len(), Compression::Zlib);
        let reads_alike = |section: &LazySection, range: Range<usize>| {
            section.read(range.clone()).as_deref() == Some(&content[range])
        };
        for section in [&whole, &damaged] {
            section.read_ahead();
            assert!(matches!(&*section.content.borrow(), Content::Ahead(_)));
            assert!(reads_alike(section, 7_001..10_003));
            assert!(reads_alike(section, 3..50));
            assert_eq!(section.read(1..2_000_004), None);
        }
        assert!(reads_alike(&whole, 0..2_000_003));
        assert_eq!(damaged.read(0..2_000_003), None);
    }

    #[test]
    fn bytes_before_damage_are_kept() {
        let content = content();
        let mut compressed = compress_to_vec_zlib(&content, 6);
        compressed.truncate(compressed.len() / 2);
        let section = section(&compressed, content.len(), Compression::Zlib);
        assert_eq!(section.read(0..1000).as_deref(), Some(&content[..1000]));
        assert_eq!(section.read(0..200_000), None);
        assert_eq!(section.read(0..1000).as_deref(), Some(&content[..1000]));
    }
}
