// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which processes get breakpoints: in a targeted scope only those that match, including those that start to
//! match while the run lasts.
//!
//! Targets use their own copy of an allocator, in which no other test attaches probes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{AttachMode, Folder, Run, Target, Tool, best_mode, each_mode, wait_until};
use crate::mallocsnoop::ends::{Code, Held, instructions};
use crate::mallocsnoop::filters::Cgroup;
use crate::mallocsnoop::{BLOCK, bump_library, calls_program, unique};

each_mode! {
    process_that_does_not_match_has_no_breakpoint
    several_pids_are_targeted_by_default
    renamed_process_joins
    forked_child_joins
    returns_are_counted_per_process
    many_perf_events_fall_back_to_all_processes
}

best_mode! {
    process_that_changes_its_user_joins
    process_moved_to_the_cgroup_joins
    container_is_targeted_by_default
    exec_of_a_program_that_does_not_match_removes_probes
    process_that_rejoins_is_counted_once
    exec_by_a_thread_keeps_probes
    links_of_exited_processes_are_closed
    scope_all_traces_all_processes
    many_processes_are_targeted_with_multi_links
}

/// A copy of the allocator, and unique names.
pub struct Stage {
    pub folder: Folder,
    pub library: PathBuf,
}

impl Stage {
    pub fn new() -> Stage {
        let folder = Folder::new();
        let library = folder.copy_of(bump_library(), "libbump.so");
        Stage { folder, library }
    }

    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("LD_PRELOAD", &self.library);
        command
    }

    pub fn actor(&self) -> Actor {
        Actor::new(Target::start(self.command(calls_program())))
    }

    fn named(&self) -> (Actor, String) {
        let (mut actor, name) = (self.actor(), unique("scope"));
        actor.target.ask(&format!("name {name}"));
        (actor, name)
    }

    /// A copy of the program with a unique name.
    pub fn program(&self) -> (PathBuf, String) {
        let name = unique("scope");
        (self.folder.copy_of(calls_program(), &name), name)
    }

    pub fn trace(&self, mode: AttachMode, args: &[&str]) -> Tool {
        let library = self.library.to_str().expect("a path in UTF-8");
        Tool::start("mallocsnoop", mode, [&["-l", library], args].concat())
    }
}

/// A target, and the code of its malloc before it was traced.
pub struct Actor {
    target: Target,
    malloc: String,
    untouched: Code,
}

impl Actor {
    fn new(mut target: Target) -> Actor {
        let malloc = target.ask("where")[0].addresses[0].clone();
        let untouched = instructions(&target, &malloc);
        Actor {
            target,
            malloc,
            untouched,
        }
    }

    fn pid(&self) -> u32 {
        self.target.pid()
    }

    fn is_touched(&self) -> bool {
        instructions(&self.target, &self.malloc) != self.untouched
    }

    pub fn call(&mut self, times: usize) {
        self.target.ask(&format!("malloc {times} {BLOCK}"));
    }
}

fn rows_of(run: &Run, pid: u32) -> usize {
    let rows = run.rows.iter();
    rows.filter(|row| row["pid"] == pid && row["size_bytes"] == BLOCK)
        .count()
}

fn wait_joined(tool: &mut Tool, pid: u32) -> Value {
    tool.wait_for(|record| record["type"] == "joined" && record["pid"] == pid)
}

/// A process joins at `change`, not before. Another process never gets breakpoints.
fn assert_joins(
    mode: AttachMode,
    stage: &Stage,
    mut actor: Actor,
    args: &[&str],
    change: impl FnOnce(&mut Actor),
) {
    let mut other = stage.actor();
    let mut tool = stage.trace(mode, args);
    actor.call(79);
    assert!(!actor.is_touched(), "it does not match yet");
    change(&mut actor);
    let joined = wait_joined(&mut tool, actor.pid());
    assert!(actor.is_touched() && !other.is_touched());
    assert!(
        joined["late_ns"].as_u64() > Some(0) && joined["held"] == false,
        "{joined}"
    );
    actor.call(97);
    other.call(89);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((rows_of(&run, actor.pid()), run.rows.len()), (97, 97));
    assert_eq!(run.summary["joined"], 1, "{}", run.summary);
    assert_eq!(run.summary["late_max_ns"], joined["late_ns"]);
    assert!(!actor.is_touched() && !other.is_touched());
}

