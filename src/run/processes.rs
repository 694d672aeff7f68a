// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The processes that a run is about: its command, those of `-p`, and their descendants with `--follow`. The run ends
//! with the last of them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use anyhow::Result;
use libbpf_rs::Link;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::wakeups::Wakeups;
use crate::probe::command::TracedCommand;
use crate::probe::follow::ChildFollower;
use crate::probe::signals::SignalHandlers;

/// The processes of a run.
pub struct RunProcesses {
    command: Option<TracedCommand>,
    /// Of the command, once it has exited.
    status: Option<u8>,
    /// Those of `-p`.
    named: Vec<u32>,
    follow: Option<ChildFollower>,
    /// Those of `-p`, and followed ones, that had not exited when they were last looked at.
    alive: Vec<AliveProcess>,
    /// Follow the ends of threads, while calls are matched with their returns.
    _tracepoints: Vec<Link>,
}

/// A process whose descriptor is readable once all its threads have exited.
struct AliveProcess {
    pidfd: OwnedFd,
}

impl AliveProcess {
    /// None if it has exited and its parent has waited for it.
    fn open(pid: u32) -> Option<AliveProcess> {
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        // SAFETY: a new descriptor that nothing else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Some(AliveProcess { pidfd })
    }

    fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl RunProcesses {
    /// A command has not started yet.
    pub fn new(
        command: Option<TracedCommand>,
        named: Vec<u32>,
        follow: Option<ChildFollower>,
        tracepoints: Vec<Link>,
    ) -> Self {
        Self {
            command,
            status: None,
            named,
            follow,
            alive: Vec::new(),
            _tracepoints: tracepoints,
        }
    }

    /// Starts the command, or begins to watch the processes of `-p`.
    ///
    /// # Errors
    /// The command cannot be executed.
    pub fn start(&mut self, wakeups: &Wakeups) -> Result<()> {
        match &mut self.command {
            Some(command) => command.start(),
            None => self.watch(self.named.clone(), wakeups),
        }
    }

    fn watch(&mut self, pids: impl IntoIterator<Item = u32>, wakeups: &Wakeups) -> Result<()> {
        let alive = pids.into_iter().filter_map(AliveProcess::open);
        for process in alive.filter(|process| !process.has_exited()) {
            wakeups.add_process(process.pidfd.as_fd())?;
            self.alive.push(process);
        }
        Ok(())
    }

    /// Whether there is a command.
    pub fn has_command(&self) -> bool {
        self.command.is_some()
    }

    /// Whether the run ends with the processes of `-p`.
    pub fn are_named(&self) -> bool {
        self.command.is_none() && !self.named.is_empty()
    }

    /// Whether descendants are followed.
    pub fn are_followed(&self) -> bool {
        self.follow.is_some()
    }

    /// Whether the command has exited since the last call.
    pub fn command_has_just_exited(&mut self) -> bool {
        if let (Some(command), None) = (&self.command, self.status) {
            self.status = command.exit_status();
            return self.status.is_some();
        }
        false
    }

    /// Whether processes are left, after one of them has exited.
    ///
    /// # Errors
    /// A process cannot be watched.
    pub fn are_left(&mut self, wakeups: &Wakeups) -> Result<bool> {
        self.alive.retain(|process| !process.has_exited());
        let mut known = BTreeSet::new();
        while let (true, Some(follow)) = (self.alive.is_empty(), &self.follow) {
            // A process that forks and exits while the map is read can be missing in what was read.
            let followed = follow.followed();
            if followed == known {
                break;
            }
            known.clone_from(&followed);
            self.watch(followed, wakeups)?;
        }
        Ok(!self.alive.is_empty())
    }

    /// Children that could not be followed.
    pub fn unfollowed(&self) -> u64 {
        self.follow.as_ref().map_or(0, ChildFollower::missed)
    }

    /// If a signal has ended the run, the command gets it, too. Returns the exit status of the command: 0 if there is
    /// none, and an error with its PID if it continues.
    pub fn end_command(&mut self, signals: &SignalHandlers) -> Result<u8, u32> {
        let Some(command) = &mut self.command else {
            return Ok(0);
        };
        if let (None, Some(signal)) = (self.status, SignalHandlers::last()) {
            self.status = command.end(signal, signals);
        }
        self.status.ok_or_else(|| command.pid())
    }
}
