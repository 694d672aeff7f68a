// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Builds the programs of this folder, for the tests that trace them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The folder for files that tests build.
pub fn build_dir() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        // It does not exist in a guest of `make vmtest`.
        fs::create_dir_all(&folder).expect("a folder");
        folder
    });
    &FOLDER
}

/// A program built by the Makefile, or `None` if its compiler is missing.
///
/// The first call builds all of them, unless `UBPF_TOOLS_TARGETS` names a folder of built programs: guests of `make
/// vmtest` have no compilers.
pub fn program_if_built(name: &str) -> Option<PathBuf> {
    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| env::var_os("UBPF_TOOLS_TARGETS").map_or_else(build_programs, PathBuf::from));
    Some(FOLDER.join(name)).filter(|program| program.exists())
}

fn build_programs() -> PathBuf {
    let folder = build_dir().join("targets");
    let built = Command::new("make")
        .args(["--silent", "-j2", "-C"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets"))
        .arg(format!("OUT={}", folder.display()))
        // Independent of the make that may be running the tests.
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("failed to run make");
    assert!(
        built.status.success(),
        "make -C tests/targets: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    folder
}
