// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! doctor: its checks agree with what the tools can do on this machine.

use std::process::Command;

use serde_json::Value;

use crate::harness::{AttachMode, Ended, Folder, TOOLS, in_guest, kernel_version, run_to_end, skip};
use crate::privileges::as_nobody;

/// The records of a run as root, where tracing works.
pub fn records(args: &[&str]) -> Vec<Value> {
    let ended = run_to_end(Command::new(&*TOOLS).args(["doctor", "-j"]).args(args));
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), ""), "{ended:?}");
    parsed(&ended)
}

fn parsed(ended: &Ended) -> Vec<Value> {
    let records = ended.stdout.lines().map(serde_json::from_str);
    records.collect::<Result<_, _>>().expect("JSON")
}

fn check<'a>(records: &'a [Value], name: &str) -> &'a Value {
    let found = records
        .iter()
        .find(|record| record["type"] == "check" && record["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}"))
}

/// The tools that attach probes.
fn tracing(records: &[Value]) -> Vec<&Value> {
    let tools: Vec<&Value> = records.iter().filter(|record| record["type"] == "tool").collect();
    assert!(tools.iter().any(|tool| tool["name"] == "funclist"), "{tools:?}");
    tools
        .into_iter()
        .filter(|tool| tool["name"] != "funclist")
        .collect()
}

/// Several at a time, which must not count each other's calls.
#[test]
fn attach_modes_of_this_kernel_work_in_concurrent_runs() {
    let runs = [(); 4].map(|()| std::thread::spawn(|| records(&[])));
    for run in runs {
        assert_attach_modes(&run.join().expect("a run"));
    }
}

fn assert_attach_modes(records: &[Value]) {
    for (mode, name) in [
        (AttachMode::Multi, "uprobes: multi links"),
        (AttachMode::Single, "uprobes: perf links"),
        (AttachMode::Plain, "uprobes: perf events"),
    ] {
        let expected = if kernel_version() >= mode.since() {
            "ok"
        } else {
            "no"
        };
        assert_eq!(check(records, name)["ok"], expected, "{mode:?}");
    }
    assert_eq!(check(records, "BPF programs")["ok"], "ok");
    assert_eq!(check(records, "ring buffer")["ok"], "ok");
    assert_eq!(check(records, "PID namespace")["ok"], "ok");
    let tools = tracing(records);
    assert!(
        tools.len() >= 5 && tools.iter().all(|tool| tool["works"] != "no"),
        "{tools:?}"
    );
}

#[test]
fn cost_of_a_probe_is_plausible() {
    let records = records(&[]);
    let detail = check(&records, "cost of a probe")["detail"]
        .as_str()
        .expect("a text")
        .to_owned();
    let numbers: Vec<u64> = detail.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() == 3, "{detail}");
    if in_guest() {
        return skip("times on emulated machines are meaningless");
    }
    // More than a call, less than any plausible trap on slow hardware.
    assert!(numbers.iter().all(|ns| (20..10_000_000).contains(ns)), "{detail}");
}

#[test]
fn unprivileged_run_reports_missing_capabilities_and_exits_3() {
    let folder = Folder::new();
    let tools = folder.copy_of(&*TOOLS, "ubpf-tools");
    let ended = run_to_end(as_nobody("", &tools).args(["doctor", "-j"]));
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(3), ""), "{ended:?}");
    let records = parsed(&ended);
    for name in [
        "BPF programs",
        "ring buffer",
        "uprobes: multi links",
        "uprobes: perf events",
        "cookies",
    ] {
        let check = check(&records, name);
        assert_eq!(
            (&check["ok"], &check["detail"]),
            (&"no".into(), &"not permitted".into())
        );
    }
    assert_eq!(
        check(&records, "BPF programs")["hint"],
        "run it as root, for example with sudo"
    );
    for capability in ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"] {
        assert_eq!(check(&records, capability)["ok"], "limit");
    }
    for tool in tracing(&records) {
        assert_eq!(
            (&tool["works"], &tool["hint"]),
            (&"no".into(), &check(&records, "BPF programs")["hint"])
        );
    }
}

#[test]
fn text_is_aligned_and_fits_in_100_columns() {
    let ended = run_to_end(Command::new(&*TOOLS).arg("doctor"));
    let rows = ended.stdout.lines().filter(|line| !line.is_empty());
    for line in rows {
        let starts = ["ok    ", "limit ", "no    ", "      "];
        assert!(starts.iter().any(|start| line.starts_with(start)), "{line}");
    }
    let checks = ended.stdout.lines().take_while(|line| !line.is_empty());
    let widest = checks.map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{}", ended.stdout);
}
