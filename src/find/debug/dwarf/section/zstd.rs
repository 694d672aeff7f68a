// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A section that is compressed with zstd, decompressed up to the highest needed byte.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::rc::Rc;

use ruzstd::decoding::StreamingDecoder;

use super::{AHEAD, INPUT};
use crate::find::elf::sections::SectionReader;

/// A section in one or more frames. Bytes that were decompressed are kept.
pub struct ZstdSection {
    stream: FrameStream,
    kept: Vec<u8>,
    has_failed: bool,
}

impl ZstdSection {
    /// `stored` is where the frames are in the file.
    pub fn new(file: &Rc<SectionReader>, stored: Range<u64>) -> ZstdSection {
        let bytes = StoredBytes {
            file: Rc::clone(file),
            rest: stored,
        };
        ZstdSection {
            stream: FrameStream::Between(BufReader::with_capacity(INPUT as usize, bytes)),
            kept: Vec::new(),
            has_failed: false,
        }
    }

    /// Bytes of a section of `size` bytes. `None` if they are damaged.
    pub fn get(&mut self, range: Range<usize>, size: usize) -> Option<&[u8]> {
        let target = range.end.saturating_add(AHEAD).min(size);
        while self.kept.len() < range.end.min(size) && !self.has_failed {
            let wanted = (target - self.kept.len()) as u64;
            // Bytes before the damage count.
            self.has_failed = !matches!(self.stream.append(&mut self.kept, wanted), Ok(true));
        }
        self.kept.get(range)
    }
}

type FrameDecoder = StreamingDecoder<BufReader<StoredBytes>, ruzstd::decoding::FrameDecoder>;

/// Frames one after the other: linkers that compress in parallel write several.
enum FrameStream {
    Between(BufReader<StoredBytes>),
    Inside(Box<FrameDecoder>),
    /// Nothing more can be read.
    Ended,
}

impl FrameStream {
    /// Appends up to `most` bytes, none if a frame ends. False at the end of the last frame.
    fn append(&mut self, output: &mut Vec<u8>, most: u64) -> io::Result<bool> {
        match std::mem::replace(self, FrameStream::Ended) {
            FrameStream::Ended => return Ok(false),
            FrameStream::Between(mut input) => {
                if input.fill_buf()?.is_empty() {
                    return Ok(false);
                }
                let decoder = StreamingDecoder::new(input).map_err(io::Error::other)?;
                *self = FrameStream::Inside(Box::new(decoder));
            }
            FrameStream::Inside(mut decoder) => {
                let read = decoder.by_ref().take(most).read_to_end(output)?;
                *self = match (read as u64) < most {
                    true => FrameStream::Between(decoder.into_inner()),
                    false => FrameStream::Inside(decoder),
                };
            }
        }
        Ok(true)
    }
}

/// A part of a file as a stream.
struct StoredBytes {
    file: Rc<SectionReader>,
    /// What is not read yet.
    rest: Range<u64>,
}

impl Read for StoredBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.rest.end.saturating_sub(self.rest.start);
        let count = left.min(buffer.len() as u64);
        let bytes = self.file.read(self.rest.start, count).map_err(io::Error::other)?;
        self.rest.start += count;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}
