// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! docs/json.md says what the tools write: the same records, with the same keys.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::funclist::rows;
use crate::harness::{AttachMode, Run, Target, Tool, program, skip};
use crate::pty::Shell;

const PAGE: &str = include_str!("../../docs/json.md");

/// Record type -> keys.
type Records = BTreeMap<String, BTreeSet<String>>;

/// The tables below one `## TITLE` of the page.
fn described(title: &str) -> Records {
    let section = PAGE
        .split("\n## ")
        .find(|section| section.starts_with(title))
        .expect("a section");
    section
        .split("\n### ")
        .skip(1)
        .map(|record| (quoted(record), record.lines().filter_map(key).collect()))
        .collect()
}

/// What stands between the first two backquotes.
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
    // A ring for seven events, and a program that makes thousands before anybody can read them.
    let mut tool = Tool::start(
        "mallocsnoop",
        AttachMode::best(),
        ["--buffer-size", "4K", "--stack", "--", "bash", "--version"],
    );
    let attached = std::mem::take(&mut tool.attached);
    let run = tool.finish();
    // One that may cost nothing, in a loop.
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
    tool.finish();
    let (targeted, later) = crate::scope::run_with_joined_process();
    let records = [&attached, &targeted, &run.summary, &later.summary, &stopped].into_iter();
    assert_eq!(
        written(records.chain(&run.lost).chain(&later.joined)),
        described("Every tool")
    );
}

#[test]
fn the_records_of_mallocsnoop_are_described() {
    let each = run_of(
        "mallocsnoop",
        &["--ret", "--free", "--stack", "--", "bash", "--version"],
    );
    let sums = run_of("mallocsnoop", &["--summary", "--", "bash", "--version"]);
    assert_eq!(
        written(each.rows.iter().chain(&sums.rows)),
        described("mallocsnoop")
    );
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
    assert_eq!(written(&tool.finish().rows), described("bashreadline"));
}

/// The rows of every way to group calls.
fn grouped(tool: &str) -> Records {
    let by = |whom: Option<&str>| {
        let whom: Vec<&str> = whom.into_iter().flat_map(|whom| ["--by", whom]).collect();
        let args = [&["libc:malloc"][..], &whom, &["--", "bash", "--version"]].concat();
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
    assert_eq!(grouped("funccount"), described("funccount"));
}

#[test]
fn the_records_of_funclatency_are_described() {
    assert_eq!(grouped("funclatency"), described("funclatency"));
}

#[test]
fn the_records_of_doctor_are_described() {
    assert_eq!(written(&crate::doctor::records(&[])), described("doctor"));
}

#[test]
fn the_records_of_funclist_are_described() {
    let functions = rows(&["libc:malloc"]);
    let mut expected = described("funclist");
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
        skip("the records of probes: /usr/bin/python3 has none");
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
    assert_eq!(
        written(all.rows.iter().chain(&undecided.rows)),
        described("functrace")
    );
}
