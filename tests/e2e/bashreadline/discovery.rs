// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which processes are recognized as bash: copies, deleted files, containers, and users of libreadline.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{EMPTY, StoppedTool, TOOL, bash_with_libreadline, program_with_libreadline, start};
use crate::harness::{AttachMode, Folder, Tool, copy, each_mode, program, run_to_end};
use crate::pty::{BASH_ARGUMENTS, Shell, Terminal};

each_mode! {
    copy_of_bash_started_later_is_traced
    bash_linked_against_libreadline_is_traced
}

fn copy_of_bash_started_later_is_traced(mode: AttachMode) {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", &format!("later-{}", mode.name()));
    // No other process has this name, so every row belongs to this bash.
    let mut tool = Tool::start(TOOL, mode, ["--comm", &format!("later-{}", mode.name())]);
    let mut bash = Shell::at(&copy);
    let mut entered = 0;
    tool.until_row(|| {
        bash.enter(": again");
        entered += 1;
    });
    bash.enter(": and again");
    let run = tool.stop();
    let lines = run.lines_of(bash.pid());
    assert_eq!(lines.last(), Some(&": and again"));
    assert!(
        lines.len() >= 2 && lines.len() <= entered + 1,
        "{lines:?} of {entered}"
    );
    assert!(
        run.rows.iter().all(|row| row["exe"] == json!(copy)),
        "{:?}",
        run.rows
    );
}

/// It exports no functions.
#[test]
fn static_bash_is_traced() {
    let mut bash = Shell::run(&mut Command::new(program("lines-static")));
    let tool = start(EMPTY);
    bash.enter("of a static bash");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), ["of a static bash"]);
}

/// An upgrade of bash leaves running shells in this state.
#[test]
fn bash_with_deleted_executable_is_traced() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "removed");
    let mut bash = Shell::at(&copy);
    fs::remove_file(&copy).expect("failed to remove the copy");
    let tool = start(EMPTY);
    bash.enter(": still here");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": still here"]);
    assert_eq!(run.with("pid", bash.pid())[0]["exe"], json!(copy));
}

/// By then the tool has already examined the inode as a different program.
#[test]
fn bash_written_over_another_program_is_traced() {
    let folder = Folder::new();
    let file = folder.path.join("overwritten");
    copy(Path::new("/bin/true"), &file);
    let mut tool = start(["--comm", "overwritten"]);
    assert!(run_to_end(&mut Command::new(&file)).status.success());
    copy(Path::new("/bin/bash"), &file);
    let mut bash = Shell::at(&file);
    tool.until_row(|| bash.enter(": new content"));
    assert!(tool.stop().rows.iter().all(|row| row["exe"] == json!(file)));
}

#[test]
fn bash_invoked_as_sh_is_traced_and_dash_is_not() {
    let folder = Folder::new();
    let link = folder.path.join("sh");
    std::os::unix::fs::symlink("/bin/bash", &link).expect("a link");
    let tool = start(EMPTY);
    let mut sh = Shell::at(&link);
    let mut dash = Terminal::run(Command::new("/bin/dash").arg("-i").env("PS1", "> "));
    dash.press(b"echo $((40 + 2))\n");
    dash.wait_for("42\r\n");
    sh.enter(": posix");
    let run = tool.stop();
    assert_eq!(run.lines_of(sh.pid()), [": posix"]);
    assert_eq!(run.with("pid", sh.pid())[0]["comm"], "sh");
    assert_eq!(run.lines_of(dash.pid()), EMPTY);
}

/// In a mount namespace with a different root, the executable has no path on the host.
#[test]
fn bash_in_a_container_is_traced() {
    let folder = Folder::new();
    let mut bash = in_container(&folder, "inside-before");
    let tool = start(EMPTY);
    bash.enter(": inside");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": inside"]);
    assert_eq!(run.with("pid", bash.pid())[0]["exe"], "/mnt/inside-before");
    assert!(
        !Path::new("/mnt/inside-before").exists(),
        "the executable is visible on the host"
    );
}

#[test]
fn bash_in_a_container_started_later_is_traced() {
    let folder = Folder::new();
    let mut tool = start(["--comm", "inside-later"]);
    let mut bash = in_container(&folder, "inside-later");
    tool.until_row(|| bash.enter(": inside"));
    let run = tool.stop();
    assert!(
        run.rows
            .iter()
            .all(|row| row["exe"] == "/mnt/inside-later" && row["pid"] == bash.pid()),
        "{:?}",
        run.rows
    );
}

fn in_container(folder: &Folder, name: &str) -> Shell {
    // An initramfs cannot be replaced with pivot_root, only covered.
    let script = r#"
        mount --rbind / "$1" && cd "$1" && mount -t tmpfs inside mnt && cp /bin/bash "mnt/$2" && mkdir mnt/old || exit
        { pivot_root . mnt/old && umount -l mnt/old; } || mount --move . / || exit
        bash=$2 && shift 2 && exec chroot . "/mnt/$bash" "$@"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&folder.path)
        .arg(name)
        .args(BASH_ARGUMENTS);
    Shell::run(&mut command)
}

fn bash_linked_against_libreadline_is_traced(mode: AttachMode) {
    let mut bash = Shell::run(&mut Command::new(bash_with_libreadline()));
    let mut other = Shell::run(&mut Command::new(program_with_libreadline()));
    let tool = Tool::start(TOOL, mode, EMPTY);
    bash.enter("one");
    other.enter("not bash");
    bash.enter("two");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), ["one", "two"]);
    assert_eq!(run.lines_of(other.pid()), EMPTY);
}

#[test]
fn other_program_using_libreadline_is_not_shown_after_it_exited() {
    let mut other = Shell::run(&mut Command::new(program_with_libreadline()));
    let tool = start(EMPTY);
    let stopped = StoppedTool::new(&tool);
    assert!(other.end_with(b"exit\n").success());
    drop(stopped);
    let run = tool.stop();
    assert_eq!(run.lines_of(other.pid()), EMPTY);
}
