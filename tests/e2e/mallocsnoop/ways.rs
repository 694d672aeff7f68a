// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which way of attaching is taken where none is forced.

use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::harness::TOOLS;

/// Left to itself, the tool attaches in the best way that this kernel has.
#[test]
fn the_way_is_chosen_by_what_the_kernel_has() {
    let mut target = target();
    let mut command = Command::new(&*TOOLS);
    command.args(["mallocsnoop", "-j", "-p", &target.pid().to_string()]);
    let tool = Tool::start_as(command);
    // A link says its kind since 5.8; a perf event without one is none.
    let kinds: BTreeSet<String> = fs::read_dir(format!("/proc/{}/fdinfo", tool.pid()))
        .expect("the tool's descriptors")
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| {
            info.lines()
                .find_map(|line| Some(line.strip_prefix("link_type:\t")?.to_owned()))
        })
        .collect();
    let expected: &[&str] = match Way::best() {
        Way::Session | Way::Multi => &["uprobe_multi"],
        Way::Single => &["perf"],
        Way::Plain => &[],
    };
    assert!(kinds.iter().eq(expected), "{kinds:?}");
    target.ask("malloc 97 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}
