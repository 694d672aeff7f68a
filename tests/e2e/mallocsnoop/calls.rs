// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Each allocator function: name, size, outcome and duration.

use super::*;
use crate::harness::{each_mode, each_mode_with_session};

each_mode! {
    each_function_is_counted_once_with_its_size
    calls_option_shows_only_the_named_functions
    free_shows_the_address_and_no_size
    row_identifies_the_caller
}

each_mode_with_session! {
    call_shows_the_returned_address
    failed_call_has_no_address
    nested_calls_are_matched_with_their_own_returns
    concurrent_threads_are_matched_with_their_own_returns
    forked_child_has_its_own_pid
}

/// The order, the names that its calls may be shown under, and the block size.
const ORDERS: [(&str, &[&str], u64); 9] = [
    ("malloc 97 4099", &["malloc"], 4099),
    ("calloc 89 7 601", &["calloc"], 4207),
    ("realloc 83 4111", &["realloc"], 4111),
    ("reallocarray 79 11 379", &["reallocarray"], 4169),
    ("posix_memalign 73 64 4127", &["posix_memalign"], 4127),
    // One function in glibc 2.36, two in others.
    (
        "aligned_alloc 71 64 4160",
        &["aligned_alloc", "memalign/aligned_alloc"],
        4160,
    ),
    (
        "memalign 67 64 4133",
        &["memalign", "memalign/aligned_alloc"],
        4133,
    ),
    ("valloc 61 4139", &["valloc"], 4139),
    ("pvalloc 59 4153", &["pvalloc"], 4153),
];

fn count_in(order: &str) -> usize {
    order
        .split(' ')
        .nth(1)
        .and_then(|count| count.parse().ok())
        .expect("a number of calls")
}

fn each_function_is_counted_once_with_its_size(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &[]);
    for (order, ..) in ORDERS {
        target.ask(order);
    }
    // The product overflows 64 bits.
    target.ask("calloc 3 4294967296 4294967297");
    target.ask("reallocarray 5 4294967296 4294967297");
    let run = tool.stop();
    run.assert_clean();
    for (order, names, size) in ORDERS {
        assert_eq!(with_call(&run, names, size).len(), count_in(order), "{order}");
    }
    let overflowed = run.with("size_bytes", u64::MAX);
    assert_eq!(
        column(&overflowed, "call"),
        [vec!["calloc"; 3], vec!["reallocarray"; 5]].concat()
    );
    assert!(
        run.with("call", "free").is_empty(),
        "free was shown without --free"
    );
}

fn calls_option_shows_only_the_named_functions(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--calls", "calloc,valloc"]);
    for (order, ..) in ORDERS {
        target.ask(order);
    }
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(
        (run.with("call", "calloc").len(), run.with("call", "valloc").len()),
        (89, 61)
    );
    assert_eq!(run.rows.len(), 89 + 61);
}

fn free_shows_the_address_and_no_size(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--free", "--calls", "malloc"]);
    let workers = target.ask("malloc 97 4099");
    let run = tool.stop();
    run.assert_clean();
    let freed = run.with("call", "free");
    assert_eq!(column(&freed, "addr"), workers[0].addresses);
    assert!(freed.iter().all(|row| row["size_bytes"].is_null()));
    assert_eq!(count(&run, 4099), 97);
}

fn row_identifies_the_caller(mode: AttachMode) {
    let (mut target, name) = named_target();
    target.ask("setuid 65534");
    let tool = trace_pid(mode, &target, &["--min-size", "4099", "--max-size", "4099"]);
    let main = target.ask("malloc 2 4099").remove(0).tid;
    let thread = target.ask("threads 1 malloc 3 4099").remove(0).tid;
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((main, run.with("tid", main).len()), (target.pid(), 2));
    assert_ne!(main, thread);
    assert_eq!(run.with("tid", thread).len(), 3);
    for (key, value) in [
        ("pid", target.pid().into()),
        ("uid", 65534.into()),
        ("comm", Value::from(name)),
    ] {
        assert_eq!(run.with(key, value).len(), 5, "{key}: {:?}", run.rows);
    }
    let times: Vec<&str> = run.rows.iter().filter_map(|row| row["time"].as_str()).collect();
    assert!(times.len() == 5 && times.is_sorted(), "{times:?}");
}

