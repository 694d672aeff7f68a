// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Who is seen, and who is not.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::harness::{best_way, each_way, wait_until};

each_way! {
    one_process_is_seen_with_its_threads_and_without_its_children
    two_processes_are_seen_and_a_third_is_not
    all_filters_must_hold
}

best_way! {
    a_name_is_whole
    a_name_with_a_star_is_a_beginning
    several_names_are_alternatives
    a_user_is_seen_by_name_and_by_number
    sizes_are_bounded_on_both_sides
    a_control_group_is_seen_with_what_is_below_it
    a_container_is_seen
}

fn pids(targets: &[&Target]) -> String {
    targets
        .iter()
        .map(|target| target.pid().to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// Runs the tool while each target makes another number of calls, and says how many of each were seen.
fn seen_of<const N: usize>(way: Way, args: &[&str], targets: [&mut Target; N]) -> [usize; N] {
    const NUMBERS: [usize; 4] = [97, 89, 83, 79];
    let size = BLOCK.to_string();
    let tool = trace(way, &[args, &["--min-size", &size, "--max-size", &size]].concat());
    let mut index = 0;
    let pids = targets.map(|target| {
        target.ask(&format!("malloc {} {BLOCK}", NUMBERS[index]));
        index += 1;
        target.pid()
    });
    let run = tool.stop();
    run.assert_clean();
    let seen = pids.map(|pid| run.with("pid", pid).len());
    assert_eq!(
        seen.iter().sum::<usize>(),
        run.rows.len(),
        "somebody else was seen"
    );
    seen
}

fn one_process_is_seen_with_its_threads_and_without_its_children(way: Way) {
    let (mut target, mut other) = (target(), target());
    let tool = trace_pid(way, &target, &[]);
    target.ask("threads 3 malloc 97 4099");
    target.ask("fork malloc 89 4099");
    target.ask("exec malloc 83 4099");
    other.ask("malloc 79 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 3 * 97);
    assert_eq!(run.with("pid", target.pid()).len(), run.rows.len());
}

fn two_processes_are_seen_and_a_third_is_not(way: Way) {
    let (mut a, mut b, mut c) = (target(), target(), target());
    let wanted = pids(&[&a, &b]);
    assert_eq!(
        seen_of(way, &["-p", &wanted], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
}

fn a_name_is_whole(way: Way) {
    let ((mut a, name), mut b) = (named_target(), target());
    b.ask(&format!("name {name}y"));
    assert_eq!(seen_of(way, &["--comm", &name], [&mut a, &mut b]), [97, 0]);
}

fn a_name_with_a_star_is_a_beginning(way: Way) {
    let ((mut a, name), mut b, mut c) = (named_target(), target(), target());
    b.ask(&format!("name {name}y"));
    c.ask(&format!("name y{}", &name[..name.len() - 1]));
    assert_eq!(
        seen_of(way, &["--comm", &format!("{name}*")], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
}

fn several_names_are_alternatives(way: Way) {
    let ((mut a, first), (mut b, second), (mut c, _)) = (named_target(), named_target(), named_target());
    assert_eq!(
        seen_of(
            way,
            &["--comm", &format!("{first},{second}")],
            [&mut a, &mut b, &mut c]
        ),
        [97, 89, 0]
    );
}

fn a_user_is_seen_by_name_and_by_number(way: Way) {
    // The name keeps out what else nobody may be running; see all_filters_must_hold.
    let ((mut a, name), mut b) = (named_target(), target());
    b.ask(&format!("name {name}"));
    a.ask("setuid 65534");
    for user in ["nobody", "65534"] {
        assert_eq!(
            seen_of(way, &["-u", user, "--comm", &name], [&mut a, &mut b]),
            [97, 0],
            "-u {user}"
        );
    }
}

fn sizes_are_bounded_on_both_sides(way: Way) {
    let mut target = target();
    let tool = trace_pid(way, &target, &["--min-size", "8K", "--max-size", "1M"]);
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

/// A folder of cgroup2, removed with all below it when this is dropped. Declare it before the processes in it.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == "cgroup2");
        let root = PathBuf::from(root.expect("cgroup2 is mounted nowhere")[1]);
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
        fs::write(self.0.join("cgroup.procs"), target.pid().to_string()).expect("failed to move a process");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the kernel is through with the last process.
        let removed = || fs::remove_dir(&self.0).is_ok().then_some(());
        if !std::thread::panicking() {
            wait_until("the end of a control group", removed);
        } else {
            let _ = removed();
        }
    }
}

fn a_control_group_is_seen_with_what_is_below_it(way: Way) {
    let group = Cgroup::new(&unique("ubpf-e2e"));
    let below = group.below("below");
    let (mut a, mut b, mut c) = (target(), target(), target());
    group.take(&a);
    below.take(&b);
    assert_eq!(
        seen_of(way, &["--cgroup", group.path()], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
    // As systemd and the container tools say it: from the root of the hierarchy.
    let from_root = format!(
        "/{}",
        group
            .0
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name")
    );
    assert_eq!(
        seen_of(way, &["--cgroup", &from_root], [&mut a, &mut b, &mut c]),
        [97, 89, 0]
    );
    drop((a, b, c));
    drop(below);
}

fn a_container_is_seen(way: Way) {
    // 64 digits, and others in another run of the tests.
    let id = format!("{:08x}{}", std::process::id(), "5eedc0de".repeat(7));
    let group = Cgroup::new(&format!("docker-{id}.scope"));
    let (mut a, mut b) = (target(), target());
    group.take(&a);
    for name in [&id, &id[..12]] {
        assert_eq!(
            seen_of(way, &["--container", name], [&mut a, &mut b]),
            [97, 0],
            "--container {name}"
        );
    }
    drop((a, b));
}

fn all_filters_must_hold(way: Way) {
    let ((mut a, name), mut b, mut c) = (named_target(), target(), target());
    b.ask(&format!("name {name}"));
    let wanted = pids(&[&a, &c]);
    assert_eq!(
        seen_of(
            way,
            &["-p", &wanted, "--comm", &name, "-u", "root"],
            [&mut a, &mut b, &mut c]
        ),
        [97, 0, 0]
    );
}
