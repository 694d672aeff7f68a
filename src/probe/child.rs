// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A forked child process that waits for its parent before it does anything.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

/// A child process, and the parent's end of the pipe that it waits on.
///
/// The parent sends one byte with [`WaitingChild::start`]. If it exits first, however that happens, the
/// kernel closes the pipe and the child sees the end of file: no child waits for a parent that is gone.
pub struct WaitingChild {
    pid: Pid,
    start: Option<File>,
}

/// The child's end of the pipe.
pub struct StartPipe(File);

impl StartPipe {
    /// Blocks until the parent sends its byte (true) or closes its end without one (false).
    pub fn wait(mut self) -> bool {
        self.0.read_exact(&mut [0]).is_ok()
    }

    /// As [`StartPipe::wait`], for at most `time`. None if nothing has happened by then.
    pub fn wait_for(&mut self, time: Duration) -> Option<bool> {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::NONE);
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => None,
            _ => Some(self.0.read_exact(&mut [0]).is_ok()),
        }
    }

    /// The read end of the pipe.
    pub fn as_file(&self) -> &File {
        &self.0
    }
}

impl WaitingChild {
    /// Forks a child that calls `run`, which is to call [`StartPipe::wait`], and exits with the status that
    /// it returns. The child never returns to the caller, and runs no destructors and no exit handlers of the
    /// parent.
    ///
    /// The process must have a single thread: the memory of the child would keep locks that other threads
    /// hold.
    ///
    /// # Errors
    /// pipe2(2) or fork(2) failed.
    pub fn fork(run: impl FnOnce(StartPipe) -> i32) -> Result<Self> {
        let (wait, start) = pipe2(OFlag::O_CLOEXEC).context("failed to create a pipe")?;
        // SAFETY: there is one thread, so no lock is held by another one in the child's copy of memory.
        match unsafe { fork() }.context("failed to fork")? {
            ForkResult::Child => {
                drop(start);
                let status = run(StartPipe(wait.into()));
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                start: Some(start.into()),
            }),
        }
    }

    /// The PID in the PID namespace of this process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the child run. Does nothing when it has been called before.
    ///
    /// # Errors
    /// The child has exited.
    pub fn start(&mut self) -> io::Result<()> {
        match self.start.take() {
            Some(mut start) => start.write_all(b"!"),
            None => Ok(()),
        }
    }

    /// Closes the pipe without a byte, if [`WaitingChild::start`] was not called.
    pub fn cancel(&mut self) {
        self.start = None;
    }
}

/// Closes all other descriptors in a child that runs on beside the tool: an inherited pipe would keep its readers
/// waiting, and inherited BPF links would keep their programs attached.
pub fn close_all_except<const N: usize>(mut kept: [RawFd; N]) {
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept.map(|fd| fd as u32) {
        if from < fd {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX);
}

/// Closes the descriptors from `first` to `last`, both included.
fn close_range(first: u32, last: u32) {
    // SAFETY: closes descriptors whose owners do not run in this process.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// The test harness has several threads, so the child is forked by a copy of the test binary that runs
    /// one test on its main thread.
    fn run_single_threaded(name: &str) {
        let output = Command::new("/proc/self/exe")
            .args(["--exact", name, "--ignored", "--test-threads=1"])
            .output()
            .expect("the test binary");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn child_runs_when_started_and_not_when_cancelled() {
        run_single_threaded("probe::child::tests::fork_start_and_cancel");
    }

    #[test]
    #[ignore = "forks, and is run by another test in a process with a single thread"]
    fn fork_start_and_cancel() {
        use super::WaitingChild;
        use nix::sys::wait::{WaitStatus, waitpid};

        for (starts, expected) in [(true, 7), (false, 8)] {
            let mut child = WaitingChild::fork(|start| if start.wait() { 7 } else { 8 }).expect("a child");
            if starts {
                child.start().expect("a reader");
            } else {
                child.cancel();
            }
            let status = waitpid(child.pid(), None);
            assert_eq!(status, Ok(WaitStatus::Exited(child.pid(), expected)));
        }
    }
}
