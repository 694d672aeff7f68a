//! Control groups and the containers in them: which processes are `--cgroup PATH`, which are `--container
//! NAME`.
//!
//! A container is what its runtime made of it: one control group whose name holds the container's id. Ids
//! come from the control groups of running processes, names from the files in which the runtimes keep them;
//! no runtime is asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::error::Failure;

/// Fewer digits than this of an id are more likely a mistyped name.
const MIN_ID_PREFIX: usize = 4;
/// Characters of an id that are shown: as many as `docker ps` shows.
const SHORT_ID: usize = 12;
/// Containers that are listed when the wanted one is not among them.
const MAX_LISTED: usize = 5;
/// What systemd adds to the name of a service, a group of started processes and a group of groups.
const UNIT_SUFFIXES: [&str; 3] = [".service", ".scope", ".slice"];
/// A runtime's file that is longer than this is not what it should be.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// Control groups are remembered after their end, for events that are read late, up to this many.
const MAX_REMEMBERED: usize = 1 << 16;
/// The tree of control groups is walked no more often than this.
const WALK_PAUSE: Duration = Duration::from_secs(1);

/// The cgroup v2 path of a process, such as `/system.slice/cron.service`, as the reader's cgroup namespace
/// shows it.
///
/// `None` where the kernel has no cgroup v2. Fails when the process is gone.
fn cgroup_of(proc_root: &Path, pid: u32) -> io::Result<Option<String>> {
    let text = read_cgroups(proc_root, pid)?;
    Ok(memberships(&text)
        .find(|membership| membership.unified)
        .map(|membership| membership.path.to_owned()))
}

/// The id of the innermost container in a cgroup path.
///
/// That is 64 hexadecimal digits for docker, podman, containerd and CRI-O, the name for LXC, and for
/// systemd-nspawn the name as it stands in the path, with its `\x2d` escapes.
pub fn container_id(cgroup_path: &str) -> Option<&str> {
    containers_in(cgroup_path).last().map(|(id, _)| id)
}

/// The cgroup2 hierarchy of this machine.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    paths: HashMap<u64, String>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// Finds where cgroup2 is mounted; fails when it is not.
    pub fn open() -> Result<Cgroups> {
        let mounts = fs::read("/proc/self/mountinfo").context("failed to read /proc/self/mountinfo")?;
        match cgroup2_mount(&mounts) {
            Some(root) => Ok(Cgroups::at(root)),
            None => Err(failure(
                "cgroup v2 is not mounted".to_owned(),
                "choose processes with -p, or mount it: `mount -t cgroup2 none DIRECTORY`".to_owned(),
            )),
        }
    }

    /// The hierarchy below a directory.
    pub fn at(root: PathBuf) -> Cgroups {
        Cgroups {
            root,
            paths: HashMap::new(),
            walked: None,
        }
    }

    /// The path of a control group by its id, `/` for the root. The id is that of
    /// `bpf_get_current_cgroup_id`, which is the inode number of the directory.
    ///
    /// A control group that has just been made may be unknown for up to a second.
    pub fn path_of_id(&mut self, id: u64) -> Option<String> {
        self.path_of_id_at(id, Instant::now())
    }

    /// The same for the control group of a process, which says it itself as long as it is there and in that group.
    pub fn path_of(&mut self, id: u64, pid: u32) -> Option<String> {
        if !self.paths.contains_key(&id)
            && let Ok(Some(path)) = cgroup_of(Path::new("/proc"), pid)
            && fs::metadata(self.root.join(path.trim_start_matches('/'))).is_ok_and(|meta| meta.ino() == id)
        {
            self.paths.insert(id, path);
        }
        self.path_of_id(id)
    }

    /// The directory of the control group that a thread is in. `None` where the kernel has no cgroup v2.
    ///
    /// # Errors
    /// There is no such thread.
    pub fn folder_of(&self, pid: u32, tid: u32) -> io::Result<Option<PathBuf>> {
        let path = cgroup_of(Path::new(&format!("/proc/{pid}/task")), tid)?;
        Ok(path.map(|path| self.root.join(path.trim_start_matches('/'))))
    }

    fn path_of_id_at(&mut self, id: u64, now: Instant) -> Option<String> {
        let due = self
            .walked
            .is_none_or(|walked| now.duration_since(walked) >= WALK_PAUSE);
        if !self.paths.contains_key(&id) && due {
            self.walked = Some(now);
            if self.paths.len() > MAX_REMEMBERED {
                self.paths.clear();
            }
            let paths = &mut self.paths;
            walk(&self.root, &mut |path, inode| {
                paths.insert(inode, path.to_owned());
            });
        }
        self.paths.get(&id).cloned()
    }

    /// The directory of a control group that a person names: a whole path, or a path from the root of
    /// cgroup2, with or without a leading slash.
    ///
    /// Fails when there is no such control group, and then names those that were perhaps meant.
    pub fn resolve(&self, path: &str) -> Result<PathBuf> {
        let device = device(&self.root).with_context(|| format!("failed to read {}", self.root.display()))?;
        let below_root = self.root.join(path.trim_start_matches('/'));
        let candidates = [below_root, PathBuf::from(path)];
        // A relative path means one from the root, never one from where the tool happens to be started.
        let candidates = candidates.iter().filter(|candidate| candidate.is_absolute());
        let existing: Vec<PathBuf> = candidates
            .filter_map(|candidate| candidate.canonicalize().ok())
            .collect();
        let root = self.root.display();
        if existing.is_empty() {
            return Err(failure(
                format!("no control group {path:?} in {root}"),
                self.suggest(path),
            ));
        }
        // All mounts of cgroup2 are one file system, so the device tells it from cgroup v1 and from anything
        // else.
        let unified = |path: &PathBuf| path.is_dir() && self::device(path).is_ok_and(|other| other == device);
        match existing.into_iter().find(unified) {
            Some(directory) => Ok(directory),
            None => Err(failure(
                format!("{path:?} is not a directory of cgroup v2"),
                format!("give a directory below {root}, or choose processes with -p"),
            )),
        }
    }

    /// What to do about a control group that does not exist: those of that name in another place, or
    /// systemd's unit.
    fn suggest(&self, path: &str) -> String {
        let wanted = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let mut alike = BTreeSet::new();
        walk(&self.root, &mut |path, _| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let unit = UNIT_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            if name == wanted || unit == Some(wanted) {
                alike.insert(path.trim_start_matches('/').escape_debug().to_string());
            }
        });
        if wanted.is_empty() || alike.is_empty() {
            return "the line of /proc/PID/cgroup that begins with 0:: has the path of a process".to_owned();
        }
        let alike: Vec<String> = alike.into_iter().take(MAX_LISTED).collect();
        format!("did you mean {}?", alike.join(" or "))
    }
}

