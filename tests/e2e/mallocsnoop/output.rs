// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Formats and output files, and how write errors are handled.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::harness::{Owned, TOOLS, build_dir, each_mode, run_to_end, tool_command};

each_mode! {
    output_option_writes_rows_to_the_file
    closed_stdout_ends_the_run
    closed_stdout_ends_an_idle_run
}

#[test]
fn all_formats_show_the_same_calls() {
    let program = calls_program();
    let run = |format: &str| {
        let mut command = Command::new(&*TOOLS);
        command.args([
            "mallocsnoop",
            "--format",
            format,
            "--min-size",
            "4099",
            "--max-size",
            "4099",
            "--",
        ]);
        // On stdout the answer to the order would be mixed with the rows.
        let ended = run_to_end(
            command
                .args(["sh", "-c", "exec \"$0\" 'malloc 97 4099' >&2"])
                .arg(&program),
        );
        assert!(ended.status.success(), "{}", ended.stderr);
        ended.stdout
    };
    let text = run("text");
    let mut lines = text.lines();
    assert_eq!(
        lines.next().map(|line| line.split_whitespace().collect()),
        Some(vec!["TIME", "PID", "COMM", "CALL", "SIZE"])
    );
    let row: Vec<&str> = text.lines().last().expect("a row").split_whitespace().collect();
    assert_eq!(row[2..], ["calls", "malloc", "4099"]);
    assert!(text.lines().all(|line| line.len() < 80), "{text}");
    let csv = run("csv");
    assert_eq!(csv.lines().next(), Some("time,pid,tid,uid,comm,call,size_bytes"));
    assert_eq!((text.lines().count(), csv.lines().count()), (98, 98));
    assert!(
        csv.lines()
            .skip(1)
            .all(|line| line.ends_with(",0,calls,malloc,4099")),
        "{csv}"
    );
}

fn output_option_writes_rows_to_the_file(mode: AttachMode) {
    let file = build_dir().join(unique("rows"));
    let program = calls_program();
    let path = file.to_str().expect("a path in UTF-8");
    let args = [
        "-o",
        path,
        "--",
        program.to_str().expect("a path in UTF-8"),
        "malloc 97 4099",
    ];
    let ended = run_to_end(&mut tool_command("mallocsnoop", mode, args));
    let permissions = fs::metadata(&file).expect("the file").permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(
        ended.stdout.lines().count(),
        1,
        "more than the command's answer on stdout: {}",
        ended.stdout
    );
    let rows = fs::read_to_string(&file).expect("the rows");
    fs::remove_file(&file).expect("failed to remove");
    let records: Vec<Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (&records[0]["type"], &records[records.len() - 1]["type"]),
        (&"attached".into(), &"summary".into())
    );
    assert_eq!(
        records
            .iter()
            .filter(|record| record["size_bytes"] == BLOCK)
            .count(),
        97
    );
}

#[test]
fn full_disk_is_an_error() {
    for format in ["json", "text", "csv"] {
        let mut command = Command::new(&*TOOLS);
        command
            .args(["mallocsnoop", "--format", format, "-o", "/dev/full", "--"])
            .arg(calls_program());
        let ended = run_to_end(command.arg("malloc 97 4099"));
        assert_eq!(ended.status.code(), Some(1), "{format}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("No space left on device"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn file_that_cannot_be_created_is_named() {
    let ended = run_to_end(&mut tool_command(
        "mallocsnoop",
        AttachMode::Plain,
        ["-o", "/no/such/folder/file"],
    ));
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("/no/such/folder/file"), "{}", ended.stderr);
}

/// A run whose stdout the test reads itself and can close.
fn start_with_reader(mode: AttachMode, args: &[&str]) -> (Owned, BufReader<ChildStdout>) {
    let mut command = tool_command("mallocsnoop", mode, args);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let stdout = child.stdout.take().expect("a pipe");
    let mut reader = BufReader::new(stdout);
    let mut first = String::new();
    reader.read_line(&mut first).expect("a line");
    assert!(first.contains("attached"), "{first}");
    (Owned(child), reader)
}

/// Asserts status 0, and a quick end with multi links: removing probes one by one takes seconds.
#[track_caller]
fn assert_ends_soon(mode: AttachMode, mut tool: Owned) {
    let closed = Instant::now();
    let status = tool.wait();
    let took = closed.elapsed();
    let _ = writeln!(
        std::io::stderr(),
        "--attach {}: ended {took:?} after stdout was closed",
        mode.name()
    );
    assert!(status.success(), "{status:?}");
    assert!(
        !mode.has_multi_links() || took < Duration::from_secs(3),
        "{took:?}"
    );
}

fn closed_stdout_ends_the_run(mode: AttachMode) {
    let mut target = target();
    let pid = target.pid().to_string();
    let (tool, mut reader) = start_with_reader(mode, &["-p", &pid]);
    target.ask("malloc 97 4099");
    for _ in 0..3 {
        reader.read_line(&mut String::new()).expect("a line");
    }
    drop(reader);
    target.ask("malloc 89 4099");
    assert_ends_soon(mode, tool);
    assert_eq!(target.ask("malloc 83 4099")[0].addresses.len(), 83);
}

fn closed_stdout_ends_an_idle_run(mode: AttachMode) {
    let target = target();
    let (tool, reader) = start_with_reader(mode, &["-p", &target.pid().to_string()]);
    drop(reader);
    assert_ends_soon(mode, tool);
}
