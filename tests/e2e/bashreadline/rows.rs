// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which lines become rows, and the fields of a row.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{EMPTY, StoppedTool, TOOL, start};
use crate::harness::{AttachMode, Folder, Tool, each_mode, skip, wait_until};
use crate::pty::{BASH_ARGUMENTS, Shell};

each_mode! {
    rows_match_the_typed_lines
    lines_typed_ahead_keep_their_order
    first_line_of_a_waiting_bash_is_shown
}

fn rows_match_the_typed_lines(mode: AttachMode) {
    let tool = Tool::start(TOOL, mode, EMPTY);
    let mut bash = Shell::bash();
    let lines: Vec<String> = (0..13)
        .map(|number| format!(": 'line {number}' | cat; cd /"))
        .collect();
    let before = Utc::now();
    lines.iter().for_each(|line| bash.enter(line));
    let after = Utc::now();
    let exe = fs::read_link(format!("/proc/{}/exe", bash.pid())).expect("failed to read the exe link");
    let run = tool.stop();

    assert_eq!(run.lines_of(bash.pid()), lines);
    for (row, line) in run.with("pid", bash.pid()).into_iter().zip(&lines) {
        let mut row = row.clone();
        let time = row["time"].take();
        let time = DateTime::parse_from_rfc3339(time.as_str().expect("a time")).expect("RFC 3339");
        assert!(time >= before && time <= after, "{before} <= {time} <= {after}");
        assert_eq!(row, expected_row(&bash, line, &exe));
    }
    run.assert_clean();
}

/// The complete row for `line` entered in a shell started by this process; its time is null.
fn expected_row(shell: &Shell, line: &str, exe: &Path) -> Value {
    let login_uid: u32 = fs::read_to_string("/proc/self/loginuid")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u32::MAX);
    let cgroup = own_cgroup();
    let is_id = |part: &&str| part.len() == 64;
    let container = cgroup
        .as_deref()
        .and_then(|path| path.rsplit(|c: char| !c.is_ascii_hexdigit()).find(is_id));
    json!({
        "type": "event",
        "time": null,
        "pid": shell.pid(),
        "tid": shell.pid(),
        "uid": 0,
        "comm": exe.file_name().and_then(OsStr::to_str),
        "user": "root",
        "tty": shell.tty(),
        "command": line,
        "truncated": false,
        "login_uid": (login_uid != u32::MAX).then_some(login_uid),
        "ppid": std::process::id(),
        "cgroup": cgroup,
        "container": container,
        "exe": exe,
    })
}

/// The cgroup2 path of the tests and of the shells that they start.
fn own_cgroup() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").expect("control groups");
    groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

fn lines_typed_ahead_keep_their_order(mode: AttachMode) {
    let mut bash = Shell::bash();
    let tool = Tool::start(TOOL, mode, ["-p", &bash.pid().to_string()]);
    let lines: Vec<String> = (1..=500).map(|number| format!(": line {number}")).collect();
    bash.enter_all(&lines);
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), lines);
    run.assert_clean();
}

fn first_line_of_a_waiting_bash_is_shown(mode: AttachMode) {
    let mut bash = Shell::bash();
    let tool = Tool::start(TOOL, mode, EMPTY);
    bash.enter(": first");
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), [": first"]);
}

#[test]
fn empty_line_is_a_row_and_cancelled_line_is_not() {
    let mut bash = Shell::bash();
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.enter("");
    bash.terminal.press(b": given up");
    bash.terminal.wait_for(": given up");
    bash.terminal.wait_for_sleep();
    bash.press(b"\x03"); // Ctrl-C
    bash.enter(": entered");
    let status = bash.end_with(b"\x04"); // Ctrl-D
    let run = tool.stop();
    assert!(status.success());
    assert_eq!(run.lines_of(bash.pid()), ["", ": entered"]);
}

/// The tool is stopped until the process has exited, so it cannot read anything from /proc.
#[test]
fn last_line_of_an_exited_shell_has_all_fields() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "last-words");
    let mut bash = Shell::at(&copy);
    let tool = start(EMPTY);
    let stopped = StoppedTool::new(&tool);
    assert_eq!(bash.end_with(b"exit 7\n").code(), Some(7));
    drop(stopped);
    let run = tool.stop();
    let mut rows = run.with("pid", bash.pid()).into_iter().cloned();
    let mut row = rows.next().expect("a row");
    row["time"].take();
    assert_eq!(row, expected_row(&bash, "exit 7", &copy));
    assert_eq!(rows.next(), None);
}

#[test]
fn exec_line_is_attributed_to_the_shell() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "replaced");
    let mut bash = Shell::at(&copy);
    let tool = start(EMPTY);
    let stopped = StoppedTool::new(&tool);
    bash.terminal.press(b"exec cat\n");
    wait_until("the shell to be replaced", || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", bash.pid())).expect("a process");
        (comm == "cat\n").then_some(())
    });
    drop(stopped);
    let run = tool.stop();
    assert_eq!(run.lines_of(bash.pid()), ["exec cat"]);
    assert_eq!(run.with("pid", bash.pid())[0]["exe"], json!(copy));
}

/// `su` and `sudo` do not change the login UID.
#[test]
fn login_uid_is_the_user_who_logged_in() {
    let script = "echo 12345 >/proc/self/loginuid; exec /bin/bash \"$@\"";
    let mut bash = Shell::run(Command::new("sh").args(["-c", script, "sh"]).args(BASH_ARGUMENTS));
    let logged_in = fs::read_to_string(format!("/proc/{}/loginuid", bash.pid())).unwrap_or_default();
    if logged_in.trim() != "12345" {
        return skip(&format!(
            "the login UID cannot be set on this kernel: it reads {logged_in:?}"
        ));
    }
    let tool = start(["-p", &bash.pid().to_string()]);
    bash.enter(": who am i");
    let run = tool.stop();
    assert_eq!(
        (&run.rows[0]["login_uid"], &run.rows[0]["uid"]),
        (&json!(12345), &json!(0))
    );
}

#[test]
fn exe_is_the_hard_link_each_process_was_started_from() {
    let folder = Folder::new();
    let first = folder.copy_of("/bin/bash", "first-name");
    let second = folder.path.join("second-name");
    fs::hard_link(&first, &second).expect("a hard link");
    let mut shells = [Shell::at(&first), Shell::at(&second)];
    let tool = start(["--comm", "first-name,second-name"]);
    shells.iter_mut().for_each(|bash| bash.enter(": which one"));
    let run = tool.stop();
    let exe_of = |bash: &Shell| run.with("pid", bash.pid())[0]["exe"].clone();
    assert_eq!(
        [exe_of(&shells[0]), exe_of(&shells[1])],
        [json!(first), json!(second)]
    );
}
