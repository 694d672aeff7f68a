// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Signals that end a run, and SIGCHLD.
//!
//! A handler wakes the session through an eventfd. It is installed without SA_RESTART, so that it also
//! interrupts a write to a pipe whose reader is stuck: with a signalfd, the tool would block there and ignore
//! Ctrl-C.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signals that end a run.
pub const ENDING_SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The last signal that ended the run, and the number of such signals.
static LAST: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicU32 = AtomicU32::new(0);
static WAKE: OnceLock<EventFd> = OnceLock::new();

extern "C" fn on_end(signal: i32) {
    LAST.store(signal, Ordering::Relaxed);
    COUNT.fetch_add(1, Ordering::Relaxed);
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
    /// Installs handlers for SIGINT, SIGTERM, SIGHUP and SIGCHLD. SIGHUP stays ignored if it is, as under nohup(1).
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
        for signal in ENDING_SIGNALS {
            let before = install(signal, on_end)?;
            if signal == Signal::SIGHUP && matches!(before.handler(), SigHandler::SigIgn) {
                set_action(signal, &before)?;
            }
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

    /// The last signal that ended the run, if any.
    pub fn last() -> Option<Signal> {
        Signal::try_from(LAST.load(Ordering::Relaxed)).ok()
    }

    /// How many such signals have arrived.
    pub fn count() -> u32 {
        COUNT.load(Ordering::Relaxed)
    }

    /// Sleeps until a signal arrives, or has arrived since [`SignalHandlers::clear`].
    pub fn wait(&self) {
        // An error is EINTR: a signal has arrived.
        let _ = poll(
            &mut [PollFd::new(self.fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        );
    }

    /// What [`SignalHandlers::count`] reads.
    pub fn counter() -> &'static AtomicU32 {
        &COUNT
    }
}

fn install(signal: Signal, handler: extern "C" fn(i32)) -> Result<SigAction> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    set_action(signal, &action)
}

/// Returns the action before.
fn set_action(signal: Signal, action: &SigAction) -> Result<SigAction> {
    // SAFETY: the handlers of this file only store to atomics and call write(2), and the others were installed before.
    unsafe { sigaction(signal, action) }
        .map_err(io::Error::from)
        .context("failed to install a signal handler")
}
