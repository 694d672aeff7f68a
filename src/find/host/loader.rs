// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which file the dynamic loader or the shell would find for a name, without running `ldd` or `which`.
//!
//! Follows the rules of glibc, and those of musl for programs that use musl's loader. Programs that gain
//! privileges at start are treated like others, although the loader ignores the environment for them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::object_file::ObjectFile;
use cache::{LibraryCandidate, LoaderCache};
pub use closure::closure;
use programs::{DEFAULT_PATH, find_program_in, is_program};

mod arch;
mod cache;
mod closure;
mod programs;
mod search_path;
#[cfg(test)]
mod tests;

/// The file of a library by its short name (`c`, `libc`, `libssl`) or its soname (`libc.so.6`). If there are
/// several versions, the newest.
pub fn find_library(name: &str) -> Option<PathBuf> {
    open_library(name).map(|library| library.path)
}

/// As [`find_library`], but opened, with its ELF headers parsed.
pub fn open_library(name: &str) -> Option<ObjectFile> {
    let cache = LoaderCache::host();
    let dirs = arch::LIBRARY_DIRS.map(Path::new);
    library_stems(name).iter().find_map(|stem| {
        let cached = cache.candidates(|soname| version_of(soname, stem).is_some());
        let in_dirs = || dirs.iter().flat_map(|dir| libraries_in(dir, stem)).collect();
        newest(stem, cached)
            .or_else(|| newest(stem, in_dirs()))
            .or_else(|| (stem == "libc").then(musl_libc).flatten())
    })
}

/// True if this file is the library or program of that name: `libc` for `libc.so.6`, `ssl` for `libssl.so.3`.
/// musl's loader is its C library.
pub fn is_called(path: &Path, name: &str) -> bool {
    let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let stem = file.split(".so").next().unwrap_or(file);
    // libc-2.31.so
    let unversioned = stem
        .trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
        .strip_suffix('-');
    let is_library = [Some(stem), unversioned]
        .into_iter()
        .flatten()
        .any(|stem| stem == name || stem.strip_prefix("lib") == Some(name));
    let is_musl = file.starts_with("ld-musl-") || file.starts_with("libc.musl-");
    file == name || (file.contains(".so") && is_library) || (is_musl && matches!(name, "c" | "libc"))
}

/// The program that a shell would run for `name`: a path if it contains a slash, else the first match in
/// `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    find_program_in(OsStr::new(name), &path)
}

/// Whether this is the program of that name in some version: `python3` for `python3.11`.
pub fn is_version_of(program: &Path, name: &str) -> bool {
    let file = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let version = file.strip_prefix(name).filter(|_| !name.is_empty());
    version.is_some_and(|version| {
        version
            .chars()
            .all(|char| char.is_ascii_digit() || char == '.' || char == '-')
    })
}

/// All programs of that name in `PATH`, in its order.
pub fn programs_named(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .filter(|file| is_program(file))
        .collect()
}

/// The names that [`find_library`] and [`find_program`] accept, without versions: `libssl`, `bash`.
/// Unordered.
pub fn names() -> Vec<String> {
    let cache = LoaderCache::host();
    let stem = |(soname, ..): (&str, _, _)| soname.split(".so").next().map(str::to_owned);
    let libraries = cache.entries().filter_map(stem);
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let programs = std::env::split_paths(&path)
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| entry.ok())
        .filter(|entry| is_program(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok());
    libraries.chain(programs).collect()
}

/// The file names without version that `name` can stand for: `ssl` is `libssl`, `ld-linux` is itself.
fn library_stems(name: &str) -> Vec<String> {
    if name.is_empty() || name.contains('/') {
        Vec::new()
    } else if name.starts_with("lib") {
        vec![name.to_owned()]
    } else {
        vec![format!("lib{name}"), name.to_owned()]
    }
}

/// The version of `soname` if it belongs to `stem`, as `libssl.so.1.1` belongs to `libssl` and to
/// `libssl.so.1`. Empty, which is the lowest, for a soname without version.
fn version_of(soname: &str, stem: &str) -> Option<Vec<u64>> {
    let rest = soname.strip_prefix(stem)?;
    let rest = if stem.contains(".so") {
        rest
    } else {
        rest.strip_prefix(".so")?
    };
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let version = rest.strip_prefix('.')?;
    Some(version.split('.').map(|part| part.parse().unwrap_or(0)).collect())
}

/// The newest version, in its variant for the best processor. Skips files that are not libraries for this
/// machine: linker scripts are called `libc.so` too.
fn newest(stem: &str, mut candidates: Vec<LibraryCandidate>) -> Option<ObjectFile> {
    candidates.sort_by_cached_key(|candidate| {
        std::cmp::Reverse((version_of(&candidate.soname, stem), candidate.level))
    });
    candidates
        .iter()
        .find_map(|candidate| Some(ObjectFile::with_elf(&candidate.path).ok()?.0))
}

fn libraries_in(dir: &Path, stem: &str) -> Vec<LibraryCandidate> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let matching = names.filter(|name| version_of(name, stem).is_some());
    matching
        .map(|name| LibraryCandidate {
            path: dir.join(&name),
            soname: name,
            level: 0,
        })
        .collect()
}

/// musl's loader is its C library.
fn musl_libc() -> Option<ObjectFile> {
    let path = format!("/lib/ld-musl-{}.so.1", arch::NAME);
    Some(ObjectFile::with_elf(Path::new(&path)).ok()?.0)
}