/// A running container.
#[derive(Debug, PartialEq, Eq)]
pub struct RunningContainer {
    /// What the runtime calls it: 64 hexadecimal digits, or the name for LXC and systemd-nspawn.
    pub id: String,
    /// Its name, where one is known; `POD/CONTAINER` under Kubernetes.
    pub name: Option<String>,
    /// Its cgroup2 directories; everything below them is in the container as well.
    pub cgroups: Vec<PathBuf>,
    /// Its processes at the time of the look-up, in rising order.
    pub pids: Vec<u32>,
}

/// Finds a running container on this machine by name or by the beginning of its id.
///
/// Fails when no running container matches, when several do, and when its control group is not in cgroup v2.
pub fn find_container(name_or_id: &str) -> Result<RunningContainer> {
    ContainerRuntimes::new()?.find(name_or_id)
}

/// Where running containers and their names are looked up.
#[derive(Debug)]
pub struct ContainerRuntimes {
    /// The process file system, `/proc`.
    pub proc: PathBuf,
    /// The root of cgroup2; `None` where it is not mounted.
    pub cgroup: Option<PathBuf>,
    /// Docker's directory of containers, `/var/lib/docker/containers`.
    pub docker: PathBuf,
    /// The directory in which podman and CRI-O keep `containers.json`.
    pub podman: PathBuf,
    /// containerd's directory of running containers, with one directory per namespace.
    pub containerd: PathBuf,
}

fn failure(message: String, hint: String) -> anyhow::Error {
    Failure::failed(message).hint(hint).into()
}

/// A container as the control groups of its processes show it.
#[derive(Debug, Default)]
struct ContainerProcesses {
    /// Paths in cgroup2, down to the name that holds the id.
    paths: BTreeSet<String>,
    pids: BTreeSet<u32>,
}

