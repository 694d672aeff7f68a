// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The executable mappings of a process.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The name of the kernel's return probe page in a memory map, and of its frames.
pub const TRAMPOLINE: &str = "[uprobes]";

/// A file as memory maps identify it. On btrfs and overlayfs the device differs from that of `stat`, so keys are
/// compared only with keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    pub dev: u64,
    pub inode: u64,
}

/// A mapped file, with its path at the time.
#[derive(Debug, PartialEq, Eq)]
pub struct MappedFile {
    pub key: FileKey,
    pub path: PathBuf,
}

/// What a mapping maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CodeBacking {
    File(Rc<MappedFile>),
    /// Code that the kernel maps into a process, by its name in `/proc/PID/maps`.
    Kernel(&'static str),
    /// Code that the process generated.
    Anonymous,
}

/// An executable mapping of `start..end`, whose first byte is at `offset` in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeMapping {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    pub backing: CodeBacking,
}

/// Executable mappings, by address, without overlaps.
#[derive(Debug, Clone, Default)]
pub struct CodeMap(Vec<CodeMapping>);

impl CodeMap {
    /// Parses `/proc/PID/maps`. Malformed lines are skipped.
    pub fn parse(maps: &[u8]) -> CodeMap {
        let mut mappings: Vec<CodeMapping> =
            maps.split(|&byte| byte == b'\n').filter_map(parse_line).collect();
        mappings.sort_by_key(|mapping| mapping.start);
        CodeMap(mappings)
    }

    /// Whether there are no executable mappings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mappings, by address.
    pub fn iter(&self) -> impl Iterator<Item = &CodeMapping> {
        self.0.iter()
    }

    /// The mapping of an address.
    pub fn find(&self, address: u64) -> Option<&CodeMapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        let mapping = self.0.get(after.checked_sub(1)?)?;
        (address < mapping.end).then_some(mapping)
    }

    /// The mapping of an address. A return address belongs to the byte before it, except the one that return probes put
    /// on the stack: it is the first in its page.
    pub fn find_called(&self, address: u64, is_return: bool) -> Option<&CodeMapping> {
        let before = address.checked_sub(u64::from(is_return))?;
        self.find(before).or_else(|| self.find(address))
    }

    /// Adds a mapping, which replaces what it overlaps of others.
    pub fn insert(&mut self, new: CodeMapping) {
        let first = self.0.partition_point(|mapping| mapping.end <= new.start);
        let last = self.0.partition_point(|mapping| mapping.start < new.end);
        let mut replacement = Vec::with_capacity(3);
        let covered = self.0.get(first..last).unwrap_or_default();
        if let Some(left) = covered.first().filter(|left| left.start < new.start) {
            replacement.push(CodeMapping {
                end: new.start,
                ..left.clone()
            });
        }
        let (start, end) = (new.start, new.end);
        replacement.push(new);
        if let Some(right) = covered.last().filter(|right| right.end > end) {
            let offset = right.offset.wrapping_add(end - right.start);
            replacement.push(CodeMapping {
                start: end,
                offset,
                ..right.clone()
            });
        }
        debug_assert!(start < end);
        self.0.splice(first..last.max(first), replacement);
    }

    /// Replaces the map by a newer one, but keeps unmapped files where nothing else was mapped: an event that is read
    /// late may have addresses in a library that was unloaded.
    pub fn renew(&mut self, newer: CodeMap) {
        let unloaded =
            |old: &CodeMapping| matches!(old.backing, CodeBacking::File(_)) && !newer.overlaps(old);
        let mut kept: Vec<CodeMapping> = self.0.drain(..).filter(unloaded).collect();
        self.0 = newer.0;
        self.0.append(&mut kept);
        self.0.sort_by_key(|mapping| mapping.start);
    }

    fn overlaps(&self, other: &CodeMapping) -> bool {
        let first = self.0.partition_point(|mapping| mapping.end <= other.start);
        self.0.get(first).is_some_and(|mapping| mapping.start < other.end)
    }
}

