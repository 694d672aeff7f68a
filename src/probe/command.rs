//! `-- COMMAND`: a child that stands still until the probes are in, so that its first call is seen.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execvp, fork, pipe2};

use crate::error::{FAILED, Failure};

/// A child process before and after its exec.
pub struct Command {
    pid: Pid,
    name: String,
    /// Closed without a byte, the child ends without running anything.
    start: Option<File>,
    /// Carries the errno of an exec that failed; closed by one that did not.
    failed: File,
}

impl Command {
    /// Forks a child that waits for [`Command::start`]. The caller must have one thread only.
    pub fn hold(argv: &[OsString]) -> Result<Self> {
        let argv: Vec<CString> = argv
            .iter()
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<_, _>>()
            .context("failed to run")?;
        let name = argv
            .first()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let (go, start) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (failed, fail) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: there is one thread, so no lock can be held by another one in the child's copy of memory.
        match unsafe { fork() }.context("failed to fork")? {
            ForkResult::Child => {
                drop((start, failed));
                become_command(&argv, go.into(), fail)
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                name,
                start: Some(start.into()),
                failed: failed.into(),
            }),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Lets the child run. Fails when its program cannot be executed.
    pub fn start(&mut self) -> Result<()> {
        if let Some(mut start) = self.start.take() {
            start.write_all(b"!").context("failed to start the command")?;
        }
        let mut errno = [0; 4];
        if self.failed.read_exact(&mut errno).is_err() {
            return Ok(());
        }
        let cause = std::io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
        Err(Failure::new(FAILED, format!("failed to run {}: {cause}", self.name)).into())
    }

    /// The exit status to hand on, once the child has ended: its own, or 128 and the signal that ended it.
    pub fn finished(&self) -> Option<u8> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Some(status as u8),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as u8),
            _ => None,
        }
    }
}

fn become_command(argv: &[CString], mut go: File, fail: OwnedFd) -> ! {
    // Rust ignores SIGPIPE; the command must not inherit that. Handlers end with the exec.
    // SAFETY: restores the default action, installs no handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let mut word = [0];
    if go.read_exact(&mut word).is_ok()
        && let Some(program) = argv.first()
        && let Err(errno) = execvp(program, argv)
    {
        let _ = File::from(fail).write_all(&(errno as i32).to_ne_bytes());
    }
    // SAFETY: ends this process at once; the parent's buffers and exit handlers are not ours to run.
    unsafe { libc::_exit(127) }
}
