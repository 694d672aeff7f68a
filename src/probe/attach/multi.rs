// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Multi-uprobe and session links: one link for many points of a file.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{Error, Result};

use super::bpf_sys::{MultiLinkKind, MultiLinkPoints, create_multi_link};
use super::target::{AttachTarget, ProbeKind, RefusedPoints, is_specific_to_point};
use crate::find::code::instructions::{BEGINNING, may_be_rejected};
use crate::probe::point::ProbePoint;

/// Attaches a program to points of a file and adds the links to `links`.
///
/// Points that the kernel may refuse get a link each, all others share one: a refused point fails its whole
/// link, and bisecting thousands of points takes the kernel half a minute.
pub fn attach(
    program: BorrowedFd<'_>,
    to: AttachTarget<'_>,
    mut points: Vec<ProbePoint>,
    links: &mut Vec<OwnedFd>,
    refused: &mut RefusedPoints,
) -> Result<()> {
    for point in points.extract_if(.., |point| is_refusal_possible(to.file, point)) {
        bisect(program, to, &[point], links, refused)?;
    }
    bisect(program, to, &points, links, refused)
}

/// True if the kernel may refuse to probe the instruction at this point.
pub fn is_refusal_possible(file: &File, point: &ProbePoint) -> bool {
    let mut beginning = [0; BEGINNING];
    let read = file.read_at(&mut beginning, point.offset).unwrap_or(0);
    may_be_rejected(beginning.get(..read).unwrap_or_default())
}

/// Attaches all points with one link, or bisects them if the kernel refuses one.
pub fn bisect(
    program: BorrowedFd<'_>,
    to: AttachTarget<'_>,
    points: &[ProbePoint],
    links: &mut Vec<OwnedFd>,
    refused: &mut RefusedPoints,
) -> Result<()> {
    if points.is_empty() {
        return Ok(());
    }
    match link(program, to, points) {
        Ok(link) => links.push(link),
        Err(error) if !is_specific_to_point(&error) => {
            return Err(Error::new(error).context("failed to attach"));
        }
        Err(error) => match points {
            [point] => refused.add(point, error),
            _ => {
                let (left, right) = points.split_at(points.len() / 2);
                bisect(program, to, left, links, refused)?;
                bisect(program, to, right, links, refused)?;
            }
        },
    }
    Ok(())
}

/// One link for all points.
pub fn link(program: BorrowedFd<'_>, to: AttachTarget<'_>, points: &[ProbePoint]) -> io::Result<OwnedFd> {
    let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
    let cookies: Vec<u64> = points.iter().map(|point| point.cookie.bits()).collect();
    let has_semaphores = points.iter().any(|point| point.semaphore.is_some());
    let semaphores: Option<Vec<u64>> =
        has_semaphores.then(|| points.iter().map(|point| point.semaphore.unwrap_or(0)).collect());
    let points = MultiLinkPoints {
        path: to.path,
        offsets: &offsets,
        cookies: &cookies,
        semaphores: semaphores.as_deref(),
        kind: match to.kind {
            ProbeKind::Probe => MultiLinkKind::Entry,
            ProbeKind::ReturnProbe => MultiLinkKind::Return,
            ProbeKind::Session => MultiLinkKind::Session,
        },
        pid: to.pid.unwrap_or(0),
    };
    create_multi_link(program, &points)
}
