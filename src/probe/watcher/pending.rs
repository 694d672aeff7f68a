// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Reports of the kernel, and what follows from all reports of one process.

use crate::bpf::watcher::types::process_change;
use crate::probe::event::{Header, decode};

/// A change of a process: the C `enum process_change`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessChange {
    Matches,
    New,
    Unknown,
    Renamed,
    Gone,
}

impl ProcessChange {
    fn from_kind(kind: u16) -> Option<Self> {
        match process_change(kind.into()) {
            process_change::CHANGE_MATCHES => Some(ProcessChange::Matches),
            process_change::CHANGE_NEW => Some(ProcessChange::New),
            process_change::CHANGE_UNKNOWN => Some(ProcessChange::Unknown),
            process_change::CHANGE_RENAMED => Some(ProcessChange::Renamed),
            process_change::CHANGE_GONE => Some(ProcessChange::Gone),
            _ => None,
        }
    }
}

/// Reads a record of the ring. None if it is malformed.
pub fn parse_report(record: &[u8]) -> Option<(&Header, ProcessChange)> {
    let header = decode::<Header>(record)?;
    Some((header, ProcessChange::from_kind(header.kind)?))
}

/// The changes of one process that the thread has not handled yet. Times are CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PendingChange {
    /// Probes that were attached before this time belong to an earlier program or process.
    pub replaced_ns: u64,
    /// Whether the process should have probes. None: it has to be looked up in /proc.
    pub wanted: Option<bool>,
    /// When it started to match.
    pub since_ns: u64,
    /// The process is stopped until it has its probes.
    pub held: bool,
    pub comm: Vec<u8>,
    /// TIDs and their new names.
    pub renamed: Vec<(u32, Vec<u8>)>,
    /// The process matched at some time, whatever came later.
    pub matched: bool,
}

impl PendingChange {
    /// A change that a look at /proc has found.
    pub fn found(wanted: bool, now_ns: u64) -> Self {
        Self {
            wanted: Some(wanted),
            since_ns: now_ns,
            ..Self::default()
        }
    }

    /// Adds a report. The last one decides; `since_ns` stays that of the first match.
    pub fn add(&mut self, change: ProcessChange, header: &Header) {
        let starts = self.wanted != Some(true);
        match change {
            ProcessChange::Matches | ProcessChange::New => self.wanted = Some(true),
            ProcessChange::Unknown => self.wanted = None,
            ProcessChange::Renamed => {
                self.wanted = None;
                self.renamed.push((header.tid, header.comm().to_vec()));
            }
            ProcessChange::Gone => self.wanted = Some(false),
        }
        if matches!(change, ProcessChange::New | ProcessChange::Gone) {
            self.replaced_ns = header.time_ns;
        }
        if starts || change == ProcessChange::New {
            self.since_ns = header.time_ns;
        }
        self.matched |= self.wanted == Some(true);
        self.held |= header.func != 0;
        self.comm = header.comm().to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(changes: &[(ProcessChange, u64)]) -> PendingChange {
        let mut pending = PendingChange::default();
        for &(change, time_ns) in changes {
            let header = Header {
                time_ns,
                ..Header::default()
            };
            pending.add(change, &header);
        }
        pending
    }

    #[test]
    fn last_change_decides_and_first_match_sets_the_time() {
        use ProcessChange::{Gone, Matches, Unknown};
        let found = pending(&[(Matches, 7), (Matches, 9)]);
        assert_eq!(
            (found.wanted, found.since_ns, found.replaced_ns),
            (Some(true), 7, 0)
        );
        let found = pending(&[(Matches, 7), (Gone, 8)]);
        assert_eq!(
            (found.wanted, found.matched, found.replaced_ns),
            (Some(false), true, 8)
        );
        assert_eq!(pending(&[(Matches, 7), (Unknown, 8)]).wanted, None);
    }

    #[test]
    fn reused_pid_is_a_new_process() {
        use ProcessChange::{Gone, New};
        let found = pending(&[(New, 5), (Gone, 6), (New, 8)]);
        assert_eq!(
            (found.wanted, found.since_ns, found.replaced_ns),
            (Some(true), 8, 8)
        );
    }
}