impl ContainerRuntimes {
    /// The usual places of this machine.
    pub fn new() -> Result<ContainerRuntimes> {
        let mounts = fs::read("/proc/self/mountinfo").context("failed to read /proc/self/mountinfo")?;
        Ok(ContainerRuntimes {
            proc: "/proc".into(),
            cgroup: cgroup2_mount(&mounts),
            docker: "/var/lib/docker/containers".into(),
            podman: "/var/lib/containers/storage/overlay-containers".into(),
            containerd: "/run/containerd/io.containerd.runtime.v2.task".into(),
        })
    }

    /// Finds a running container by name or by the beginning of its id; see [`find_container`].
    pub fn find(&self, name_or_id: &str) -> Result<RunningContainer> {
        let seen = self.running()?;
        let names = self.names(&seen);
        let matching = matches(&seen, &names, name_or_id);
        match matching[..] {
            [] => Err(failure(
                format!("no running container {name_or_id:?}"),
                match seen.is_empty() {
                    true => "no process is in a container, as far as control groups show".to_owned(),
                    false => format!("running are {}", listed(seen.keys(), &names)),
                },
            )),
            [id] => self.container(id, &seen[id], names.get(id)),
            _ => Err(failure(
                format!("several containers match {name_or_id:?}"),
                format!(
                    "give more of the id: {}",
                    listed(matching.iter().copied(), &names)
                ),
            )),
        }
    }

    /// All containers that have a process, by id.
    fn running(&self) -> Result<BTreeMap<String, ContainerProcesses>> {
        let mut seen = BTreeMap::new();
        let entries =
            fs::read_dir(&self.proc).with_context(|| format!("failed to read {}", self.proc.display()))?;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process that ended meanwhile is no longer running.
            if let Ok(text) = read_cgroups(&self.proc, pid) {
                note(&mut seen, pid, &text);
            }
        }
        Ok(seen)
    }

    /// The names of containers by id, for those that have one.
    fn names(&self, seen: &BTreeMap<String, ContainerProcesses>) -> HashMap<String, String> {
        let podman = self.podman_names();
        let name_of = |id: &String| {
            if !is_hash(id) {
                return Some(unescape(id));
            }
            self.docker_name(id)
                .or_else(|| podman.get(id).cloned())
                .or_else(|| self.kubernetes_name(id))
        };
        seen.keys()
            .filter_map(|id| Some((id.clone(), name_of(id)?)))
            .collect()
    }

    /// Docker writes `"Name":"/web"`.
    fn docker_name(&self, id: &str) -> Option<String> {
        let config = read_json(&self.docker.join(id).join("config.v2.json"))?;
        let name = config.get("Name")?.as_str()?;
        Some(name.trim_start_matches('/').to_owned())
    }

    /// podman and CRI-O keep an array of `{"id": ..., "names": [...]}`, those of `run --rm` in a file of
    /// their own.
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

    /// containerd keeps what Kubernetes calls a container among the annotations of its configuration.
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

    /// Fails when the container's control group cannot be filtered for.
    fn container(
        &self,
        id: &str,
        seen: &ContainerProcesses,
        name: Option<&String>,
    ) -> Result<RunningContainer> {
        let shown = name.map_or(id, String::as_str).escape_debug();
        let refuse = |reason: String| failure(reason, "choose its processes with -p".to_owned());
        let Some(root) = &self.cgroup else {
            bail!(refuse(
                "the container filter needs cgroup v2, which is not mounted".to_owned()
            ));
        };
        if seen.paths.is_empty() {
            let where_it_is = format!("container \"{shown}\" is only in control groups of version 1");
            bail!(refuse(format!(
                "the container filter needs cgroup v2, and {where_it_is}"
            )));
        }
        let cgroups: Vec<PathBuf> = topmost(&seen.paths)
            .map(|path| root.join(path.trim_start_matches('/')))
            .collect();
        if let Some(missing) = cgroups.iter().find(|cgroup| !cgroup.is_dir()) {
            bail!(refuse(format!(
                "container \"{shown}\" has no control group {}",
                missing.display()
            )));
        }
        Ok(RunningContainer {
            id: id.to_owned(),
            name: name.cloned(),
            cgroups,
            pids: seen.pids.iter().copied().collect(),
        })
    }
}

/// Adds one process to the containers that it is in, outer ones included.
fn note(seen: &mut BTreeMap<String, ContainerProcesses>, pid: u32, text: &str) {
    for membership in memberships(text) {
        for (id, path) in containers_in(membership.path) {
            let container = seen.entry(id.to_owned()).or_default();
            container.pids.insert(pid);
            if membership.unified {
                container.paths.insert(path.to_owned());
            }
        }
    }
}

