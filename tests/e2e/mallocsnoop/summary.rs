// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--summary`: sums per process, aggregated in the kernel.

use super::*;
use crate::harness::{best_mode, each_mode};

each_mode! {
    sums_include_running_and_exited_threads
}

best_mode! {
    interval_reports_are_cumulative
}

fn sums_include_running_and_exited_threads(mode: AttachMode) {
    let (mut a, mut b) = (target(), target());
    let name = unique("e2e");
    a.ask(&format!("name {name}"));
    b.ask(&format!("name {name}"));
    // Starting a thread allocates small blocks.
    let tool = trace(mode, &["--summary", "--comm", &name, "--min-size", "2000"]);
    a.ask("threads 2 malloc 97 4099");
    a.ask("threads 3 calloc 5 1024 1024");
    a.ask("malloc 89 65537");
    b.ask("malloc 83 2003");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), 2, "{:#?}", run.rows);
    let [a, b] = [&a, &b].map(|target| run.with("pid", target.pid()).remove(0));
    for row in [a, b] {
        assert_eq!(
            (&row["type"], &row["comm"], &row["uid"]),
            (&"process".into(), &name.clone().into(), &0.into())
        );
    }
    assert_eq!(a["calls"], 2 * 97 + 3 * 5 + 89);
    assert_eq!(a["bytes"], 2 * 97 * 4099 + 3 * 5 * (1 << 20) + 89 * 65537);
    assert_eq!(a["largest_bytes"], 1 << 20);
    assert_eq!(
        non_empty(a),
        [
            (4096, 8191, 194),
            (65536, 131071, 89),
            (1 << 20, (1 << 21) - 1, 15)
        ]
    );
    assert_eq!(
        (&b["calls"], &b["bytes"], &b["largest_bytes"]),
        (&83.into(), &(83 * 2003).into(), &2003.into())
    );
    assert_eq!(non_empty(b), [(1024, 2047, 83)]);
}

/// The non-empty buckets of the histogram: lowest size, highest size, count.
fn non_empty(row: &Value) -> Vec<(u64, u64, u64)> {
    let number = |bucket: &Value, key: &str| bucket[key].as_u64().expect("a number");
    let buckets = row["sizes"].as_array().expect("a histogram");
    let buckets = buckets.iter().map(|bucket| {
        (
            number(bucket, "lo"),
            number(bucket, "hi"),
            number(bucket, "count"),
        )
    });
    buckets.filter(|bucket| bucket.2 > 0).collect()
}

fn interval_reports_are_cumulative(mode: AttachMode) {
    let (mut target, name) = named_target();
    let mut tool = trace(
        mode,
        &["--summary", "-i", "50ms", "--comm", &name, "--min-size", "2000"],
    );
    target.ask("malloc 97 4099");
    tool.wait_for(|record| record["calls"] == 97);
    target.ask("malloc 89 4099");
    let row = tool.wait_for(|record| record["calls"] == 97 + 89);
    assert_eq!(row["bytes"], (97 + 89) * BLOCK);
    let run = tool.stop();
    assert!(run.status.success());
    let calls: Vec<u64> = run.rows.iter().filter_map(|row| row["calls"].as_u64()).collect();
    assert!(
        calls.len() >= 3 && calls.is_sorted(),
        "expected two intervals and the final report: {calls:?}"
    );
}
