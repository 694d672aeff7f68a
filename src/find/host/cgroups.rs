// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Control groups (cgroup v2): the path of a group by its id, and the directory that `--cgroup PATH` names.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::mountinfo;
use crate::error::Failure;

/// Most control groups that an error message suggests.
const MAX_SUGGESTED: usize = 5;
/// Suffixes of systemd units that have control groups.
const UNIT_SUFFIXES: [&str; 3] = [".service", ".scope", ".slice"];
/// Paths are kept after their control groups are removed, because events may be read late. The cache is
/// dropped when it has more entries than this.
const MAX_CACHED: usize = 1 << 16;
/// Shortest time between two walks of the hierarchy.
const WALK_PAUSE: Duration = Duration::from_secs(1);

/// The cgroup2 hierarchy of this machine.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    /// Path by inode number of the directory.
    paths: HashMap<u64, String>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// Finds where cgroup2 is mounted.
    ///
    /// # Errors
    /// It is not mounted.
    pub fn open() -> Result<Cgroups> {
        match mountinfo::cgroup2_root(&mountinfo::read()?) {
            Some(root) => Ok(Cgroups::at(root)),
            None => Err(Failure::failed("cgroup v2 is not mounted")
                .hint("select processes with -p, or mount it: `mount -t cgroup2 none DIRECTORY`")
                .into()),
        }
    }

    /// The hierarchy mounted at `root`.
    pub fn at(root: PathBuf) -> Cgroups {
        Cgroups {
            root,
            paths: HashMap::new(),
            walked: None,
        }
    }

    /// The path of a control group, `/` for the root. `id` is what `bpf_get_current_cgroup_id` returns, which
    /// is the inode number of the directory. Looks at the control group of `pid` first, which is cheap and
    /// finds groups that are newer than the last walk.
    pub fn path_of(&mut self, id: u64, pid: u32) -> Option<String> {
        if !self.paths.contains_key(&id)
            && let Ok(Some(path)) = cgroup_of(Path::new("/proc"), pid)
            && fs::metadata(self.directory(&path)).is_ok_and(|meta| meta.ino() == id)
        {
            self.paths.insert(id, path);
        }
        self.path_of_id_at(id, Instant::now())
    }

    /// The directory of a thread's control group. `None` if the kernel has no cgroup v2.
    ///
    /// # Errors
    /// There is no such thread.
    pub fn directory_of(&self, pid: u32, tid: u32) -> io::Result<Option<PathBuf>> {
        let path = cgroup_of(Path::new(&format!("/proc/{pid}/task")), tid)?;
        Ok(path.map(|path| self.directory(&path)))
    }

    /// The directory of a control group that the user names: a full path, or a path below the root of
    /// cgroup2, with or without a leading slash.
    ///
    /// # Errors
    /// The control group does not exist; the hint suggests similar ones.
    pub fn resolve(&self, path: &str) -> Result<PathBuf> {
        let device = device(&self.root).with_context(|| format!("failed to read {}", self.root.display()))?;
        let candidates = [self.directory(path), PathBuf::from(path)];
        // A relative path is relative to the root of cgroup2, never to the working directory.
        let candidates = candidates.iter().filter(|candidate| candidate.is_absolute());
        let existing: Vec<PathBuf> = candidates
            .filter_map(|candidate| candidate.canonicalize().ok())
            .collect();
        let root = self.root.display();
        if existing.is_empty() {
            let failure = Failure::failed(format!("no control group {path:?} in {root}"));
            return Err(failure.hint(self.suggestion(path)).into());
        }
        // All mounts of cgroup2 are one file system, so the device number excludes cgroup v1 and everything
        // else.
        let is_cgroup2 =
            |path: &PathBuf| path.is_dir() && self::device(path).is_ok_and(|other| other == device);
        existing.into_iter().find(is_cgroup2).ok_or_else(|| {
            Failure::failed(format!("{path:?} is not a directory of cgroup v2"))
                .hint(format!(
                    "give a directory below {root}, or select processes with -p"
                ))
                .into()
        })
    }

    /// Walks the hierarchy for an unknown id, at most once per [`WALK_PAUSE`].
    fn path_of_id_at(&mut self, id: u64, now: Instant) -> Option<String> {
        let due = self
            .walked
            .is_none_or(|walked| now.duration_since(walked) >= WALK_PAUSE);
        if !self.paths.contains_key(&id) && due {
            self.walked = Some(now);
            if self.paths.len() > MAX_CACHED {
                self.paths.clear();
            }
            let paths = &mut self.paths;
            walk(&self.root, &mut |path, inode| {
                paths.insert(inode, path.to_owned());
            });
        }
        self.paths.get(&id).cloned()
    }

    fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The hint for a control group that does not exist: groups elsewhere in the hierarchy, or systemd units,
    /// of that name.
    fn suggestion(&self, path: &str) -> String {
        let wanted = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let mut similar = BTreeSet::new();
        walk(&self.root, &mut |path, _| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let unit = UNIT_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            if name == wanted || unit == Some(wanted) {
                similar.insert(path.trim_start_matches('/').escape_debug().to_string());
            }
        });
        if wanted.is_empty() || similar.is_empty() {
            return "the path of a process is on the line of /proc/PID/cgroup that starts with 0::"
                .to_owned();
        }
        let similar: Vec<String> = similar.into_iter().take(MAX_SUGGESTED).collect();
        format!("did you mean {}?", similar.join(" or "))
    }
}

