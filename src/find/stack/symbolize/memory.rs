//! The memory map of a process, as far as it holds code.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A file as memory maps name it: device and inode number.
///
/// On btrfs and overlayfs the device is not the one that `stat` gives, so keys are compared with keys alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    pub dev: u64,
    pub inode: u64,
}

/// A file that is mapped, and the path under which it was when it was mapped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MappedFile {
    pub key: FileKey,
    pub path: PathBuf,
}

/// What stands behind a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Backing {
    File(Rc<MappedFile>),
    /// Code that the kernel puts into a process, by its name in `/proc/PID/maps`.
    Kernel(&'static str),
    /// Code that the process made itself.
    Anonymous,
}

/// An executable range `start..end` whose first byte is at `offset` of the file behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    pub backing: Backing,
}

/// Executable mappings in the order of their addresses, none on top of another.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Vec<Mapping>);

impl Memory {
    /// Reads the text of `/proc/PID/maps`. Lines that are not understood are passed over.
    pub fn parse(maps: &[u8]) -> Memory {
        let mut mappings: Vec<Mapping> = maps.split(|&byte| byte == b'\n').filter_map(parse_line).collect();
        mappings.sort_by_key(|mapping| mapping.start);
        Memory(mappings)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }

    /// The mapping that an address is in.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        let mapping = self.0.get(after.checked_sub(1)?)?;
        (address < mapping.end).then_some(mapping)
    }

    /// Puts a mapping in; what it covers of others is theirs no more.
    pub fn insert(&mut self, new: Mapping) {
        let first = self.0.partition_point(|mapping| mapping.end <= new.start);
        let last = self.0.partition_point(|mapping| mapping.start < new.end);
        let mut replacement = Vec::with_capacity(3);
        let covered = self.0.get(first..last).unwrap_or_default();
        if let Some(left) = covered.first().filter(|left| left.start < new.start) {
            replacement.push(Mapping {
                end: new.start,
                ..left.clone()
            });
        }
        let (start, end) = (new.start, new.end);
        replacement.push(new);
        if let Some(right) = covered.last().filter(|right| right.end > end) {
            let offset = right.offset.wrapping_add(end - right.start);
            replacement.push(Mapping {
                start: end,
                offset,
                ..right.clone()
            });
        }
        debug_assert!(start < end);
        self.0.splice(first..last.max(first), replacement);
    }

    /// Replaces the map by a newer one, but keeps the files that are mapped no more where nothing else has
    /// taken their place: an event that is read late may still be about a library that was unloaded.
    pub fn renew(&mut self, newer: Memory) {
        let unloaded = |old: &Mapping| matches!(old.backing, Backing::File(_)) && !newer.overlaps(old);
        let mut kept: Vec<Mapping> = self.0.drain(..).filter(unloaded).collect();
        self.0 = newer.0;
        self.0.append(&mut kept);
        self.0.sort_by_key(|mapping| mapping.start);
    }

    fn overlaps(&self, other: &Mapping) -> bool {
        let first = self.0.partition_point(|mapping| mapping.end <= other.start);
        self.0.get(first).is_some_and(|mapping| mapping.start < other.end)
    }
}

/// What a path in a memory map stands for.
pub(super) fn backing(path: &Path, key: FileKey) -> Backing {
    match path.as_os_str().as_bytes() {
        b"[vdso]" => Backing::Kernel("[vdso]"),
        b"[vsyscall]" => Backing::Kernel("[vsyscall]"),
        b"[uprobes]" => Backing::Kernel(super::TRAMPOLINE),
        [b'/', ..] if key.inode != 0 => Backing::File(Rc::new(MappedFile {
            key,
            path: path.to_owned(),
        })),
        _ => Backing::Anonymous,
    }
}

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE    PATH`, numbers but the inode's in hexadecimal.
fn parse_line(line: &[u8]) -> Option<Mapping> {
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
    (start < end).then(|| Mapping {
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

    fn file(start: u64, end: u64, offset: u64, inode: u64) -> Mapping {
        Mapping {
            start,
            end,
            offset,
            backing: backing(Path::new("/lib/x.so"), FileKey { dev: 1, inode }),
        }
    }

    fn ranges(memory: &Memory) -> Vec<(u64, u64, u64)> {
        memory
            .iter()
            .map(|mapping| (mapping.start, mapping.end, mapping.offset))
            .collect()
    }

    #[test]
    fn parses_what_is_executable() {
        let memory = Memory::parse(MAPS);
        assert_eq!(memory.iter().count(), 4);
        let code = memory.find(0x402fff).unwrap();
        let Backing::File(file) = &code.backing else {
            panic!("{code:?}")
        };
        assert_eq!(
            (file.path.to_str(), file.key.inode, code.offset),
            (Some("/bin/a b"), 77, 0x1000)
        );
        assert_eq!(file.key.dev, libc::makedev(0xfd, 1));
        assert_eq!(memory.find(0x7f0000000000).unwrap().backing, Backing::Anonymous);
        assert_eq!(
            memory.find(0x7fffffffe003).unwrap().backing,
            Backing::Kernel("[uprobes]")
        );
        for outside in [0, 0x400fff, 0x403000, u64::MAX] {
            assert_eq!(memory.find(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn a_new_mapping_takes_the_place_of_old_ones() {
        let mut memory = Memory::default();
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
    fn a_newer_map_keeps_what_was_unloaded() {
        let mut memory = Memory(vec![file(0x1000, 0x2000, 0, 1), file(0x3000, 0x4000, 0, 2)]);
        memory.renew(Memory(vec![file(0x3800, 0x5000, 0, 3)]));
        assert_eq!(ranges(&memory), [(0x1000, 0x2000, 0), (0x3800, 0x5000, 0)]);
    }
}
