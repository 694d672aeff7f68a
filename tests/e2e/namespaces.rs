// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Tools inside a PID namespace: numbers of processes are those that are seen there.

use std::fs;
use std::process::Command;

use crate::harness::{AttachMode, Target, Tool, best_mode, each_mode, program, run_to_end, tool_command};

each_mode! {
    one_process_is_named_by_its_number_there
}

best_mode! {
    several_processes_are_named_by_their_numbers_there
    a_process_of_a_namespace_below_is_named_by_its_number_here
    processes_outside_have_no_number
}

/// A program in as many PID namespaces, each below the one before, as process 1 of the last. It goes when the test
/// does.
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

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    children.trim().parse().expect("one child")
}

/// The numbers of a process in its PID namespaces, outermost first.
fn numbers(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .expect("its numbers");
    line.split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// The same command in the first of the PID namespaces below a target, which /proc shows there.
fn beside(target: &Target, command: &Command) -> Command {
    let outer = target.pid();
    let mut inside = Command::new("nsenter");
    inside.arg(format!("--pid=/proc/{}/ns/pid", child_of(outer)));
    inside.arg(format!("--mount=/proc/{outer}/ns/mnt"));
    inside
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    inside
}

fn one_process_is_named_by_its_number_there(mode: AttachMode) {
    let mut target = contained(1);
    let mut outside = Target::start(Command::new(program("calls")));
    let args = ["-p", "1", "--min-size", "1009", "-M", "14"];
    let tool = Tool::start_as(beside(&target, &tool_command("mallocsnoop", mode, args)));
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

fn several_processes_are_named_by_their_numbers_there(mode: AttachMode) {
    let mut target = contained(1);
    let mut second = Target::start(beside(&target, &Command::new(program("calls"))));
    let mut third = Target::start(beside(&target, &Command::new(program("calls"))));
    let number = numbers(child_of(second.pid()))[1];
    let pids = format!("1,{number}");
    let args = ["-p", &pids, "--min-size", "1009", "-M", "18"];
    let tool = Tool::start_as(beside(&target, &tool_command("mallocsnoop", mode, args)));
    third.ask("malloc 5 1009");
    target.ask("malloc 7 1009");
    second.ask("malloc 11 1009");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(
        (run.with("pid", 1).len(), run.with("pid", number).len()),
        (7, 11),
        "{:?}",
        run.rows
    );
}

fn a_process_of_a_namespace_below_is_named_by_its_number_here(mode: AttachMode) {
    let mut target = contained(2);
    let number = numbers(child_of(child_of(target.pid())))[1];
    let args = ["-p", &number.to_string(), "--min-size", "1009", "-M", "7"];
    let tool = Tool::start_as(beside(&target, &tool_command("mallocsnoop", mode, args)));
    target.ask("malloc 7 1009");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(run.with("pid", number).len(), 7, "{:?}", run.rows);
}

fn processes_outside_have_no_number(mode: AttachMode) {
    let mut target = contained(1);
    let mut outside = Target::start(Command::new(program("calls")));
    target.ask("name pidns-inside");
    outside.ask("name pidns-outside");
    let args = ["--comm", "pidns-*", "--min-size", "1009", "-M", "18"];
    let tool = Tool::start_as(beside(&target, &tool_command("mallocsnoop", mode, args)));
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
fn children_are_not_followed_there_and_it_says_so() {
    let target = contained(1);
    let command = tool_command(
        "funccount",
        AttachMode::best(),
        ["libc:malloc", "-p", "1", "--follow"],
    );
    let refused = run_to_end(&mut beside(&target, &command));
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        refused
            .stderr
            .starts_with("error: --follow works only in the initial PID namespace"),
        "{refused:?}"
    );
}

#[test]
fn numbers_of_another_namespace_are_refused() {
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
