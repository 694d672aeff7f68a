//! Pieces of a file: code and data.

use anyhow::{Result, ensure};

use super::ElfFile;

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
}
