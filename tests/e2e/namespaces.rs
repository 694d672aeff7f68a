// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Tools inside a PID namespace: PIDs and TIDs are those of that namespace.

use std::fs;
use std::process::Command;

use crate::harness::{AttachMode, Target, Tool, best_mode, each_mode, program, run_to_end, tool_command};

each_mode! {
    one_pid_is_that_of_the_namespace
}

best_mode! {
    several_pids_are_those_of_the_namespace
    process_in_a_child_namespace_has_the_pid_of_this_namespace
    processes_outside_the_namespace_have_pid_0
}

/// Starts a target as PID 1 of the innermost of `depth` nested PID namespaces. It is killed when the test ends.
fn contained(depth: usize) -> Target {
    const UNSHARE: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let words: Vec<&str> = UNSHARE
        .iter()
        .copied()
        .cycle()
        .take(UNSHARE.len() * depth)
        .collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(program("calls"));
    Target::start(command)
}

/// The PID of the only child of a process.
fn child_of(pid: u32) -> u32 {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the children of a process");
    children.trim().parse().expect("one child")
}

/// The PIDs of a process in its PID namespaces, outermost first.
fn nested_pids(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .expect("an NSpid line");
    line.split_whitespace()
        .map(|pid| pid.parse().expect("a PID"))
        .collect()
}

/// Runs a command in the outermost PID namespace created for a target, with /proc of that namespace.
fn inside(target: &Target, command: &Command) -> Command {
    let outer = target.pid();
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--pid=/proc/{}/ns/pid", child_of(outer)));
    nsenter.arg(format!("--mount=/proc/{outer}/ns/mnt"));
    nsenter
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    nsenter
}

fn one_pid_is_that_of_the_namespace(mode: AttachMode) {
    let mut target = contained(1);
    let mut outside = Target::start(Command::new(program("calls")));
    let args = ["-p", "1", "--min-size", "1009", "-M", "14"];
    let tool = Tool::start_as(inside(&target, &tool_command("mallocsnoop", mode, args)));
    outside.ask("malloc 5 1009");
    let mut workers = target.ask("malloc 7 1009");
    workers.extend(target.ask("threads 1 malloc 7 1009"));
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(run.with("pid", 1).len(), 14, "{:?}", run.rows);
    for worker in &workers {
        assert_eq!(run.with("tid", worker.tid).len(), 7, "{worker:?}");
    }
}

fn several_pids_are_those_of_the_namespace(mode: AttachMode) {
    let mut target = contained(1);
    let mut second = Target::start(inside(&target, &Command::new(program("calls"))));
    let mut third = Target::start(inside(&target, &Command::new(program("calls"))));
    let pid = nested_pids(child_of(second.pid()))[1];
    let pids = format!("1,{pid}");
    let args = ["-p", &pids, "--min-size", "1009", "-M", "18"];
    let tool = Tool::start_as(inside(&target, &tool_command("mallocsnoop", mode, args)));
    third.ask("malloc 5 1009");
    target.ask("malloc 7 1009");
    second.ask("malloc 11 1009");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(
        (run.with("pid", 1).len(), run.with("pid", pid).len()),
        (7, 11),
        "{:?}",
        run.rows
    );
}

fn process_in_a_child_namespace_has_the_pid_of_this_namespace(mode: AttachMode) {
    let mut target = contained(2);
    let pid = nested_pids(child_of(child_of(target.pid())))[1];
    let args = ["-p", &pid.to_string(), "--min-size", "1009", "-M", "7"];
    let tool = Tool::start_as(inside(&target, &tool_command("mallocsnoop", mode, args)));
    target.ask("malloc 7 1009");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(run.with("pid", pid).len(), 7, "{:?}", run.rows);
}

fn processes_outside_the_namespace_have_pid_0(mode: AttachMode) {
    let mut target = contained(1);
    let mut outside = Target::start(Command::new(program("calls")));
    target.ask("name pidns-inside");
    outside.ask("name pidns-outside");
    let args = ["--comm", "pidns-*", "--min-size", "1009", "-M", "18"];
    let tool = Tool::start_as(inside(&target, &tool_command("mallocsnoop", mode, args)));
    outside.ask("malloc 7 1009");
    target.ask("malloc 11 1009");
    let run = tool.finish();
    run.assert_clean();
    let seen = |comm, pid: u32| {
        run.with("comm", comm)
            .iter()
            .filter(|row| row["pid"] == pid)
            .count()
    };
    assert_eq!(
        (seen("pidns-outside", 0), seen("pidns-inside", 1)),
        (7, 11),
        "{:?}",
        run.rows
    );
}

#[test]
fn follow_is_refused_in_a_pid_namespace() {
    let target = contained(1);
    let command = tool_command(
        "funccount",
        AttachMode::best(),
        ["libc:malloc", "-p", "1", "--follow"],
    );
    let refused = run_to_end(&mut inside(&target, &command));
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        refused
            .stderr
            .starts_with("error: --follow works only in the initial PID namespace"),
        "{refused:?}"
    );
}

#[test]
fn proc_of_another_pid_namespace_is_refused() {
    let target = contained(1);
    let mut command = Command::new("nsenter");
    command.args(["--target", &child_of(target.pid()).to_string(), "--pid", "--"]);
    let tool = tool_command("funccount", AttachMode::best(), ["libc:malloc", "-p", "1"]);
    let refused = run_to_end(command.arg(tool.get_program()).args(tool.get_args()));
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("/proc shows another PID namespace"),
        "{refused:?}"
    );
}