/// The ids of the containers that a person may mean: those of that name, or else those whose id begins like
/// that.
fn matches<'a>(
    seen: &'a BTreeMap<String, ContainerProcesses>,
    names: &HashMap<String, String>,
    wanted: &str,
) -> Vec<&'a str> {
    let ids = || seen.keys().map(String::as_str);
    let named: Vec<&str> = ids()
        .filter(|id| names.get(*id).is_some_and(|name| is_called(name, wanted)))
        .collect();
    if !named.is_empty() {
        return named;
    }
    if wanted.len() < MIN_ID_PREFIX {
        return Vec::new();
    }
    ids().filter(|id| is_hash(id) && id.starts_with(wanted)).collect()
}

/// Under Kubernetes the container's own name will do, where only one pod has such a container.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted
        || name
            .split_once('/')
            .is_some_and(|(_, container)| container == wanted)
}

/// A few containers in words, `web (0123456789ab), db (...) and 3 more`.
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

/// The paths that are not below another one of the set.
fn topmost(paths: &BTreeSet<String>) -> impl Iterator<Item = &String> {
    let is_below =
        |path: &str, other: &str| path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
    paths
        .iter()
        .filter(move |path| !paths.iter().any(|other| is_below(path, other)))
}

/// One line of `/proc/PID/cgroup`.
struct CgroupMembership<'a> {
    /// The line of cgroup v2.
    unified: bool,
    path: &'a str,
}

fn memberships(text: &str) -> impl Iterator<Item = CgroupMembership<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some(CgroupMembership {
            unified: hierarchy == "0" && controllers.is_empty(),
            path,
        })
    })
}

