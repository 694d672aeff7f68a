// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The bars of a histogram and its count, of the same moment.

use crate::funclatency::{in_buckets, measure, number};
use crate::harness::{AttachMode, best_mode};

best_mode! { buckets_of_an_interval_add_up_to_its_count }

/// Calls go on while the histograms are read.
fn buckets_of_an_interval_add_up_to_its_count(mode: AttachMode) {
    let ways: [&[&str]; 4] = [
        &["--unit", "us"],
        &["--unit", "ms", "--by", "thread"],
        &["--linear", "200"],
        &["-F"],
    ];
    for options in ways {
        let options = [options, &["-i", "50ms"]].concat();
        let run = measure(mode, &["counted"], &options, &["threads 2 count 50021"]);
        for row in &run.rows {
            assert_eq!(in_buckets(row), number(row, "count"), "{options:?} {row}");
        }
        let all: u64 = run.rows.iter().map(|row| number(row, "count")).sum();
        assert_eq!(all, 2 * 50021, "{options:?}");
        assert!(run.rows.len() > 1, "{options:?}");
    }
}
