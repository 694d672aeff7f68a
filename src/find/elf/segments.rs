// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Loadable segments: where virtual addresses are in the file, and code and data at an address.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{self, ProgramHeader64};

use super::source::{ElfBlock, FileExtent};
use super::{ElfFile, LE, LinkView};

/// The kernel refuses to run a file with more than 64 KiB of program headers.
const MAX_PROGRAM_HEADERS: usize = 65536 / size_of::<ProgramHeader64<LittleEndian>>();
/// Largest function that is read, in bytes.
const MAX_CODE: u64 = 1 << 20;
/// Smallest page size, in bytes. Segments are mapped in whole pages.
const PAGE: u64 = 4096;

/// A loadable segment. Its range was checked against the length of the file.
#[derive(Debug)]
pub struct LoadSegment {
    /// Virtual address.
    pub addr: u64,
    extent: FileExtent,
    exec: bool,
}

impl LoadSegment {
    /// # Errors
    /// The segment extends past the end of the file.
    pub fn new(
        header: &ProgramHeader64<LittleEndian>,
        extent: FileExtent,
        file_len: u64,
    ) -> Result<LoadSegment> {
        let end = extent.offset.checked_add(extent.size);
        ensure!(end.is_some_and(|end| end <= file_len), "truncated ELF file");
        let exec = header.p_flags.get(LE) & elf::PF_X != 0;
        Ok(LoadSegment {
            addr: header.p_vaddr.get(LE),
            extent,
            exec,
        })
    }
}

/// The table of program headers.
///
/// # Errors
/// It cannot be read, is longer than the file, or has too many entries or entries of another size.
pub fn read_program_headers(view: &LinkView) -> Result<ElfBlock> {
    let header = &view.header;
    let count = usize::from(header.e_phnum.get(LE));
    let entry_size = size_of::<ProgramHeader64<LittleEndian>>();
    ensure!(
        count <= MAX_PROGRAM_HEADERS,
        "an ELF file with too many program headers ({count})"
    );
    if count > 0 {
        ensure!(
            usize::from(header.e_phentsize.get(LE)) == entry_size,
            "an ELF file with program headers of unknown size"
        );
    }
    view.source
        .read(header.e_phoff.get(LE), (count * entry_size) as u64)
}

impl ElfFile {
    /// File offset of the instruction at virtual address `addr`. `None` if `addr` is not in the part of an
    /// executable segment that comes from the file.
    pub fn offset_of(&self, addr: u64) -> Option<u64> {
        let load = self.load_at(addr).filter(|load| load.exec)?;
        Some(load.extent.offset + (addr - load.addr))
    }

    /// Virtual address of the byte at file offset `offset`, as executable segments map it. The inverse of
    /// [`ElfFile::offset_of`], but for whole pages: any offset that a mapping can have.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let load = self.loads.iter().find(|load| {
            let start = load.extent.offset & !(PAGE - 1);
            load.exec && (start..load.extent.end()).contains(&offset)
        })?;
        Some(load.addr.wrapping_sub(load.extent.offset).wrapping_add(offset))
    }

    /// File offset of the byte at virtual address `addr`, code or data. `None` if it does not come from the
    /// file.
    pub fn data_offset_of(&self, addr: u64) -> Option<u64> {
        self.content_at(addr).map(|extent| extent.offset)
    }

    /// The `size` bytes of code at virtual address `addr`, at most 1 MiB.
    ///
    /// # Errors
    /// They are not in the part of an executable segment that comes from the file, are too many, or cannot be
    /// read.
    pub fn code(&self, addr: u64, size: u64) -> Result<Vec<u8>> {
        let failed = || format!("failed to read the code of {} at {addr:#x}", self.shown.display());
        ensure!(size <= MAX_CODE, "{}: {size} bytes are too many", failed());
        ensure!(
            self.offset_of(addr).is_some(),
            "{}: there is none in the file",
            failed()
        );
        Ok(self.read_at_address(addr, size, "code")?.bytes().to_vec())
    }

    /// The 8 bytes at virtual address `addr` as they are in the file, before relocation.
    pub fn word(&self, addr: u64) -> Option<u64> {
        let block = self.read_at_address(addr, 8, "data").ok()?;
        block.bytes().try_into().ok().map(u64::from_le_bytes)
    }

    /// The virtual addresses of the executable segment around `addr`, as far as they come from the file.
    pub(in crate::find) fn code_segment(&self, addr: u64) -> Option<Range<u64>> {
        let load = self.load_at(addr).filter(|load| load.exec)?;
        Some(load.addr..load.addr + load.extent.size)
    }

    /// The content of a range of virtual addresses within one segment. `None` if it cannot be read.
    pub(in crate::find) fn content_of(&self, addrs: &Range<u64>) -> Option<ElfBlock> {
        let extent = self.content_at(addrs.start)?;
        let size = addrs.end.checked_sub(addrs.start)?;
        self.view.source.read(extent.offset, size.min(extent.size)).ok()
    }

    /// The content from virtual address `addr` to the end of the segment.
    pub(in crate::find) fn content_from(&self, addr: u64) -> Option<ElfBlock> {
        let extent = self.content_at(addr)?;
        self.view.source.read(extent.offset, extent.size).ok()
    }

    /// The part of the file from virtual address `addr` to the end of the segment.
    pub(super) fn content_at(&self, addr: u64) -> Option<FileExtent> {
        let load = self.load_at(addr)?;
        let skip = addr - load.addr;
        Some(FileExtent {
            offset: load.extent.offset + skip,
            size: load.extent.size - skip,
        })
    }

    /// `size` bytes from virtual address `addr` on. `what` names them in errors.
    pub(super) fn read_at_address(&self, addr: u64, size: u64, what: &str) -> Result<ElfBlock> {
        let extent = self.content_at(addr).filter(|extent| size <= extent.size);
        let extent = extent.with_context(|| self.damaged(&format!("{what} outside of the file")))?;
        self.view
            .source
            .read(extent.offset, size)
            .with_context(|| self.damaged(&format!("cannot read {what}")))
    }

    /// The segment whose file content covers `addr`.
    fn load_at(&self, addr: u64) -> Option<&LoadSegment> {
        let after = self.loads.partition_point(|load| load.addr <= addr);
        let load = &self.loads[after.checked_sub(1)?];
        (addr - load.addr < load.extent.size).then_some(load)
    }
}
