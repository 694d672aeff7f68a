// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Signal handlers on a stack of their own, above or below that of the code that they interrupt.

use serde_json::Value;

use crate::harness::{AttachMode, Folder, each_mode_with_session, program, run_to_end, tool_command};

each_mode_with_session! { handlers_below_are_inner_calls handlers_that_are_left_end }

/// Runs `alt_stack` under functrace: a signal handler calls `inner` twice during each of 17 calls of `outer`. Both
/// functions get return probes. Returns the calls of `outer` and of `inner` that returned, and those that did not.
fn run_interrupted(mode: AttachMode, alt_stack: &str, expected: &str) -> (usize, usize, u64) {
    let folder = Folder::new();
    // A return probe of a test that runs at the same time would run here, too.
    let library = folder.copy_of(program("libinterrupted.so"), "libinterrupted.so");
    let [inner, outer] = ["inner", "outer"].map(|name| format!("{}:{name}", library.display()));
    let mut command = tool_command("functrace", mode, ["--ret", &inner, &outer, "--"]);
    let ended = run_to_end(
        command
            .arg(program("alt_stack"))
            .args([alt_stack, "17"])
            .arg(&library),
    );
    assert!(
        ended.stdout.contains(expected),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("slow returns"), "{}", ended.stderr);
    let records: Vec<Value> = ended
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let calls = |function: &str| {
        let rows = records.iter().filter(|record| record["type"] == "event");
        rows.filter(|row| row["function"] == function).count()
    };
    let summary = records.iter().find(|record| record["type"] == "summary");
    let unmatched = summary.and_then(|summary| summary["unmatched"].as_u64());
    (calls("outer"), calls("inner"), unmatched.expect("a summary"))
}

fn handlers_below_are_inner_calls(mode: AttachMode) {
    assert_eq!(run_interrupted(mode, "below", "sum 2108"), (17, 34, 0));
}

fn handlers_that_are_left_end(mode: AttachMode) {
    assert_eq!(run_interrupted(mode, "leave", "sum 2091"), (0, 34, 17));
}

/// If the return address of a call on a higher stack were replaced, the kernel would forget that of the call that was
/// interrupted, whose return would then end the program. A session program can refuse.
mod sessions {
    use super::*;

    #[test]
    fn handlers_above_are_not_hijacked() {
        AttachMode::Session.run(|mode| {
            // "disarmed": nothing tells the stack of the handler from that of a coroutine.
            for alt_stack in ["above", "disarmed"] {
                // On arm64, return instructions are observed, and nothing is hijacked. A disarmed stack above looks as
                // if the calls below had been left.
                let expected = match (cfg!(target_arch = "x86_64"), alt_stack) {
                    (true, _) => (17, 0, 34),
                    (false, "above") => (17, 34, 0),
                    (false, _) => (0, 34, 17),
                };
                let found = run_interrupted(mode, alt_stack, "sum 2108");
                assert_eq!(found, expected, "{alt_stack}");
            }
        });
    }
}
