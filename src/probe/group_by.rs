//! `--by`: whose calls are counted together, and what to call them.

use std::collections::HashMap;

use clap::ValueEnum;
use plain::Plain;

use crate::bpf::assert_same_layout;
use crate::bpf::shared::types::{self, group_by};
use crate::find::host::cgroups::Cgroups;
use crate::find::host::containers::container_id;
use crate::find::host::users::UserNames;
use crate::probe::event::{Header, decode};

/// Groups that can be told apart in a run.
const MOST_GROUPS: u32 = 65536;

/// Whose calls are counted together.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    Process = group_by::BY_PROCESS.0,
    Thread = group_by::BY_THREAD.0,
    User = group_by::BY_USER.0,
    Container = group_by::BY_CONTAINER.0,
}

impl By {
    /// The constant `group_by` of the BPF programs.
    pub fn number(by: Option<By>) -> u32 {
        by.map_or(group_by::BY_NOTHING.0, |by| by as u32)
    }

    /// The columns of a row that say nothing of its group, by their keys.
    pub fn hidden_columns(by: Option<By>) -> impl Iterator<Item = &'static str> {
        let shown: &[&str] = match by {
            None => &[],
            Some(By::Process) => &["pid", "comm"],
            Some(By::Thread) => &["pid", "tid", "comm"],
            Some(By::User) => &["user"],
            Some(By::Container) => &["container"],
        };
        let all = ["pid", "tid", "user", "container", "comm"];
        all.into_iter().filter(|key| !shown.contains(key))
    }

    /// How many entries the map `groups` needs.
    pub fn map_entries(by: Option<By>) -> u32 {
        if by.is_some() { MOST_GROUPS } else { 1 }
    }
}

/// `struct group_event` of group.bpf.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupEvent {
    header: Header,
    group: u64,
}

assert_same_layout!(GroupEvent, types::group_event, header, group);

// SAFETY: integers, every bit pattern is valid, and there is no padding.
unsafe impl Plain for GroupEvent {}

/// What is known of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    pub comm: Vec<u8>,
    /// Name of the user, or its number.
    pub user: String,
    /// Short id of the container, or the control group where it is none.
    pub container: String,
}

/// The groups that were met, by their numbers.
pub struct Groups {
    by: By,
    users: UserNames,
    cgroups: Option<Cgroups>,
    members: HashMap<u64, Member>,
}

impl Groups {
    pub fn new(by: By) -> Groups {
        Groups {
            by,
            users: UserNames::load(),
            cgroups: Cgroups::open().ok(),
            members: HashMap::new(),
        }
    }

    /// Takes a record of the ring, `struct group_event`.
    pub fn learn(&mut self, record: &[u8]) {
        let Some(&GroupEvent { header, group }) = decode::<GroupEvent>(record) else {
            return;
        };
        let user = self
            .users
            .name(header.uid)
            .map_or_else(|| header.uid.to_string(), str::to_owned);
        let cgroup = match self.by {
            By::Container => self
                .cgroups
                .as_mut()
                .and_then(|cgroups| cgroups.path_of(group, header.pid)),
            _ => None,
        };
        let cgroup = cgroup.unwrap_or_default();
        let container = container_id(&cgroup).map_or(cgroup.clone(), |id| id.chars().take(12).collect());
        let comm = header.comm().to_vec();
        let (pid, tid, uid) = (header.pid, header.tid, header.uid);
        self.members.insert(
            group,
            Member {
                pid,
                tid,
                uid,
                comm,
                user,
                container,
            },
        );
    }

    /// What is known of a group; of one whose event was lost, its number.
    pub fn member(&self, group: u64) -> Member {
        self.members
            .get(&group)
            .cloned()
            .unwrap_or_else(|| match self.by {
                By::Process => Member {
                    pid: group as u32,
                    ..Member::default()
                },
                By::Thread => Member {
                    tid: group as u32,
                    ..Member::default()
                },
                By::User => Member {
                    uid: group as u32,
                    user: group.to_string(),
                    ..Member::default()
                },
                By::Container => Member {
                    container: group.to_string(),
                    ..Member::default()
                },
            })
    }
}
