// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which threads a run shows: the filter options as constants and maps of the BPF programs.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use libbpf_rs::{MapCore, MapFlags};

use crate::bpf::shared::types::{filter_limits, pid_limits};
use crate::bpf::{CommConstant, RunConstants};
use crate::privileges;

/// Most processes that a run can name or follow: entries of the BPF maps `pids` and `members`.
pub const MAX_PIDS: u32 = pid_limits::MAX_PIDS.0;
/// Most thread names.
pub const MAX_COMMS: usize = filter_limits::MAX_COMMS.0 as usize;
/// Most control groups.
pub const MAX_CGROUPS: usize = filter_limits::MAX_CGROUPS.0 as usize;

/// Bytes of a thread name in the kernel, with its NUL.
const COMM_LEN: usize = 16;

/// Which processes get breakpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum TraceScope {
    /// All processes that call the functions: misses nothing, but each call of any process costs
    All,
    /// Processes that match the filters
    Targeted,
}

/// A thread name, or the prefix of one when it ends with `*`: `(comm & mask) == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommPattern {
    pub value: [u64; 2],
    pub mask: [u64; 2],
}

impl CommPattern {
    /// Parses `python3` or `python*`. Only the first 15 bytes are compared: the kernel truncates names to
    /// them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, is_prefix) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if name.contains('*') || (name.is_empty() && !is_prefix) {
            return Err("expected a thread name, or a prefix followed by *".to_owned());
        }
        let mut value = [0; COMM_LEN];
        let mut mask = [0; COMM_LEN];
        let kept = name.len().min(COMM_LEN - 1);
        value[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        // A complete name includes its NUL. The bytes after the NUL are undefined.
        let compared = if is_prefix && name.len() < COMM_LEN {
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

    /// `name` is as in `/proc/PID/comm`, without the newline.
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

/// Which threads a run shows. All conditions must hold; a thread must match any one of several names or
/// control groups.
#[derive(Clone, Default, Debug)]
pub struct ProcessFilter {
    pub pids: Vec<u32>,
    pub comms: Vec<CommPattern>,
    pub uid: Option<u32>,
    /// cgroup2 directories. Descendants match as well.
    pub cgroups: Vec<PathBuf>,
    /// Processes that were in the container of `--container` at the start.
    pub container_pids: Vec<u32>,
    /// Show descendants of `pids` as well.
    pub follow: bool,
    /// `--container` was given; its control groups are in `cgroups`.
    pub in_container: bool,
    /// `--scope`. None: chosen by what the filter names, see
    /// [`Breakpoints`](super::breakpoints::Breakpoints).
    pub scope: Option<TraceScope>,
    /// Stop each program that matches when it is executed, until its probes are attached.
    pub hold: bool,
}

impl ProcessFilter {
    /// A filter for one process.
    pub fn of_process(pid: u32) -> ProcessFilter {
        ProcessFilter {
            pids: vec![pid],
            ..ProcessFilter::default()
        }
    }

    /// The process to trace, if it is a single one whose children are not followed.
    pub fn only_pid(&self) -> Option<u32> {
        match self.pids[..] {
            [pid] if !self.follow => Some(pid),
            _ => None,
        }
    }

    /// True when no condition is set, so that all processes match.
    pub fn matches_all(&self) -> bool {
        self.pids.is_empty() && self.comms.is_empty() && self.uid.is_none() && self.cgroups.is_empty()
    }

    /// True when BPF programs look processes up in the map `pids`.
    pub fn by_map(&self) -> bool {
        !self.pids.is_empty() && self.only_pid().is_none()
    }

    /// Entries that the map `pids` needs. An unused map is made small, as its memory is allocated at load.
    pub fn map_entries(&self) -> u32 {
        if self.by_map() { MAX_PIDS } else { 1 }
    }

    /// The constants of the BPF programs: the filter's, and the two given here.
    pub fn constants(&self, has_cookies: bool, wake_at: u64) -> RunConstants {
        let comms = self.comms.iter().map(|comm| CommConstant {
            value: comm.value,
            mask: comm.mask,
        });
        RunConstants {
            pid_namespace: privileges::pid_namespace(),
            only_pid: self.only_pid(),
            filter_pids: self.by_map(),
            uid: self.uid,
            comms: comms.collect(),
            cgroups: self.cgroups.len() as u32,
            has_cookies,
            wake_at,
            task_offsets: None,
        }
    }

    /// Fills the maps of a loaded object. Must be called before its programs are attached.
    ///
    /// # Errors
    /// A map cannot be written, or a control group cannot be opened.
    pub fn fill(&self, pids: &impl MapCore, cgroups: &impl MapCore) -> Result<()> {
        if self.by_map() {
            for pid in &self.pids {
                pids.update(&pid.to_ne_bytes(), &[1], MapFlags::ANY)
                    .with_context(|| format!("failed to add PID {pid} to the filter"))?;
            }
        }
        for (index, path) in self.cgroups.iter().enumerate() {
            let directory = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
            cgroups
                .update(
                    &(index as u32).to_ne_bytes(),
                    &directory.as_raw_fd().to_ne_bytes(),
                    MapFlags::ANY,
                )
                .with_context(|| {
                    format!("failed to filter by {}: not a cgroup2 directory", path.display())
                })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, comm: &str) -> bool {
        CommPattern::parse(pattern)
            .expect("a pattern")
            .matches(comm.as_bytes())
    }

    #[test]
    fn pattern_matches_name_or_prefix() {
        assert!(matches("bash", "bash"));
        assert!(!matches("bash", "bash2"));
        assert!(!matches("bash", "bas"));
        assert!(matches("python*", "python3.11"));
        assert!(matches("python*", "python"));
        assert!(!matches("python*", "pytho"));
        assert!(matches("*", "anything"));
    }

    #[test]
    fn pattern_is_truncated_to_15_bytes() {
        assert!(matches("a-very-long-name", "a-very-long-nam"));
        assert!(matches("a-very-long-name-indeed", "a-very-long-nam"));
        assert!(matches("a-very-long-nam*", "a-very-long-nam"));
        assert!(!matches("a-very-long-name", "a-very-long-na"));
    }

    #[test]
    fn star_is_allowed_only_at_the_end() {
        assert!(CommPattern::parse("*bash").is_err());
        assert!(CommPattern::parse("").is_err());
    }

    #[test]
    fn single_pid_needs_no_map_unless_it_is_followed() {
        let mut filter = ProcessFilter {
            pids: vec![7],
            ..ProcessFilter::default()
        };
        assert_eq!((filter.only_pid(), filter.by_map()), (Some(7), false));
        filter.follow = true;
        assert_eq!((filter.only_pid(), filter.by_map()), (None, true));
    }
}
