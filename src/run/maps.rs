// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The BPF maps that tools share, by name. A tool has those whose headers it includes.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{MapCore, MapHandle, MapType, Object, OpenMapMut, OpenObject};

use crate::bpf::shared::types::call_layout;
use crate::probe::scope::filter::ProcessFilter;

/// Bytes from which on a map is created on a thread.
const LARGE: usize = 1 << 20;

/// Threads that can be in loops which begin at the first instruction of a function, at a time.
const REPEATING: u32 = 8192;

/// Sets the sizes of the maps for a run. `repeats`: there may be functions with loops to their first instruction.
///
/// # Errors
/// libbpf refuses a size.
pub fn size_maps(
    object: &mut OpenObject,
    filter: &ProcessFilter,
    ring_bytes: u32,
    matches_calls: bool,
    repeats: bool,
) -> Result<()> {
    for mut map in object.maps_mut() {
        let entries = match map.name().to_str() {
            Some("events") => ring_bytes,
            Some("pids") => filter.map_entries(),
            Some("threads" | "claims") if matches_calls => call_layout::THREADS.0,
            Some("owner_sets") if matches_calls => call_layout::OWNER_SETS.0,
            Some("repeating") if repeats => REPEATING,
            _ => continue,
        };
        map.set_max_entries(entries).context("failed to size a BPF map")?;
    }
    Ok(())
}

/// Creates the large maps of an object at the same time. The kernel allocates and clears all their memory, which takes
/// longer than the verifier; libbpf creates one map after the other.
///
/// # Errors
/// The kernel refuses a map.
pub fn create_large_maps(object: &mut OpenObject) -> Result<()> {
    let shapes: Vec<MapShape> = object.maps_mut().filter_map(|map| MapShape::of(&map)).collect();
    let Some((first, others)) = shapes.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Ok(());
    };
    let created: Vec<Result<MapHandle>> = thread::scope(|scope| {
        let threads: Vec<_> = others
            .iter()
            .map(|shape| scope.spawn(|| shape.create()))
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        [first.create()].into_iter().chain(joined).collect()
    });
    for (shape, map) in shapes.iter().zip(created) {
        let map = map?;
        let mut maps = object.maps_mut();
        let mut same = maps.find(|map| map.name() == shape.name);
        if let Some(open) = &mut same {
            open.reuse_fd(map.as_fd())
                .context("failed to use a created BPF map")?;
        }
    }
    Ok(())
}

/// A map of a loaded object.
///
/// # Errors
/// There is none of this name.
pub fn map(object: &Object, name: &str) -> Result<MapHandle> {
    let found = object.maps().find(|map| map.name() == name);
    let map = found.with_context(|| format!("the BPF object has no map `{name}`"))?;
    Ok(MapHandle::try_from(&map)?)
}

/// What the kernel needs to know to create a large map.
struct MapShape {
    name: OsString,
    map_type: MapType,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl MapShape {
    /// None for a small map, and for one whose size the number of CPUs decides.
    fn of(map: &OpenMapMut<'_>) -> Option<MapShape> {
        let entry = match map.map_type() {
            MapType::Array => map.value_size() as usize,
            MapType::RingBuf => 1,
            _ => return None,
        };
        let bytes = entry.checked_mul(map.max_entries() as usize)?;
        (bytes >= LARGE).then(|| MapShape {
            name: map.name().to_owned(),
            map_type: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        })
    }

    fn create(&self) -> Result<MapHandle> {
        let options = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as _,
            map_flags: self.flags,
            ..Default::default()
        };
        let map = MapHandle::create(
            self.map_type,
            Some(&self.name),
            self.key_size,
            self.value_size,
            self.max_entries,
            &options,
        );
        map.with_context(|| format!("failed to create the BPF map `{}`", self.name.display()))
    }
}
