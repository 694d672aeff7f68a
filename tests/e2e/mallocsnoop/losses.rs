// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Bursts: events that fit the ring are all shown, and the others are counted as lost.

use nix::sys::signal::Signal;

use super::*;
use crate::harness::each_mode;

each_mode! {
    burst_that_fits_is_shown_completely
    losses_of_a_tiny_ring_are_counted
}

fn burst_that_fits_is_shown_completely(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &[]);
    target.ask("malloc 100003 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 100_003);
    assert!(run.lost.is_empty());
}

fn losses_of_a_tiny_ring_are_counted(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(
        mode,
        &target,
        &["--buffer-size", "4K", "--min-size", "4099", "--max-size", "4099"],
    );
    target.ask("malloc 100003 4099");
    // 4 KiB hold about fifty events, and a stopped tool cannot drain them.
    tool.signal(Signal::SIGSTOP);
    target.ask("malloc 1009 4099");
    tool.signal(Signal::SIGCONT);
    let run = tool.stop();
    let lost = run.summary["lost"].as_u64().expect("a count of lost events");
    assert!(run.status.success() && lost >= 900, "{lost} lost");
    assert_eq!(run.rows.len() as u64 + lost, 100_003 + 1009);
    assert_eq!(run.summary["events"], run.rows.len());
    let reported: u64 = run
        .lost
        .iter()
        .filter_map(|record| record["count"].as_u64())
        .sum();
    assert_eq!(
        (reported, run.lost.last().map(|record| &record["total"])),
        (lost, Some(&lost.into()))
    );
    assert!(
        run.stderr.contains("--buffer-size"),
        "no hint about --buffer-size: {}",
        run.stderr
    );
}
