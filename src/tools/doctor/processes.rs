// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which other processes this one can inspect.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;

use super::check::Check;
use crate::find::host::mountinfo;
use crate::find::host::proc::Proc;
use crate::privileges;

/// Processes by whether their memory maps can be read. Kernel threads, which have none, are not counted.
#[derive(Default)]
pub struct ProcessAccess {
    readable: usize,
    denied: usize,
    /// Processes of other users among them.
    foreign_readable: usize,
    foreign_denied: usize,
}

impl ProcessAccess {
    pub fn test() -> Self {
        let own = geteuid().as_raw();
        let mut access = Self::default();
        for pid in Proc::host().pids().unwrap_or_default() {
            let is_foreign = fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() != own);
            let maps = File::open(format!("/proc/{pid}/maps")).and_then(|mut maps| maps.read(&mut [0]));
            match maps {
                Ok(0) => {}
                Ok(_) => {
                    access.readable += 1;
                    access.foreign_readable += usize::from(is_foreign);
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    access.denied += 1;
                    access.foreign_denied += usize::from(is_foreign);
                }
                Err(_) => {} // It has exited.
            }
        }
        access
    }

    /// Processes of other users can be inspected. A few may be inaccessible even to root.
    pub fn includes_other_users(&self) -> bool {
        self.foreign_readable > 0 || self.foreign_denied == 0
    }

    pub fn check(&self) -> Check {
        let name = "other processes";
        if !privileges::has_own_proc() {
            return Check::no(name, "/proc belongs to another PID namespace")
                .hint("mount it: `mount -t proc proc /proc`");
        }
        let mounts = mountinfo::read().unwrap_or_default();
        let hidden = mountinfo::hidepid(&mounts).map_or(String::new(), |option| {
            format!(", /proc is mounted with {option}")
        });
        let all = self.readable + self.denied;
        let detail = format!("{} of {all} can be inspected{hidden}", self.readable);
        match self.denied {
            0 => Check::ok(name, detail),
            _ => Check::limit(name, detail)
                .hint("CAP_SYS_PTRACE allows those of other users; a few are closed even to root"),
        }
    }
}

pub fn pid_namespace() -> Check {
    let name = "PID namespace";
    match privileges::pid_namespace() {
        None => Check::ok(name, "the initial one: PIDs are those of the host"),
        Some(_) => Check::limit(name, "not the initial one: PIDs outside of it are shown as 0")
            .hint("share the host's (hostPID, --pid=host) to see all processes"),
    }
}

pub fn mount_namespace() -> Check {
    let name = "mount namespace";
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
    match (namespace("self"), namespace("1")) {
        (Ok(own), Ok(first)) if own == first => Check::ok(name, "that of process 1"),
        (Ok(_), Ok(_)) => Check::limit(name, "not that of process 1: paths refer to the files seen here")
            .hint("name a process with -p, or use a path below /proc/PID/root"),
        (_, Err(error)) | (Err(error), _) => Check::limit(name, format!("unknown: {error}")),
    }
}
