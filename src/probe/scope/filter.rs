//! Which processes and threads a run traces, as the constants and maps of filter.bpf.h.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapMut};

use crate::bpf::shared::types::{filter_limits, pid_limits};
use crate::error::{DENIED, Failure, USAGE};
use crate::privileges;
use crate::probe::scope::members::{Breakpoints, Scope};

/// Processes that a run can name or follow.
const MOST_PIDS: u32 = pid_limits::MAX_PIDS.0;
/// Thread name patterns that the BPF programs can compare.
pub const MAX_COMMS: usize = filter_limits::MAX_COMMS.0 as usize;
/// Control groups that the BPF programs can compare.
pub const MAX_CGROUPS: usize = filter_limits::MAX_CGROUPS.0 as usize;

/// The kernel keeps 15 bytes of a name and a NUL.
const COMM_LEN: usize = 16;

/// A thread name, or with a `*` at the end the beginning of one: `(comm & mask) == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommPattern {
    pub value: [u64; 2],
    pub mask: [u64; 2],
}

impl CommPattern {
    /// Parses `python3` or `python*`. Longer names are compared as the kernel keeps them: their first 15 bytes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, open) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if name.contains('*') || (name.is_empty() && !open) {
            return Err("use a name, or the beginning of one with * behind it".to_owned());
        }
        let mut value = [0; COMM_LEN];
        let mut mask = [0; COMM_LEN];
        let kept = name.len().min(COMM_LEN - 1);
        value[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        // A whole name ends with its NUL; what lies behind that is not part of the name.
        let compared = if open && name.len() < COMM_LEN {
            kept
        } else {
            kept + 1
        };
        mask[..compared].fill(0xff);
        Ok(Self {
            value: words(value),
            mask: words(mask),
        })
    }

    /// Is it the name of this thread? `name` as in `/proc/PID/comm`, without the newline.
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut bytes = [0; COMM_LEN];
        let kept = name.len().min(COMM_LEN - 1);
        bytes[..kept].copy_from_slice(&name[..kept]);
        let comm = words(bytes);
        (0..2).all(|i| comm[i] & self.mask[i] == self.value[i])
    }
}

fn words(bytes: [u8; COMM_LEN]) -> [u64; 2] {
    let (low, high) = bytes.split_at(8);
    [low, high].map(|half| half.try_into().map_or(0, u64::from_ne_bytes))
}

/// Who is seen. Everything that is set must hold; of several names, or several control groups, one will do.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    pub pids: Vec<u32>,
    pub comms: Vec<CommPattern>,
    pub uid: Option<u32>,
    /// Folders of cgroup2; their descendants belong to them.
    pub cgroups: Vec<PathBuf>,
    /// Processes of the container that was named, as far as there are any yet.
    pub container_pids: Vec<u32>,
    /// Children of `pids` are seen as well.
    pub follow: bool,
    /// A container was named, whose control groups are among those above.
    pub in_container: bool,
    /// Whose calls pay, where that was said.
    pub scope: Option<Scope>,
    /// A program that begins to match when it is started stands still until its probes are in.
    pub hold: bool,
}

impl Filter {
    /// This process alone.
    pub fn of_process(pid: u32) -> Filter {
        Filter {
            pids: vec![pid],
            ..Filter::default()
        }
    }

    /// The one process that needs breakpoints, when it is only one: then no other ever hits them.
    pub fn only_pid(&self) -> Option<u32> {
        match self.pids[..] {
            [pid] if !self.follow => Some(pid),
            _ => None,
        }
    }

    /// Who gets breakpoints. What is not said is chosen by what the filter is about: processes that were named, and the
    /// one container, are known; all that have a name or a user are not, until they are there.
    ///
    /// # Errors
    /// What was asked for makes no sense together, or the kernel lacks what it needs.
    pub fn breakpoints(&self) -> Result<Breakpoints> {
        let by_nature = !self.follow && (self.in_container || !self.pids.is_empty());
        let breakpoints = match (self.scope, self.only_pid()) {
            (Some(Scope::Targeted) | None, Some(pid)) => Breakpoints::Process(pid),
            (Some(Scope::Targeted), None) if self.is_everybody() => {
                return Err(Failure::new(
                    USAGE,
                    "--scope targeted: nobody is named, so that everybody matches",
                )
                .hint("name some with --comm, -u, --cgroup, --container or -p")
                .into());
            }
            (Some(Scope::Targeted), None) => {
                require_scopes()?;
                Breakpoints::Matching(self.clone())
            }
            (None, None) if by_nature && require_scopes().is_ok() => Breakpoints::Matching(self.clone()),
            (Some(Scope::All) | None, _) => Breakpoints::Everybody,
        };
        let can_hold =
            matches!(breakpoints, Breakpoints::Matching(_)) && (self.follow || self.pids.is_empty());
        if self.hold && !can_hold {
            return Err(Failure::new(
                USAGE,
                "--hold is about programs that begin to match later, in a targeted scope",
            )
            .hint("use it with --container, or with --scope targeted and --comm, -u or --cgroup")
            .into());
        }
        Ok(breakpoints)
    }

    fn is_everybody(&self) -> bool {
        self.pids.is_empty() && self.comms.is_empty() && self.uid.is_none() && self.cgroups.is_empty()
    }

