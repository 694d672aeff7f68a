// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Runs `make new-tool` in a copy of the tree: the new tool builds without warnings and passes its tests.
//! Needs root, or sudo: it builds as the user who runs it.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TOP: &str = env!("CARGO_MANIFEST_DIR");
/// Kept between runs, so that dependencies are built once.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/new-tool");

#[test]
fn new_tool_builds_and_passes_its_tests() {
    if env::var_os("UBPF_TOOLS_TARGETS").is_some() {
        // Not eprintln!, which the test runner captures.
        let _ = writeln!(std::io::stderr(), "SKIPPED: new_tool: a guest has no compilers");
        return;
    }
    let tree = copy_of_tree();
    let binary = env!("CARGO_BIN_EXE_ubpf-tools");
    let make =
        format!("UBPF_TOOLS_BINARY={binary} make new-tool TARGET=libc FUNCTION=getaddrinfo NAME=probe1");
    run(&tree, &make);
    let checks = run(&tree, "cargo test --test cli --test install --test load");
    assert!(!checks.contains("warning"), "{checks}");
    // Only the program that is called, not all that the other tests trace.
    run(
        &tree,
        "make -C tests/targets OUT=$PWD/targets $PWD/targets/caller",
    );
    let tests = run(
        &tree,
        "UBPF_TOOLS_TARGETS=$PWD/targets cargo test --test e2e tools::probe1::",
    );
    assert!(
        tests.contains("4 passed") && !tests.contains("SKIPPED"),
        "{tests}"
    );
    let changed = run(&tree, &format!("diff -rq {TOP}/src src || true"));
    let changed: Vec<&str> = changed.lines().collect();
    assert_eq!(changed.len(), 3, "{changed:?}");
}

/// A copy at a fixed path, with the modification times of the original files, so that cargo rebuilds little.
fn copy_of_tree() -> PathBuf {
    let tree = Path::new(FOLDER).join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).expect("the previous copy can be removed");
    }
    fs::create_dir_all(&tree).expect("a folder");
    run(
        &tree,
        &format!("tar -C {TOP} --exclude=./target --exclude=./fuzz/target --exclude=./.git -c . | tar -x"),
    );
    tree
}

/// Runs a shell command in the tree and returns what it wrote.
#[track_caller]
fn run(tree: &Path, script: &str) -> String {
    let cargo = Path::new(env!("CARGO")).parent().expect("a folder");
    let path = env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .args(["-o", "pipefail", "-c", &format!("exec 2>&1; {script}")])
        .current_dir(tree)
        .stdin(Stdio::null())
        // sudo has another PATH.
        .env("PATH", format!("{}:{path}", cargo.display()))
        .env("CARGO_TARGET_DIR", Path::new(FOLDER).join("target"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0")
        .env("PROFILE", "dev")
        .env("UBPF_TOOLS_WERROR", "1");
    // Of the cargo and the make that run this test.
    let is_foreign =
        |name: &str| name.starts_with("MAKE") || name.starts_with("UBPF_TOOLS_") || name.ends_with("_RUNNER");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            command.env_remove(name);
        }
    }
    if !nix::unistd::geteuid().is_root() {
        let arch = env::consts::ARCH.to_uppercase();
        let runner = format!("sudo -E -H env PATH={}:{path}", cargo.display());
        command.env(format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER"), runner);
    }
    let output = command.output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}: {}\n{text}", output.status);
    text
}
