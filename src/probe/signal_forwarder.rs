// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Passes signals that end the tool on to its command, unless they reached the command already: Ctrl-C and timeout(1)
//! signal the whole process group, and a program that gets a second signal often gives up its orderly shutdown.
//!
//! Whether a signal was for the tool alone is not part of it. So a child process in the same process group waits for
//! the same signals: what it gets, the command got. It keeps only the capability to send signals, which the tool drops.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpgid, getpgrp, pipe2};

use crate::privileges::{self, Duties};
use crate::probe::child::{StartPipe, WaitingChild, close_all_except};
use crate::probe::signals::ENDING_SIGNALS;

/// How much later than the tool the process group may get a signal: timeout(1) signals its child first.
pub const GROUP_DELAY: Duration = Duration::from_millis(100);

/// How long the tool waits for the child, which may be stopped.
const PATIENCE_MS: u16 = 1000;

/// The child process, seen from the tool. It exits when this is dropped, or when the tool dies.
pub struct SignalForwarder {
    child: WaitingChild,
    requests: File,
    answers: File,
}

impl SignalForwarder {
    /// Forks the child. The process must have a single thread.
    ///
    /// # Errors
    /// No pipe or process can be created.
    pub fn start(command: Pid) -> Result<Self> {
        let (their_requests, requests) = pipe2(OFlag::O_CLOEXEC).context("failed to create a pipe")?;
        let (answers, their_answers) = pipe2(OFlag::O_CLOEXEC).context("failed to create a pipe")?;
        // Before the fork, so that no signal ends the child.
        let all = SigSet::all();
        let before = SigSet::thread_get_mask().context("failed to block signals")?;
        all.thread_block().context("failed to block signals")?;
        let child = WaitingChild::fork(|tool| {
            let forwarded = forward(command, &tool, their_requests, their_answers);
            i32::from(forwarded.is_err())
        });
        before.thread_set_mask().context("failed to unblock signals")?;
        Ok(Self {
            child: child?,
            requests: requests.into(),
            answers: answers.into(),
        })
    }

    /// Sees to it that the command gets a signal that the tool got. The command must not be reaped before this returns,
    /// so that its PID is not reused.
    pub fn forward(&mut self, signal: Signal) {
        let sent = self.requests.write_all(&[signal as u8]);
        // End of file: the child was killed, and passes nothing on.
        if sent.is_ok() && self.has_answer() {
            let _ = self.answers.read(&mut [0]);
        }
    }

    /// Waits for an answer or the end of the child.
    fn has_answer(&self) -> bool {
        let start = Instant::now();
        loop {
            let mut ready = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(PATIENCE_MS)) {
                Err(Errno::EINTR) if start.elapsed() < Duration::from_millis(PATIENCE_MS.into()) => {}
                result => return matches!(result, Ok(1..)),
            }
        }
    }
}

impl Drop for SignalForwarder {
    fn drop(&mut self) {
        self.child.cancel();
        if self.has_answer() {
            let _ = waitpid(self.child.pid(), None);
        }
    }
}

/// Runs in the child, until the tool closes its pipe.
fn forward(command: Pid, tool: &StartPipe, requests: OwnedFd, answers: OwnedFd) -> Result<()> {
    let _ = nix::sys::prctl::set_name(c"ubpf-signals");
    close_all_except([
        tool.as_file().as_raw_fd(),
        requests.as_raw_fd(),
        answers.as_raw_fd(),
    ]);
    privileges::drop_privileges(Duties::Signal, false)?;
    let (mut requests, mut answers) = (File::from(requests), File::from(answers));
    let mut group = GroupSignals::watch()?;
    while let Some(signal) = next_request(tool, &mut requests, &mut group)? {
        let in_group = getpgid(Some(command)) == Ok(getpgrp());
        if !(group.has(signal)? && in_group) {
            // A stopped process acts on a signal once it continues.
            let _ = kill(command, signal).and_then(|()| kill(command, Signal::SIGCONT));
        }
        answers.write_all(b".")?;
    }
    Ok(())
}

/// Waits for a signal to forward. None if the tool has ended.
fn next_request(tool: &StartPipe, requests: &mut File, group: &mut GroupSignals) -> Result<Option<Signal>> {
    loop {
        let mut ready = [tool.as_file().as_fd(), requests.as_fd(), group.fd.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut ready, PollTimeout::NONE)?;
        let [tool_ended, requested, signalled] = ready.map(|fd| fd.any() == Some(true));
        if signalled {
            group.read()?;
        }
        if requested {
            let mut signal = [0];
            let read = requests.read_exact(&mut signal);
            return Ok(read
                .ok()
                .and_then(|()| Signal::try_from(i32::from(signal[0])).ok()));
        }
        if tool_ended {
            return Ok(None);
        }
    }
}

/// Signals that this process got, and with it the group.
struct GroupSignals {
    fd: SignalFd,
    got: Vec<Signal>,
}

impl GroupSignals {
    fn watch() -> Result<Self> {
        let signals = SigSet::from_iter(ENDING_SIGNALS);
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, got: Vec::new() })
    }

    fn read(&mut self) -> Result<()> {
        while let Some(info) = self.fd.read_signal()? {
            self.got.extend(Signal::try_from(info.ssi_signo as i32));
        }
        Ok(())
    }

    /// Whether the group got this signal, or gets it soon. Forgets it.
    fn has(&mut self, signal: Signal) -> Result<bool> {
        let deadline = Instant::now() + GROUP_DELAY;
        loop {
            self.read()?;
            if let Some(index) = self.got.iter().position(|got| *got == signal) {
                self.got.swap_remove(index);
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
            poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout)?;
        }
    }
}