fn read_cgroups(proc_root: &Path, pid: u32) -> io::Result<String> {
    let bytes = fs::read(proc_root.join(pid.to_string()).join("cgroup"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The containers in a cgroup path, outermost first: the id, and the path down to the name that holds it.
fn containers_in(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut parent = "";
    let mut end = 0;
    path.split('/').filter_map(move |name| {
        let before = std::mem::replace(&mut parent, name);
        end += name.len();
        let upto = &path[..end];
        end += 1;
        id_in(before, name).map(|id| (id, upto))
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
/// alone. The minder of a podman or CRI-O container, `libpod-conmon-ID.scope`, is not in the container.
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

/// 64 hexadecimal digits in lower case.
fn is_hash(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Undoes systemd's `\x2d`; what only looks like that stays as it is.
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

/// `None` for a file that is absent, too long or not JSON.
fn read_json(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(MAX_JSON_BYTES)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

/// Where cgroup2 is mounted, from the text of `mountinfo`; its root rather than a part of it, where both are
/// mounted.
fn cgroup2_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(mountinfo);
    let mounts = text.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then_some((root, point))
    });
    let (_, point) = mounts.min_by_key(|(root, _)| *root != "/")?;
    Some(PathBuf::from(point.replace("\\040", " ")))
}

/// Visits every directory below a root: its path from there (`/` for the root itself) and its inode number.
fn walk(root: &Path, visit: &mut impl FnMut(&str, u64)) {
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        let directory = root.join(path.trim_start_matches('/'));
        // A control group may be removed at any time, also between being listed and being read.
        let (Ok(metadata), Ok(entries)) = (fs::metadata(&directory), fs::read_dir(&directory)) else {
            continue;
        };
        visit(if path.is_empty() { "/" } else { &path }, metadata.ino());
        let below = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(below.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())));
    }
}

fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const DB: &str = "0123f6789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0";

    /// A made-up machine in a directory that is removed at the end.
    struct Machine(PathBuf);

    impl Machine {
        fn new(test: &str) -> Machine {
            let root = std::env::temp_dir().join(format!("ubpf-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            for directory in ["proc/self", "cgroup"] {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            Machine(root)
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A process in a control group of version 2, which is made as well.
        fn process(&self, pid: u32, cgroup: &str) {
            self.file(
                &format!("proc/{pid}/cgroup"),
                &format!("3:memory:/elsewhere\n0::{cgroup}\n"),
            );
            fs::create_dir_all(self.cgroup(cgroup)).unwrap();
        }

        fn cgroup(&self, path: &str) -> PathBuf {
            self.0.join("cgroup").join(path.trim_start_matches('/'))
        }

        fn runtimes(&self) -> ContainerRuntimes {
            ContainerRuntimes {
                proc: self.0.join("proc"),
                cgroup: Some(self.0.join("cgroup")),
                docker: self.0.join("docker"),
                podman: self.0.join("podman"),
                containerd: self.0.join("containerd"),
            }
        }

        fn find(&self, wanted: &str) -> Result<RunningContainer> {
            self.runtimes().find(wanted)
        }

        fn error(&self, wanted: &str) -> String {
            shown(&self.find(wanted).unwrap_err())
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn shown(error: &anyhow::Error) -> String {
        let failure = Failure::of(error);
        format!("{}\nhint: {}", failure.message, failure.hint.unwrap_or_default())
    }

    #[test]
    fn ids_in_paths() {
        let id = |path: &str| container_id(&path.replace("ID", WEB)).map(|id| id.replace(WEB, "ID"));
        for path in [
            "/system.slice/docker-ID.scope",
            "/docker/ID",
            "/docker/ID/init.scope",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "/machine.slice/libpod-ID.scope",
            "/libpod_parent/libpod-ID",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1234.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-pod1234.slice/crio-ID.scope",
            "/kubepods/burstable/pod0a1b-2c/ID",
            "/system.slice/containerd.service/kubepods-burstable-pod12.slice:cri-containerd:ID",
        ] {
            assert_eq!(id(path).as_deref(), Some("ID"), "{path}");
        }
        for path in [
            "/",
            "",
            "/user.slice/user-0.slice/session-1.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/crio-conmon-ID.scope",
            "/machine.slice/machine-libpod_pod_ID.slice",
            "/lxc.monitor.web",
            "/lxc",
            "/docker/abc",
            "/x/machine-web.scope",
        ] {
            assert_eq!(id(path), None, "{path}");
        }
        assert_eq!(
            id("/machine.slice/systemd-nspawn@deb.service/payload").as_deref(),
            Some("deb")
        );
        assert_eq!(
            id("/machine.slice/machine-my\\x2ddeb.scope/init.scope").as_deref(),
            Some("my\\x2ddeb")
        );
        assert_eq!(
            id("/lxc.payload.web/system.slice/cron.service").as_deref(),
            Some("web")
        );
        assert_eq!(id("/lxc/web/init.scope").as_deref(), Some("web"));
    }

    #[test]
    fn the_innermost_container_counts() {
        let path = format!("/docker/{WEB}/kubelet/kubepods/pod1/{DB}/x");
        assert_eq!(container_id(&path), Some(DB));
        let outer = format!("/docker/{WEB}");
        assert_eq!(containers_in(&path).next(), Some((WEB, outer.as_str())));
    }

    #[test]
    fn escapes_of_systemd() {
        assert_eq!(unescape("my\\x2ddeb"), "my-deb");
        assert_eq!(unescape("a\\xzzb\\x2"), "a\\xzzb\\x2");
        assert_eq!(unescape("\\x\u{e9}\\x2d"), "\\x\u{e9}-");
    }

    #[test]
    fn finds_by_id_and_by_name() {
        let machine = Machine::new("by-name");
        let web = format!("/system.slice/docker-{WEB}.scope");
        machine.process(30, &web);
        machine.process(20, &format!("{web}/nested"));
        machine.process(40, "/system.slice/cron.service");
        machine.file(&format!("docker/{WEB}/config.v2.json"), "{\"Name\":\"/web\"}");
        let expected = RunningContainer {
            id: WEB.to_owned(),
            name: Some("web".to_owned()),
            cgroups: vec![machine.cgroup(&web)],
            pids: vec![20, 30],
        };
        for wanted in ["web", WEB, &WEB[..12], &WEB[..4]] {
            assert_eq!(machine.find(wanted).unwrap(), expected, "{wanted}");
        }
        assert!(
            machine
                .error(&WEB[..3])
                .starts_with("no running container \"012\"\nhint: running are web (0123456789ab)")
        );
    }

    #[test]
    fn an_ambiguous_id_names_the_candidates() {
        let machine = Machine::new("ambiguous");
        machine.process(1, &format!("/docker/{WEB}"));
        machine.process(2, &format!("/machine.slice/libpod-{DB}.scope/container"));
        let file = format!("[{{\"id\":\"{DB}\",\"names\":[\"db\"]}},{{\"id\":3}}]");
        machine.file("podman/volatile-containers.json", &file);
        let error = machine.error("0123");
        assert!(
            error.starts_with("several containers match \"0123\"\nhint: "),
            "{error}"
        );
        assert!(error.ends_with("0123456789ab, db (0123f6789abc)"), "{error}");
        assert_eq!(machine.find("db").unwrap().id, DB);
    }

    #[test]
    fn names_of_kubernetes_machines_and_lxc() {
        let machine = Machine::new("names");
        machine.process(1, &format!("/kubepods.slice/cri-containerd-{WEB}.scope"));
        let annotations =
            "\"io.kubernetes.cri.container-name\":\"nginx\",\"io.kubernetes.cri.sandbox-name\":\"shop\"";
        let config = format!("{{\"annotations\":{{{annotations}}}}}");
        machine.file(&format!("containerd/k8s.io/{WEB}/config.json"), &config);
        machine.process(2, "/machine.slice/machine-my\\x2ddeb.scope");
        machine.process(3, "/lxc.payload.box/init.scope");
        for (wanted, pid) in [("nginx", 1), ("shop/nginx", 1), ("my-deb", 2), ("box", 3)] {
            assert_eq!(machine.find(wanted).unwrap().pids, [pid], "{wanted}");
        }
        let error = machine.error("none");
        assert!(
            error.ends_with("shop/nginx (0123456789ab), box, my-deb (my\\x2ddeb)"),
            "{error}"
        );
    }

    #[test]
    fn a_container_of_cgroup_v1_is_refused() {
        let machine = Machine::new("v1");
        machine.file("proc/5/cgroup", &format!("4:memory:/docker/{WEB}\n0::/\n"));
        let error = machine.error(WEB);
        assert!(
            error.contains("needs cgroup v2") && error.ends_with("\nhint: choose its processes with -p"),
            "{error}"
        );
    }

    #[test]
    fn says_that_there_are_no_containers() {
        let machine = Machine::new("nothing");
        machine.process(1, "/init.scope");
        assert!(
            machine
                .error("web")
                .ends_with("no process is in a container, as far as control groups show")
        );
    }

    #[test]
    fn paths_of_ids_are_walked_again_after_a_pause() {
        let machine = Machine::new("walk");
        machine.process(1, "/a/b");
        let mut cgroups = Cgroups::at(machine.0.join("cgroup"));
        let inode = |path: &str| fs::metadata(machine.cgroup(path)).unwrap().ino();
        let start = Instant::now();
        assert_eq!(cgroups.path_of_id_at(inode("/"), start).as_deref(), Some("/"));
        assert_eq!(
            cgroups.path_of_id_at(inode("/a/b"), start).as_deref(),
            Some("/a/b")
        );
        machine.process(2, "/new");
        assert_eq!(cgroups.path_of_id_at(inode("/new"), start + WALK_PAUSE / 2), None);
        assert_eq!(
            cgroups
                .path_of_id_at(inode("/new"), start + WALK_PAUSE)
                .as_deref(),
            Some("/new")
        );
    }

    #[test]
    fn resolves_what_a_person_writes() {
        let machine = Machine::new("resolve");
        machine.process(1, "/system.slice/cron.service");
        let cgroups = Cgroups::at(machine.0.join("cgroup"));
        let whole = machine
            .cgroup("/system.slice/cron.service")
            .canonicalize()
            .unwrap();
        for path in [
            "system.slice/cron.service",
            "/system.slice/cron.service/",
            &whole.to_string_lossy(),
        ] {
            assert_eq!(cgroups.resolve(path).unwrap(), whole, "{path}");
        }
        assert_eq!(
            cgroups.resolve("/").unwrap(),
            machine.0.join("cgroup").canonicalize().unwrap()
        );
        let error = shown(&cgroups.resolve("cron").unwrap_err());
        assert!(
            error.ends_with("\nhint: did you mean system.slice/cron.service?"),
            "{error}"
        );
        assert!(
            cgroups
                .resolve("/proc")
                .unwrap_err()
                .to_string()
                .contains("not a directory of cgroup v2")
        );
    }

    #[test]
    fn the_mount_of_cgroup2() {
        let mounts = b"25 30 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n\
                       40 30 0:29 /part /x rw shared:1 - cgroup2 none rw\n\
                       41 30 0:29 / /my\\040mnt rw shared:1 - cgroup2 none rw\n\
                       42 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(cgroup2_mount(mounts), Some(PathBuf::from("/my mnt")));
        assert_eq!(cgroup2_mount(b"junk\n\xff - \n"), None);
    }
}
