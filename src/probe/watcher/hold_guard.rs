// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Watchdog for `--hold`: resumes stopped processes if the tool dies, or does not do so in time because it is stopped
//! itself.
//!
//! A child process that waits on a pipe, which the kernel closes however the tool ends, a kill included. It
//! finds the stopped processes in the map `held`, which the BPF program writes before it stops one. If the
//! watchdog itself is killed, stopped or frozen, BPF programs resume them: see `hold.bpf.h`.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use libbpf_rs::{MapCore, MapHandle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};

use crate::find::host::clock::monotonic_ns;
use crate::privileges::{self, Duties};
use crate::probe::child::{StartPipe, WaitingChild, close_all_except};

/// The watcher's map `held` of stopped processes, and its variables of the same names, for which see `hold.bpf.h`.
pub struct HeldProcesses<'a> {
    pub pids: MapHandle,
    pub holding: &'a AtomicBool,
    pub guarded_ns: &'a AtomicU64,
    pub abandoned: &'a AtomicBool,
    pub heartbeat: &'a AtomicU32,
}

impl HeldProcesses<'_> {
    /// Resumes one process. False if another has done so before.
    pub fn resume(&self, pid: u32) -> bool {
        // It may have exited. SIGCONT also discards a SIGSTOP that is still pending.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGCONT);
        self.pids.delete(&pid.to_ne_bytes()).is_ok()
    }

    /// Shows the watchdog that this process runs, until `end` is written. False if the watchdog has died.
    pub fn beat(&self, end: &EventFd) -> bool {
        while !self.abandoned.load(Ordering::SeqCst) {
            self.heartbeat.fetch_add(1, Ordering::SeqCst);
            self.holding.store(true, Ordering::SeqCst);
            let mut ready = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(BEAT).unwrap_or(PollTimeout::NONE);
            if matches!(poll(&mut ready, timeout), Ok(1..)) {
                break;
            }
        }
        !self.abandoned.load(Ordering::SeqCst)
    }

    /// Resumes what is stopped now. No more processes are stopped until the tool is back.
    fn resume_for_now(&self) {
        self.holding.store(false, Ordering::SeqCst);
        for pid in self.pids().into_iter().filter(|&pid| is_stopped_or_gone(pid)) {
            self.resume(pid);
        }
    }

    /// Resumes all processes, and ends the stopping.
    pub fn resume_all(&self) {
        // A BPF program that read the switch before it changed has long finished by then.
        const LAST_STOP: Duration = Duration::from_millis(20);
        // In the map, but not stopped: a debugger may have suppressed the signal.
        const NEVER_STOPPED: Duration = Duration::from_secs(2);
        self.holding.store(false, Ordering::SeqCst);
        let start = Instant::now();
        loop {
            let held = self.pids();
            for &pid in &held {
                // The map is written before the signal is sent. Resumed in between, the process would stay
                // stopped.
                if is_stopped_or_gone(pid) || start.elapsed() >= NEVER_STOPPED {
                    self.resume(pid);
                }
            }
            if held.is_empty() && start.elapsed() >= LAST_STOP {
                return;
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn pids(&self) -> Vec<u32> {
        let pid = |key: Vec<u8>| key.try_into().ok().map(u32::from_ne_bytes);
        self.pids.keys().filter_map(pid).collect()
    }
}

/// Without a heartbeat for so long, the tool is stopped itself, by Ctrl-Z, a debugger or a frozen control group.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);
/// The same before the first heartbeat, while probes are attached to the processes that are there.
const LONGEST_START: Duration = Duration::from_secs(10);
/// The heartbeat when it is loaded.
const FIRST_BEAT: u32 = 1;
/// Between heartbeats, and between looks at them.
const BEAT: Duration = Duration::from_millis(200);

fn is_stopped_or_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses can contain anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
}

/// The watchdog, seen from the tool. Dropping it ends the watchdog, which then resumes nothing.
pub struct HoldGuard(WaitingChild);

impl HoldGuard {
    /// Forks the watchdog. The process must have a single thread, and no process may be stopped yet.
    ///
    /// # Errors
    /// The watchdog cannot be forked.
    pub fn start(held: &HeldProcesses<'_>) -> Result<Self> {
        held.guarded_ns.store(monotonic_ns(), Ordering::SeqCst);
        WaitingChild::fork(|start| watch(start, held)).map(Self)
    }

    /// The watchdog process.
    pub fn pid(&self) -> Pid {
        self.0.pid()
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        let _ = self.0.start();
        let _ = waitpid(self.0.pid(), None);
    }
}

/// Runs in the watchdog. Its parent sends a byte when no process is left to resume.
fn watch(mut parent: StartPipe, held: &HeldProcesses<'_>) -> i32 {
    // Ctrl-C signals the whole process group, and the watchdog has to outlive it.
    let _ = setsid();
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: installs no handler.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let _ = nix::sys::prctl::set_name(c"ubpf-guard");
    close_all_except([parent.as_file().as_raw_fd(), held.pids.as_fd().as_raw_fd()]);
    let _ = privileges::drop_privileges(Duties::Release, false);
    let (mut last, mut heard) = (0, Instant::now());
    loop {
        held.guarded_ns.store(monotonic_ns(), Ordering::SeqCst);
        if let Some(is_done) = parent.wait_for(BEAT) {
            if !is_done {
                held.resume_all();
            }
            return 0;
        }
        let beat = held.heartbeat.load(Ordering::SeqCst);
        let longest = if beat == FIRST_BEAT {
            LONGEST_START
        } else {
            LONGEST_SILENCE
        };
        if beat != last {
            (last, heard) = (beat, Instant::now());
        } else if heard.elapsed() >= longest {
            held.resume_for_now();
        }
    }
}
