// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--by`: groups calls by process, thread, user or container, and labels the groups.

use std::collections::HashMap;

use clap::ValueEnum;
use plain::Plain;

use crate::bpf::assert_same_layout;
use crate::bpf::shared::types::{self, group_by};
use crate::find::host::cgroups::Cgroups;
use crate::find::host::containers::container_id;
use crate::find::host::users::UserNames;
use crate::probe::event::{Header, decode};

/// Most groups of a run, entries of the BPF map `groups`.
const MAX_GROUPS: u32 = 65536;

/// What calls are grouped by.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupBy {
    Process = group_by::BY_PROCESS.0,
    Thread = group_by::BY_THREAD.0,
    User = group_by::BY_USER.0,
    Container = group_by::BY_CONTAINER.0,
}

impl GroupBy {
    /// The constant `group_by` of the BPF programs.
    pub fn constant(by: Option<GroupBy>) -> u32 {
        by.map_or(group_by::BY_NOTHING.0, |by| by as u32)
    }

    /// Keys of the columns that have no meaning for these groups.
    pub fn hidden_columns(by: Option<GroupBy>) -> impl Iterator<Item = &'static str> {
        let shown: &[&str] = match by {
            None => &[],
            Some(GroupBy::Process) => &["pid", "comm"],
            Some(GroupBy::Thread) => &["pid", "tid", "comm"],
            Some(GroupBy::User) => &["user"],
            Some(GroupBy::Container) => &["container"],
        };
        let all = ["pid", "tid", "user", "container", "comm"];
        all.into_iter().filter(|key| !shown.contains(key))
    }

    /// Entries that the BPF map `groups` needs.
    pub fn map_entries(by: Option<GroupBy>) -> u32 {
        if by.is_some() { MAX_GROUPS } else { 1 }
    }
}

/// The C `struct group_event`: the first call of a group.
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupEvent {
    header: Header,
    group: u64,
}

assert_same_layout!(GroupEvent, types::group_event, header, group);

// SAFETY: integers, every bit pattern is valid, and there is no padding.
unsafe impl Plain for GroupEvent {}

/// What a row shows of its group. Fields that do not apply are empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLabel {
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    /// Untrusted.
    pub comm: Vec<u8>,
    /// User name, or the UID if it has none.
    pub user: String,
    /// Container ID, shortened to 12 digits, or the control group outside of containers.
    pub container: String,
}

impl GroupLabel {
    /// The label of a group that the programs did not describe, as the event was lost.
    fn unknown(by: GroupBy, group: u64) -> Self {
        let label = GroupLabel::default();
        let id = group as u32;
        match by {
            GroupBy::Process => GroupLabel { pid: id, ..label },
            GroupBy::Thread => GroupLabel { tid: id, ..label },
            GroupBy::User => GroupLabel {
                uid: id,
                user: id.to_string(),
                ..label
            },
            GroupBy::Container => GroupLabel {
                container: group.to_string(),
                ..label
            },
        }
    }
}

/// The labels of the groups that were seen.
pub struct GroupLabels {
    by: GroupBy,
    users: UserNames,
    cgroups: Option<Cgroups>,
    labels: HashMap<u64, GroupLabel>,
}

impl GroupLabels {
    pub fn new(by: GroupBy) -> GroupLabels {
        GroupLabels {
            by,
            users: UserNames::load(),
            cgroups: Cgroups::open().ok(),
            labels: HashMap::new(),
        }
    }

    /// Adds the group of a record, which is a `struct group_event`.
    pub fn learn(&mut self, record: &[u8]) {
        let Some(&GroupEvent { header, group }) = decode::<GroupEvent>(record) else {
            return;
        };
        let user = self.users.name(header.uid);
        let label = GroupLabel {
            pid: header.pid,
            tid: header.tid,
            uid: header.uid,
            comm: header.comm().to_vec(),
            user: user.map_or_else(|| header.uid.to_string(), str::to_owned),
            container: self.container(group, header.pid),
        };
        self.labels.insert(group, label);
    }

    /// The label of a group.
    pub fn label(&self, group: u64) -> GroupLabel {
        let label = self.labels.get(&group).cloned();
        label.unwrap_or_else(|| GroupLabel::unknown(self.by, group))
    }

    /// Container of a process, whose control group is `group` with `--by container`; else empty.
    fn container(&mut self, group: u64, pid: u32) -> String {
        const SHORT_ID: usize = 12;
        let cgroups = self.cgroups.as_mut().filter(|_| self.by == GroupBy::Container);
        let path = cgroups.and_then(|cgroups| cgroups.path_of(group, pid));
        let path = path.unwrap_or_default();
        match container_id(&path) {
            Some(id) => id.chars().take(SHORT_ID).collect(),
            None => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_labelled_by_its_event_or_by_its_number() {
        let header = Header {
            pid: 7,
            tid: 8,
            comm: *b"worker\0\0\0\0\0\0\0\0\0\0",
            ..Header::default()
        };
        let event = GroupEvent { header, group: 8 };
        let mut labels = GroupLabels::new(GroupBy::Thread);
        // SAFETY: `GroupEvent` is plain data.
        labels.learn(unsafe { plain::as_bytes(&event) });
        let label = labels.label(8);
        assert_eq!((label.pid, label.tid, &label.comm[..]), (7, 8, &b"worker"[..]));
        let unknown = GroupLabel {
            tid: 9,
            ..GroupLabel::default()
        };
        assert_eq!(labels.label(9), unknown);
    }

    #[test]
    fn columns_of_other_groups_are_hidden() {
        let hidden: Vec<&str> = GroupBy::hidden_columns(Some(GroupBy::Process)).collect();
        assert_eq!(hidden, ["tid", "user", "container"]);
    }
}
