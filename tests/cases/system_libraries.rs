// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions that are elsewhere than their name says: in another library, another version, or the kernel.

use std::process::Command;

use crate::funclist::funclist;
use crate::harness::{AttachMode, program_if_built, run_to_end, skip, tool_command};

#[test]
fn the_vdso_is_not_taken_for_a_misspelled_name() {
    for name in ["vdso", "[vdso]", "linux-vdso.so.1"] {
        let ended = funclist([format!("{name}:__vdso_time")]);
        assert!(ended.stderr.contains("memory of the kernel"), "{}", ended.stderr);
    }
}

#[test]
fn libraries_that_moved_into_libc_are_found_there() {
    let ended = run_to_end(Command::new("ldd").arg("--version"));
    if !ended.stdout.contains("GLIBC") && !ended.stdout.contains("GNU libc") {
        skip("no glibc");
        return;
    }
    let ended = funclist(["-j", "libpthread:pthread_create"]);
    assert!(ended.status.success(), "{ended:?}");
    let moved = ended.stdout.contains("libc.so.6");
    assert_eq!(
        ended.stderr.matches("since glibc 2.34").count(),
        usize::from(moved),
        "{ended:?}"
    );
}

/// glibc has two functions of that name: programs that were linked long ago call the older one.
#[test]
fn old_versions_of_a_function_are_counted() {
    let Some(program) = program_if_built("old_version") else {
        return skip("the version is that of x86-64");
    };
    for spec in [
        "libc:posix_spawn",
        "libc:posix_spawn@GLIBC_2.2.5",
        "libc:posix_spaw?",
    ] {
        let mut command = tool_command("funccount", AttachMode::best(), [spec, "--"]);
        let ended = run_to_end(command.arg(&program).arg("19"));
        assert!(ended.status.success(), "{spec}: {ended:?}");
        assert_eq!(
            ended.stdout.matches("\"count\":19}").count(),
            1,
            "{spec}: {ended:?}"
        );
    }
}
