// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Lines of `/proc/PID/maps`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The kernel's suffix for the path of a removed file.
pub const DELETED: &[u8] = b" (deleted)";

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcMapping {
    /// First address.
    pub start: u64,
    /// First address after the mapping.
    pub end: u64,
    /// File offset of the first byte.
    pub offset: u64,
    /// Whether its content can be executed.
    pub exec: bool,
    /// Major and minor device number. On btrfs and overlayfs it can differ from that of `stat`.
    pub dev: (u32, u32),
    /// Inode number; 0 for anonymous memory.
    pub inode: u64,
    /// Path of the file, or a label such as `[heap]`, or empty.
    pub path: PathBuf,
    /// Whether the file was removed after it was opened.
    pub deleted: bool,
}

impl ProcMapping {
    /// Parses `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE      PATH`; `None` for anything else.
    pub fn parse(line: &[u8]) -> Option<ProcMapping> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let mut field = || fields.next();
        let (start, end) = split_once(field()?, b'-')?;
        let permissions = field()?;
        let offset = number(field()?, 16)?;
        let (major, minor) = split_once(field()?, b':')?;
        let inode = number(field()?, 10)?;
        let path = field().unwrap_or_default();
        let path = &path[path.iter().position(|&byte| byte != b' ').unwrap_or(path.len())..];
        let named = path.strip_suffix(DELETED);
        Some(ProcMapping {
            start: number(start, 16)?,
            end: number(end, 16)?,
            offset,
            exec: *permissions.get(2)? == b'x',
            dev: (
                number(major, 16)?.try_into().ok()?,
                number(minor, 16)?.try_into().ok()?,
            ),
            inode,
            path: OsString::from_vec(unescape(named.unwrap_or(path))).into(),
            deleted: named.is_some(),
        })
    }

    /// True if a file is mapped.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.as_os_str().as_bytes().starts_with(b"/")
    }

    /// True if code of a file is mapped.
    pub fn is_code(&self) -> bool {
        self.exec && self.is_file()
    }

    /// Equal for two mappings of one file in one process.
    pub fn file_key(&self) -> ((u32, u32), u64, PathBuf) {
        (self.dev, self.inode, self.path.clone())
    }
}

/// The mapping that contains `addr`, among mappings in address order.
pub fn mapping_at(mappings: &[ProcMapping], addr: u64) -> Option<&ProcMapping> {
    let after = mappings.partition_point(|mapping| mapping.start <= addr);
    mappings[..after].last().filter(|mapping| addr < mapping.end)
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let middle = text.iter().position(|&byte| byte == at)?;
    Some((&text[..middle], &text[middle + 1..]))
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// Decodes the kernel's escaping in `maps`: a newline is `\012`, and nothing else is escaped, not even a
/// backslash.
fn unescape(path: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let newline = rest.strip_prefix(NEWLINE);
        plain.push(if newline.is_some() { b'\n' } else { byte });
        rest = newline.unwrap_or(after);
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mapping(line: &[u8]) -> ProcMapping {
        ProcMapping::parse(line).unwrap()
    }

    #[test]
    fn all_fields_are_parsed() {
        let line = b"7f01-7f02f000 r-xp 0001f000 fd:1a 1234567                    /usr/lib/libc.so.6";
        let expected = ProcMapping {
            start: 0x7f01,
            end: 0x7f02f000,
            offset: 0x1f000,
            exec: true,
            dev: (0xfd, 0x1a),
            inode: 1234567,
            path: "/usr/lib/libc.so.6".into(),
            deleted: false,
        };
        assert_eq!(mapping(line), expected);
    }

    #[test]
    fn paths_with_blanks_escapes_and_invalid_utf8() {
        let path = |text: &[u8]| mapping(&[b"1-2 rw-p 0 0:0 7 ", text].concat());
        assert_eq!(path(b"  /a b").path, Path::new("/a b"));
        assert_eq!(path(b"/a  b ").path, Path::new("/a  b "));
        assert_eq!(path(b"/a\\012b").path, Path::new("/a\nb"));
        assert_eq!(path(b"/a\\134b").path, Path::new("/a\\134b"));
        assert_eq!(path(b"/\xff\xfe").path.as_os_str().as_bytes(), b"/\xff\xfe");
        let long = [b"/".as_slice(), &[b'x'; 5000]].concat();
        assert_eq!(path(&long).path.as_os_str().len(), 5001);
        let removed = path(b"/lib/x.so (deleted)");
        assert_eq!(removed.path, Path::new("/lib/x.so"));
        assert!(removed.deleted);
    }

    #[test]
    fn only_files_are_files() {
        let is_file = |line: &[u8]| mapping(line).is_file();
        assert!(!is_file(b"1-2 rw-p 00000000 00:00 0                [heap]"));
        assert!(!is_file(b"1-2 rw-p 00000000 00:00 0 "));
        assert!(!is_file(b"1-2 rw-p 00000000 00:0e 33 anon_inode:[perf_event]"));
        assert!(is_file(b"1-2 rw-p 00000000 08:01 33 /f"));
    }

    #[test]
    fn malformed_lines_are_rejected() {
        let malformed: [&[u8]; 9] = [
            b"",
            b" ",
            b"1-2",
            b"1-2 r-xp",
            b"1-2 r-xp 0 00:00",
            b"1-2 r- 0 00:00 0 /x",
            b"12 r-xp 0 00:00 0 /x",
            b"1-2 r-xp 0 00:00 zero /x",
            b"11112222333344445-2 r-xp 0 00:00 0 /x",
        ];
        for line in malformed {
            assert_eq!(
                ProcMapping::parse(line),
                None,
                "{}",
                String::from_utf8_lossy(line)
            );
        }
    }
}
