// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The loader's cache of libraries, `/etc/ld.so.cache`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::arch::{self, processor_levels};

#[cfg(test)]
mod tests;

pub const CACHE_FILE: &str = "/etc/ld.so.cache";
/// Largest cache that is read, in bytes. Ten thousand libraries make about one million.
const MAX_CACHE: u64 = 64 << 20;

/// A library that may be the wanted one.
pub struct LibraryCandidate {
    pub soname: String,
    /// 0 for the baseline, more for a variant for better processors.
    pub level: usize,
    pub path: PathBuf,
}

/// The content of the cache. Its offsets are checked on use: an entry that points outside of the file is
/// skipped.
#[derive(Default)]
pub struct LoaderCache {
    /// The file from the header of the current format on, from which offsets count.
    data: Vec<u8>,
}

impl LoaderCache {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    /// The flag of libraries for glibc, which is combined with the ABI.
    const LIBC6: u32 = 3;

    /// The cache of this machine.
    pub fn host() -> LoaderCache {
        Self::load(Path::new(CACHE_FILE))
    }

    /// A file that cannot be read or has an unknown format is an empty cache, as it is for the loader.
    fn load(path: &Path) -> LoaderCache {
        let mut data = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_CACHE).read_to_end(&mut data));
        read.map_or_else(|_| LoaderCache::default(), |_| LoaderCache::parse(data))
    }

    /// The current format may follow a table of the old one, which has a header of 16 bytes and entries of
    /// 12.
    fn parse(mut data: Vec<u8>) -> LoaderCache {
        if data.starts_with(Self::OLD_MAGIC) {
            let count = u32_at(&data, 12).unwrap_or(0) as usize;
            let start = (16 + count.saturating_mul(12)).next_multiple_of(8);
            data.drain(..start.min(data.len()));
        }
        if !data.starts_with(Self::MAGIC) {
            data.clear();
        }
        LoaderCache { data }
    }

    /// Soname, path and hardware bits of the entries with this machine's ABI.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Path, u64)> {
        let count = u32_at(&self.data, 20).unwrap_or(0) as usize;
        let table = self.data.get(Self::HEADER..).unwrap_or_default();
        table.chunks_exact(Self::ENTRY).take(count).filter_map(|entry| {
            if u32_at(entry, 0)? != arch::CACHE_ABI | Self::LIBC6 {
                return None;
            }
            let soname = std::str::from_utf8(self.string(u32_at(entry, 4)?)?).ok()?;
            let path = Path::new(OsStr::from_bytes(self.string(u32_at(entry, 8)?)?));
            let hardware = u64::from(u32_at(entry, 16)?) | u64::from(u32_at(entry, 20)?) << 32;
            Some((soname, path, hardware))
        })
    }

    /// The files of a soname, the best for this processor first.
    pub fn files_of(&self, soname: &str) -> impl Iterator<Item = PathBuf> {
        let mut candidates = self.candidates(|name| name == soname);
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.level));
        candidates.into_iter().map(|candidate| candidate.path)
    }

    /// The entries with a matching soname that this processor can run. The processor that an entry is for
    /// follows from its path; the hardware bits of older caches stand for features that no current library
    /// uses.
    pub fn candidates(&self, mut matches: impl FnMut(&str) -> bool) -> Vec<LibraryCandidate> {
        let levels = processor_levels();
        let matching = self.entries().filter(|(soname, ..)| matches(soname));
        let candidates = matching.filter_map(|(soname, path, hardware)| {
            let level = match hwcaps_directory(path) {
                Some(directory) => levels.len() - levels.iter().position(|&level| directory == level)?,
                None if hardware == 0 => 0,
                None => return None,
            };
            Some(LibraryCandidate {
                soname: soname.to_owned(),
                level,
                path: path.to_path_buf(),
            })
        });
        candidates.collect()
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let rest = self.data.get(at as usize..)?;
        Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
    }
}

/// The directory below `glibc-hwcaps` in a path.
fn hwcaps_directory(path: &Path) -> Option<&OsStr> {
    let mut parts = path.iter();
    parts.find(|part| *part == "glibc-hwcaps")?;
    parts.next()
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
