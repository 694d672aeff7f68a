// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs and libraries that were replaced while they run, as by an upgrade.

use std::fs;
use std::process::Command;

use crate::funccount::calls;
use crate::harness::{AttachMode, Folder, Target, Tool, best_mode, program};

best_mode! { replaced_file_of_a_process_is_counted }

/// As after an upgrade: the path leads to a new file, and the process runs the old one.
fn replaced_file_of_a_process_is_counted(mode: AttachMode) {
    let folder = Folder::new();
    let path = folder.copy_of(program("flow"), "upgraded");
    let mut target = Target::start(Command::new(&path));
    let new = folder.copy_of(program("flow"), "new");
    fs::rename(new, &path).expect("a replaced file");
    let spec = format!("{}:counted", path.display());
    let tool = Tool::start("funccount", mode, [&spec, "-p", &target.pid().to_string()]);
    target.ask("count 7");
    assert_eq!(calls(&tool.stop(), "counted"), 7);
}
