//! Which processes match a filter now: what src/bpf/filter.bpf.h decides for a thread that makes a call, decided for all
//! threads of a process by what `/proc` says of them.

use std::fs;

use crate::find::host::cgroups::Cgroups;
use crate::find::host::proc::Proc;
use crate::probe::scope::filter::Filter;

/// A filter, and where to look.
pub struct Matching {
    filter: Filter,
    /// None where the filter is not about control groups.
    cgroups: Option<Cgroups>,
}

impl Matching {
    pub fn new(filter: Filter) -> Self {
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

    /// Does any thread of this process match? False as well for one that is gone, and for those of the kernel.
    pub fn matches(&self, pid: u32) -> bool {
        self.matches_renamed(pid, &[])
    }

    /// The same when threads have, or will have in a moment, these names; the last one of a thread counts.
    pub fn matches_renamed(&self, pid: u32, names: &[(u32, Vec<u8>)]) -> bool {
        let named = self.filter.pids.is_empty() || self.filter.pids.contains(&pid);
        // Threads of the kernel run no program.
        if !named || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return false;
        }
        // The first thread first: it is the one that most often has the name of its program.
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
        let folder = self
            .cgroups
            .as_ref()
            .and_then(|cgroups| cgroups.directory_of(pid, tid).ok()?);
        folder.is_some_and(|folder| self.filter.cgroups.iter().any(|group| folder.starts_with(group)))
    }
}

/// The threads of a process; none when it is gone.
fn threads(pid: u32) -> impl Iterator<Item = u32> {
    let folder = fs::read_dir(format!("/proc/{pid}/task"));
    let entries = folder.into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The first number of the line `Uid:`, which is what BPF is told.
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

    fn matches(filter: Filter) -> bool {
        Matching::new(filter).matches(std::process::id())
    }

    #[test]
    fn a_process_matches_when_one_of_its_threads_does() {
        let comms = vec![CommPattern::parse("odd-thread-name").expect("a pattern")];
        let filter = Filter {
            comms,
            ..Filter::default()
        };
        assert!(!matches(filter.clone()));
        let in_thread = std::thread::Builder::new().name("odd-thread-name".to_owned());
        let thread = in_thread.spawn(|| matches(filter)).expect("a thread");
        assert!(thread.join().expect("its answer"));
    }

    #[test]
    fn a_new_name_counts_before_it_is_there() {
        let filter = Filter {
            comms: vec![CommPattern::parse("new-name").expect("a pattern")],
            ..Filter::default()
        };
        let (matching, own) = (Matching::new(filter), std::process::id());
        let names =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| (own, name.as_bytes().to_vec())).collect() };
        assert!(matching.matches_renamed(own, &names(&["other", "new-name"])));
        assert!(!matching.matches_renamed(own, &names(&["new-name", "other"])));
    }

    #[test]
    fn all_parts_must_hold() {
        let uid = nix::unistd::getuid().as_raw();
        let filter = |uid, pids| Filter {
            uid: Some(uid),
            pids,
            ..Filter::default()
        };
        let own = std::process::id();
        assert!(matches(filter(uid, vec![])) && matches(filter(uid, vec![own])));
        assert!(!matches(filter(uid + 1, vec![])) && !matches(filter(uid, vec![own + 1])));
    }

    #[test]
    fn the_real_user_is_the_first_number() {
        assert_eq!(
            real_uid(b"Name:\t\xff\nUid:\t7\t8\t9\t10\nGid:\t1\t1\t1\t1\n"),
            Some(7)
        );
        assert_eq!(real_uid(b"Name:\tx\n"), None);
    }
}
