// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where output is written.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// written, and the error if not all of them were. Once `ending` is set, waits at most [`PATIENCE_MS`] for a
    /// blocked reader.
    pub(super) fn write(&self, bytes: &[u8], ending: &AtomicBool) -> (usize, io::Result<()>) {
        match self {
            Self::Stdout => write_all(io::stdout().as_fd(), bytes, ending),
            Self::File(file) => write_all(file.as_fd(), bytes, ending),
        }
    }
}

/// How long the end of a run waits for a blocked reader.
const PATIENCE_MS: u16 = 1000;
/// A writable pipe takes this many bytes without blocking: PIPE_BUF on Linux.
const ATOMIC_WRITE: usize = 4096;

fn write_all(fd: BorrowedFd, bytes: &[u8], ending: &AtomicBool) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        let mut next = &bytes[done..];
        if ending.load(Ordering::Relaxed) {
            if let Err(error) = wait_for_room(fd, PollTimeout::from(PATIENCE_MS)) {
                return (done, Err(error));
            }
            next = &next[..next.len().min(ATOMIC_WRITE)];
        }
        match nix::unistd::write(fd, next) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if let Err(error) = wait_for_room(fd, PollTimeout::NONE) {
                    return (done, Err(error));
                }
            }
            Err(errno) => return (done, Err(errno.into())),
        }
    }
    (done, Ok(()))
}

/// Waits until the descriptor is writable. A terminal or a pipe may be non-blocking although this process did not ask
/// for it: all processes that share the open file share the flag.
fn wait_for_room(fd: BorrowedFd, timeout: PollTimeout) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader is blocked")),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
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
        let (written, result) = destination.write(&bytes, &AtomicBool::new(false));
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
            Destination::File(OwnedFd::from(writer).into()).write(&vec![0; MUCH], &AtomicBool::new(false));
        leaves.join().unwrap().unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!((1..MUCH).contains(&written), "{written}");
    }

    #[test]
    fn end_of_run_does_not_wait_for_a_blocked_reader() {
        let (_reader, writer) = io::pipe().unwrap();
        let destination = Destination::File(OwnedFd::from(writer).into());
        let (written, result) = destination.write(&vec![0; MUCH], &AtomicBool::new(true));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((1..MUCH).contains(&written), "{written}");
    }
}
