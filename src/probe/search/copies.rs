// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs that copy their code to anonymous memory and run it there, to have it in large pages. The kernel knows
//! probes of files only: it reports no calls of the copy, and a breakpoint that was copied kills the program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::find::elf::ElfFile;
use crate::find::host::object_file::ObjectFile;
use crate::find::host::proc::ProcMapping;
use crate::probe::point::ProbePoint;

/// The function with which Node.js copies its code, and the option that asks for it.
const NODE_COPIES: &str = "_ZN4node25MapStaticCodeToLargePagesEv";
const NODE_OPTION: &str = "--use-largepages";

/// A warning if a program must not be probed before it runs, because it may copy its code with the breakpoints. `argv`
/// is the command to run, if there is one. Copies that are put in place without mremap are not detected.
pub fn copying_program(elf: &ElfFile, path: &Path, argv: &[OsString]) -> Option<String> {
    let how = if elf.defines(NODE_COPIES) {
        let options = std::env::var_os("NODE_OPTIONS");
        let asks = !argv.is_empty() && argv.iter().chain(&options).any(asks_for_copy);
        asks.then_some(NODE_OPTION)
    } else {
        (elf.interpreter().is_some() && elf.imports("mremap")).then_some("mremap")
    };
    let (how, path) = (how?, path.display());
    Some(format!(
        "{path} is not traced: with {how}, it may copy its code with the breakpoints, and crash; a running process can be \
         traced with -p"
    ))
}

/// Whether the option, which may be inside of a script, is there and not `off`.
fn asks_for_copy(word: &OsString) -> bool {
    let text = String::from_utf8_lossy(word.as_bytes());
    text.match_indices(NODE_OPTION)
        .any(|(at, option)| !text[at + option.len()..].starts_with("=off"))
}

/// The functions, by index, some of whose points are not in any executable mapping of their file.
pub fn unmapped(object: &ObjectFile, points: &[ProbePoint], mappings: &[ProcMapping]) -> BTreeSet<u32> {
    let inode = object.file.metadata().map(|meta| meta.ino()).ok();
    // On some file systems, mappings show another inode number than stat(2).
    let is_of_file = |mapping: &&ProcMapping| Some(mapping.inode) == inode || mapping.path == object.path;
    let code: Vec<&ProcMapping> = mappings
        .iter()
        .filter(|mapping| mapping.exec)
        .filter(is_of_file)
        .collect();
    let is_mapped = |offset: u64| {
        code.iter().any(|mapping| {
            offset
                .checked_sub(mapping.offset)
                .is_some_and(|at| at < mapping.end - mapping.start)
        })
    };
    points
        .iter()
        .filter(|point| !is_mapped(point.offset))
        .map(|point| point.cookie.function())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_of_node_is_found_in_words_and_scripts() {
        let asks = |word: &str| asks_for_copy(&word.into());
        assert!(asks("--use-largepages=on") && asks("--use-largepages=silent") && asks("--use-largepages"));
        assert!(asks("exec node --use-largepages=on server.js"));
        assert!(!asks("--use-largepages=off") && !asks("--use-strict"));
    }
}
