// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Whether standard output was closed when the program started. The standard library opens /dev/null in its place
//! before `main`, so that everything printed would be lost without an error.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

static CLOSED: AtomicBool = AtomicBool::new(false);

// SAFETY: the C library calls the functions in this section before `main`, and this one needs nothing that is set up
// later.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = test;

extern "C" fn test() {
    // SAFETY: takes no pointers.
    let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } < 0;
    CLOSED.store(closed, Ordering::Relaxed);
}

/// # Errors
/// Standard output was closed when the program started.
pub fn require_stdout() -> io::Result<()> {
    match CLOSED.load(Ordering::Relaxed) {
        true => Err(Errno::EBADF.into()),
        false => Ok(()),
    }
}