#[track_caller]
fn assert_durations_plausible(run: &Run) {
    for row in &run.rows {
        let ns = row["lat_ns"].as_u64().unwrap_or(0);
        assert!((1..10_000_000_000).contains(&ns), "{row}");
    }
}

fn call_shows_the_returned_address(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--ret", "--min-size", "4000"]);
    let printed: Vec<_> = ORDERS
        .iter()
        .map(|(order, ..)| target.ask(order).remove(0).addresses)
        .collect();
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.summary["unmatched"], 0);
    assert_durations_plausible(&run);
    for ((order, names, size), printed) in ORDERS.iter().zip(printed) {
        let rows = with_call(&run, names, *size);
        assert_eq!(column(&rows, "addr"), printed, "{order}");
        assert!(rows.iter().all(|row| row["failed"] == false), "{order}");
    }
}

fn failed_call_has_no_address(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--ret", "--min-size", "4000"]);
    let huge = 1_u64 << 62;
    target.ask(&format!("malloc 3 {huge}"));
    target.ask("calloc 5 4294967296 4294967297");
    target.ask("posix_memalign 7 3 4127"); // 3 is not a power of two
    target.ask("malloc 11 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_durations_plausible(&run);
    for (size, calls) in [(huge, 3), (u64::MAX, 5), (4127, 7)] {
        let rows = run.with("size_bytes", size);
        assert_eq!(rows.len(), calls, "{size} bytes");
        assert!(
            rows.iter()
                .all(|row| row["failed"] == true && row["addr"].is_null()),
            "{rows:?}"
        );
    }
    assert_eq!(run.with("failed", false).len(), 11);
}

fn nested_calls_are_matched_with_their_own_returns(mode: AttachMode) {
    let mut target = bump_target();
    // valloc ends with a jump through a pointer, before which its result is unknown: it gets a return probe.
    let tool = trace_pid(mode, &target, &["--ret", "--nested", "--min-size", "4000"]);
    let outermost = target.ask("malloc 31 7004").remove(0).addresses;
    let jumped = target.ask("valloc 29 4139").remove(0).addresses;
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.summary["unmatched"], 0);
    // tests/targets/bump.c: each level returns the address of the deeper one plus 16.
    for (depth, size) in [7004, 7003, 7002, 7001].into_iter().enumerate() {
        let expected: Vec<String> = outermost
            .iter()
            .map(|addr| format!("{:#x}", hex(addr) - 16 * depth as u64))
            .collect();
        assert_eq!(
            column(&run.with("size_bytes", size), "addr"),
            expected,
            "{size} bytes"
        );
    }
    for call in ["malloc", "valloc"] {
        assert_eq!(column(&with_call(&run, &[call], 4139), "addr"), jumped, "{call}");
    }
}

fn hex(addr: &str) -> u64 {
    addr.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .expect("an address")
}

fn concurrent_threads_are_matched_with_their_own_returns(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(
        mode,
        &target,
        &["--ret", "--min-size", "4099", "--max-size", "4099"],
    );
    let workers = target.ask("threads 4 malloc 199 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(workers.len(), 4);
    for worker in workers {
        assert_eq!(column(&run.with("tid", worker.tid), "addr"), worker.addresses);
    }
    assert_eq!(run.rows.len(), 4 * 199);
}

fn forked_child_has_its_own_pid(mode: AttachMode) {
    let (mut target, name) = named_target();
    let tool = trace(
        mode,
        &[
            "--ret",
            "--comm",
            &name,
            "--min-size",
            "4099",
            "--max-size",
            "4099",
        ],
    );
    let child = target.ask("fork malloc 97 4099").remove(0);
    target.ask("malloc 89 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(column(&run.with("pid", child.tid), "addr"), child.addresses);
    assert_eq!(
        (run.with("pid", target.pid()).len(), run.rows.len()),
        (89, 97 + 89)
    );
}
