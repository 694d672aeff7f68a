// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which attach mode the tool chooses without `--attach`.

use std::collections::BTreeSet;
use std::fs;

use super::*;
use crate::harness::TOOLS;

#[test]
fn attach_mode_depends_on_kernel_features() {
    let mut target = target();
    let mut command = Command::new(&*TOOLS);
    command.args(["mallocsnoop", "-j", "-p", &target.pid().to_string()]);
    let tool = Tool::start_as(command);
    // fdinfo shows the type of a link since 5.8. A perf event without a link has none.
    let link_types: BTreeSet<String> = fs::read_dir(format!("/proc/{}/fdinfo", tool.pid()))
        .expect("the tool's descriptors")
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .filter_map(|info| {
            info.lines()
                .find_map(|line| Some(line.strip_prefix("link_type:\t")?.to_owned()))
        })
        .collect();
    let expected: &[&str] = match AttachMode::best() {
        AttachMode::Session | AttachMode::Multi => &["uprobe_multi"],
        AttachMode::Single => &["perf"],
        AttachMode::Plain => &[],
    };
    assert!(link_types.iter().eq(expected), "{link_types:?}");
    target.ask("malloc 97 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}