/// One line of `/proc/PID/cgroup`.
pub(super) struct CgroupMembership<'a> {
    /// The line of cgroup v2; false for those of cgroup v1.
    pub is_unified: bool,
    pub path: &'a str,
}

/// The lines of `/proc/PID/cgroup`.
pub(super) fn memberships(text: &str) -> impl Iterator<Item = CgroupMembership<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some(CgroupMembership {
            is_unified: hierarchy == "0" && controllers.is_empty(),
            path,
        })
    })
}

/// The text of `cgroup` of a process below `proc_root`.
pub(super) fn read_memberships(proc_root: &Path, pid: u32) -> io::Result<String> {
    let bytes = fs::read(proc_root.join(pid.to_string()).join("cgroup"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The cgroup v2 path of a process or thread, such as `/system.slice/cron.service`, as this process's cgroup
/// namespace shows it. `None` if the kernel has no cgroup v2.
fn cgroup_of(proc_root: &Path, pid: u32) -> io::Result<Option<String>> {
    let text = read_memberships(proc_root, pid)?;
    Ok(memberships(&text)
        .find(|membership| membership.is_unified)
        .map(|membership| membership.path.to_owned()))
}

/// Visits every directory below `root`: its path relative to it (`/` for `root`) and its inode number.
fn walk(root: &Path, visit: &mut impl FnMut(&str, u64)) {
    let mut pending = vec![String::new()];
    while let Some(path) = pending.pop() {
        let directory = root.join(path.trim_start_matches('/'));
        // A control group may be removed at any time, also between listing and reading it.
        let (Ok(metadata), Ok(entries)) = (fs::metadata(&directory), fs::read_dir(&directory)) else {
            continue;
        };
        visit(if path.is_empty() { "/" } else { &path }, metadata.ino());
        let children = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(children.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())));
    }
}

fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up hierarchy in a directory that is removed at the end.
    struct Hierarchy(PathBuf);

    impl Hierarchy {
        fn new(test: &str) -> Hierarchy {
            let root = std::env::temp_dir().join(format!("ubpf-cgroups-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            Hierarchy(root.canonicalize().unwrap())
        }

        fn group(&self, path: &str) -> PathBuf {
            let path = self.0.join(path);
            fs::create_dir_all(&path).unwrap();
            path
        }
    }

    impl Drop for Hierarchy {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn unknown_ids_are_looked_up_again_after_a_pause() {
        let hierarchy = Hierarchy::new("walk");
        let mut cgroups = Cgroups::at(hierarchy.0.clone());
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let (root, nested) = (inode(hierarchy.0.clone()), inode(hierarchy.group("a/b")));
        let start = Instant::now();
        assert_eq!(cgroups.path_of_id_at(root, start).as_deref(), Some("/"));
        assert_eq!(cgroups.path_of_id_at(nested, start).as_deref(), Some("/a/b"));
        let new = inode(hierarchy.group("new"));
        assert_eq!(cgroups.path_of_id_at(new, start + WALK_PAUSE / 2), None);
        let found = cgroups.path_of_id_at(new, start + WALK_PAUSE);
        assert_eq!(found.as_deref(), Some("/new"));
    }

    #[test]
    fn paths_resolve_from_the_root_of_cgroup2() {
        let hierarchy = Hierarchy::new("resolve");
        let cron = hierarchy.group("system.slice/cron.service");
        let cgroups = Cgroups::at(hierarchy.0.clone());
        let absolute = cron.to_str().unwrap();
        for path in [
            "system.slice/cron.service",
            "/system.slice/cron.service/",
            absolute,
        ] {
            assert_eq!(cgroups.resolve(path).unwrap(), cron, "{path}");
        }
        assert_eq!(cgroups.resolve("/").unwrap(), hierarchy.0);
    }

    #[test]
    fn unknown_paths_suggest_units_of_that_name() {
        let hierarchy = Hierarchy::new("suggest");
        hierarchy.group("system.slice/cron.service");
        let cgroups = Cgroups::at(hierarchy.0.clone());
        let failure = |path: &str| Failure::of(&cgroups.resolve(path).unwrap_err());
        let hint = failure("cron").hint.unwrap();
        assert_eq!(hint, "did you mean system.slice/cron.service?");
        assert!(failure("/proc").message.contains("not a directory of cgroup v2"));
    }
}
