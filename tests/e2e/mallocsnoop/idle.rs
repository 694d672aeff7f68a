// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! An idle machine: the tool does not wake up without events, and shows a single event promptly.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::harness::{build_dir, each_mode, wait_until};

each_mode! {
    idle_tool_does_not_wake_up
    single_call_is_shown_promptly
}

/// The number of voluntary context switches of a process.
fn wakeups(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok())
        .expect("a number")
}

fn idle_tool_does_not_wake_up(mode: AttachMode) {
    let mut target = target();
    // Only a file that no process maps: otherwise the tool examines each program that starts on this machine.
    let library = build_dir().join(unique("libquiet"));
    fs::copy(bump_library(), &library).expect("a copy");
    let tool = trace(mode, &["-l", library.to_str().expect("a path in UTF-8")]);
    fs::remove_file(&library).expect("failed to remove");
    let mut woken = || {
        let (before, began) = (wakeups(tool.pid()), Instant::now());
        while began.elapsed() < Duration::from_millis(300) {
            target.ask("spin 50");
        }
        wakeups(tool.pid()) - before
    };
    // The first interval may include the end of the tool's start-up.
    wait_until("a tool that sleeps", || (woken() == 0).then_some(()));
    assert_eq!(woken(), 0);
    tool.stop().assert_clean();
}

fn single_call_is_shown_promptly(mode: AttachMode) {
    let mut target = target();
    let mut tool = trace_pid(mode, &target, &["--min-size", "4099", "--max-size", "4099"]);
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
        mode.name()
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    tool.stop().assert_clean();
}

/// The time elapsed since `time`, which is at most a day ago.
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
