// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The execution view of an ELF file: its segments, which say where virtual addresses are in the file, and code and
//! data at an address.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{self, ProgramHeader64};

use super::budget::DECODING_COST;
use super::link_view::LinkView;
use super::source::{ElfBlock, FileExtent, LE};

/// The kernel refuses to run a file with more than 64 KiB of program headers.
const MAX_PROGRAM_HEADERS: usize = 65536 / size_of::<ProgramHeader64<LittleEndian>>();
/// Longest soname, run path or interpreter that is read, in bytes: the kernel's `PATH_MAX`.
const MAX_STRING: u64 = 4096;
/// Largest function that is read, in bytes.
const MAX_CODE: u64 = 1 << 20;
/// Smallest page size, in bytes. Segments are mapped in whole pages.
const PAGE: u64 = 4096;

/// The segments of a file, with its sections.
#[derive(Debug)]
pub struct ExecutionView {
    pub link: LinkView,
    /// The path for messages.
    pub shown: PathBuf,
    /// Loadable segments, by address.
    loads: Vec<LoadSegment>,
    /// `PT_INTERP`.
    pub interpreter: Option<FileExtent>,
    /// `PT_DYNAMIC`, and its virtual address.
    pub dynamic: Option<(u64, FileExtent)>,
    /// `PT_NOTE`.
    pub notes: Vec<FileExtent>,
    /// Virtual address of `PT_GNU_EH_FRAME`, the index of the unwind tables.
    pub frame_index: Option<u64>,
}

/// A loadable segment. Its range was checked against the length of the file.
#[derive(Debug)]
struct LoadSegment {
    /// Virtual address.
    addr: u64,
    extent: FileExtent,
    exec: bool,
    write: bool,
}

impl LoadSegment {
    /// # Errors
    /// The segment extends past the end of the file.
    fn new(header: &ProgramHeader64<LittleEndian>, extent: FileExtent, file_len: u64) -> Result<LoadSegment> {
        let end = extent.offset.checked_add(extent.size);
        ensure!(end.is_some_and(|end| end <= file_len), "truncated ELF file");
        let flags = header.p_flags.get(LE);
        Ok(LoadSegment {
            addr: header.p_vaddr.get(LE),
            extent,
            exec: flags & elf::PF_X != 0,
            write: flags & elf::PF_W != 0,
        })
    }
}

