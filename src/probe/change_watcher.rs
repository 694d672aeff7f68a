// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Removes the probes of files that are about to be written.
//!
//! A thread of its own, as writers wait for it: the session can be blocked by the reader of its output.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::probe::attach::write_watch;
use crate::probe::links::close_all;
use crate::probe::watcher::shared_attacher::SharedAttacher;

/// Watches the files of an attacher as long as it lives.
pub struct ChangeWatcher {
    written: Receiver<PathBuf>,
    /// Readable when files were written.
    notified: Arc<EventFd>,
    /// Written to end the thread.
    end: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl ChangeWatcher {
    /// Starts the thread. Privileges must be dropped before, as each thread has its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(attacher: &SharedAttacher) -> Result<Self> {
        let event_fd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let (notified, end) = (Arc::new(event_fd()?), Arc::new(event_fd()?));
        let wakeup = write_watch::wakeup()?;
        let (send, written) = channel();
        let thread = {
            let (attacher, notified, end) = (attacher.clone(), Arc::clone(&notified), Arc::clone(&end));
            Builder::new().spawn(move || {
                while wait(wakeup, &end) {
                    while let Some(path) = detach_written(&attacher) {
                        let _ = send.send(path).map(|()| notified.write(1));
                    }
                }
            })
        };
        Ok(Self {
            written,
            notified,
            end,
            thread: Some(thread.context("failed to spawn a thread")?),
        })
    }

    /// Readable when files were written.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.notified.as_fd()
    }

    /// The files that were written since the last call. They have no probes any more.
    pub fn take_written(&self) -> Vec<PathBuf> {
        let _ = self.notified.read();
        self.written.try_iter().collect()
    }
}

impl Drop for ChangeWatcher {
    fn drop(&mut self) {
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until files may have been written. False at the end.
fn wait(wakeup: &EventFd, end: &EventFd) -> bool {
    let mut ready = [
        PollFd::new(wakeup.as_fd(), PollFlags::POLLIN),
        PollFd::new(end.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut ready, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(_) => return false,
    }
    // Before the files are looked at, so that no change is missed.
    let _ = wakeup.read();
    ready[1].any() != Some(true)
}

/// Removes the probes of a file that was written, if there is one, and lets its writer go on.
fn detach_written(attacher: &SharedAttacher) -> Option<PathBuf> {
    let (file, links) = attacher.lock().take_written()?;
    close_all(links);
    Some(file.into_path())
}
