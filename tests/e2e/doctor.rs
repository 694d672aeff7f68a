//! doctor: what it says of this machine is what the tools find.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Ended, Folder, TOOLS, Way, in_guest, kernel_version, run_to_end, skip};
use crate::privileges::as_nobody;

/// The records of a run as root, which can trace.
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

/// The tools that attach probes, as their help tells.
fn tracing(records: &[Value]) -> Vec<&Value> {
    let tools: Vec<&Value> = records.iter().filter(|record| record["type"] == "tool").collect();
    assert!(tools.iter().any(|tool| tool["name"] == "funclist"), "{tools:?}");
    tools
        .into_iter()
        .filter(|tool| tool["name"] != "funclist")
        .collect()
}

/// Several at a time, which must not take each other's calls for their own.
#[test]
fn every_way_of_attaching_that_this_kernel_has_is_found_to_work() {
    let runs = [(); 4].map(|()| std::thread::spawn(|| records(&[])));
    for run in runs {
        expect_every_way(&run.join().expect("a run"));
    }
}

fn expect_every_way(records: &[Value]) {
    for (way, name) in [
        (Way::Multi, "uprobes: multi links"),
        (Way::Single, "uprobes: perf links"),
        (Way::Plain, "uprobes: perf events"),
    ] {
        let expected = if kernel_version() >= way.since() {
            "ok"
        } else {
            "no"
        };
        assert_eq!(check(records, name)["ok"], expected, "{way:?}");
    }
    assert_eq!(check(records, "BPF programs")["ok"], "ok");
    assert_eq!(check(records, "ring buffer")["ok"], "ok");
    assert_eq!(check(records, "pid namespace")["ok"], "ok");
    let tools = tracing(records);
    assert!(
        tools.len() >= 5 && tools.iter().all(|tool| tool["works"] != "no"),
        "{tools:?}"
    );
}

#[test]
fn the_price_of_a_probe_is_measured() {
    let records = records(&[]);
    let detail = check(&records, "cost of a probe")["detail"]
        .as_str()
        .expect("a text")
        .to_owned();
    let numbers: Vec<u64> = detail.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.len() == 3, "{detail}");
    if in_guest() {
        return skip("the times of emulated machines say nothing");
    }
    // A trap takes more than a call, and less than a switch of tasks.
    assert!(numbers.iter().all(|ns| (20..10_000_000).contains(ns)), "{detail}");
}

#[test]
fn without_privileges_it_says_what_is_missing() {
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
fn text_is_aligned_and_fits_a_terminal() {
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
