// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! With `--hold`, no call of a new program is missed, and no program stays stopped, whatever becomes of the tool and
//! its watchdog.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::harness::{
    AttachMode, Owned, Tool, best_mode, each_mode, kernel_version, run_to_end, skip, tool_command, wait_until,
};
use crate::mallocsnoop::filters::Cgroup;
use crate::mallocsnoop::{BLOCK, FIRST_CALL_BYTES, count, unique};
use crate::scope::Stage;

each_mode! {
    held_programs_are_traced_from_their_first_call
}

best_mode! {
    held_programs_resume_when_the_tool_is_killed
    held_programs_resume_when_tool_and_watchdog_are_killed
    held_programs_resume_when_the_cgroup_is_killed
    held_programs_resume_while_tool_and_watchdog_are_stopped
    held_programs_resume_while_the_cgroup_is_frozen
    held_programs_resume_while_the_tool_is_stopped
    held_programs_resume_while_the_tool_is_frozen
    held_programs_resume_while_the_tool_is_debugged
    killed_watchdog_ends_the_holding
}

/// Programs that are held at the same time.
const HELD: usize = 7;

/// A tool that holds a program, and that program.
struct Hold {
    stage: Stage,
    program: PathBuf,
    tool: Tool,
}

impl Hold {
    /// None where the kernel cannot resume programs: then the tool says so.
    fn start(mode: AttachMode, options: &[&str]) -> Option<Hold> {
        let stage = Stage::new();
        let (program, name) = stage.program();
        let args = [&["--comm", &name, "--scope", "targeted", "--hold"], options].concat();
        if kernel_version() < (6, 16) {
            let refused = run_to_end(&mut tool_command("mallocsnoop", mode, args));
            assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
            assert!(
                refused.stderr.contains("--hold needs Linux 6.16"),
                "{}",
                refused.stderr
            );
            skip("this kernel cannot resume programs after a kill of the tool, as its error message says");
            return None;
        }
        let tool = stage.trace(mode, &args);
        Some(Hold { stage, program, tool })
    }

    fn watchdog(&self) -> Pid {
        let is_watchdog = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.split_once(" (ubpf-guard) ")
                .and_then(|(_, rest)| rest.split(' ').nth(1))
                .is_some_and(|parent| parent == self.tool.pid().to_string())
        };
        // It names itself after it is forked.
        wait_until("the watchdog", || {
            let processes = fs::read_dir("/proc").expect("/proc");
            let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            pids.find(is_watchdog).map(|pid| Pid::from_raw(pid as i32))
        })
    }

    fn spawn(&self) -> Owned {
        spawn(&self.stage, &self.program)
    }

    /// Programs that are stopped, as the tool itself is. Tries again if the watchdog was faster.
    fn held(&self) -> Vec<Owned> {
        for _ in 0..31 {
            self.tool.signal(Signal::SIGSTOP);
            let held: Vec<Owned> = (0..HELD).map(|_| self.spawn()).collect();
            let states = || held.iter().map(|program| state(program.0.id()));
            wait_until("the stop", || {
                states().all(|state| matches!(state, 'T' | 'Z')).then_some(())
            });
            if states().all(|state| state == 'T') {
                return held;
            }
            self.tool.signal(Signal::SIGCONT);
            assert_all_end(held);
        }
        panic!("no programs were held");
    }

    fn move_all_to(&self, group: &Cgroup) {
        group.take_pid(self.tool.pid());
        group.take_pid(self.watchdog().as_raw() as u32);
    }

    /// Programs run, while the tool cannot resume them.
    fn assert_programs_run(&self) {
        assert!(self.spawn().wait().success());
        // Until the tool is back, no other is stopped: each stop would take a second. So may a run in a busy guest.
        let times = (0..5).map(|_| {
            let start = Instant::now();
            assert!(self.spawn().wait().success());
            start.elapsed()
        });
        let shortest = times.min().unwrap_or_default();
        assert!(shortest < Duration::from_secs(1), "{shortest:?}");
    }

    /// The tool is back: it holds programs again.
    fn assert_holds_again(self) {
        let Hold {
            stage,
            program,
            mut tool,
        } = self;
        tool.until(
            |record| record["held"] == true,
            || assert!(spawn(&stage, &program).wait().success()),
        );
        assert!(tool.stop().status.success());
    }
}

fn spawn(stage: &Stage, program: &Path) -> Owned {
    let mut command = stage.command(program);
    command.arg(format!("malloc 97 {BLOCK}")).stdout(Stdio::null());
    Owned(command.spawn().expect("a program"))
}

fn signal(pid: Pid, signal: Signal) {
    kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(") ").expect("a state");
    rest.chars().next().expect("a state")
}

fn assert_all_end(held: Vec<Owned>) {
    for mut program in held {
        assert!(program.wait().success());
    }
}

