// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Symbols of stripped files: separate debug files, and MiniDebugInfo.
//!
//! Debug files are found as gdb finds them: by build ID, then by `.gnu_debuglink`. The build ID or the
//! checksum must match. MiniDebugInfo is a compressed ELF file with symbols, inside the stripped file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use xz4rust::{XzDecoder, XzReader};

use crate::find::elf::{ElfFile, ElfSource, LinkView, SymbolTable};
use crate::find::host::object_file::open_regular;

/// Directory of debug files, relative to the root directory of this tool or of a process.
const DEBUG_DIR: &str = "usr/lib/debug";
/// The section with the path of the file that `dwz` extracted from several debug files.
const SHARED_LINK: &str = ".gnu_debugaltlink";
/// Largest file whose checksum is computed, in bytes.
const MAX_CHECKED: u64 = 4 << 30;
/// Buffer size for checksums and decompression, in bytes.
const CHUNK: usize = 1 << 16;
/// How much larger MiniDebugInfo is than its compressed form, at most: 4 to 8 times with real programs.
const MOST_EXPANSION: u64 = 32;
/// Largest decompressed MiniDebugInfo, and largest window of its compression, in bytes. `xz -9` uses 64 MiB.
const MAX_DECOMPRESSED: u64 = 256 << 20;
/// Expanded in any case, in bytes.
const SMALL: u64 = 1 << 20;
const MAX_WINDOW: usize = 64 << 20;

/// The symbols that were stripped from `elf`, which was opened at `path`. Damaged sources are treated as
/// absent.
pub fn symbols(elf: &ElfFile, path: &Path) -> Option<SymbolTable> {
    from_debug_file(elf, path).or_else(|| mini_debug_info(elf))
}

/// The debug file of `elf`, which was opened at `path`, and the file that `dwz` extracted from several debug
/// files.
pub fn debug_files(elf: &ElfFile, path: &Path) -> Option<(File, Option<File>)> {
    let search = DebugFileSearch::of(path);
    let found = search.debug_file(elf)?;
    let shared = found.view.section_named(SHARED_LINK).and_then(|section| {
        let link = found.view.source.read(section.extent.offset, section.extent.size);
        search.shared_file(link.ok()?.bytes(), &found.path)
    });
    Some((found.file, shared))
}

/// The file that `dwz` extracted from the debug information of `elf` itself and other files.
pub fn shared_file(elf: &ElfFile, path: &Path) -> Option<File> {
    let (_, link) = elf.section_named(SHARED_LINK)?;
    DebugFileSearch::of(path).shared_file(link.bytes(), path)
}

fn from_debug_file(elf: &ElfFile, path: &Path) -> Option<SymbolTable> {
    DebugFileSearch::of(path).debug_file(elf)?.symbols()
}

/// An opened debug file.
struct DebugFile {
    path: PathBuf,
    file: File,
    view: LinkView,
}

impl DebugFile {
    fn open(path: PathBuf) -> Option<DebugFile> {
        let file = open_regular(&path).ok()?;
        let view = LinkView::open(ElfSource::new(file.try_clone().ok()?).ok()?).ok()?;
        Some(DebugFile { path, file, view })
    }

    fn symbols(&self) -> Option<SymbolTable> {
        self.view.symbols().ok().flatten()
    }
}

/// The directories to search for the debug file of a file. The file is in the root directory of this tool, or
/// in that of a process, `/proc/PID/root`.
pub struct DebugFileSearch {
    /// Root directories, the file's own first.
    roots: Vec<PathBuf>,
    /// The directory of the file, as seen by this tool.
    directory: PathBuf,
    /// The directory of the file, relative to its root directory.
    below_root: PathBuf,
}

impl DebugFileSearch {
    pub fn of(path: &Path) -> DebugFileSearch {
        let parts: Vec<Component> = path.components().take(4).collect();
        let root: PathBuf = parts.iter().collect();
        let is_foreign = root.starts_with("/proc") && parts.len() == 4 && root.ends_with("root");
        // Resolving symbolic links below `/proc/PID/root` would lead into the root directory of this tool.
        let (root, path) = match is_foreign {
            true => (root, path.to_owned()),
            false => (
                "/".into(),
                fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            ),
        };
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let below_root = directory.strip_prefix(&root).unwrap_or(Path::new("")).to_owned();
        let mut roots = vec![root, "/".into()];
        roots.dedup();
        DebugFileSearch {
            roots,
            directory,
            below_root,
        }
    }

