// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where output is written.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Standard output or a file.
#[derive(Debug)]
pub enum Destination {
    Stdout,
    /// A file opened for writing.
    File(File),
}

impl Destination {
    /// The name in error messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "standard output",
            Self::File(_) => "the output file",
        }
    }

    /// Bypasses the standard library's buffers, which would split a batch at a line end. Returns how many bytes were
    /// written, and the error if not all of them were. Once `end_signals` counts one, waits at most
    /// [`PATIENCE`] for a blocked reader.
    pub(super) fn write(&self, bytes: &[u8], end_signals: &AtomicU32) -> (usize, io::Result<()>) {
        match self {
            Self::Stdout => write_all(io::stdout().as_fd(), bytes, end_signals),
            Self::File(file) => write_all(file.as_fd(), bytes, end_signals),
        }
    }
}

/// How long the end of a run waits for a blocked reader. One that runs on a busy machine may be starved for seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// And after a further signal. timeout(1) signals its child twice at once.
const LAST_PATIENCE: Duration = Duration::from_millis(200);
/// A writable pipe takes this many bytes without blocking: PIPE_BUF on Linux.
const ATOMIC_WRITE: usize = 4096;

fn write_all(fd: BorrowedFd, bytes: &[u8], end_signals: &AtomicU32) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        let mut next = &bytes[done..];
        if end_signals.load(Ordering::Relaxed) > 0 {
            if let Err(error) = wait_patiently(fd, end_signals) {
                return (done, Err(error));
            }
            next = &next[..next.len().min(ATOMIC_WRITE)];
        }
        match nix::unistd::write(fd, next) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                // Not if a signal has arrived meanwhile: the run may end now.
                match wait_for_room(fd, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return (done, Err(errno.into())),
                }
            }
            Err(errno) => return (done, Err(errno.into())),
        }
    }
    (done, Ok(()))
}

/// Waits until the descriptor is writable, at most as long as the end of a run may take.
fn wait_patiently(fd: BorrowedFd, end_signals: &AtomicU32) -> io::Result<()> {
    let before = end_signals.load(Ordering::Relaxed);
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the wait does not spin in its last millisecond.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        match wait_for_room(fd, timeout) {
            Ok(true) => return Ok(()),
            Err(Errno::EINTR) if end_signals.load(Ordering::Relaxed) > before => {
                deadline = deadline.min(Instant::now() + LAST_PATIENCE);
            }
            Err(Errno::EINTR) => {}
            Ok(false) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the reader is blocked")),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until the descriptor is writable; false if it is not in time. A terminal or a pipe may be non-blocking
/// although this process did not ask for it: all processes that share the open file share the flag.
fn wait_for_room(fd: BorrowedFd, timeout: PollTimeout) -> nix::Result<bool> {
    poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout).map(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// Exceeds the capacity of a pipe.
    const MUCH: usize = 1 << 20;

    fn through_a_pipe(flags: OFlag) {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
        let slow = thread::spawn(move || {
            let mut all = vec![0]; // one byte: the writer has started, and will fill the pipe
            reader.read_exact(&mut all)?;
            reader.read_to_end(&mut all).map(|_| all)
        });
        let bytes: Vec<u8> = (0..MUCH).map(|index| (index % 251) as u8).collect();
        let destination = Destination::File(OwnedFd::from(writer).into());
        let (written, result) = destination.write(&bytes, &AtomicU32::new(0));
        result.unwrap();
        drop(destination);
        assert_eq!(written, MUCH);
        assert!(
            slow.join().unwrap().unwrap() == bytes,
            "bytes were lost or duplicated"
        );
    }

    #[test]
    fn slow_reader_gets_everything() {
        through_a_pipe(OFlag::empty());
    }

    #[test]
    fn slow_reader_of_a_nonblocking_pipe_gets_everything() {
        through_a_pipe(OFlag::O_NONBLOCK);
    }

    #[test]
    fn bytes_written_before_an_error_are_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let leaves = thread::spawn(move || reader.read_exact(&mut [0]));
        let (written, result) =
            Destination::File(OwnedFd::from(writer).into()).write(&vec![0; MUCH], &AtomicU32::new(0));
        leaves.join().unwrap().unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!((1..MUCH).contains(&written), "{written}");
    }

    #[test]
    fn end_of_run_does_not_wait_for_a_blocked_reader() {
        let (_reader, writer) = io::pipe().unwrap();
        let destination = Destination::File(OwnedFd::from(writer).into());
        let (written, result) = destination.write(&vec![0; MUCH], &AtomicU32::new(1));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((1..MUCH).contains(&written), "{written}");
    }
}
