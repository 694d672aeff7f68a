// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What the event loop sleeps on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::probe::mmap_events::MmapEvents;
use crate::probe::signals::SignalHandlers;

/// What wakes the loop.
pub struct Wakeups {
    epoll: Epoll,
    pub signals: SignalHandlers,
    /// Events were read since the last sleep.
    pub busy: bool,
}

/// The source of an epoll event.
pub const RING: u64 = 0;
pub const SIGNALS: u64 = 1;
pub const MMAP_EVENTS: u64 = 2;
pub const STDOUT: u64 = 3;
pub const WATCHER: u64 = 4;
pub const WRITTEN: u64 = 5;
pub const PROCESS: u64 = 6;

impl Wakeups {
    pub fn new(ring: BorrowedFd<'_>) -> Result<Self> {
        let wakeups = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            signals: SignalHandlers::install()?,
            busy: false,
        };
        // Edge-triggered: only the kernel's wakeup ends a rest, not records that can wait.
        wakeups.add(ring, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, RING)?;
        wakeups.add(wakeups.signals.fd(), EpollFlags::EPOLLIN, SIGNALS)?;
        // A pipe whose reader exits ends the run at once, not at the next row. Regular files cannot be watched.
        let _ = wakeups.add(io::stdout().as_fd(), EpollFlags::empty(), STDOUT);
        Ok(wakeups)
    }

    pub fn add_mmap_events(&self, events: &MmapEvents) -> Result<()> {
        self.add(events.fd(), EpollFlags::EPOLLIN, MMAP_EVENTS)
    }

    pub fn add_watcher(&self, notices: BorrowedFd<'_>) -> Result<()> {
        self.add(notices, EpollFlags::EPOLLIN, WATCHER)
    }

    /// A process, until its descriptor is closed.
    pub fn add_process(&self, pidfd: BorrowedFd<'_>) -> Result<()> {
        self.add(pidfd, EpollFlags::EPOLLIN, PROCESS)
    }

    pub fn add(&self, fd: BorrowedFd<'_>, flags: EpollFlags, meaning: u64) -> Result<()> {
        self.epoll.add(fd, EpollEvent::new(flags, meaning))?;
        Ok(())
    }

    /// Sleeps until something happens, at most until `timeout`. Returns what has happened.
    pub fn wait(&self, timeout: EpollTimeout) -> Result<impl Iterator<Item = u64> + use<>> {
        let mut ready = [EpollEvent::empty(); 8];
        let count = match self.epoll.wait(&mut ready, timeout) {
            Err(Errno::EINTR) => 0,
            other => other.context("failed to wait for events")?,
        };
        Ok(ready.into_iter().take(count).map(|event| event.data()))
    }
}
