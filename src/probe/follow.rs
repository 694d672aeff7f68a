// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--follow`: the kernel adds children to a tool's map of PIDs when they are forked.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder};

use crate::bpf;
use crate::error::Failure;
use crate::privileges;

/// Follows children as long as it lives.
pub struct ChildFollower {
    object: Object,
    _links: Vec<Link>,
}

impl ChildFollower {
    /// Follows the descendants of the processes in `pids`.
    ///
    /// # Errors
    /// The kernel has no BTF, or this is not the initial PID namespace.
    pub fn start(pids: &MapHandle) -> Result<Self> {
        privileges::require_btf("--follow")?;
        if privileges::pid_namespace().is_some() {
            return Err(
                Failure::denied("--follow works only in the initial PID namespace")
                    .hint("run it on the host, or in a container that shares the host's PID namespace")
                    .into(),
            );
        }
        Self::attach(pids).context("failed to follow children")
    }

    fn attach(pids: &MapHandle) -> Result<Self> {
        // Without the skeleton, which would borrow its storage.
        let elf = bpf::follow::OBJECT.elf()?;
        let mut open = ObjectBuilder::default().open_memory(elf)?;
        for mut map in open.maps_mut() {
            if map.name() == "pids" {
                map.reuse_fd(pids.as_fd())?;
            }
        }
        let object = open.load()?;
        let links = object.progs_mut().map(|program| program.attach());
        let _links = links.collect::<Result<_, _>>()?;
        Ok(Self { object, _links })
    }

    /// The PIDs of the processes that are followed, and of those that have exited a moment ago.
    pub fn followed(&self) -> BTreeSet<u32> {
        let Some(pids) = self.object.maps().find(|map| map.name() == "pids") else {
            return BTreeSet::new();
        };
        let pid = |key: Vec<u8>| key.try_into().ok().map(u32::from_ne_bytes);
        pids.keys().filter_map(pid).collect()
    }

    /// Children that were not added because the map was full.
    pub fn missed(&self) -> u64 {
        let counters = self
            .object
            .maps()
            .find(|map| map.name().to_string_lossy().ends_with(".bss"));
        let bytes = counters.and_then(|map| map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok().flatten());
        bytes
            .and_then(|bytes| bytes.get(..8)?.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    }
}
