// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Finds the processes that match a filter, from `/proc`.
//!
//! The BPF programs apply the same filter to the thread that calls a function. Here, a process matches if any of its
//! threads does.

use std::fs;

use crate::find::host::cgroups::Cgroups;
use crate::find::host::proc::Proc;
use crate::probe::scope::filter::ProcessFilter;

/// Matches processes against a filter.
pub struct ProcessMatcher {
    filter: ProcessFilter,
    /// None when the filter names no control groups.
    cgroups: Option<Cgroups>,
}

impl ProcessMatcher {
    pub fn new(filter: ProcessFilter) -> Self {
        let cgroups = match filter.cgroups.is_empty() {
            true => None,
            false => Cgroups::open().ok(),
        };
        Self { filter, cgroups }
    }

    /// The processes that match now.
    pub fn processes(&self) -> Vec<u32> {
        let pids = match self.filter.pids.is_empty() {
            true => Proc::host().pids().unwrap_or_default(),
            false => self.filter.pids.clone(),
        };
        pids.into_iter().filter(|&pid| self.matches(pid)).collect()
    }

    /// True if any thread of the process matches. False for kernel threads, and for processes that have
    /// exited.
    pub fn matches(&self, pid: u32) -> bool {
        self.matches_renamed(pid, &[])
    }

    /// As [`ProcessMatcher::matches`], with names that override those of `/proc`: (TID, name) of threads that
    /// are about to be renamed. The last name of a thread counts.
    pub fn matches_renamed(&self, pid: u32, names: &[(u32, Vec<u8>)]) -> bool {
        let named = self.filter.pids.is_empty() || self.filter.pids.contains(&pid);
        // Kernel threads have no executable.
        if !named || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return false;
        }
        // The first thread is checked first, as its name is usually that of the program.
        let matches = |tid| self.thread_matches(pid, tid, names);
        matches(pid) || threads(pid).any(|tid| tid != pid && matches(tid))
    }

    fn thread_matches(&self, pid: u32, tid: u32, names: &[(u32, Vec<u8>)]) -> bool {
        let read = |entry| fs::read(format!("/proc/{pid}/task/{tid}/{entry}")).unwrap_or_default();
        let filter = &self.filter;
        if !filter.comms.is_empty() {
            let renamed = names.iter().rfind(|(of, _)| *of == tid);
            let comm = renamed.map_or_else(|| read("comm"), |(_, name)| name.clone());
            let name = comm.strip_suffix(b"\n").unwrap_or(&comm);
            if !filter.comms.iter().any(|pattern| pattern.matches(name)) {
                return false;
            }
        }
        if filter.uid.is_some() && real_uid(&read("status")) != filter.uid {
            return false;
        }
        filter.cgroups.is_empty() || self.is_in_cgroups(pid, tid)
    }

    fn is_in_cgroups(&self, pid: u32, tid: u32) -> bool {
        let directory = self
            .cgroups
            .as_ref()
            .and_then(|cgroups| cgroups.directory_of(pid, tid).ok()?);
        directory.is_some_and(|directory| {
            let mut wanted = self.filter.cgroups.iter();
            wanted.any(|cgroup| directory.starts_with(cgroup))
        })
    }
}

/// TIDs of a process; empty when it has exited.
fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let directory = fs::read_dir(format!("/proc/{pid}/task"));
    let entries = directory.into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The first UID of the line `Uid:`, which is what `bpf_get_current_uid_gid` returns.
fn real_uid(status: &[u8]) -> Option<u32> {
    let mut lines = status.split(|&byte| byte == b'\n');
    let numbers = lines.find_map(|line| line.strip_prefix(b"Uid:"))?;
    let first = std::str::from_utf8(numbers).ok()?.split_whitespace().next()?;
    first.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::scope::filter::CommPattern;

    fn matches(filter: ProcessFilter) -> bool {
        ProcessMatcher::new(filter).matches(std::process::id())
    }

    #[test]
    fn process_matches_when_one_of_its_threads_does() {
        let comms = vec![CommPattern::parse("odd-thread-name").expect("a pattern")];
        let filter = ProcessFilter {
            comms,
            ..ProcessFilter::default()
        };
        assert!(!matches(filter.clone()));
        let in_thread = std::thread::Builder::new().name("odd-thread-name".to_owned());
        let thread = in_thread.spawn(|| matches(filter)).expect("a thread");
        assert!(thread.join().expect("its answer"));
    }

    #[test]
    fn last_new_name_overrides_proc() {
        let filter = ProcessFilter {
            comms: vec![CommPattern::parse("new-name").expect("a pattern")],
            ..ProcessFilter::default()
        };
        let (matcher, own) = (ProcessMatcher::new(filter), std::process::id());
        let names =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| (own, name.as_bytes().to_vec())).collect() };
        assert!(matcher.matches_renamed(own, &names(&["other", "new-name"])));
        assert!(!matcher.matches_renamed(own, &names(&["new-name", "other"])));
    }

    #[test]
    fn all_conditions_must_hold() {
        let uid = nix::unistd::getuid().as_raw();
        let filter = |uid, pids| ProcessFilter {
            uid: Some(uid),
            pids,
            ..ProcessFilter::default()
        };
        let own = std::process::id();
        assert!(matches(filter(uid, vec![])) && matches(filter(uid, vec![own])));
        assert!(!matches(filter(uid + 1, vec![])) && !matches(filter(uid, vec![own + 1])));
    }

    #[test]
    fn real_uid_is_the_first_one() {
        assert_eq!(
            real_uid(b"Name:\t\xff\nUid:\t7\t8\t9\t10\nGid:\t1\t1\t1\t1\n"),
            Some(7)
        );
        assert_eq!(real_uid(b"Name:\tx\n"), None);
    }
}
