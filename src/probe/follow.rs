//! `--follow`: the kernel adds children to a tool's map of processes as they are forked.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder};

use crate::bpf;
use crate::error::{DENIED, Failure};
use crate::privileges;

/// Children are followed as long as this lives.
pub struct Follow {
    object: Object,
    _links: Vec<Link>,
}

impl Follow {
    /// Follows the children of the processes in `pids`.
    pub fn start(pids: &MapHandle) -> Result<Self> {
        privileges::require_btf("--follow")?;
        if privileges::pid_namespace().is_some() {
            let message =
                "--follow does not work in a pid namespace of its own: children are known by other numbers";
            return Err(Failure::new(DENIED, message)
                .hint("run it on the host, or in a container that shares the host's pid namespace")
                .into());
        }
        // Without the skeleton, which borrows its object.
        let elf = bpf::follow::OBJECT.elf().context("failed to follow children")?;
        let mut open = ObjectBuilder::default()
            .open_memory(elf)
            .context("failed to follow children")?;
        for mut map in open.maps_mut() {
            if map.name() == "pids" {
                map.reuse_fd(pids.as_fd()).context("failed to follow children")?;
            }
        }
        let object = open.load().context("failed to follow children")?;
        let links = object
            .progs_mut()
            .map(|program| program.attach())
            .collect::<Result<_, _>>();
        let _links = links.context("failed to follow children")?;
        Ok(Self { object, _links })
    }

    /// Children that the map had no room for.
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
