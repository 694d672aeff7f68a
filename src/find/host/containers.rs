// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Running containers: the processes and control groups that `--container NAME` names.
//!
//! A container is one control group whose name contains the container's id. Ids come from the control groups
//! of running processes, names from the files in which the runtimes keep them; no runtime is contacted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::cgroups::{memberships, read_memberships};
use super::mountinfo;
use crate::error::Failure;

#[cfg(test)]
mod tests;

/// Shortest prefix of an id that is accepted: a shorter one is more likely a mistyped name.
const MIN_ID_PREFIX: usize = 4;
/// Characters of an id in messages: as many as `docker ps` prints.
const SHORT_ID: usize = 12;
/// Most containers that an error message lists.
const MAX_LISTED: usize = 5;
/// Most bytes of a runtime's JSON file that are read.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// A running container.
#[derive(Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// The runtime's id: 64 hexadecimal digits, or the name for LXC and systemd-nspawn.
    pub id: String,
    /// Its name if known; `POD/CONTAINER` under Kubernetes.
    pub name: Option<String>,
    /// Its cgroup2 directories. Control groups below them belong to the container too.
    pub cgroups: Vec<PathBuf>,
    /// Its processes at the time of the lookup, in ascending order.
    pub pids: Vec<u32>,
}

/// Finds a running container on this machine by its name or a prefix of its id.
///
/// # Errors
/// No running container matches, several do, or its control group is not in cgroup v2.
pub fn find_container(name_or_id: &str) -> Result<RunningContainer> {
    ContainerRuntimes::new()?.find(name_or_id)
}

/// The id of the innermost container in a cgroup path: 64 hexadecimal digits for docker, podman, containerd
/// and CRI-O, the name for LXC, and for systemd-nspawn the name with its `\x2d` escapes.
pub fn container_id(cgroup_path: &str) -> Option<&str> {
    containers_in(cgroup_path).last().map(|(id, _)| id)
}

/// The directories in which running containers and their names are looked up.
#[derive(Debug)]
struct ContainerRuntimes {
    /// The process file system, `/proc`.
    proc: PathBuf,
    /// The root of cgroup2; `None` if it is not mounted.
    cgroup: Option<PathBuf>,
    /// Docker's directory of containers, `/var/lib/docker/containers`.
    docker: PathBuf,
    /// The directory in which podman and CRI-O keep `containers.json`.
    podman: PathBuf,
    /// containerd's directory of running containers, with one directory per namespace.
    containerd: PathBuf,
}

/// The processes of one container.
#[derive(Debug, Default)]
struct ContainerProcesses {
    /// Paths in cgroup2, up to the name that contains the id.
    paths: BTreeSet<String>,
    pids: BTreeSet<u32>,
}

impl ContainerRuntimes {
    fn new() -> Result<ContainerRuntimes> {
        Ok(ContainerRuntimes {
            proc: "/proc".into(),
            cgroup: mountinfo::cgroup2_root(&mountinfo::read()?),
            docker: "/var/lib/docker/containers".into(),
            podman: "/var/lib/containers/storage/overlay-containers".into(),
            containerd: "/run/containerd/io.containerd.runtime.v2.task".into(),
        })
    }

    /// See [`find_container`].
    fn find(&self, name_or_id: &str) -> Result<RunningContainer> {
        let running = self.running()?;
        let names = self.names(&running);
        let failure = match matches(&running, &names, name_or_id)[..] {
            [id] => return self.container(id, &running[id], names.get(id)),
            [] if running.is_empty() => Failure::failed(format!("no running container {name_or_id:?}"))
                .hint("no control group of a running process belongs to a container"),
            [] => Failure::failed(format!("no running container {name_or_id:?}"))
                .hint(format!("running containers: {}", listed(running.keys(), &names))),
            ref matching => {
                Failure::failed(format!("several containers match {name_or_id:?}")).hint(format!(
                    "give more of the id: {}",
                    listed(matching.iter().copied(), &names)
                ))
            }
        };
        Err(failure.into())
    }

