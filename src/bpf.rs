// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The BPF objects of `src/bpf` with their skeletons: build.rs makes a module for each `NAME.bpf.c`.

use std::io;
use std::sync::OnceLock;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

include!(concat!(env!("OUT_DIR"), "/skeletons.rs"));

/// A BPF object, compressed in the binary and unpacked when it is first opened: a run needs one to four of them.
pub struct EmbeddedObject {
    deflated: &'static [u8],
    elf_bytes: usize,
    elf: OnceLock<Vec<u8>>,
}

impl EmbeddedObject {
    /// `deflated` is a raw DEFLATE stream (RFC 1951) of `elf_bytes` bytes.
    const fn new(deflated: &'static [u8], elf_bytes: usize) -> Self {
        Self {
            deflated,
            elf_bytes,
            elf: OnceLock::new(),
        }
    }

    /// The ELF file.
    pub fn elf(&self) -> io::Result<&[u8]> {
        if let Some(elf) = self.elf.get() {
            return Ok(elf);
        }
        let mut elf = vec![0; self.elf_bytes];
        match decompress_slice_iter_to_slice(&mut elf, std::iter::once(self.deflated), false, true) {
            Ok(bytes) if bytes == self.elf_bytes => Ok(self.elf.get_or_init(|| elf)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "corrupt BPF object in the binary",
            )),
        }
    }
}
