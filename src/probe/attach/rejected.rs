// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Points that the kernel rejects. It looks at an instruction only while a process that is to be probed maps it: in a
//! process that maps it later, the probe is missing in silence. So this process maps the file, which it never executes.

use std::ffi::{CStr, c_void};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use anyhow::Result;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::bpf_sys::{MultiLinkKind, UprobeEvent, enable_event, open_uprobe_event};
use super::features::{empty_multi_program, uprobe_pmu_type};
use super::multi::{self, is_refusal_possible};
use super::target::{AttachTarget, ProbeKind, RefusedPoints, is_rejection};
use crate::probe::links::{ProbeLink, ProbedFileKey, close_all};
use crate::probe::point::ProbePoint;
use crate::probe::ring::page_size;

/// Most links for this purpose, and one more. The kernel takes 0.04 s or more to remove each, several at a time.
const MOST_LINKS: usize = 256;
/// Most perf events. The kernel takes 0.1 s to remove each.
const MOST_EVENTS: usize = 8;

/// Those of the points that the kernel rejects. Tries only those that it may reject, and of these no more than would
/// take a second to remove; [`RefusedPoints::untried`] counts the others.
///
/// # Errors
/// The kernel allows no probes at all.
pub fn find_rejected(
    has_multi_links: bool,
    file: &File,
    path: &CStr,
    points: &[ProbePoint],
) -> Result<RefusedPoints> {
    let mut refused = RefusedPoints::default();
    let mut doubtful: Vec<ProbePoint> = points
        .iter()
        .filter(|point| is_refusal_possible(file, point))
        .cloned()
        .collect();
    let Some(_mapping) = TrialMapping::of(file, &doubtful) else {
        return Ok(refused);
    };
    for point in &mut doubtful {
        point.semaphore = None;
    }
    let to = AttachTarget {
        file,
        path,
        kind: ProbeKind::Probe,
        pid: Some(std::process::id()),
    };
    match has_multi_links {
        true => try_links(to, &doubtful, &mut refused)?,
        false => try_events(to, &doubtful, &mut refused)?,
    }
    Ok(refused)
}

fn try_links(to: AttachTarget<'_>, doubtful: &[ProbePoint], refused: &mut RefusedPoints) -> Result<()> {
    let program = empty_multi_program(MultiLinkKind::Entry)?;
    if multi::link(program.as_fd(), to, doubtful).is_ok() {
        return Ok(());
    }
    let (points, others) = doubtful.split_at(doubtful.len().min(MOST_LINKS));
    let mut links = Vec::new();
    for point in points {
        multi::bisect(
            program.as_fd(),
            to,
            std::slice::from_ref(point),
            &mut links,
            refused,
        )?;
    }
    match multi::link(program.as_fd(), to, others) {
        Ok(link) => links.push(link),
        Err(_) => refused.untried += others.len(),
    }
    let links = links
        .into_iter()
        .map(|link| ProbeLink::new(ProbedFileKey(0), link));
    close_all(links.collect());
    Ok(())
}

fn try_events(to: AttachTarget<'_>, doubtful: &[ProbePoint], refused: &mut RefusedPoints) -> Result<()> {
    let (points, others) = doubtful.split_at(doubtful.len().min(MOST_EVENTS));
    refused.untried += others.len();
    for point in points {
        let event = open_uprobe_event(&UprobeEvent {
            pmu_type: uprobe_pmu_type()?,
            path: to.path,
            offset: point.offset,
            semaphore: 0,
            return_probe: false,
            pid: to.pid,
        });
        match event.and_then(|event| enable_event(event.as_fd())) {
            Err(error) if is_rejection(&error) => refused.add(point, error),
            _ => {}
        }
    }
    Ok(())
}

/// A mapping in which the kernel tries to place probes.
struct TrialMapping {
    start: NonNull<c_void>,
    bytes: usize,
}

impl TrialMapping {
    /// Maps all pages from the first to the last of the points. None if there are no points, or they cannot be mapped.
    fn of(file: &File, points: &[ProbePoint]) -> Option<TrialMapping> {
        let page = page_size() as u64;
        let offsets = || points.iter().map(|point| point.offset);
        let first = offsets().min()? / page * page;
        let end = (offsets().max()? / page).checked_add(1)?.checked_mul(page)?;
        let bytes = NonZeroUsize::new(usize::try_from(end - first).ok()?)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
        let offset = i64::try_from(first).ok()?;
        // SAFETY: a new mapping, which nothing reads.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_PRIVATE, file, offset) }.ok()?;
        Some(TrialMapping {
            start,
            bytes: bytes.get(),
        })
    }
}

impl Drop for TrialMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is of this length, and nothing refers to it.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}
