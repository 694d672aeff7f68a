// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Mounts of this process's mount namespace, from `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Directory of the file system that is mounted: `/` unless it is a bind mount of a part.
    pub root: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Such as `ext4`, `cgroup2`, `proc`.
    pub fs_type: String,
    /// Options of the file system, separated by commas.
    pub super_options: String,
}

/// All mounts, in the order of the kernel: later ones cover earlier ones.
///
/// # Errors
/// `/proc/self/mountinfo` cannot be read.
pub fn read() -> Result<Vec<MountEntry>> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = fs::read(PATH).with_context(|| format!("failed to read {PATH}"))?;
    Ok(parse(&text))
}

/// Where cgroup2 is mounted. If several mounts show it, one of the whole hierarchy is preferred to one of a
/// part.
pub fn cgroup2_root(mounts: &[MountEntry]) -> Option<PathBuf> {
    let cgroup2 = mounts.iter().filter(|mount| mount.fs_type == "cgroup2");
    let root = cgroup2.min_by_key(|mount| mount.root != "/")?;
    Some(root.mount_point.clone())
}

/// The `hidepid=` option of `/proc` if it hides processes.
pub fn hidepid(mounts: &[MountEntry]) -> Option<&str> {
    let is_proc = |mount: &&MountEntry| mount.mount_point == Path::new("/proc") && mount.fs_type == "proc";
    let proc = mounts.iter().rev().find(is_proc)?;
    let mut options = proc.super_options.split(',');
    let option = options.find(|option| option.starts_with("hidepid="))?;
    (!matches!(option, "hidepid=0" | "hidepid=off")).then_some(option)
}

/// Lines `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPER-OPTIONS`. Others are
/// skipped.
fn parse(text: &[u8]) -> Vec<MountEntry> {
    let text = String::from_utf8_lossy(text);
    let entry = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        Some(MountEntry {
            root: mount.next()?.to_owned(),
            mount_point: unescape(mount.next()?),
            fs_type: file_system.next()?.to_owned(),
            super_options: file_system.nth(1).unwrap_or_default().to_owned(),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Decodes the kernel's octal escapes of blanks and backslashes, such as `\040`.
fn unescape(path: &str) -> PathBuf {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = match (byte, after) {
            (b'\\', &[high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', ..]) => {
                Some(high << 6 | (middle & 7) << 3 | low & 7)
            }
            _ => None,
        };
        plain.push(escape.unwrap_or(byte));
        rest = if escape.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"25 30 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
                            40 30 0:29 /part /x rw shared:1 - cgroup2 none rw\n\
                            41 30 0:29 / /my\\040mnt rw shared:1 - cgroup2 none rw\n\
                            42 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn cgroup2_root_prefers_the_whole_hierarchy() {
        assert_eq!(cgroup2_root(&parse(MOUNTS)), Some(PathBuf::from("/my mnt")));
        assert_eq!(cgroup2_root(&parse(b"junk\n\xff - \n")), None);
    }

    #[test]
    fn hidepid_is_read_from_the_topmost_proc() {
        let mounted = |options: &[&str]| {
            let lines = options
                .iter()
                .map(|options| format!("22 1 0:21 / /proc rw,nosuid shared:5 - proc proc {options}\n"));
            parse(lines.collect::<String>().as_bytes())
        };
        assert_eq!(
            hidepid(&mounted(&["rw,hidepid=invisible"])),
            Some("hidepid=invisible")
        );
        assert_eq!(hidepid(&mounted(&["rw,hidepid=2", "rw"])), None);
        assert_eq!(hidepid(&mounted(&["rw,gid=4,hidepid=0"])), None);
        assert_eq!(hidepid(&[]), None);
    }

    #[test]
    fn octal_escapes_are_decoded() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
        assert_eq!(unescape("/a\\04"), PathBuf::from("/a\\04"));
        assert_eq!(unescape("/a\\777"), PathBuf::from("/a\\777"));
    }
}
