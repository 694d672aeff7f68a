// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Notices that a probed file is about to be written.
//!
//! The kernel keeps the first instruction that it has read for a probe and runs it in every process that maps the file
//! later, whatever the file then contains there. So probes must be gone before the content changes.
//!
//! A lease does that: the kernel makes whoever opens the file for writing, or truncates it, wait until the lease is
//! released. It sends SIGIO and waits up to 45 s (/proc/sys/fs/lease-break-time). The lease ends with this process,
//! whatever kills it. An opener with O_NONBLOCK gets EWOULDBLOCK meanwhile. Where no lease is to be had, as on some
//! network file systems or if the file is open for writing already, inotify reports the change when it has happened.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::find::host::object_file::open_regular;

/// Readable once a watched file may have been written.
static WAKE: OnceLock<EventFd> = OnceLock::new();

extern "C" fn on_io(_: i32) {
    // write(2) is async-signal-safe. If the counter is full, the thread is about to read it.
    if let Some(wake) = WAKE.get() {
        let _ = wake.write(1);
    }
}

/// Readable once a watched file may have been written. Also installs the handler of SIGIO.
///
/// # Errors
/// The eventfd cannot be created, or the handler cannot be installed.
pub fn wakeup() -> Result<&'static EventFd> {
    if let Some(wake) = WAKE.get() {
        return Ok(wake);
    }
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let new = EventFd::from_flags(flags).context("failed to create an eventfd")?;
    let wake = WAKE.get_or_init(|| new);
    let action = SigAction::new(SigHandler::Handler(on_io), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler is async-signal-safe.
    unsafe { sigaction(Signal::SIGIO, &action) }.context("failed to install a signal handler")?;
    Ok(wake)
}

/// Watches one file as long as it lives.
pub enum WriteWatch {
    /// The lease belongs to this open file and ends when it is closed. Writers wait until then.
    Lease(File),
    /// Has events once the file was written.
    Events(ModifyEvents),
}

/// inotify events of a file.
pub struct ModifyEvents {
    inotify: Inotify,
    file: File,
    /// Bytes of the file at the start.
    len: u64,
}

impl WriteWatch {
    /// # Errors
    /// The file can neither be leased nor watched.
    pub fn start(file: &File) -> Result<WriteWatch> {
        wakeup()?;
        lease(file)
            .map(WriteWatch::Lease)
            .or_else(|_| ModifyEvents::start(file).map(WriteWatch::Events))
            .context("failed to watch for changes")
    }

    /// Whether the file was written, or a process waits to write it.
    pub fn is_written(&self) -> bool {
        match self {
            // SAFETY: takes no pointers.
            WriteWatch::Lease(file) => unsafe {
                libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) != libc::F_RDLCK
            },
            WriteWatch::Events(events) => events.is_due(),
        }
    }
}

impl ModifyEvents {
    fn start(file: &File) -> io::Result<ModifyEvents> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // Events raise SIGIO.
        let flags = OFlag::O_ASYNC | OFlag::O_NONBLOCK;
        fcntl(inotify.as_fd(), FcntlArg::F_SETFL(flags))?;
        // SAFETY: takes no pointers.
        Errno::result(unsafe { libc::fcntl(inotify.as_fd().as_raw_fd(), libc::F_SETOWN, libc::getpid()) })?;
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(own_path(file.as_fd()).as_str(), events)?;
        Ok(ModifyEvents {
            inotify,
            file: file.try_clone()?,
            len: file.metadata()?.len(),
        })
    }

    /// Whether the file was written, and is complete enough for its probes to be removed. While it is truncated, the
    /// kernel fails to remove probes from processes that map it, and keeps their instructions for later tracers.
    fn is_due(&self) -> bool {
        match self.inotify.read_events() {
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => true,
            Ok(events) => {
                let is_closed = events
                    .iter()
                    .any(|event| event.mask.contains(AddWatchFlags::IN_CLOSE_WRITE));
                is_closed || self.file.metadata().is_ok_and(|meta| meta.len() >= self.len)
            }
        }
    }
}

/// Takes a read lease, on a new open file: others can share the description of `file`, and the lease would last until
/// all have closed it. Without CAP_LEASE, only closing ends a lease after privileges are dropped.
fn lease(file: &File) -> io::Result<File> {
    let own = open_regular(own_path(file.as_fd()).as_ref())?;
    // SAFETY: takes no pointers.
    match unsafe { libc::fcntl(own.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        0 => Ok(own),
        _ => Err(io::Error::last_os_error()),
    }
}

fn own_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    /// A file that is removed at the end of the test.
    struct TestFile(PathBuf);

    impl TestFile {
        fn new(name: &str) -> TestFile {
            let path = std::env::temp_dir().join(format!("write-watch-{name}-{}", std::process::id()));
            fs::write(&path, "old").expect("a new file");
            TestFile(path)
        }

        fn open(&self) -> File {
            File::open(&self.0).expect("an open file")
        }
    }

    impl Drop for TestFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn writer_waits_until_the_lease_ends() {
        let path = TestFile::new("lease");
        let watch = WriteWatch::start(&path.open()).expect("a watch");
        assert!(matches!(watch, WriteWatch::Lease(_)) && !watch.is_written());
        thread::scope(|scope| {
            let writer = scope.spawn(|| fs::write(&path.0, "new content").expect("a written file"));
            while !watch.is_written() {
                thread::yield_now();
            }
            assert_eq!(fs::read(&path.0).expect("the old content"), b"old");
            drop(watch);
            writer.join().expect("no panic");
        });
        assert_eq!(fs::read(&path.0).expect("the new content"), b"new content");
    }

    #[test]
    fn file_that_is_open_for_writing_is_watched_without_lease() {
        let path = TestFile::new("open");
        let mut writer = OpenOptions::new()
            .append(true)
            .open(&path.0)
            .expect("an open file");
        let watch = WriteWatch::start(&path.open()).expect("a watch");
        assert!(matches!(watch, WriteWatch::Events(_)) && !watch.is_written());
        writer.set_len(0).expect("an empty file");
        assert!(!watch.is_written());
        writer.write_all(b"new").expect("a written file");
        assert!(watch.is_written());
    }
}
