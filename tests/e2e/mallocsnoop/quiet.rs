// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A machine on which little happens: no wakeup for nothing, and no wait for a row.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::harness::{build_dir, each_way, wait_until};

each_way! {
    an_idle_tool_does_not_wake_up
    a_single_call_is_shown_soon
}

/// How often a process has slept and been woken.
fn wakeups(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok())
        .expect("a number")
}

fn an_idle_tool_does_not_wake_up(way: Way) {
    let mut target = target();
    // A file that nobody uses and nothing else: otherwise each program that starts on this machine is looked at.
    let library = build_dir().join(unique("libquiet"));
    fs::copy(bump_library(), &library).expect("a copy");
    let tool = trace(way, &["-l", library.to_str().expect("a path in UTF-8")]);
    fs::remove_file(&library).expect("failed to remove");
    let mut woken = || {
        let (before, began) = (wakeups(tool.pid()), Instant::now());
        while began.elapsed() < Duration::from_millis(300) {
            target.ask("spin 50");
        }
        wakeups(tool.pid()) - before
    };
    // The first time may have the tool's way to bed in it.
    wait_until("a tool that sleeps", || (woken() == 0).then_some(()));
    assert_eq!(woken(), 0);
    tool.stop().assert_clean();
}

fn a_single_call_is_shown_soon(way: Way) {
    let mut target = target();
    let mut tool = trace_pid(way, &target, &["--min-size", "4099", "--max-size", "4099"]);
    let mut slowest = Duration::ZERO;
    for _ in 0..7 {
        target.ask("spin 20");
        target.ask("malloc 1 4099");
        let row = tool.wait_for(|row| row["size_bytes"] == BLOCK);
        slowest = slowest.max(since(row["time"].as_str().expect("a time")));
    }
    let _ = writeln!(
        std::io::stderr(),
        "--attach {}: the slowest single call was shown after {slowest:?}",
        way.name()
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    tool.stop().assert_clean();
}

/// How long ago a time of today or yesterday was.
fn since(time: &str) -> Duration {
    let clock = &time[time.find('T').expect("a time of day") + 1..time.len() - 1];
    let seconds = clock.split(':').fold(0.0, |sum, part| {
        sum * 60.0 + part.parse::<f64>().expect("a number")
    });
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time")
        .as_secs_f64()
        % 86400.0;
    Duration::from_secs_f64((now - seconds).rem_euclid(86400.0))
}