    /// All containers that have a process, by id.
    fn running(&self) -> Result<BTreeMap<String, ContainerProcesses>> {
        let mut running = BTreeMap::new();
        let entries =
            fs::read_dir(&self.proc).with_context(|| format!("failed to read {}", self.proc.display()))?;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // An error is a process that has just exited.
            if let Ok(text) = read_memberships(&self.proc, pid) {
                add_process(&mut running, pid, &text);
            }
        }
        Ok(running)
    }

    /// The known names of containers, by id.
    fn names(&self, running: &BTreeMap<String, ContainerProcesses>) -> HashMap<String, String> {
        let podman = self.podman_names();
        let name_of = |id: &String| {
            if !is_hash(id) {
                return Some(unescape(id));
            }
            self.docker_name(id)
                .or_else(|| podman.get(id).cloned())
                .or_else(|| self.kubernetes_name(id))
        };
        running
            .keys()
            .filter_map(|id| Some((id.clone(), name_of(id)?)))
            .collect()
    }

    /// Docker writes `"Name":"/web"`.
    fn docker_name(&self, id: &str) -> Option<String> {
        let config = read_json(&self.docker.join(id).join("config.v2.json"))?;
        let name = config.get("Name")?.as_str()?;
        Some(name.trim_start_matches('/').to_owned())
    }

    /// podman and CRI-O keep an array of `{"id": ..., "names": [...]}`, with containers of `run --rm` in a
    /// second file.
    fn podman_names(&self) -> HashMap<String, String> {
        let files =
            ["containers.json", "volatile-containers.json"].map(|file| read_json(&self.podman.join(file)));
        let containers = files.iter().flatten().filter_map(Value::as_array).flatten();
        let named = |container: &Value| {
            let name = container.get("names")?.get(0)?.as_str()?;
            Some((container.get("id")?.as_str()?.to_owned(), name.to_owned()))
        };
        containers.filter_map(named).collect()
    }

    /// containerd keeps the name that Kubernetes uses in the annotations of the container's configuration.
    fn kubernetes_name(&self, id: &str) -> Option<String> {
        let namespaces = fs::read_dir(&self.containerd).ok()?.flatten();
        let mut configs =
            namespaces.filter_map(|namespace| read_json(&namespace.path().join(id).join("config.json")));
        let config = configs.next()?;
        let annotation = |key: &str| {
            config
                .get("annotations")?
                .get(format!("io.kubernetes.cri.{key}"))?
                .as_str()
        };
        Some(format!(
            "{}/{}",
            annotation("sandbox-name")?,
            annotation("container-name")?
        ))
    }

    /// # Errors
    /// The container's control group cannot be used as a filter.
    fn container(
        &self,
        id: &str,
        processes: &ContainerProcesses,
        name: Option<&String>,
    ) -> Result<RunningContainer> {
        let shown = name.map_or(id, String::as_str).escape_debug();
        let failure = |message: &str| Failure::failed(message).hint("select its processes with -p");
        let Some(root) = &self.cgroup else {
            return Err(failure("the container filter needs cgroup v2, which is not mounted").into());
        };
        if processes.paths.is_empty() {
            return Err(failure(&format!(
                "the container filter needs cgroup v2, and container \"{shown}\" is only in control groups of version 1"
            ))
            .into());
        }
        let cgroups: Vec<PathBuf> = topmost(&processes.paths)
            .map(|path| root.join(path.trim_start_matches('/')))
            .collect();
        if let Some(missing) = cgroups.iter().find(|cgroup| !cgroup.is_dir()) {
            let missing = missing.display();
            return Err(failure(&format!("container \"{shown}\" has no control group {missing}")).into());
        }
        Ok(RunningContainer {
            id: id.to_owned(),
            name: name.cloned(),
            cgroups,
            pids: processes.pids.iter().copied().collect(),
        })
    }
}

/// Adds a process to all containers it is in, including outer ones. `text` is its `/proc/PID/cgroup`.
fn add_process(running: &mut BTreeMap<String, ContainerProcesses>, pid: u32, text: &str) {
    for membership in memberships(text) {
        for (id, path) in containers_in(membership.path) {
            let container = running.entry(id.to_owned()).or_default();
            container.pids.insert(pid);
            if membership.is_unified {
                container.paths.insert(path.to_owned());
            }
        }
    }
}

