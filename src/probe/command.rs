// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `-- COMMAND`: a child process that waits until the probes are attached, so that its first call is traced.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{execvp, pipe2};

use crate::error::Failure;
use crate::probe::child::{StartPipe, WaitingChild};
use crate::probe::signal_forwarder::{GROUP_DELAY, SignalForwarder};
use crate::probe::signals::SignalHandlers;

/// Exit status of a child that did not execute its program, as of a shell.
const NOT_EXECUTED: i32 = 127;

/// A child process, before and after its exec.
pub struct TracedCommand {
    child: WaitingChild,
    name: String,
    /// The child writes the errno of a failed exec to it; a successful exec closes it.
    exec_error: File,
    signals: SignalForwarder,
}

impl TracedCommand {
    /// Forks a child that executes `argv` after [`TracedCommand::start`], and exits if this process exits
    /// first. The process must have a single thread.
    ///
    /// # Errors
    /// An argument contains a NUL byte, or no process can be created.
    pub fn hold(argv: &[OsString]) -> Result<Self> {
        let argv: Vec<CString> = argv
            .iter()
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<_, _>>()
            .context("failed to run the command")?;
        let name = argv
            .first()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let (exec_error, report) = pipe2(OFlag::O_CLOEXEC).context("failed to create a pipe")?;
        let child = WaitingChild::fork(|start| execute(&argv, start, report))?;
        Ok(Self {
            signals: SignalForwarder::start(child.pid())?,
            child,
            name,
            exec_error: exec_error.into(),
        })
    }

    /// The PID in the PID namespace of this process. It stays the same across the exec.
    pub fn pid(&self) -> u32 {
        self.child.pid().as_raw() as u32
    }

    /// Lets the child execute its program.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn start(&mut self) -> Result<()> {
        if self.child.start().is_err() {
            return Ok(()); // A signal has ended it. Its exit status says which.
        }
        let mut errno = [0; 4];
        if self.exec_error.read_exact(&mut errno).is_err() {
            return Ok(());
        }
        let cause = std::io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        Err(Failure::failed(format!("failed to run {}: {cause}", self.name)).into())
    }

    /// Passes on the signal that has ended the run, and waits until the child exits. Returns its exit status; None if
    /// it continues, because it ignores the signal or another one has come.
    pub fn end(&mut self, signal: Signal, handlers: &SignalHandlers) -> Option<u8> {
        let mut count = SignalHandlers::count();
        self.signals.forward(signal);
        let settled = Instant::now() + GROUP_DELAY;
        loop {
            handlers.clear();
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if self.ignores(signal) {
                return None;
            }
            let new_count = SignalHandlers::count();
            // timeout(1) signals the tool, and then the group with the tool once more.
            if new_count != count && Instant::now() > settled {
                self.signals.forward(SignalHandlers::last().unwrap_or(signal));
                return self.exit_status();
            }
            count = new_count;
            handlers.wait();
        }
    }

    /// Whether the child ignores a signal, as a shell has its background jobs ignore SIGINT.
    fn ignores(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        ignored
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask >> (signal as u32 - 1) & 1 == 1)
    }

    /// Exit status of the child once it has exited, or 128 plus the signal that killed it.
    pub fn exit_status(&self) -> Option<u8> {
        match waitpid(self.child.pid(), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Some(status as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as u8),
            _ => None,
        }
    }
}

/// Runs in the child. Returns only when nothing was executed.
fn execute(argv: &[CString], start: StartPipe, report: OwnedFd) -> i32 {
    // The tool ignores these, which the command would inherit. Handlers are reset by the exec.
    for ignored in [Signal::SIGPIPE, Signal::SIGXFSZ] {
        // SAFETY: restores the default action, installs no handler.
        let _ = unsafe { signal(ignored, SigHandler::SigDfl) };
    }
    if start.wait()
        && let Some(program) = argv.first()
        && let Err(errno) = execvp(program, argv)
    {
        let _ = File::from(report).write_all(&(errno as i32).to_ne_bytes());
    }
    NOT_EXECUTED
}
