// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Probes at cheaper instructions see the same calls as probes at function entries: two tools trace the same target at
//! the same time, one with `--placement entry`, the other with `--placement best`.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{AttachMode, Folder, Run, Target, Tool, best_mode, in_guest, program, skip, wait_until};

/// A target that calls many library functions for each order.
const WORK: &str = "
import ctypes, hashlib, json, os, pickle, re, socket, sqlite3, ssl, threading, zlib
from datetime import datetime
try: ctypes.CDLL('libstdc++.so.6').__cxa_get_globals()
except OSError: pass
def work(seed):
    data = [{'a': i + seed, 'b': str(i) * 9, 'c': [i / 3, None, True]} for i in range(5)]
    text = json.dumps(data)
    assert json.loads(text) == data and pickle.loads(pickle.dumps(data)) == data
    re.sub(r'(\\d+)-\\1', 'x', text)
    assert zlib.decompress(zlib.compress(text.encode())) == text.encode()
    hashlib.sha256(text.encode()).hexdigest()
    db = sqlite3.connect(':memory:')
    db.execute('create table t (a, b)')
    db.executemany('insert into t values (?, ?)', [(r['a'], r['b']) for r in data])
    assert db.execute('select count(*), max(b) from t order by a').fetchone()[0] == 5
    db.close()
    datetime.now().strftime('%c')
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    a, b = socket.socketpair()
    a.sendall(b'x' * 99); b.recv(99); a.close(); b.close()
    with open(__file__ if '__file__' in globals() else '/etc/passwd', 'rb') as file: file.read()
while True:
    words = os.read(0, 99).split()
    if not words: break
    if words[0] == b'work':
        for i in range(int(words[1])): work(i)
    if words[0] == b'threads':
        threads = [threading.Thread(target=work, args=(i + 1,)) for i in range(int(words[1]))]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    os.write(1, b'.\\n')";

fn python() -> Option<Target> {
    const PYTHON: &str = "/usr/bin/python3";
    if !Path::new(PYTHON).exists() {
        skip("there is no /usr/bin/python3");
        return None;
    }
    let mut command = Command::new(PYTHON);
    command.args(["-S", "-c", WORK]);
    Some(Target::start(command))
}

/// Two runs at the same time: the first with probes at the entries, the second where they cost least.
fn run_both(tool: &str, mode: AttachMode, target: &mut Target, args: &[&str], orders: &[&str]) -> [Run; 2] {
    let pid = target.pid().to_string();
    // Guests have little memory.
    let buffer = if in_guest() { "16M" } else { "256M" };
    let tools = ["entry", "best"].map(|place| {
        let mut all = vec!["--placement", place, "-p", &pid, "--buffer-size", buffer];
        all.extend(args);
        Tool::start(tool, mode, all)
    });
    let number = |tool: &Tool, key: &str| tool.attached[key].as_u64().expect("a number");
    let [entry, best] = &tools;
    assert!(number(entry, "stepped") >= number(best, "stepped"));
    // On arm64 few functions have a cheaper instruction.
    assert!(number(entry, "stepped") > number(best, "stepped") || cfg!(target_arch = "aarch64"));
    // The kernel refuses to probe some instructions at entries.
    assert!(number(entry, "probes") <= number(best, "probes"));
    for order in orders {
        target.ask(order);
    }
    // After its answer the target still has to return to read(), and joined threads have to exit.
    wait_until("the target to be idle", || is_idle(&pid).then_some(()));
    tools.map(Tool::stop)
}

/// True if a process has a single thread, which sleeps.
fn is_idle(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    threads == 1
        && stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" S"))
}

/// Number of calls by file and function.
fn counts(run: &Run) -> BTreeMap<(String, String), u64> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    run.rows
        .iter()
        .map(|row| {
            (
                (text(row, "file"), text(row, "function")),
                row["count"].as_u64().expect("a count"),
            )
        })
        .collect()
}

