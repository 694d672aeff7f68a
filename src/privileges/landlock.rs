// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Landlock (since Linux 5.13): this thread and its future children can no longer write to files, whoever owns them.
//! Files that are open already can be written.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::null;

/// `struct landlock_ruleset_attr`.
#[repr(C)]
#[derive(Default)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// The first version that knows each of these rights, from linux/landlock.h. A kernel rejects what it does not know.
const FS_RIGHTS: [(i64, u64); 4] = [
    // Execute, write, and remove and make each kind of file: all but read_file (2) and read_dir (3).
    (1, 0x1fff & !(1 << 2) & !(1 << 3)),
    (2, 1 << 13), // refer: move to another folder
    (3, 1 << 14), // truncate
    (5, 1 << 15), // ioctl_dev
];
const NET_RIGHTS: (i64, u64) = (4, 0b11); // bind_tcp, connect_tcp
const SCOPES: (i64, u64) = (6, 0b11); // abstract_unix_socket, signal

/// Also denies execution, TCP, and signals to other processes, and with them access to /proc/PID of other processes:
/// only for runs that inspect none. Returns whether the kernel has Landlock.
///
/// # Errors
/// The kernel has it and refuses.
pub fn deny_all_but_reading() -> io::Result<bool> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag, the kernel reads no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            null::<RulesetAttr>(),
            0,
            VERSION,
        )
    };
    if version < 1 {
        return Ok(false); // not built in, or disabled at boot
    }
    let known = |(since, rights): (i64, u64)| if version >= since { rights } else { 0 };
    let attr = RulesetAttr {
        handled_access_fs: FS_RIGHTS.into_iter().map(known).fold(0, |all, right| all | right),
        handled_access_net: known(NET_RIGHTS),
        scoped: known(SCOPES),
    };
    // Older kernels accept a longer structure whose unknown members are zero.
    // SAFETY: the kernel reads `attr`, of the size that is passed.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of_val(&attr),
            0,
        )
    };
    if ruleset < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nothing else owns.
    let _owned = unsafe { OwnedFd::from_raw_fd(ruleset as RawFd) };
    // SAFETY: takes no pointers.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) } {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}
