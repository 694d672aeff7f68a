// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Queries for mappings of code, by an ioctl of `/proc/PID/maps` (6.11). The kernel spends most of the time of a read
//! on the names of mappings that are not code.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;

use super::mapping::{DELETED, ProcMapping};

/// `struct procmap_query` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ProcMapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// `_IOWR('f', 17, struct procmap_query)`
const PROCMAP_QUERY: u32 = 0xc068_6611;
const EXECUTABLE: u64 = 0x04;
const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;
/// `PATH_MAX`: the kernel has no longer names.
const MAX_NAME: usize = 4096;

/// Visits the mappings of files for execution, in address order. False if they cannot be queried, or not all of them.
pub fn each_code_mapping(maps: &File, mut visit: impl FnMut(ProcMapping)) -> bool {
    let mut name = [0_u8; MAX_NAME];
    let mut next = 0;
    loop {
        let mut query = ProcMapQuery {
            size: size_of::<ProcMapQuery>() as u64,
            query_flags: EXECUTABLE | COVERING_OR_NEXT | FILE_BACKED,
            query_addr: next,
            vma_name_size: MAX_NAME as u32,
            vma_name_addr: name.as_mut_ptr() as u64,
            ..ProcMapQuery::default()
        };
        // SAFETY: the request reads and writes a structure of this layout, and at most `vma_name_size` bytes of `name`.
        let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY as _, &raw mut query) };
        match Errno::result(result) {
            Ok(_) => {}
            Err(Errno::ENOENT) => return true,
            Err(_) => return false,
        }
        // The size includes the NUL; it is 0 if there is no name.
        let length = (query.vma_name_size as usize).saturating_sub(1);
        let path = name.get(..length).unwrap_or_default();
        let named = path.strip_suffix(DELETED);
        let mapping = ProcMapping {
            start: query.vma_start,
            end: query.vma_end,
            offset: query.vma_offset,
            exec: true,
            dev: (query.dev_major, query.dev_minor),
            inode: query.inode,
            path: OsString::from_vec(named.unwrap_or(path).to_vec()).into(),
            deleted: named.is_some(),
        };
        if mapping.is_code() {
            visit(mapping);
        }
        next = query.vma_end;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Proc;
    use super::*;

    #[test]
    fn queries_and_text_have_the_same_code() {
        let maps = File::open("/proc/self/maps").unwrap();
        let mut queried = Vec::new();
        if !each_code_mapping(&maps, |mapping| queried.push(mapping)) {
            assert!(queried.is_empty());
            return;
        }
        let mut text = Proc::host().mappings(std::process::id()).unwrap();
        text.retain(ProcMapping::is_code);
        assert_eq!(queried, text);
    }

    #[test]
    fn other_file_cannot_be_queried() {
        let file = File::open("/proc/self/status").unwrap();
        assert!(!each_code_mapping(&file, |_| ()));
    }
}
