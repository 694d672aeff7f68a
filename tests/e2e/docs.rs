// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! docs/json.md describes the records of all tools, and the page of each tool its own: the same records and
//! keys as the tools write.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::funclist::rows;
use crate::harness::{AttachMode, Folder, Run, Target, Tool, program, skip};
use crate::pty::Shell;

const COMMON: &str = include_str!("../../docs/json.md");

/// The page of a tool.
macro_rules! page {
    ($tool:literal) => {
        include_str!(concat!("../../docs/tools/", $tool, ".md"))
    };
}

/// Record type -> keys.
type Records = BTreeMap<String, BTreeSet<String>>;

/// Asserts that the page of a tool describes these records, and no others.
#[track_caller]
pub fn assert_described<'a>(page: &str, records: impl IntoIterator<Item = &'a Value>) {
    assert_eq!(written(records), described(page, "Records"));
}

/// The tables below `## TITLE` of a page.
fn described(page: &str, title: &str) -> Records {
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with(title))
        .expect("a section");
    section
        .split("\n### ")
        .skip(1)
        .map(|record| (quoted(record), record.lines().filter_map(key).collect()))
        .collect()
}

/// The text between the first two backquotes.
fn quoted(text: &str) -> String {
    text.split('`').nth(1).expect("a name in backquotes").to_owned()
}

fn key(line: &str) -> Option<String> {
    line.starts_with("| `").then(|| quoted(line))
}

fn written<'a>(records: impl IntoIterator<Item = &'a Value>) -> Records {
    let mut all = Records::new();
    for record in records {
        let keys = record
            .as_object()
            .expect("an object")
            .keys()
            .filter(|key| *key != "type")
            .cloned();
        all.entry(record["type"].as_str().expect("a type").to_owned())
            .or_default()
            .extend(keys);
    }
    all
}

fn run_of(tool: &str, args: &[&str]) -> Run {
    let run = Tool::start(tool, AttachMode::best(), args).finish();
    assert!(run.status.success(), "{}", run.stderr);
    run
}

#[test]
fn the_records_of_every_tool_are_described() {
    // The ring has room for seven events, and the program causes thousands before the tool can read them.
    let mut tool = Tool::start(
        "mallocsnoop",
        AttachMode::best(),
        ["--buffer-size", "4K", "--stack", "--", "bash", "--version"],
    );
    let attached = std::mem::take(&mut tool.attached);
    let run = tool.finish();
    // A busy loop exceeds the limit, which stops the run.
    let mut target = Target::start(Command::new(program("flow")));
    let counted = format!("{}:counted", program("flow").display());
    let pid = target.pid().to_string();
    let mut tool = Tool::start(
        "funccount",
        AttachMode::best(),
        [&counted, "-p", &pid, "--max-overhead", "0.1%"],
    );
    target.tell("count 100000000");
    let stopped = tool.wait_for(|record| record["type"] == "stopped");
    let limited = tool.finish();
    let (targeted, later) = crate::scope::run_with_joined_process();
    let detached = crate::cases::overwritten_file::detached_record();
    let late = late_record();
    let records = [
        &attached,
        &detached,
        &late,
        &targeted,
        &run.summary,
        &later.summary,
        &limited.summary,
        &stopped,
    ]
    .into_iter();
    assert_eq!(
        written(records.chain(&run.lost).chain(&later.joined)),
        described(COMMON, "Every tool")
    );
}

/// The record of a file that appears during the run.
fn late_record() -> Value {
    let folders = [Folder::new(), Folder::new()];
    let [first, second] = folders
        .each_ref()
        .map(|folder| Command::new(folder.copy_of(program("flow"), "appears-late")));
    let _running = Target::start(first);
    let mut tool = Tool::start("funccount", AttachMode::best(), ["appears-late:counted"]);
    let _late = Target::start(second);
    tool.wait_for(|record| record["type"] == "late")
}

#[test]
fn the_records_of_mallocsnoop_are_described() {
    let each = run_of(
        "mallocsnoop",
        &["--ret", "--free", "--stack", "--", "bash", "--version"],
    );
    let sums = run_of("mallocsnoop", &["--summary", "--", "bash", "--version"]);
    assert_described(page!("mallocsnoop"), each.rows.iter().chain(&sums.rows));
}

#[test]
fn the_records_of_bashreadline_are_described() {
    let mut shell = Shell::bash();
    let mut tool = Tool::start(
        "bashreadline",
        AttachMode::best(),
        ["-p", &shell.pid().to_string()],
    );
    shell.enter(":");
    tool.wait_rows(1);
    tool.signal(Signal::SIGINT);
    assert_described(page!("bashreadline"), &tool.finish().rows);
}

/// The rows of all values of `--by`.
fn grouped(tool: &str) -> Records {
    let by = |group: Option<&str>| {
        let by: Vec<&str> = group.into_iter().flat_map(|group| ["--by", group]).collect();
        let args = [&["libc:malloc"][..], &by, &["--", "bash", "--version"]].concat();
        run_of(tool, &args).rows
    };
    let all = [
        None,
        Some("thread"),
        Some("process"),
        Some("user"),
        Some("container"),
    ]
    .map(by);
    written(all.iter().flatten())
}

#[test]
fn the_records_of_funccount_are_described() {
    assert_eq!(grouped("funccount"), described(page!("funccount"), "Records"));
}

#[test]
fn the_records_of_funclatency_are_described() {
    assert_eq!(grouped("funclatency"), described(page!("funclatency"), "Records"));
}

#[test]
fn the_records_of_doctor_are_described() {
    assert_described(page!("doctor"), &crate::doctor::records(&[]));
}

#[test]
fn the_records_of_funclist_are_described() {
    let functions = rows(&["libc:malloc"]);
    let mut expected = described(page!("funclist"), "Records");
    // Not every machine has a program with probes; the page is right about them wherever there is one.
    let probes = match std::path::Path::new("/usr/bin/python3").exists() {
        true => crate::funclist::funclist(["-j", "--usdt", "/usr/bin/python3"]).stdout,
        false => String::new(),
    };
    let probes: Vec<Value> = probes
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    if probes.is_empty() {
        expected.remove("usdt");
        skip("the records of USDT probes: /usr/bin/python3 has none");
    }
    assert_eq!(written(functions.iter().chain(&probes)), expected);
}

#[test]
fn the_records_of_functrace_are_described() {
    let all = run_of(
        "functrace",
        &[
            "libc:malloc",
            "--ret",
            "--indent",
            "--stack",
            "--",
            "bash",
            "--version",
        ],
    );
    let undecided = run_of(
        "functrace",
        &[
            "libc:malloc",
            "--where",
            "*(u8*)1 == 1",
            "--",
            "bash",
            "--version",
        ],
    );
    assert_described(page!("functrace"), all.rows.iter().chain(&undecided.rows));
}
