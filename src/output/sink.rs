//! Where the bytes go.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The end of the pipe.
#[derive(Debug)]
pub enum Destination {
    Stdout,
    /// A file opened for writing.
    File(File),
}

impl Destination {
    /// What an error calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "the standard output",
            Self::File(_) => "the output file",
        }
    }

    /// Writes past all buffers of the standard library, as those would split a batch at its lines. Returns how many
    /// bytes got through, and why not all of them.
    /// Once `ending` is set, a reader that does not read is waited for no longer than [`PATIENCE`].
    pub(super) fn write(&self, bytes: &[u8], ending: &AtomicBool) -> (usize, io::Result<()>) {
        match self {
            Self::Stdout => write_all(io::stdout().as_fd(), bytes, ending),
            Self::File(file) => write_all(file.as_fd(), bytes, ending),
        }
    }
}

/// How long the end of a run may wait for a reader, milliseconds.
const PATIENCE: u16 = 1000;
/// A pipe that has room at all takes so much without blocking, POSIX's PIPE_BUF on Linux.
const SURE_TO_FIT: usize = 4096;

fn write_all(fd: BorrowedFd, bytes: &[u8], ending: &AtomicBool) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        let mut next = &bytes[done..];
        if ending.load(Ordering::Relaxed) {
            if let Err(error) = wait_for_room(fd, PollTimeout::from(PATIENCE)) {
                return (done, Err(error));
            }
            next = &next[..next.len().min(SURE_TO_FIT)];
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

/// Waits until something can be written. A terminal or a pipe can be non-blocking without our doing: the flag belongs
/// to everybody who has it open.
fn wait_for_room(fd: BorrowedFd, timeout: PollTimeout) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the reader does not read",
        )),
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

    /// More than a pipe holds.
    const MUCH: usize = 1 << 20;

    fn through_a_pipe(flags: OFlag) {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
        let slow = thread::spawn(move || {
            let mut all = vec![0]; // one byte: the writer has begun, and has more than the pipe holds
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
            "something was lost or came twice"
        );
    }

    #[test]
    fn a_slow_reader_gets_everything() {
        through_a_pipe(OFlag::empty());
    }

    #[test]
    fn a_slow_reader_of_a_non_blocking_pipe_gets_everything() {
        through_a_pipe(OFlag::O_NONBLOCK);
    }

    #[test]
    fn what_got_through_before_an_error_is_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let leaves = thread::spawn(move || reader.read_exact(&mut [0]));
        let (written, result) =
            Destination::File(OwnedFd::from(writer).into()).write(&vec![0; MUCH], &AtomicBool::new(false));
        leaves.join().unwrap().unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!((1..MUCH).contains(&written), "{written}");
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_does_not_read() {
        let (_reader, writer) = io::pipe().unwrap();
        let destination = Destination::File(OwnedFd::from(writer).into());
        let (written, result) = destination.write(&vec![0; MUCH], &AtomicBool::new(true));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((1..MUCH).contains(&written), "{written}");
    }
}