fn process_that_does_not_match_has_no_breakpoint(mode: AttachMode) {
    let stage = Stage::new();
    let ((mut actor, name), mut other) = (stage.named(), stage.actor());
    let tool = stage.trace(mode, &["--comm", &name, "--scope", "targeted", "--ret"]);
    assert!(actor.is_touched() && !other.is_touched());
    assert_eq!(tool.attached["processes"], 1, "{}", tool.attached);
    let held = Held::by(tool.pid());
    actor.call(97);
    other.call(89);
    assert!(!other.is_touched());
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((rows_of(&run, actor.pid()), run.rows.len()), (97, 97));
    assert!(run.joined.is_empty() && run.summary["joined"] == 0);
    assert!(!actor.is_touched());
    wait_until("the end of all programs and links", || {
        held.iter().all(|held| !held.exists()).then_some(())
    });
}

fn several_pids_are_targeted_by_default(mode: AttachMode) {
    let stage = Stage::new();
    let (mut a, mut b, mut other) = (stage.actor(), stage.actor(), stage.actor());
    let tool = stage.trace(mode, &["-p", &format!("{},{}", a.pid(), b.pid())]);
    assert!(a.is_touched() && b.is_touched() && !other.is_touched());
    a.call(97);
    b.call(89);
    other.call(83);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((rows_of(&run, a.pid()), rows_of(&run, b.pid())), (97, 89));
    assert_eq!(run.rows.len(), 97 + 89);
}

fn renamed_process_joins(mode: AttachMode) {
    let stage = Stage::new();
    let name = unique("scope");
    let args = ["--comm", &name, "--scope", "targeted"];
    assert_joins(mode, &stage, stage.actor(), &args, |actor| {
        actor.target.ask(&format!("name {name}"));
    });
}

fn forked_child_joins(mode: AttachMode) {
    let stage = Stage::new();
    let (mut actor, name) = stage.named();
    let mut tool = stage.trace(mode, &["--comm", &name, "--scope", "targeted"]);
    actor.target.ask("child");
    let child = actor.target.ask("where")[0].tid;
    assert_ne!(child, actor.pid());
    wait_joined(&mut tool, child);
    actor.call(97);
    actor.target.ask("exit 0");
    actor.call(89);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((rows_of(&run, child), rows_of(&run, actor.pid())), (97, 89));
}

fn returns_are_counted_per_process(mode: AttachMode) {
    let stage = Stage::new();
    let (mut a, mut b) = (stage.actor(), stage.actor());
    let function = format!("r:{}:malloc", stage.library.display());
    let pids = format!("{},{}", a.pid(), b.pid());
    let tool = Tool::start(
        "funccount",
        mode,
        [function.as_str(), "-p", &pids, "--by", "process"],
    );
    a.call(97);
    b.call(89);
    let run = tool.stop();
    run.assert_clean();
    let counted = [&a, &b].map(|actor| run.with("pid", actor.pid())[0]["count"].clone());
    assert_eq!(counted, [97, 89]);
}

/// Perf events are removed one after the other. With breakpoints in all processes there is one per function.
fn many_perf_events_fall_back_to_all_processes(mode: AttachMode) {
    assert_targeted_with_multi_links(mode, 13);
}

/// So many links that they would be too many, were they perf events.
fn many_processes_are_targeted_with_multi_links(mode: AttachMode) {
    assert_targeted_with_multi_links(mode, 53);
}

fn assert_targeted_with_multi_links(mode: AttachMode, processes: usize) {
    let stage = Stage::new();
    let mut actors: Vec<Actor> = (0..processes).map(|_| stage.actor()).collect();
    let mut other = stage.actor();
    let pids: Vec<String> = actors.iter().map(|actor| actor.pid().to_string()).collect();
    let tool = stage.trace(mode, &["-p", &pids.join(",")]);
    assert_eq!(other.is_touched(), !mode.has_multi_links());
    actors.iter_mut().for_each(|actor| actor.call(97));
    other.call(89);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), processes * 97);
    for actor in &actors {
        assert_eq!(rows_of(&run, actor.pid()), 97);
    }
}

fn process_that_changes_its_user_joins(mode: AttachMode) {
    let stage = Stage::new();
    let (actor, name) = stage.named();
    let args = ["-u", "65534", "--comm", &name, "--scope", "targeted"];
    assert_joins(mode, &stage, actor, &args, |actor| {
        actor.target.ask("setuid 65534");
    });
}

fn process_moved_to_the_cgroup_joins(mode: AttachMode) {
    let group = Cgroup::new(&unique("ubpf-scope"));
    let stage = Stage::new();
    let args = ["--cgroup", group.path(), "--scope", "targeted"];
    assert_joins(mode, &stage, stage.actor(), &args, |actor| {
        group.take(&actor.target)
    });
}