/// The ids of the containers named `wanted`; if there are none, of those whose id starts with it.
fn matches<'a>(
    running: &'a BTreeMap<String, ContainerProcesses>,
    names: &HashMap<String, String>,
    wanted: &str,
) -> Vec<&'a str> {
    let ids = || running.keys().map(String::as_str);
    let named: Vec<&str> = ids()
        .filter(|id| names.get(*id).is_some_and(|name| has_name(name, wanted)))
        .collect();
    if !named.is_empty() {
        return named;
    }
    if wanted.len() < MIN_ID_PREFIX {
        return Vec::new();
    }
    ids().filter(|id| is_hash(id) && id.starts_with(wanted)).collect()
}

/// Under Kubernetes, the container's name without its pod matches too.
fn has_name(name: &str, wanted: &str) -> bool {
    name == wanted
        || name
            .split_once('/')
            .is_some_and(|(_, container)| container == wanted)
}

/// A list of containers for a message: `web (0123456789ab), db (...) and 3 more`.
fn listed<T: AsRef<str>>(ids: impl ExactSizeIterator<Item = T>, names: &HashMap<String, String>) -> String {
    let count = ids.len();
    let shown = |id: T| {
        let short: String = id.as_ref().chars().take(SHORT_ID).collect();
        match names.get(id.as_ref()) {
            Some(name) if name == id.as_ref() => name.escape_debug().to_string(),
            Some(name) => format!("{} ({short})", name.escape_debug()),
            None => short,
        }
    };
    let list = ids.take(MAX_LISTED).map(shown).collect::<Vec<_>>().join(", ");
    match count {
        0..=MAX_LISTED => list,
        _ => format!("{list} and {} more", count - MAX_LISTED),
    }
}

/// The paths that are not below another path of the set.
fn topmost(paths: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    let is_below =
        |path: &str, other: &str| path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
    paths
        .iter()
        .filter(move |path| !paths.iter().any(|other| is_below(path, other)))
}

/// The containers in a cgroup path, outermost first: the id, and the path up to the name that contains it.
fn containers_in(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut parent = "";
    let mut end = 0;
    path.split('/').filter_map(move |name| {
        let before = std::mem::replace(&mut parent, name);
        end += name.len();
        let up_to_name = &path[..end];
        end += 1;
        id_in(before, name).map(|id| (id, up_to_name))
    })
}

/// The container id in one name of a path.
fn id_in<'a>(parent: &str, name: &'a str) -> Option<&'a str> {
    hash_in(name)
        .or_else(|| nspawn_in(parent, name))
        .or_else(|| lxc_in(parent, name))
        .filter(|id| !id.is_empty())
}

/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `kubepods.slice:cri-containerd:ID`, or the id
/// alone. The monitor of a podman or CRI-O container, `libpod-conmon-ID.scope`, is not in the container.
fn hash_in(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let (runtime, id) = stem.rsplit_once(['-', ':']).unwrap_or(("", stem));
    (is_hash(id) && !runtime.ends_with("conmon")).then_some(id)
}

/// `systemd-nspawn@NAME.service`, or `machine-NAME.scope` in `machine.slice`.
fn nspawn_in<'a>(parent: &str, name: &'a str) -> Option<&'a str> {
    let service = || name.strip_prefix("systemd-nspawn@")?.strip_suffix(".service");
    let scope = || {
        name.strip_prefix("machine-")?
            .strip_suffix(".scope")
            .filter(|_| parent == "machine.slice")
    };
    service().or_else(scope)
}

/// `lxc.payload.NAME`, `lxc.payload/NAME` or `lxc/NAME`; `lxc.monitor.NAME` is not in the container.
fn lxc_in<'a>(parent: &str, name: &'a str) -> Option<&'a str> {
    let below = matches!(parent, "lxc" | "lxc.payload") && !name.starts_with("lxc.");
    name.strip_prefix("lxc.payload.")
        .or_else(|| below.then_some(name))
}

/// 64 lower-case hexadecimal digits.
fn is_hash(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Decodes systemd's `\x2d`. Incomplete escapes stay as they are.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        rest = match after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                &after[2..]
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                after
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `None` if the file is missing, larger than [`MAX_JSON_BYTES`], or not JSON.
fn read_json(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_JSON_BYTES)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}