/// Asserts that each function counted at the entries has the same count at the best places, and that there are more
/// than `functions` of them.
#[track_caller]
fn assert_same(entry: &Run, best: &Run, functions: usize) {
    let (entry, best) = (counts(entry.assert_clean()), counts(best.assert_clean()));
    let differing = entry
        .iter()
        .map(|(function, count)| (function, count, best.get(function)))
        .find(|(_, count, other)| *other != Some(count));
    assert_eq!(differing, None);
    assert!(entry.len() > functions, "{entry:?}");
}

/// Arguments and results of the calls of these functions, by TID, in the order of the returns.
fn calls(run: &Run, functions: &HashSet<&str>) -> BTreeMap<u64, Vec<String>> {
    let mut threads: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for row in run.rows.iter().filter(|row| functions.contains(function(row))) {
        let call = format!(
            "{} {} {} {}",
            row["function"], row["args"], row["faults"], row["retval"]
        );
        threads
            .entry(row["tid"].as_u64().expect("a thread"))
            .or_default()
            .push(call);
    }
    threads
}

fn function(row: &Value) -> &str {
    row["function"].as_str().expect("a function")
}

best_mode! {
    counts_of_python_functions_are_equal
    counts_of_other_programs_functions_are_equal
    arguments_and_results_are_equal
    stacks_are_equal
    returns_pair_with_the_calls_of_their_thread
    target_survives_probes_added_and_removed_while_it_runs
}

/// True if the mode can probe all functions of all files; else reports a skipped test.
fn can_probe_everything(mode: AttachMode) -> bool {
    if !mode.has_multi_links() {
        skip("without multi-uprobe links, so many probes take minutes to attach");
    }
    mode.has_multi_links()
}

fn counts_of_python_functions_are_equal(mode: AttachMode) {
    if in_guest() {
        return skip("on an emulated machine, so many calls take minutes");
    }
    let Some(mut target) = python().filter(|_| can_probe_everything(mode)) else {
        return;
    };
    target.ask("work 1"); // initialization
    let [entry, best] = run_both("funccount", mode, &mut target, &[":*"], &["work 2"]);
    assert_same(&entry, &best, 500);
    for file in ["libc.so", "libssl.so", "libcrypto.so", "libsqlite3.so", "libz.so"] {
        let is_there = |row: &Value| row["file"].as_str().is_some_and(|name| name.starts_with(file));
        assert!(entry.rows.iter().any(is_there), "{file}");
    }
}

/// Functions of bash, and of libstdc++ in a program that throws exceptions.
fn counts_of_other_programs_functions_are_equal(mode: AttachMode) {
    const SHELL: &str = "while read -r what n; do \
        for ((i = 0; i < n; i++)); do x=${what//o/$i}; y=$(printf '%s' \"$x\"); [[ $y == w* ]] || z=($x $y); done; \
        echo .; done";
    if !can_probe_everything(mode) {
        return;
    }
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", SHELL]);
    let orders: [(Command, &str, usize); 2] = [
        (bash, "work 13", 100),
        (Command::new(program("flow-throws")), "throw 211", 10),
    ];
    for (command, order, functions) in orders {
        let mut target = Target::start(command);
        target.ask(order);
        let [entry, best] = run_both("funccount", mode, &mut target, &[":*"], &[order]);
        assert_same(&entry, &best, functions);
    }
}

fn arguments_and_results_are_equal(mode: AttachMode) {
    let functions: &[&str] = match mode {
        AttachMode::Session | AttachMode::Multi if !in_guest() => &["libc:*", "ssl:*", "sqlite3:*"],
        // Probes are attached one by one, or the machine is emulated.
        _ => &["libc:*alloc", "libc:free", "libc:memchr"],
    };
    let Some(mut target) = python() else { return };
    target.ask("work 1");
    let options = ["--ret", "--args", "arg0, arg1, arg2, arg3, arg4, arg5"];
    let [entry, best] = run_both(
        "functrace",
        mode,
        &mut target,
        &[functions, &options].concat(),
        &["work 1"],
    );
    let functions = entry.assert_clean().rows.iter().map(function).collect();
    let (entry, best) = (calls(&entry, &functions), calls(best.assert_clean(), &functions));
    assert!(entry.values().map(Vec::len).sum::<usize>() > 1000);
    for (thread, calls) in &entry {
        let others = best.get(thread).map_or(&[][..], Vec::as_slice);
        let differs = calls.iter().zip(others).find(|(one, other)| one != other);
        assert!(differs.is_none(), "{differs:?}");
        assert_eq!(calls.len(), others.len());
    }
}