fn container_is_targeted_by_default(mode: AttachMode) {
    let id = format!("{:08x}{}", std::process::id(), "5c09e0de".repeat(7));
    let group = Cgroup::new(&format!("docker-{id}.scope"));
    let stage = Stage::new();
    let (mut a, mut b, mut other) = (stage.actor(), stage.actor(), stage.actor());
    group.take(&a.target);
    let mut tool = stage.trace(mode, &["--container", &id]);
    assert!(a.is_touched() && !b.is_touched() && !other.is_touched());
    group.take(&b.target);
    wait_joined(&mut tool, b.pid());
    a.call(97);
    b.call(89);
    other.call(83);
    let run = tool.stop();
    run.assert_clean();
    assert!(!other.is_touched());
    assert_eq!(
        (rows_of(&run, a.pid()), rows_of(&run, b.pid()), run.rows.len()),
        (97, 89, 97 + 89)
    );
}

fn exec_of_a_program_that_does_not_match_removes_probes(mode: AttachMode) {
    let stage = Stage::new();
    let (mut actor, name) = stage.named();
    let tool = stage.trace(mode, &["--comm", &name, "--scope", "targeted"]);
    assert!(actor.is_touched());
    let (program, _) = stage.program();
    actor.target.tell(&format!("become {}", program.display()));
    actor.malloc = actor.target.ask("where")[0].addresses[0].clone();
    wait_until("the end of the breakpoint", || {
        (!actor.is_touched()).then_some(())
    });
    actor.call(97);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(rows_of(&run, actor.pid()), 0);
}

fn process_that_rejoins_is_counted_once(mode: AttachMode) {
    const TIMES: usize = 7;
    let stage = Stage::new();
    let (mut actor, name) = stage.named();
    let mut tool = stage.trace(mode, &["--comm", &name, "--scope", "targeted"]);
    for _ in 0..TIMES {
        actor.target.ask("name other");
        wait_until("the end of the breakpoint", || {
            (!actor.is_touched()).then_some(())
        });
        actor.target.ask(&format!("name {name}"));
        wait_joined(&mut tool, actor.pid());
        actor.call(97);
    }
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), TIMES * 97);
}

/// The thread that calls execve replaces the leader, whose exit removes the links that were made for it.
fn exec_by_a_thread_keeps_probes(mode: AttachMode) {
    let stage = Stage::new();
    let (program, name) = stage.program();
    let (mut actor, first) = stage.named();
    let comms = format!("{first},{name}");
    let mut tool = stage.trace(mode, &["--comm", &comms, "--scope", "targeted"]);
    actor
        .target
        .tell(&format!("threads 1 become {}", program.display()));
    actor.malloc = actor.target.ask("where")[0].addresses[0].clone();
    wait_joined(&mut tool, actor.pid());
    assert!(actor.is_touched());
    actor.call(97);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(rows_of(&run, actor.pid()), 97);
}

fn links_of_exited_processes_are_closed(mode: AttachMode) {
    let stage = Stage::new();
    let (program, name) = stage.program();
    let links = |tool: &Tool| {
        let folder = fs::read_dir(format!("/proc/{}/fd", tool.pid())).expect("the open files");
        let open = folder
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        let is_probe = |name: PathBuf| {
            let name = name.to_string_lossy().into_owned();
            name.contains("bpf_link") || name.contains("bpf-link") || name.contains("perf_event")
        };
        open.filter(|name| is_probe(name.clone())).count()
    };
    let mut tool = stage.trace(mode, &["--comm", &name, "--scope", "targeted"]);
    let none = links(&tool);
    let mut targets: Vec<Target> = (0..3).map(|_| Target::start(stage.command(&program))).collect();
    for target in &targets {
        wait_joined(&mut tool, target.pid());
    }
    let each = (links(&tool) - none) / targets.len();
    assert!(each > 0);
    let last = targets.pop().expect("three");
    for target in targets {
        assert!(target.end().success());
    }
    wait_until("the end of the links of two", || {
        (links(&tool) == none + each).then_some(())
    });
    assert!(last.end().success());
    wait_until("the end of all links", || (links(&tool) == none).then_some(()));
    tool.stop().assert_clean();
}

fn scope_all_traces_all_processes(mode: AttachMode) {
    let stage = Stage::new();
    let (mut a, b, other) = (stage.actor(), stage.actor(), stage.actor());
    let pids = format!("{},{}", a.pid(), b.pid());
    let tool = stage.trace(mode, &["-p", &pids, "--scope", "all"]);
    assert!(a.is_touched() && b.is_touched() && other.is_touched());
    a.call(97);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((rows_of(&run, a.pid()), run.rows.len()), (97, 97));
}

/// For docs/json.md: the `attached` record of a run that a process joins, and the run.
pub fn run_with_joined_process() -> (Value, Run) {
    let stage = Stage::new();
    let (program, name) = stage.program();
    let mut tool = stage.trace(AttachMode::best(), &["--comm", &name, "--scope", "targeted"]);
    let target = Target::start(stage.command(&program));
    wait_joined(&mut tool, target.pid());
    (tool.attached.clone(), tool.stop())
}
