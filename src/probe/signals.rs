// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Signals that end a run, and SIGCHLD.
//!
//! A handler wakes the session through an eventfd. It is installed without SA_RESTART, so that it also
//! interrupts a write to a pipe whose reader is stuck: with a signalfd, the tool would block there and ignore
//! Ctrl-C.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static ENDING: AtomicBool = AtomicBool::new(false);
static WAKE: OnceLock<EventFd> = OnceLock::new();

extern "C" fn on_end(_: i32) {
    ENDING.store(true, Ordering::Relaxed);
    on_child(0);
}

extern "C" fn on_child(_: i32) {
    // write(2) is async-signal-safe. If the counter is full, the session has been woken already.
    if let Some(wake) = WAKE.get() {
        let _ = wake.write(1);
    }
}

/// The signal handlers of this process.
pub struct SignalHandlers(&'static EventFd);

impl SignalHandlers {
    /// Installs handlers for SIGINT, SIGTERM, SIGHUP and SIGCHLD.
    ///
    /// # Errors
    /// The eventfd cannot be created, or a handler cannot be installed.
    pub fn install() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = match WAKE.get() {
            Some(wake) => wake,
            None => {
                let new = EventFd::from_flags(flags).context("failed to create an eventfd")?;
                WAKE.get_or_init(|| new)
            }
        };
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            install(signal, on_end)?;
        }
        install(Signal::SIGCHLD, on_child)?;
        Ok(Self(wake))
    }

    /// Readable after a signal.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes the descriptor unreadable until the next signal.
    pub fn clear(&self) {
        let _ = self.0.read();
    }

    /// Set by SIGINT, SIGTERM and SIGHUP.
    pub fn ending() -> &'static AtomicBool {
        &ENDING
    }
}

fn install(signal: Signal, handler: extern "C" fn(i32)) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers only store to an atomic and call write(2).
    unsafe { sigaction(signal, &action) }
        .map_err(io::Error::from)
        .context("failed to install a signal handler")?;
    Ok(())
}
