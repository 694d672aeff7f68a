// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Formats, output files and lost events.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use serde_json::json;

use super::{RawTool, StoppedTool, TOOL, start};
use crate::harness::{Folder, TOOLS, run_to_end, wait_until};
use crate::pty::Shell;

#[test]
fn csv_round_trips_every_line() {
    let lines = [": \"one, two\"", ": 'three'", "", ": four"];
    let mut bash = Shell::bash();
    let tool = RawTool::start(["--format", "csv", "-p", &bash.pid().to_string()]);
    lines.iter().for_each(|line| bash.enter(line));
    let records = parse_csv(&tool.stop().stdout);
    let column = |name: &str| records[0].iter().position(|key| key == name).expect("a column");
    let (command, pid) = (column("command"), column("pid"));
    assert_eq!(
        records[1..]
            .iter()
            .map(|record| record[command].as_str())
            .collect::<Vec<_>>(),
        lines
    );
    assert!(
        records[1..]
            .iter()
            .all(|record| record[pid] == bash.pid().to_string())
    );
    assert!(
        records.iter().all(|record| record.len() == records[0].len()),
        "{records:?}"
    );
}

/// Parses RFC 4180 independently of the crate that the tool writes CSV with.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    assert!(
        field.is_empty() && record.is_empty() && !quoted,
        "the last record is not terminated"
    );
    records
}

#[test]
fn quiet_prints_only_rows() {
    let mut bash = Shell::bash();
    let mut tool = RawTool::spawn(["-q", "-M", "1", "-p", &bash.pid().to_string()]);
    wait_until("the first row", || {
        bash.enter(": quiet");
        tool.child.0.try_wait().expect("failed to wait")
    });
    let ended = tool.finish();
    assert_eq!((ended.stdout.lines().count(), ended.stderr.as_str()), (1, ""));
    assert!(ended.stdout.ends_with(": quiet\n"), "{}", ended.stdout);
}

#[test]
fn output_option_writes_rows_to_the_file() {
    let folder = Folder::new();
    let file = folder.path.join("rows");
    let mut bash = Shell::bash();
    let pid = bash.pid().to_string();
    let tool = RawTool::start([
        OsStr::new("-o"),
        file.as_os_str(),
        OsStr::new("-p"),
        OsStr::new(&pid),
    ]);
    bash.enter(": to a file");
    let ended = tool.stop();
    let text = fs::read_to_string(&file).expect("a file");
    assert_eq!((ended.stdout.as_str(), text.lines().count()), ("", 2));
    assert!(text.ends_with(": to a file\n"), "{text}");
}

#[test]
fn full_disk_is_reported_in_one_line() {
    let bash = Shell::bash();
    let ended = run_to_end(
        Command::new(&*TOOLS)
            .args([TOOL, "-q", "-j", "-o", "/dev/full", "-p"])
            .arg(bash.pid().to_string()),
    );
    ended.assert_refused(1, "No space left on device");
}

/// A long line is sent in a record of its size, and a 4 KiB ring has no room for the larger ones.
#[test]
fn lines_too_long_for_the_ring_are_counted_and_reported() {
    let mut bash = Shell::bash();
    let tool = start(["--buffer-size", "4K", "-p", &bash.pid().to_string()]);
    bash.enter(": fits");
    bash.enter(format!(": {:05000}", 0));
    bash.enter(": fits again");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": fits", ": fits again"]);
    assert_eq!((&run.summary["lost"], run.lost.len()), (&json!(1), 1));
    assert!(
        run.stderr.contains("lost 1 events") && run.stderr.contains("--buffer-size"),
        "{}",
        run.stderr
    );
}

#[test]
fn rows_and_losses_of_an_overflowing_burst_add_up() {
    let mut bash = Shell::bash();
    let tool = start(["--buffer-size", "4K", "-p", &bash.pid().to_string()]);
    let stopped = StoppedTool::new(&tool);
    (0..37).for_each(|number| bash.enter(format!(": {number}")));
    drop(stopped);
    let run = tool.stop();
    let lost = run.summary["lost"].as_u64().expect("a count of lost events");
    assert!(
        lost > 0 && !run.rows.is_empty(),
        "{} rows, {lost} lost",
        run.rows.len()
    );
    assert_eq!(run.rows.len() as u64 + lost, 37);
}
