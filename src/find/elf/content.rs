//! Pieces of a file: code and data.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::ElfFile;
use super::source::Block;

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

    /// The virtual addresses of the executable segment that `addr` is in, as far as they come from the file.
    pub(in crate::find) fn code_segment(&self, addr: u64) -> Option<Range<u64>> {
        let load = self.load_at(addr).filter(|load| load.exec)?;
        Some(load.addr..load.addr + load.extent.size)
    }

    /// What the file holds at a range of virtual addresses within one segment. None when it cannot be read.
    pub(in crate::find) fn content_of(&self, addrs: &Range<u64>) -> Option<Block> {
        let extent = self.content_at(addrs.start)?;
        let size = addrs.end.checked_sub(addrs.start)?;
        self.view.source.read(extent.offset, size.min(extent.size)).ok()
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
}
