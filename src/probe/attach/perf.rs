// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Perf events: one per point, with a link or, where the kernel has no cookies, with a copy of the program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Error, Result};

use super::bpf_sys::{UprobeEvent, create_perf_link, enable_event, open_uprobe_event, set_event_program};
use super::features::uprobe_pmu_type;
use super::program::HeldProgram;
use super::target::{AttachTarget, ProbeKind, RefusedPoints, is_specific_to_point};
use crate::error::Failure;
use crate::privileges;
use crate::probe::point::{Cookie, ProbePoint};

/// How long the kernel takes to remove a perf event with a probe. It removes one at a time, whatever number of threads
/// closes them.
pub const REMOVAL: Duration = Duration::from_millis(100);

/// Most perf events of a run. To remove them takes the kernel half a minute, during which they slow programs down and
/// which nothing can interrupt.
const MAX_EVENTS: usize = 256;

/// Attaches a program to each of the points and adds the links to `links`.
pub fn attach(
    program: &mut HeldProgram,
    to: AttachTarget<'_>,
    points: &[ProbePoint],
    links: &mut Vec<OwnedFd>,
    refused: &mut RefusedPoints,
) -> Result<()> {
    for point in points {
        match open(to, point).and_then(|event| bind(program, event, point.cookie)) {
            Ok(link) => links.push(link),
            Err(error) if is_specific_to_point(&error) => refused.add(point, error),
            Err(error) => return Err(Error::new(error).context("failed to attach")),
        }
    }
    Ok(())
}

/// Opens a disabled perf event at an instruction of a file.
fn open(to: AttachTarget<'_>, point: &ProbePoint) -> io::Result<OwnedFd> {
    open_uprobe_event(&UprobeEvent {
        pmu_type: uprobe_pmu_type().map_err(io::Error::other)?,
        path: to.path,
        offset: point.offset,
        semaphore: u32::try_from(point.semaphore.unwrap_or(0)).map_err(io::Error::other)?,
        return_probe: to.kind == ProbeKind::ReturnProbe,
        pid: to.pid,
    })
}

/// Makes a perf event run the program. The probe lives as long as the returned descriptor.
fn bind(program: &mut HeldProgram, event: OwnedFd, cookie: Cookie) -> io::Result<OwnedFd> {
    if program.needs_copies() {
        set_event_program(event.as_fd(), program.copy_for(cookie)?)?;
        enable_event(event.as_fd())?;
        return Ok(event);
    }
    let link = create_perf_link(program.as_fd(), event.as_fd(), cookie.bits())?;
    enable_event(event.as_fd())?;
    Ok(link)
}

/// Checks that a run may have so many probes.
pub fn require_few(probes: usize) -> Result<()> {
    if probes <= MAX_EVENTS {
        return Ok(());
    }
    let removal = REMOVAL * probes as u32;
    let message = format!(
        "{probes} probes exceed the limit of {MAX_EVENTS}: without multi-uprobe links (since 6.10), the kernel would take \
         {} s to remove them at the end",
        removal.as_secs()
    );
    let hint = "name fewer functions; a function with both ends takes two probes or more";
    Err(Failure::failed(message).hint(hint).into())
}

/// Checks that `probes` more probes fit into the limit of descriptors. Each takes one, and a second one for
/// its copy of the program where the kernel has no cookies.
pub fn require_files(probes: usize, copies: bool, open_files: usize) -> Result<()> {
    const OTHERS: usize = 64;
    let per_probe = if copies { 2 } else { 1 };
    let room = privileges::file_limit().saturating_sub(OTHERS + open_files);
    if probes * per_probe <= room {
        return Ok(());
    }
    Err(Failure::failed(format!(
            "{probes} probes exceed the limit of open files: without multi-uprobe links (since 6.10) each takes a \
             file descriptor, and {room} are available"
        ),
    )
    .hint("trace fewer functions, or raise the limit with `ulimit -n`")
    .into())
}
