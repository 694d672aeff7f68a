// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where the points of one file go, and which of them the kernel refuses.

use std::collections::{BTreeSet, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io;

use crate::probe::point::ProbePoint;

/// A file to probe, and how.
#[derive(Clone, Copy)]
pub struct AttachTarget<'a> {
    pub file: &'a File,
    /// A path to the same file.
    pub path: &'a CStr,
    pub kind: ProbeKind,
    /// The process that gets breakpoints. None for all.
    pub pid: Option<u32>,
}

/// What is placed at the points.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    Probe,
    ReturnProbe,
    /// A probe and a return probe for one program.
    Session,
}

/// Points that the kernel refuses.
#[derive(Default)]
pub struct RefusedPoints {
    offsets: HashSet<u64>,
    /// Their functions, by index.
    pub functions: BTreeSet<u32>,
    pub first_error: Option<io::Error>,
    /// Points that the kernel may refuse, which were not tried.
    pub untried: usize,
}

impl RefusedPoints {
    /// Adds a point, with the error that refused it.
    pub fn add(&mut self, point: &ProbePoint, error: io::Error) {
        self.offsets.insert(point.offset);
        if !point.cookie.is_jumped() {
            self.functions.insert(point.cookie.function());
        }
        self.first_error.get_or_insert(error);
    }

    /// Whether the kernel refused the point.
    pub fn contains(&self, point: &ProbePoint) -> bool {
        self.offsets.contains(&point.offset)
    }
}

/// True if the kernel cannot step over the instruction: ENOTSUPP, which has no name in user space, or EINVAL on arm64.
pub fn is_rejection(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL))
}

/// True if the error may be specific to a point, so that others may succeed. Other errors would return with
/// each of them.
pub fn is_specific_to_point(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ESRCH) | None
    )
}
