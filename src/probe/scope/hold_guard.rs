//! `--hold`: lets those go on that a tool stopped and then could not, because it was killed.
//!
//! A child process that does nothing but wait until a pipe closes, which the kernel does whatever the end of its writer
//! was. It knows who stands still from the map in which the BPF program notes them before it stops them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapHandle};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, setsid};

use crate::privileges::{self, Duties};

/// The processes that stand still, `held` of src/bpf/watcher.bpf.c, and the switch beside it.
pub struct Held<'a> {
    pub pids: MapHandle,
    pub holding: &'a AtomicBool,
}

impl Held<'_> {
    /// Lets a process go on.
    pub fn release(&self, pid: u32) {
        // One that is gone needs nothing. A stop that has not come to pass yet is taken back by this signal as well.
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGCONT);
        let _ = self.pids.delete(&pid.to_ne_bytes());
    }

    /// Lets all go on, and stops none any more.
    pub fn release_all(&self) {
        // A program that was running when the switch was turned is through long before that.
        const LAST_STOP: Duration = Duration::from_millis(20);
        // Noted, but never stopped: a debugger may have taken the signal away.
        const NEVER_STOPPED: Duration = Duration::from_secs(2);
        self.holding.store(false, Ordering::SeqCst);
        let start = Instant::now();
        loop {
            let held = self.pids();
            for &pid in &held {
                // A process is noted before the signal is sent: continued in between, it would stand still for ever.
                if is_stopped(pid) || start.elapsed() >= NEVER_STOPPED {
                    self.release(pid);
                }
            }
            if held.is_empty() && start.elapsed() >= LAST_STOP {
                return;
            }
            sleep(Duration::from_millis(1));
        }
    }

    fn pids(&self) -> Vec<u32> {
        let number = |key: Vec<u8>| key.try_into().ok().map(u32::from_ne_bytes);
        self.pids.keys().filter_map(number).collect()
    }
}

/// Does the process stand still, or is it gone, so that it needs no waiting for?
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses can hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
}

/// The guard, seen from the process that it watches.
pub struct Guard {
    pid: Pid,
    /// Closed without a byte, the guard acts.
    watched: Option<File>,
}

impl Guard {
    /// Forks the guard. The caller must have one thread only, and nobody may be stopped yet.
    pub fn start(held: &Held<'_>) -> Result<Self> {
        let (watch, watched) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: there is one thread, so no lock can be held by another one in the child's copy of memory.
        match unsafe { fork() }.context("failed to fork")? {
            ForkResult::Child => {
                drop(watched);
                guard(watch, held)
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                watched: Some(watched.into()),
            }),
        }
    }
}

impl Drop for Guard {
    /// There is nobody left to let go.
    fn drop(&mut self) {
        if let Some(mut watched) = self.watched.take() {
            let _ = watched.write_all(b"!");
        }
        let _ = waitpid(self.pid, None);
    }
}

fn guard(watch: OwnedFd, held: &Held<'_>) -> ! {
    // Ctrl-C is for the whole group, and the guard has to outlive it.
    let _ = setsid();
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: installs no handler.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let _ = nix::sys::prctl::set_name(c"ubpf-guard");
    // Pipes have readers that wait for their end, and programs live as long as somebody has them open.
    close_all_but([watch.as_raw_fd(), held.pids.as_fd().as_raw_fd()]);
    let _ = privileges::drop_privileges(Duties::Release, false);
    let mut word = [0];
    if File::from(watch).read_exact(&mut word).is_err() {
        held.release_all();
    }
    // SAFETY: ends this process at once; the parent's buffers and exit handlers are not ours to run.
    unsafe { libc::_exit(0) }
}

fn close_all_but<const N: usize>(mut kept: [RawFd; N]) {
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept {
        close_range(from, fd as u32 - 1);
        from = fd as u32 + 1;
    }
    close_range(from, u32::MAX);
}

fn close_range(from: u32, to: u32) {
    if from <= to {
        // SAFETY: closes descriptors whose owners do not run in this process any more.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
    }
}
