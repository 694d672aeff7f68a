// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs by name, in a list of directories such as `PATH`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where programs are looked for without `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program `name`, if it contains a slash, else the first one of that name in `path`.
pub fn find_program_in(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|file| is_program(file));
    }
    if name.is_empty() {
        return None;
    }
    std::env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

/// Whether this is a file with any execute permission.
pub fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
