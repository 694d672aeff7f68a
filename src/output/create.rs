// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Opens the file of `-o`, which may be a FIFO that no process reads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Between attempts to open a FIFO: the kernel does not report that a reader has come.
const RETRY: Duration = Duration::from_millis(10);

/// Creates or truncates a file for rows. If it is a FIFO, waits for a reader, at most for `patience`.
///
/// # Errors
/// Those of open(2); `TimedOut` if no reader has come; `Interrupted` after SIGINT, SIGTERM or SIGHUP.
pub fn create(path: &Path, patience: Option<Duration>) -> io::Result<File> {
    let file = match open(path)? {
        Some(file) => file,
        None => wait_for_reader(path, patience)?,
    };
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// None if the file is a FIFO without a reader.
fn open(path: &Path) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // Rows may hold passwords, and other users are not to read them.
        .mode(0o600)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) && is_fifo(path) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_fifo(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.file_type().is_fifo())
}

/// Signals are read from a descriptor meanwhile. That includes those that a shell ignores in background jobs.
fn wait_for_reader(path: &Path, patience: Option<Duration>) -> io::Result<File> {
    let ending = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let before = ending.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let opened = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC)
        .map_err(io::Error::from)
        .and_then(|signals| retry_until_signal(path, patience, &signals));
    before.thread_set_mask()?;
    opened
}

fn retry_until_signal(path: &Path, patience: Option<Duration>, signals: &SignalFd) -> io::Result<File> {
    let start = Instant::now();
    let pause = PollTimeout::try_from(RETRY).unwrap_or(PollTimeout::ZERO);
    loop {
        if let Some(file) = open(path)? {
            return Ok(file);
        }
        if patience.is_some_and(|patience| start.elapsed() >= patience) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no process reads it"));
        }
        if poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], pause)? > 0 {
            // Read, so that it does not end the process when it is no longer blocked.
            signals.read_signal()?;
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "a signal came before a reader",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn fifo(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ubpf-tools-{name}-{}", std::process::id()));
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        path
    }

    #[test]
    fn fifo_without_a_reader_is_given_up_in_time() {
        let path = fifo("unread");
        let error = create(&path, Some(Duration::from_millis(30))).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn fifo_whose_reader_comes_later_gets_everything() {
        let path = fifo("read");
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut file = create(&path, None)?;
                let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
                assert!(!flags.contains(OFlag::O_NONBLOCK));
                file.write_all(b"rows")
            })
        };
        let mut rows = String::new();
        File::open(&path).unwrap().read_to_string(&mut rows).unwrap();
        writer.join().unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(rows, "rows");
    }
}