    fn debug_file(&self, elf: &ElfFile) -> Option<DebugFile> {
        let id = elf.build_id();
        id.as_ref().and_then(|id| self.with_id(id)).or_else(|| {
            let (_, link) = elf.section_named(".gnu_debuglink")?;
            let link = DebugLink::parse(link.bytes())?;
            let is_match = |file: &DebugFile| match (&id, file.view.build_id()) {
                (Some(wanted), Some(id)) => *wanted == id,
                _ => checksum(&file.file) == Some(link.checksum),
            };
            let files = self
                .paths_by_name(link.name)
                .into_iter()
                .filter_map(DebugFile::open);
            files.into_iter().find(is_match)
        })
    }

    fn with_id(&self, id: &[u8]) -> Option<DebugFile> {
        let files = self.paths_by_id(id).into_iter().filter_map(DebugFile::open);
        files
            .into_iter()
            .find(|file| file.view.build_id().as_deref() == Some(id))
    }

    /// The file that `.gnu_debugaltlink` of the debug information in `path` refers to. The link has a path
    /// and a build ID.
    fn shared_file(&self, link: &[u8], path: &Path) -> Option<File> {
        let (name, id) = link.split_at_checked(link.iter().position(|&byte| byte == 0)?)?;
        let name = Path::new(OsStr::from_bytes(name));
        let id = id.get(1..)?;
        let beside = match name.strip_prefix("/") {
            Ok(below) => self.roots.iter().map(|root| root.join(below)).collect(),
            Err(_) => vec![fs::canonicalize(path).ok()?.parent()?.join(name)],
        };
        let mut named = beside.into_iter().filter_map(DebugFile::open);
        let found = named.find(|file| file.view.build_id().as_deref() == Some(id));
        found.or_else(|| self.with_id(id)).map(|found| found.file)
    }

    /// Paths to try for the debug file with that build ID.
    pub fn paths_by_id(&self, id: &[u8]) -> Vec<PathBuf> {
        let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let Some((directory, file)) = digits.split_at_checked(2) else {
            return Vec::new();
        };
        let below = Path::new(DEBUG_DIR)
            .join(".build-id")
            .join(directory)
            .join(format!("{file}.debug"));
        self.roots.iter().map(|root| root.join(&below)).collect()
    }

    /// Where the debug file of that name may be.
    pub fn paths_by_name(&self, name: &OsStr) -> Vec<PathBuf> {
        let in_debug_dir = self
            .roots
            .iter()
            .map(|root| root.join(DEBUG_DIR).join(&self.below_root));
        let directories = [self.directory.clone(), self.directory.join(".debug")];
        directories
            .into_iter()
            .chain(in_debug_dir)
            .map(|directory| directory.join(name))
            .collect()
    }
}

/// The content of `.gnu_debuglink`.
#[derive(Debug, PartialEq, Eq)]
pub struct DebugLink<'l> {
    pub name: &'l OsStr,
    /// CRC-32 of the debug file.
    pub checksum: u32,
}

impl DebugLink<'_> {
    /// A name, a NUL, and at the next multiple of four bytes the checksum.
    pub fn parse(bytes: &[u8]) -> Option<DebugLink<'_>> {
        let name = &bytes[..bytes.iter().position(|&byte| byte == 0)?];
        let at = (name.len() + 1).next_multiple_of(4);
        let checksum = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        let is_plain = !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
        is_plain.then_some(DebugLink {
            name: OsStr::from_bytes(name),
            checksum,
        })
    }
}

fn checksum(file: &File) -> Option<u32> {
    if file.metadata().ok()?.len() > MAX_CHECKED {
        return None;
    }
    let mut file = file.try_clone().ok()?.take(MAX_CHECKED);
    let mut chunk = vec![0; CHUNK];
    let mut sum = crc32fast::Hasher::new();
    loop {
        match file.read(&mut chunk).ok()? {
            0 => return Some(sum.finalize()),
            len => sum.update(&chunk[..len]),
        }
    }
}

/// The symbols in MiniDebugInfo.
fn mini_debug_info(elf: &ElfFile) -> Option<SymbolTable> {
    let (_, section) = elf.section_named(".gnu_debugdata")?;
    let view = LinkView::open(ElfSource::in_memory(decompressed(section.bytes())?)).ok()?;
    view.symbols().ok().flatten()
}

pub fn decompressed(xz: &[u8]) -> Option<Vec<u8>> {
    let decoder = Box::new(XzDecoder::with_alloc_dict_size(0, MAX_WINDOW));
    let buffer = NonZeroUsize::new(CHUNK)?;
    let reader = XzReader::new_with_buffer_size_and_decoder(Cursor::new(xz.to_vec()), buffer, decoder);
    let mut bytes = Vec::new();
    let most = (xz.len() as u64 * MOST_EXPANSION + SMALL).min(MAX_DECOMPRESSED);
    reader.take(most + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}
