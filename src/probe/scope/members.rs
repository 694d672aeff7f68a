// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Members: processes with links of their own, so that no other process is slowed down.
//!
//! Keeps the points of each file, so that links can be made for processes that start to match later, and for
//! files that are mapped later.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;

use crate::probe::links::{LinkCloser, ProbeLink, ProbedFileKey};
use crate::probe::point::ProbePoint;

/// A file, and the points in it that every member gets.
pub struct FilePoints {
    pub key: ProbedFileKey,
    pub file: File,
    pub points: Vec<ProbePoint>,
}

/// The members and their links.
#[derive(Default)]
pub struct Members {
    pub files: Vec<FilePoints>,
    /// Functions of which the kernel refused points, by index.
    pub refused: BTreeSet<u32>,
    links: HashMap<u32, MemberLinks>,
    closer: LinkCloser,
}

struct MemberLinks {
    links: Vec<ProbeLink>,
    /// When attaching began, CLOCK_MONOTONIC nanoseconds.
    since_ns: u64,
}

impl Members {
    /// The PIDs of all members, in no order.
    pub fn pids(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }

    /// Whether the process is a member.
    pub fn contains(&self, pid: u32) -> bool {
        self.links.contains_key(&pid)
    }

    /// True if the process was a member before this time, CLOCK_MONOTONIC nanoseconds.
    pub fn joined_before(&self, pid: u32, time_ns: u64) -> bool {
        self.links.get(&pid).is_some_and(|links| links.since_ns < time_ns)
    }

    /// Links of all members.
    pub fn count_links(&self) -> usize {
        self.links.values().map(|of_member| of_member.links.len()).sum()
    }

    /// Adds links to a process, and makes it a member if it is not one. `since_ns`: when attaching began,
    /// CLOCK_MONOTONIC nanoseconds.
    pub fn add(&mut self, pid: u32, links: Vec<ProbeLink>, since_ns: u64) {
        let of_member = self.links.entry(pid).or_insert(MemberLinks {
            links: Vec::new(),
            since_ns,
        });
        of_member.links.extend(links);
    }

    /// Removes a member. Its links are closed in the background.
    pub fn remove(&mut self, pid: u32) {
        if let Some(of_member) = self.links.remove(&pid) {
            self.closer.close(pid, of_member.links);
        }
    }

    /// Waits until the former links of the process are closed: beside new ones, they would count its calls
    /// twice.
    pub fn wait_removed(&self, pid: u32) {
        self.closer.wait(pid);
    }

    /// All links, for the caller to close. Returns when links that were being closed already are closed.
    pub fn take_links(&mut self) -> Vec<ProbeLink> {
        self.closer.finish();
        self.links
            .drain()
            .flat_map(|(_, of_member)| of_member.links)
            .collect()
    }

    /// Forgets a file, and returns its links for the caller to close. Before that, links that were being closed already
    /// are closed.
    pub fn take_file(&mut self, key: ProbedFileKey) -> Vec<ProbeLink> {
        self.closer.finish();
        self.files.retain(|of_file| of_file.key != key);
        self.links
            .values_mut()
            .flat_map(|of_member| of_member.links.extract_if(.., |link| link.file == key))
            .collect()
    }
}
