// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Bursts: what fits comes whole, and what does not is counted.

use nix::sys::signal::Signal;

use super::*;
use crate::harness::each_way;

each_way! {
    a_burst_comes_whole
    what_a_tiny_buffer_loses_is_counted
}

fn a_burst_comes_whole(way: Way) {
    let mut target = target();
    let tool = trace_pid(way, &target, &[]);
    target.ask("malloc 100003 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 100_003);
    assert!(run.lost.is_empty());
}

fn what_a_tiny_buffer_loses_is_counted(way: Way) {
    let mut target = target();
    let tool = trace_pid(
        way,
        &target,
        &["--buffer-size", "4K", "--min-size", "4099", "--max-size", "4099"],
    );
    target.ask("malloc 100003 4099");
    // 4 KiB hold some fifty events, whatever the tool would like to do in the meantime.
    tool.signal(Signal::SIGSTOP);
    target.ask("malloc 1009 4099");
    tool.signal(Signal::SIGCONT);
    let run = tool.stop();
    let lost = run.summary["lost"].as_u64().expect("a number");
    assert!(run.status.success() && lost >= 900, "{lost} lost");
    assert_eq!(run.rows.len() as u64 + lost, 100_003 + 1009);
    assert_eq!(run.summary["events"], run.rows.len());
    let told: u64 = run
        .lost
        .iter()
        .filter_map(|record| record["count"].as_u64())
        .sum();
    assert_eq!(
        (told, run.lost.last().map(|record| &record["total"])),
        (lost, Some(&lost.into()))
    );
    assert!(
        run.stderr.contains("--buffer-size"),
        "what to do is not said: {}",
        run.stderr
    );
}