fn held_programs_are_traced_from_their_first_call(mode: AttachMode) {
    const RUNS: usize = 5;
    let Some(hold) = Hold::start(mode, &["--free"]) else {
        return;
    };
    let mut other = hold.stage.actor();
    for _ in 0..RUNS {
        let mut command = hold.stage.command(&hold.program);
        let ended = run_to_end(command.args([
            &format!("malloc 97 {BLOCK}"),
            "calloc 89 1 5003",
            "realloc 83 6007",
        ]));
        assert!(ended.status.success(), "{}", ended.stderr);
    }
    other.call(79);
    let run = hold.tool.stop();
    run.assert_clean();
    let found = [FIRST_CALL_BYTES, BLOCK, 5003, 6007].map(|size| count(&run, size));
    assert_eq!(found, [1, 97, 89, 83].map(|calls| calls * RUNS));
    // The blocks that realloc enlarges are freed by realloc, not by free.
    assert_eq!(run.with("call", "free").len(), (1 + 97 + 89 + 83) * RUNS);
    assert!(
        run.joined.iter().all(|joined| joined["held"] == true),
        "{:?}",
        run.joined
    );
    assert_eq!((run.joined.len(), &run.summary["held"]), (RUNS, &RUNS.into()));
    assert_eq!(run.summary["missed"], 0);
}

fn held_programs_resume_when_the_tool_is_killed(mode: AttachMode) {
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    let held = hold.held();
    hold.tool.signal(Signal::SIGKILL);
    assert_all_end(held);
    assert!(hold.tool.finish().summary.is_null());
}

fn held_programs_resume_when_tool_and_watchdog_are_killed(mode: AttachMode) {
    for watchdog_first in [true, false] {
        let Some(hold) = Hold::start(mode, &[]) else {
            return;
        };
        let tool = Pid::from_raw(hold.tool.pid() as i32);
        let watchdog = hold.watchdog();
        let held = hold.held();
        // Neither runs between the kills.
        signal(watchdog, Signal::SIGSTOP);
        let both = match watchdog_first {
            true => [watchdog, tool],
            false => [tool, watchdog],
        };
        for process in both {
            signal(process, Signal::SIGKILL);
        }
        assert_all_end(held);
        assert!(hold.tool.finish().summary.is_null());
    }
}

fn held_programs_resume_when_the_cgroup_is_killed(mode: AttachMode) {
    if kernel_version() < (5, 14) {
        return skip("control groups cannot be killed before Linux 5.14");
    }
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    let group = Cgroup::new(&unique("ubpf-e2e"));
    hold.move_all_to(&group);
    let held = hold.held();
    group.write("cgroup.kill", "1");
    assert_all_end(held);
    assert!(hold.tool.finish().summary.is_null());
}

fn held_programs_resume_while_tool_and_watchdog_are_stopped(mode: AttachMode) {
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    let held = hold.held();
    signal(hold.watchdog(), Signal::SIGSTOP);
    assert_all_end(held);
    hold.assert_programs_run();
    signal(hold.watchdog(), Signal::SIGCONT);
    hold.tool.signal(Signal::SIGCONT);
    hold.assert_holds_again();
}

fn held_programs_resume_while_the_cgroup_is_frozen(mode: AttachMode) {
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    let group = Cgroup::new(&unique("ubpf-e2e"));
    hold.move_all_to(&group);
    let held = hold.held();
    group.write("cgroup.freeze", "1");
    assert_all_end(held);
    hold.assert_programs_run();
    group.write("cgroup.freeze", "0");
    hold.tool.signal(Signal::SIGCONT);
    hold.assert_holds_again();
}

fn held_programs_resume_while_the_tool_is_stopped(mode: AttachMode) {
    for stop in [Signal::SIGSTOP, Signal::SIGTSTP] {
        let Some(hold) = Hold::start(mode, &[]) else {
            return;
        };
        hold.tool.signal(stop);
        wait_until("the stop", || (state(hold.tool.pid()) == 'T').then_some(()));
        hold.assert_programs_run();
        hold.tool.signal(Signal::SIGCONT);
        hold.assert_holds_again();
    }
}

fn held_programs_resume_while_the_tool_is_frozen(mode: AttachMode) {
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    let group = Cgroup::new(&unique("ubpf-e2e"));
    group.take_pid(hold.tool.pid());
    group.write("cgroup.freeze", "1");
    hold.assert_programs_run();
    group.write("cgroup.freeze", "0");
    hold.assert_holds_again();
}

fn held_programs_resume_while_the_tool_is_debugged(mode: AttachMode) {
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    let threads: Vec<Pid> = fs::read_dir(format!("/proc/{}/task", hold.tool.pid()))
        .expect("threads")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect();
    for &thread in &threads {
        ptrace(libc::PTRACE_ATTACH, thread);
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("a stop");
    }
    hold.assert_programs_run();
    for &thread in &threads {
        ptrace(libc::PTRACE_DETACH, thread);
    }
    hold.assert_holds_again();
}

fn ptrace(request: libc::c_uint, thread: Pid) {
    // SAFETY: neither request reads or writes memory.
    let result = unsafe { libc::ptrace(request, thread.as_raw(), 0, 0) };
    assert_eq!(result, 0, "ptrace of thread {thread}");
}

fn killed_watchdog_ends_the_holding(mode: AttachMode) {
    let Some(hold) = Hold::start(mode, &[]) else {
        return;
    };
    signal(hold.watchdog(), Signal::SIGKILL);
    assert!(hold.spawn().wait().success());
    let run = hold.tool.stop();
    assert!(run.status.success(), "{}", run.stderr);
    assert!(run.joined.iter().all(|joined| joined["held"] == false));
    assert!(
        run.stderr.contains("the watchdog of --hold was killed"),
        "{}",
        run.stderr
    );
}