/// The table of program headers.
///
/// # Errors
/// It cannot be read, is longer than the file, or has too many entries or entries of another size.
fn read_program_headers(view: &LinkView) -> Result<ElfBlock> {
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

impl ExecutionView {
    /// Reads the program headers; `shown` is the path for messages.
    ///
    /// # Errors
    /// They cannot be read, or a loadable segment extends past the end of the file.
    pub fn read(link: LinkView, shown: &Path) -> Result<ExecutionView> {
        let headers = read_program_headers(&link)?;
        let mut view = ExecutionView {
            link,
            shown: shown.to_path_buf(),
            loads: Vec::new(),
            interpreter: None,
            dynamic: None,
            notes: Vec::new(),
            frame_index: None,
        };
        for segment in headers.table::<ProgramHeader64<LittleEndian>>() {
            let addr = segment.p_vaddr.get(LE);
            let extent = FileExtent {
                offset: segment.p_offset.get(LE),
                size: segment.p_filesz.get(LE),
            };
            match segment.p_type.get(LE) {
                elf::PT_LOAD => {
                    let load = LoadSegment::new(segment, extent, view.link.source.len())?;
                    view.loads.push(load);
                }
                elf::PT_INTERP => view.interpreter = Some(extent),
                elf::PT_DYNAMIC => view.dynamic = Some((addr, extent)),
                elf::PT_NOTE => view.notes.push(extent),
                elf::PT_GNU_EH_FRAME => view.frame_index = Some(addr),
                _ => {}
            }
        }
        view.loads.sort_by_key(|load| load.addr);
        Ok(view)
    }

    /// File offset of the instruction at virtual address `addr`. `None` if `addr` is not in the part of an
    /// executable segment that comes from the file.
    pub fn offset_of(&self, addr: u64) -> Option<u64> {
        let load = self.load_at(addr).filter(|load| load.exec)?;
        Some(load.extent.offset + (addr - load.addr))
    }

    /// Whether programs may write to the code at this file offset. The kernel probes no such mapping (`valid_vma` in
    /// kernel/events/uprobes.c).
    pub fn is_writable_code(&self, offset: u64) -> bool {
        let mut loads = self.loads.iter().filter(|load| load.exec);
        let load = loads.find(|load| (load.extent.offset..load.extent.end()).contains(&offset));
        load.is_some_and(|load| load.write)
    }

    /// Virtual address of the byte at file offset `offset`, as executable segments map it. The inverse of
    /// [`ExecutionView::offset_of`], but for whole pages: any offset that a mapping can have.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let load = self.loads.iter().find(|load| {
            let start = load.extent.offset & !(PAGE - 1);
            load.exec && (start..load.extent.end()).contains(&offset)
        })?;
        Some(load.addr.wrapping_sub(load.extent.offset).wrapping_add(offset))
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
        // Functions may overlap, so that each byte is decoded many times.
        let cost = size.saturating_mul(DECODING_COST);
        self.link.source.budget.spend(cost).with_context(failed)?;
        Ok(self.read_at_address(addr, size, "code")?.bytes().to_vec())
    }

    /// The virtual addresses of the executable segment around `addr`, as far as they come from the file.
    pub fn code_segment(&self, addr: u64) -> Option<Range<u64>> {
        let load = self.load_at(addr).filter(|load| load.exec)?;
        Some(load.addr..load.addr + load.extent.size)
    }

    /// The content of a range of virtual addresses within one segment. `None` if it cannot be read.
    pub fn content_of(&self, addrs: &Range<u64>) -> Option<ElfBlock> {
        let extent = self.content_at(addrs.start)?;
        let size = addrs.end.checked_sub(addrs.start)?;
        self.link.source.read(extent.offset, size.min(extent.size)).ok()
    }

    /// The content from virtual address `addr` to the end of the segment.
    pub fn content_from(&self, addr: u64) -> Option<ElfBlock> {
        let extent = self.content_at(addr)?;
        self.link.source.read(extent.offset, extent.size).ok()
    }

    /// The part of the file from virtual address `addr` to the end of the segment.
    pub fn content_at(&self, addr: u64) -> Option<FileExtent> {
        let load = self.load_at(addr)?;
        let skip = addr - load.addr;
        Some(FileExtent {
            offset: load.extent.offset + skip,
            size: load.extent.size - skip,
        })
    }

    /// `size` bytes from virtual address `addr` on. `what` names them in errors.
    pub fn read_at_address(&self, addr: u64, size: u64, what: &str) -> Result<ElfBlock> {
        let offset = self.offset_of_table(addr, size, what)?;
        let read = self.link.source.read(offset, size);
        read.with_context(|| self.damaged(&format!("cannot read {what}")))
    }

    /// The dynamic strings, `size` bytes at virtual address `addr`.
    pub fn dynamic_strings(&self, addr: u64, size: u64) -> Result<ElfBlock> {
        const WHAT: &str = "dynamic strings";
        let offset = self.offset_of_table(addr, size, WHAT)?;
        let read = self.link.source.read_texts(offset, size);
        read.with_context(|| self.damaged(&format!("cannot read {WHAT}")))
    }

    fn offset_of_table(&self, addr: u64, size: u64, what: &str) -> Result<u64> {
        let extent = self.content_at(addr).filter(|extent| size <= extent.size);
        let extent = extent.with_context(|| self.damaged(&format!("{what} outside of the file")))?;
        Ok(extent.offset)
    }

    /// The bytes of a part of the file up to the first NUL. `None` if there is none within `PATH_MAX` bytes.
    pub fn string(&self, extent: FileExtent) -> Option<Vec<u8>> {
        self.link
            .source
            .string(extent.offset, extent.size.min(MAX_STRING))
    }

    /// The message for a damaged symbol table.
    pub fn damaged(&self, what: &str) -> String {
        format!("failed to read symbols of {}: {what}", self.shown.display())
    }

    /// The segment whose file content covers `addr`.
    fn load_at(&self, addr: u64) -> Option<&LoadSegment> {
        let after = self.loads.partition_point(|load| load.addr <= addr);
        let load = &self.loads[after.checked_sub(1)?];
        (addr - load.addr < load.extent.size).then_some(load)
    }
}
