// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Filters: which processes and calls are shown.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::harness::{best_mode, each_mode, wait_until};

each_mode! {
    filter_by_pid_includes_threads_and_excludes_children
    filter_by_several_pids_shows_only_those_processes
    filters_are_combined_with_and
}

best_mode! {
    filter_by_comm_matches_the_whole_name
    filter_by_comm_with_star_matches_a_prefix
    filter_by_several_names_matches_any_of_them
    filter_by_user_accepts_name_and_uid
    size_limits_are_inclusive
    filter_by_cgroup_includes_its_descendants
    filter_by_container_accepts_full_and_short_id
}

fn pids(targets: &[&Target]) -> String {
    targets
        .iter()
        .map(|target| target.pid().to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// Runs the tool while each target makes a different number of calls. Returns the number of rows per target.
fn rows_per_target<const N: usize>(mode: AttachMode, args: &[&str], targets: [&mut Target; N]) -> [usize; N] {
    const COUNTS: [usize; 4] = [97, 89, 83, 79];
    let size = BLOCK.to_string();
    let tool = trace(
        mode,
        &[args, &["--min-size", &size, "--max-size", &size]].concat(),
    );
    let mut index = 0;
    let pids = targets.map(|target| {
        target.ask(&format!("malloc {} {BLOCK}", COUNTS[index]));
        index += 1;
        target.pid()
    });
    let run = tool.stop();
    run.assert_clean();
    let seen = pids.map(|pid| run.with("pid", pid).len());
    assert_eq!(
        seen.iter().sum::<usize>(),
        run.rows.len(),
        "rows of another process were shown"
    );
    seen
}

fn filter_by_pid_includes_threads_and_excludes_children(mode: AttachMode) {
    let (mut target, mut other) = (target(), target());
    let tool = trace_pid(mode, &target, &[]);
    target.ask("threads 3 malloc 97 4099");
    target.ask("fork malloc 89 4099");
    target.ask("exec malloc 83 4099");
    other.ask("malloc 79 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 3 * 97);
    assert_eq!(run.with("pid", target.pid()).len(), run.rows.len());
}

fn filter_by_several_pids_shows_only_those_processes(mode: AttachMode) {
    let (mut a, mut b, mut c) = (target(), target(), target());
    let wanted = pids(&[&a, &b]);
    assert_eq!(
        rows_per_target(mode, &["-p", &wanted], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
}

fn filter_by_comm_matches_the_whole_name(mode: AttachMode) {
    let ((mut a, name), mut b) = (named_target(), target());
    b.ask(&format!("name {name}y"));
    assert_eq!(
        rows_per_target(mode, &["--comm", &name], [&mut a, &mut b]),
        [97, 0]
    );
}

fn filter_by_comm_with_star_matches_a_prefix(mode: AttachMode) {
    let ((mut a, name), mut b, mut c) = (named_target(), target(), target());
    b.ask(&format!("name {name}y"));
    c.ask(&format!("name y{}", &name[..name.len() - 1]));
    assert_eq!(
        rows_per_target(mode, &["--comm", &format!("{name}*")], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
}

fn filter_by_several_names_matches_any_of_them(mode: AttachMode) {
    let ((mut a, first), (mut b, second), (mut c, _)) = (named_target(), named_target(), named_target());
    assert_eq!(
        rows_per_target(
            mode,
            &["--comm", &format!("{first},{second}")],
            [&mut a, &mut b, &mut c]
        ),
        [97, 89, 0]
    );
}

fn filter_by_user_accepts_name_and_uid(mode: AttachMode) {
    // The name excludes other processes of user nobody; see filters_are_combined_with_and.
    let ((mut a, name), mut b) = (named_target(), target());
    b.ask(&format!("name {name}"));
    a.ask("setuid 65534");
    for user in ["nobody", "65534"] {
        assert_eq!(
            rows_per_target(mode, &["-u", user, "--comm", &name], [&mut a, &mut b]),
            [97, 0],
            "-u {user}"
        );
    }
}

fn size_limits_are_inclusive(mode: AttachMode) {
    let mut target = target();
    let tool = trace_pid(mode, &target, &["--min-size", "8K", "--max-size", "1M"]);
    for order in [
        "malloc 7 8191",
        "malloc 11 8192",
        "calloc 13 1024 1024",
        "malloc 17 1048577",
        "calloc 19 8191 1",
    ] {
        target.ask(order);
    }
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(
        (count(&run, 8192), count(&run, 1 << 20), run.rows.len()),
        (11, 13, 11 + 13)
    );
}

/// A new cgroup, removed when dropped. Declare it before the processes in it: they must end first.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2");
        let root = PathBuf::from(root.expect("cgroup2 is not mounted")[1]);
        Cgroup::at(root.join(name))
    }

    fn below(&self, name: &str) -> Cgroup {
        Cgroup::at(self.0.join(name))
    }

    fn at(path: PathBuf) -> Cgroup {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Cgroup(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }

    pub fn take(&self, target: &Target) {
        self.take_pid(target.pid());
    }

    pub fn take_pid(&self, pid: u32) {
        self.write("cgroup.procs", &pid.to_string());
    }

    /// Writes to a file of the group.
    pub fn write(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the kernel has released the last process.
        let removed = || fs::remove_dir(&self.0).is_ok().then_some(());
        if !std::thread::panicking() {
            wait_until("the removal of a cgroup", removed);
        } else {
            let _ = removed();
        }
    }
}

fn filter_by_cgroup_includes_its_descendants(mode: AttachMode) {
    let group = Cgroup::new(&unique("ubpf-e2e"));
    let below = group.below("below");
    let (mut a, mut b, mut c) = (target(), target(), target());
    group.take(&a);
    below.take(&b);
    assert_eq!(
        rows_per_target(mode, &["--cgroup", group.path()], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
    // Relative to the root of the hierarchy, as systemd and container tools print it.
    let from_root = format!(
        "/{}",
        group
            .0
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")
    );
    assert_eq!(
        rows_per_target(mode, &["--cgroup", &from_root], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
    drop((a, b, c));
    drop(below);
}

fn filter_by_container_accepts_full_and_short_id(mode: AttachMode) {
    // 64 hexadecimal digits, different in each run of the tests.
    let id = format!("{:08x}{}", std::process::id(), "5eedc0de".repeat(7));
    let group = Cgroup::new(&format!("docker-{id}.scope"));
    let (mut a, mut b) = (target(), target());
    group.take(&a);
    for name in [&id, &id[..12]] {
        assert_eq!(
            rows_per_target(mode, &["--container", name], [&mut a, &mut b]),
            [97, 0],
            "--container {name}"
        );
    }
    drop((a, b));
}

fn filters_are_combined_with_and(mode: AttachMode) {
    let ((mut a, name), mut b, mut c) = (named_target(), target(), target());
    b.ask(&format!("name {name}"));
    let wanted = pids(&[&a, &c]);
    assert_eq!(
        rows_per_target(
            mode,
            &["-p", &wanted, "--comm", &name, "-u", "root"],
            [&mut a, &mut b, &mut c]
        ),
        [97, 0, 0]
    );
}