/// The backing of a mapping, by its path in the memory map.
pub fn backing(path: &Path, key: FileKey) -> CodeBacking {
    match path.as_os_str().as_bytes() {
        b"[vdso]" => CodeBacking::Kernel("[vdso]"),
        b"[vsyscall]" => CodeBacking::Kernel("[vsyscall]"),
        b"[uprobes]" => CodeBacking::Kernel(TRAMPOLINE),
        [b'/', ..] if key.inode != 0 => CodeBacking::File(Rc::new(MappedFile {
            key,
            path: path.to_owned(),
        })),
        _ => CodeBacking::Anonymous,
    }
}

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE    PATH`; all numbers except the inode are hexadecimal.
fn parse_line(line: &[u8]) -> Option<CodeMapping> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = field()?.split_once('-')?;
    if field()?.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let offset = hexadecimal(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let dev = libc::makedev(
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    let inode = field()?.parse().ok()?;
    let path = Path::new(OsStr::from_bytes(
        fields.next().unwrap_or_default().trim_ascii_start(),
    ));
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    (start < end).then(|| CodeMapping {
        start,
        end,
        offset,
        backing: backing(path, FileKey { dev, inode }),
    })
}

fn hexadecimal(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &[u8] = b"\
        00400000-00401000 r--p 00000000 fd:01 77                                 /bin/a b\n\
        00401000-00403000 r-xp 00001000 fd:01 77                                 /bin/a b\n\
        7f0000000000-7f0000002000 rwxp 00000000 00:00 0 \n\
        7ffd0000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]\n\
        7fffffffe000-7ffffffff000 --xp 00000000 00:00 0                  [uprobes]\n\
        broken r-xp line\n\
        9000-8000 r-xp 0 0:0 0 /x";

    fn file(start: u64, end: u64, offset: u64, inode: u64) -> CodeMapping {
        CodeMapping {
            start,
            end,
            offset,
            backing: backing(Path::new("/lib/x.so"), FileKey { dev: 1, inode }),
        }
    }

    fn ranges(memory: &CodeMap) -> Vec<(u64, u64, u64)> {
        memory
            .iter()
            .map(|mapping| (mapping.start, mapping.end, mapping.offset))
            .collect()
    }

    #[test]
    fn only_executable_mappings_are_parsed() {
        let memory = CodeMap::parse(MAPS);
        assert_eq!(memory.iter().count(), 4);
        let code = memory.find(0x402fff).unwrap();
        let CodeBacking::File(file) = &code.backing else {
            panic!("{code:?}")
        };
        assert_eq!(
            (file.path.to_str(), file.key.inode, code.offset),
            (Some("/bin/a b"), 77, 0x1000)
        );
        assert_eq!(file.key.dev, libc::makedev(0xfd, 1));
        assert_eq!(
            memory.find(0x7f0000000000).unwrap().backing,
            CodeBacking::Anonymous
        );
        assert_eq!(
            memory.find(0x7fffffffe003).unwrap().backing,
            CodeBacking::Kernel("[uprobes]")
        );
        for outside in [0, 0x400fff, 0x403000, u64::MAX] {
            assert_eq!(memory.find(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn new_mapping_replaces_overlapping_ones() {
        let mut memory = CodeMap::default();
        memory.insert(file(0x1000, 0x5000, 0, 1));
        memory.insert(file(0x2000, 0x3000, 0x100, 2));
        assert_eq!(
            ranges(&memory),
            [
                (0x1000, 0x2000, 0),
                (0x2000, 0x3000, 0x100),
                (0x3000, 0x5000, 0x2000)
            ]
        );
        memory.insert(file(0x1800, 0x4000, 0, 3));
        assert_eq!(
            ranges(&memory),
            [(0x1000, 0x1800, 0), (0x1800, 0x4000, 0), (0x4000, 0x5000, 0x3000)]
        );
        memory.insert(file(0, 0x10000, 0, 4));
        memory.insert(file(0x20000, 0x21000, 0, 5));
        memory.insert(file(0x10000, 0x11000, 0, 6));
        assert_eq!(
            ranges(&memory),
            [(0, 0x10000, 0), (0x10000, 0x11000, 0), (0x20000, 0x21000, 0)]
        );
    }

    #[test]
    fn newer_map_keeps_unloaded_files() {
        let mut memory = CodeMap(vec![file(0x1000, 0x2000, 0, 1), file(0x3000, 0x4000, 0, 2)]);
        memory.renew(CodeMap(vec![file(0x3800, 0x5000, 0, 3)]));
        assert_eq!(ranges(&memory), [(0x1000, 0x2000, 0), (0x3800, 0x5000, 0)]);
    }
}
