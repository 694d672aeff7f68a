// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Filters by process, user, name, cgroup and container.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::{TOOL, start};
use crate::harness::{AttachMode, Folder, Tool, each_mode, skip};
use crate::pty::{BASH_ARGUMENTS, Shell};

each_mode! {
    filter_by_pid_shows_only_that_process
}

fn filter_by_pid_shows_only_that_process(mode: AttachMode) {
    let (mut bash, mut other) = (Shell::bash(), Shell::bash());
    let tool = Tool::start(TOOL, mode, ["-p", &bash.pid().to_string()]);
    other.enter(": not mine");
    bash.enter(": mine");
    other.enter(": not mine");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": mine"]);
    run.assert_clean();
}

#[test]
fn filter_by_several_pids_shows_only_those_processes() {
    let mut shells = [Shell::bash(), Shell::bash(), Shell::bash()];
    let tool = start(["-p", &format!("{},{}", shells[0].pid(), shells[2].pid())]);
    for (number, bash) in shells.iter_mut().enumerate() {
        bash.enter(format!(": {number}"));
    }
    assert_eq!(tool.stop().all_lines(), [": 0", ": 2"]);
}

#[test]
fn filter_by_user_shows_only_that_user() {
    let of_user = |uid: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "/bin/bash"]);
        Shell::run(command.args(BASH_ARGUMENTS))
    };
    // No other test runs a shell as these users. The first has a passwd entry, the second does not.
    for (uid, argument, shown) in [("65534", "nobody", "nobody"), ("54321", "54321", "54321")] {
        let (mut user, mut root) = (of_user(uid), Shell::bash());
        let tool = start(["-u", argument]);
        root.enter(": not mine");
        user.enter(": mine");
        let run = tool.stop();
        assert_eq!(run.all_lines(), [": mine"], "-u {argument}");
        assert_eq!(run.rows[0]["user"], shown);
        assert_eq!(run.rows[0]["uid"].to_string(), uid);
    }
}

#[test]
fn filter_by_comm_shows_only_matching_threads() {
    let folder = Folder::new();
    let (mut named, mut other) = (
        Shell::at(folder.copy_of("/bin/bash", "long-name-of-bash")),
        Shell::bash(),
    );
    for name in ["long-name-of-bash", "long-name*", "other,long-name*"] {
        let tool = start(["--comm", name]);
        other.enter(": not mine");
        named.enter(": mine");
        assert_eq!(tool.stop().all_lines(), [": mine"], "{name}");
    }
}

#[test]
fn filter_by_cgroup_includes_its_descendants() {
    let Some(group) = TestCgroup::new("ubpf-tools-test") else {
        return;
    };
    let below = group.below("below");
    let (mut inside, mut deeper, mut outside) = (Shell::bash(), Shell::bash(), Shell::bash());
    group.add(&inside);
    below.add(&deeper);
    let tool = start(["--cgroup", &group.path]);
    outside.enter(": not mine");
    inside.enter(": inside");
    deeper.enter(": deeper");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": inside", ": deeper"]);
    assert_eq!(
        (&run.rows[0]["cgroup"], &run.rows[1]["cgroup"]),
        (&json!(group.path), &json!(below.path))
    );
}

#[test]
fn filter_by_container_shows_only_its_shells() {
    let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0xfeed);
    let Some(group) = TestCgroup::new(&format!("docker-{id}.scope")) else {
        return;
    };
    let (mut inside, mut outside) = (Shell::bash(), Shell::bash());
    group.add(&inside);
    let tool = start(["--container", &id]);
    outside.enter(": not mine");
    inside.enter(": mine");
    let run = tool.stop();
    assert_eq!(run.all_lines(), [": mine"]);
    assert_eq!(
        (&run.rows[0]["container"], &run.rows[0]["cgroup"]),
        (&json!(id), &json!(group.path))
    );
}

#[test]
fn cgroup_created_during_the_run_is_resolved_for_its_first_line() {
    let mut bash = Shell::bash();
    let mut tool = start(["-p", &bash.pid().to_string()]);
    bash.enter(": before");
    tool.wait_rows(1);
    let Some(group) = TestCgroup::new("ubpf-tools-test-later") else {
        return;
    };
    group.add(&bash);
    bash.enter(": after");
    let run = tool.stop();
    drop(bash);
    assert_eq!(run.rows[1]["cgroup"], group.path);
}

/// A new cgroup, removed when dropped. Declare it before its shells: they must end first.
struct TestCgroup {
    folder: PathBuf,
    /// Relative to the root of cgroup2.
    path: String,
}

impl TestCgroup {
    /// Reports a skip and returns `None` where cgroup2 is not mounted.
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let root = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, root, "cgroup2", ..] => Some(root),
                _ => None,
            });
        let Some(root) = root else {
            skip("cgroup2 is not listed in /proc/self/mounts");
            return None;
        };
        let path = format!("/{name}");
        Some(Self::create(PathBuf::from(format!("{root}{path}")), path))
    }

    fn below(&self, name: &str) -> Self {
        Self::create(self.folder.join(name), format!("{}/{name}", self.path))
    }

    fn create(folder: PathBuf, path: String) -> Self {
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self { folder, path }
    }

    fn add(&self, shell: &Shell) {
        fs::write(self.folder.join("cgroup.procs"), shell.pid().to_string())
            .expect("failed to move a process into the cgroup");
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