/// Including the direct caller, which the kernel's stack walk misses at both places. The program is a copy: return
/// probes of other tests would replace return addresses.
fn stacks_are_equal(mode: AttachMode) {
    let folder = Folder::new();
    let own = folder.copy_of(program("calls-static"), "calls-copy");
    let mut target = Target::start(Command::new(&own));
    let specs = ["free", "posix_memalign"].map(|function| format!("{}:{function}", own.display()));
    let args = [&specs[0], &specs[1], "--stack"];
    let orders = [
        "calloc 101 1 16",
        "posix_memalign 13 64 100",
        "threads 3 malloc 7 100",
    ];
    let runs = run_both("functrace", mode, &mut target, &args, &orders);
    let stacks = runs.map(|run| {
        let of_row = |row: &Value| (row["function"].to_string(), row["stack"].to_string());
        let mut stacks: Vec<_> = run.assert_clean().rows.iter().map(of_row).collect();
        stacks.sort();
        stacks
    });
    assert!(stacks[0].len() >= 135, "{stacks:?}");
    let differs = stacks[0].iter().zip(&stacks[1]).find(|(one, other)| one != other);
    assert!(differs.is_none(), "{differs:?}");
    assert_eq!(stacks[0].len(), stacks[1].len());
    // The first frame is the caller in the program.
    let is_own = |(_, stack): &&(String, String)| stack.starts_with("[\"") && stack.contains("[calls-copy]");
    let own = stacks[0].iter().filter(is_own).count();
    assert!(own >= 135, "{own} {stacks:?}");
}

fn returns_pair_with_the_calls_of_their_thread(mode: AttachMode) {
    let Some(mut target) = python() else { return };
    let functions = [
        "libc:free",
        "libc:read",
        "libc:write",
        "libc:mem*",
        "libc:pthread_c*",
    ];
    let args = [&["-F"], &functions[..]].concat();
    let [entry, best] = run_both(
        "funclatency",
        mode,
        &mut target,
        &args,
        if in_guest() {
            &["threads 3"]
        } else {
            &["threads 7", "threads 13"]
        },
    );
    assert_same(&entry, &best, 5);
    assert_eq!(entry.summary["unmatched"], best.summary["unmatched"]);
}

/// Tools attach and exit while threads call the probed functions.
fn target_survives_probes_added_and_removed_while_it_runs(mode: AttachMode) {
    const TOOLS: usize = 4;
    let fast = mode.has_multi_links() && !in_guest();
    let cycles = if fast { 50 } else { 3 };
    let mut target = Target::start(Command::new(program("calls")));
    let pid = target.pid().to_string();
    let calls = if fast { 3_000_000 } else { 300_000 };
    target.tell(&format!("threads 4 calloc {calls} 1 16"));
    std::thread::scope(|scope| {
        for tool in 0..TOOLS {
            let args = match (tool % 2, mode.has_multi_links()) {
                (0, true) => ["libc:c*", "libc:f*", "-p", &pid],
                (_, true) => ["r:libc:c*", "r:libc:f*", "-p", &pid],
                // Few, as they are removed one by one.
                (0, false) => ["libc:calloc", "libc:free", "-p", &pid],
                (_, false) => ["r:libc:calloc", "r:libc:free", "-p", &pid],
            };
            scope.spawn(move || {
                for _ in 0..cycles {
                    Tool::start("funccount", mode, args).stop().assert_clean();
                }
            });
        }
    });
    assert_eq!(target.answer().len(), 4);
    assert_eq!(target.ask("calloc 1 1 16").len(), 1);
    assert!(target.end().success());
}