    /// Is membership in the map `pids` tested?
    pub fn by_map(&self) -> bool {
        !self.pids.is_empty() && self.only_pid().is_none()
    }

    /// How many entries the map `pids` needs: one that is not used would still take room, and time to be made.
    pub fn map_entries(&self) -> u32 {
        if self.by_map() { MOST_PIDS } else { 1 }
    }

    /// Fills the maps that the constants refer to. After load, before attachment.
    pub fn fill(&self, pids: &MapMut<'_>, cgroups: &MapMut<'_>) -> Result<()> {
        if self.by_map() {
            for pid in &self.pids {
                pids.update(&pid.to_ne_bytes(), &[1], MapFlags::ANY)
                    .with_context(|| format!("failed to add pid {pid} to the filter"))?;
            }
        }
        for (index, path) in self.cgroups.iter().enumerate() {
            let folder = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
            cgroups
                .update(
                    &(index as u32).to_ne_bytes(),
                    &folder.as_raw_fd().to_ne_bytes(),
                    MapFlags::ANY,
                )
                .with_context(|| format!("failed to filter by {}: not a cgroup2 folder", path.display()))?;
        }
        Ok(())
    }
}

/// What tells of processes that begin to match reads kernel types, and numbers processes as the initial pid namespace does.
fn require_scopes() -> Result<()> {
    privileges::require_btf("--scope targeted")?;
    match privileges::pid_namespace() {
        None => Ok(()),
        Some(_) => Err(Failure::new(
            DENIED,
            "--scope targeted does not work in a pid namespace of its own: processes are known by other numbers",
        )
        .hint("run it on the host, or in a container that shares the host's pid namespace")
        .into()),
    }
}

/// Writes the constants of filter.bpf.h into a skeleton's `.rodata`. A macro, since every skeleton has types
/// of its own.
macro_rules! configure_filter {
    ($rodata:expr, $filter:expr) => {{
        let filter: &$crate::probe::scope::filter::Filter = $filter;
        ($rodata.pid_ns_dev, $rodata.pid_ns_ino) = $crate::privileges::pid_namespace().unwrap_or((0, 0));
        $rodata.filter_pid = filter.only_pid().unwrap_or(0);
        $rodata.filter_pids = filter.by_map();
        $rodata.filter_uid = filter.uid.is_some();
        $rodata.wanted_uid = filter.uid.unwrap_or(0);
        $rodata.filter_comms = filter.comms.len() as u32;
        for (slot, comm) in $rodata.wanted_comms.iter_mut().zip(&filter.comms) {
            (slot.value, slot.mask) = (comm.value, comm.mask);
        }
        $rodata.filter_cgroups = filter.cgroups.len() as u32;
    }};
}
pub(crate) use configure_filter;

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, comm: &str) -> bool {
        CommPattern::parse(pattern)
            .expect("a pattern")
            .matches(comm.as_bytes())
    }

    #[test]
    fn a_name_is_whole_and_a_star_opens_its_end() {
        assert!(matches("bash", "bash"));
        assert!(!matches("bash", "bash2"));
        assert!(!matches("bash", "bas"));
        assert!(matches("python*", "python3.11"));
        assert!(matches("python*", "python"));
        assert!(!matches("python*", "pytho"));
        assert!(matches("*", "anything"));
    }

    #[test]
    fn a_long_name_is_compared_as_the_kernel_keeps_it() {
        assert!(matches("a-very-long-name", "a-very-long-nam"));
        assert!(matches("a-very-long-name-indeed", "a-very-long-nam"));
        assert!(matches("a-very-long-nam*", "a-very-long-nam"));
        assert!(!matches("a-very-long-name", "a-very-long-na"));
    }

    #[test]
    fn a_star_elsewhere_is_refused() {
        assert!(CommPattern::parse("*bash").is_err());
        assert!(CommPattern::parse("").is_err());
    }

    #[test]
    fn one_pid_needs_no_map_but_followed_ones_do() {
        let mut filter = Filter {
            pids: vec![7],
            ..Filter::default()
        };
        assert_eq!((filter.only_pid(), filter.by_map()), (Some(7), false));
        filter.follow = true;
        assert_eq!((filter.only_pid(), filter.by_map()), (None, true));
    }

    #[test]
    fn processes_that_were_named_are_targeted_by_nature() {
        let breakpoints = |filter: &Filter| filter.breakpoints().map_err(|error| error.to_string());
        let mut filter = Filter {
            pids: vec![7],
            ..Filter::default()
        };
        assert!(matches!(breakpoints(&filter), Ok(Breakpoints::Process(7))));
        filter.scope = Some(Scope::All);
        assert!(matches!(breakpoints(&filter), Ok(Breakpoints::Everybody)));
        (filter.scope, filter.follow) = (None, true);
        assert!(matches!(breakpoints(&filter), Ok(Breakpoints::Everybody)));

        let mut filter = Filter {
            uid: Some(0),
            ..Filter::default()
        };
        assert!(matches!(breakpoints(&filter), Ok(Breakpoints::Everybody)));
        filter.hold = true;
        assert!(breakpoints(&filter).is_err(), "nobody to hold");
        let nobody = Filter {
            scope: Some(Scope::Targeted),
            ..Filter::default()
        };
        assert!(breakpoints(&nobody).is_err(), "everybody matches");
    }
}
