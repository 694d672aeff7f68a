// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Errors: one line, at most one hint, and the documented exit status.

use std::fs;
use std::process::Command;

use super::TOOL;
use crate::harness::{Folder, TOOLS, copy, run_to_end};

#[test]
fn unusable_targets_are_refused_in_one_line() {
    let pid = std::process::id().to_string();
    for (args, message) in [
        (
            ["-s", "/bin/dash"],
            "no function readline_internal_teardown, readline",
        ),
        (["-s", "/etc/passwd"], "/etc/passwd"),
        (["-s", "/no/such/file"], "failed to open /no/such/file"),
        (["-s", "nosuchlibrary"], "failed to find nosuchlibrary"),
        (["-p", &pid], "no function readline_internal_teardown, readline"),
        (["-u", "no-such-user"], "no user"),
        (["--cgroup", "/no/such/group"], "no control group"),
        (["--container", "no-such-container"], "no running container"),
    ] {
        let ended = run_to_end(Command::new(&*TOOLS).arg(TOOL).args(args));
        ended.assert_refused(1, message);
    }
}

#[test]
fn missing_root_is_refused_with_a_hint() {
    let folder = Folder::new();
    // Other users may have no access to the build directory.
    let tools = folder.path.join("ubpf-tools");
    copy(&TOOLS, &tools);
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let ended = run_to_end(Command::new("setpriv").args(user).arg(&tools).arg(TOOL));
    ended.assert_refused(3, "root");
    assert!(ended.stderr.contains("sudo"), "{}", ended.stderr);
}

#[test]
fn missing_kernel_btf_is_refused_with_a_hint() {
    let folder = Folder::new();
    let empty = folder.path.join("empty");
    fs::write(&empty, "").expect("a file");
    let script = "mount --bind \"$1\" /sys/kernel/btf/vmlinux && exec \"$2\" \"$3\"";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&empty)
        .arg(&*TOOLS)
        .arg(TOOL);
    let ended = run_to_end(&mut command);
    ended.assert_refused(3, "/sys/kernel/btf/vmlinux");
    assert!(ended.stderr.contains("CONFIG_DEBUG_INFO_BTF"), "{}", ended.stderr);
}
