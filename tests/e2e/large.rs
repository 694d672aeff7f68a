// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What files with very many functions cost.

use std::fs;

use crate::harness::{AttachMode, Tool, best_mode, in_guest, program, skip};

/// Functions in `libmany.so`.
const FUNCTIONS: u64 = 100_003;
/// Most bytes for each: 300,000 may take 100 MiB.
const MOST_BYTES: u64 = 350;

best_mode! {
    memory_per_function_is_limited
}

fn memory_per_function_is_limited(mode: AttachMode) {
    if !mode.has_multi_links() {
        return skip("without multi-uprobe links, so many probes take minutes to attach");
    }
    if in_guest() {
        return skip("on an emulated machine, so many probes take minutes to attach");
    }
    let library = program("libmany.so");
    let peak = |tool: &str, options: &[&str], functions: &str, count: u64| {
        let spec = format!("{}:{functions}", library.display());
        let tool = Tool::start(tool, mode, [&[&*spec], options].concat());
        assert_eq!(tool.attached["probes"], count);
        let peak = peak_memory(tool.pid());
        tool.stop().assert_clean();
        peak
    };
    for (tool, options) in [
        ("funccount", &[][..]),
        ("funclatency", &[]),
        ("functrace", &[]),
        ("functrace", &["--ret"]),
    ] {
        let one = peak(tool, options, "many_7", 1);
        let all = peak(tool, options, "many_*", FUNCTIONS);
        let each = all.saturating_sub(one) / FUNCTIONS;
        assert!(each < MOST_BYTES, "{tool} {options:?}: {each} bytes per function");
    }
}

/// Bytes of memory that a process had in use at a time.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of the tool");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
