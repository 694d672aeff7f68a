//! Signals that end a run, and those of a child.
//!
//! A handler wakes the loop through a descriptor. It is installed without SA_RESTART, so that it also ends a write to
//! a reader that does not read: a descriptor of signals (signalfd) would leave the tool stuck there, deaf to Ctrl-C.

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
    // write(2) is async-signal-safe; that the counter is full would mean that the loop is awake anyhow.
    if let Some(wake) = WAKE.get() {
        let _ = wake.write(1);
    }
}

/// Signals taken by this process from now on.
pub struct Signals(&'static EventFd);

impl Signals {
    /// Takes SIGINT, SIGTERM and SIGHUP, and is woken by SIGCHLD.
    pub fn take() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = match WAKE.get() {
            Some(wake) => wake,
            None => {
                let new = EventFd::from_flags(flags).context("failed to take signals")?;
                WAKE.get_or_init(|| new)
            }
        };
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            install(signal, on_end)?;
        }
        install(Signal::SIGCHLD, on_child)?;
        Ok(Self(wake))
    }

    /// Ready when a signal has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Notes that the loop is awake.
    pub fn clear(&self) {
        let _ = self.0.read();
    }

    /// Has a signal asked for the end?
    pub fn ending() -> &'static AtomicBool {
        &ENDING
    }
}

fn install(signal: Signal, handler: extern "C" fn(i32)) -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers only store to an atomic and call write(2).
    unsafe { sigaction(signal, &action) }
        .map_err(io::Error::from)
        .context("failed to take signals")?;
    Ok(())
}
