// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which allocators are found: in running processes, in new ones, in containers, and outside the C library.

use std::fs;
use std::path::Path;

use super::*;
use crate::harness::{best_mode, build_dir, copy, each_mode, program_if_built, skip};

each_mode! {
    library_mapped_by_a_new_process_is_traced
    library_of_a_running_process_is_traced
    file_shared_by_two_containers_is_traced_once
    file_shared_by_containers_started_later_is_traced_once
    file_shared_by_container_and_host_is_traced_once
    process_in_a_container_is_traced_by_pid
}

best_mode! {
    preloaded_allocator_is_found
    other_c_libraries_are_found
    library_option_accepts_path_and_name
}

/// A directory that can be the root of a container: the target program and copies of its libraries.
struct Root(PathBuf);

impl Root {
    fn new() -> Root {
        let root = build_dir().join(unique("root"));
        fs::create_dir_all(root.join("lib64")).expect("failed to create a directory");
        fs::create_dir_all(root.join("proc")).expect("failed to create a directory");
        std::os::unix::fs::symlink("lib64", root.join("lib")).expect("a link");
        copy(&calls_program(), &root.join("calls"));
        for library in libraries_of(&target()) {
            fs::copy(
                &library,
                root.join("lib64").join(library.file_name().expect("a name")),
            )
            .expect("a copy");
        }
        Root(root)
    }

    /// Starts the program on the host, with the libraries of the directory.
    fn start(&self) -> Target {
        let mut command = Command::new(self.0.join("calls"));
        command.env("LD_LIBRARY_PATH", self.0.join("lib64"));
        Target::start(command)
    }

    /// Starts the program in a new mount namespace with the directory as its root.
    fn start_inside(&self) -> Target {
        self.contain("mount --bind \"$0\" \"$0\" && exec chroot \"$0\" /calls")
    }

    /// Like [`Root::start_inside`], on an overlay mount as containers of the same image use it.
    fn start_in_overlay(&self) -> Target {
        self.contain(
            "mount -t tmpfs none /mnt && mkdir /mnt/root /mnt/empty && \
             mount -t overlay none -o lowerdir=\"$0\":/mnt/empty /mnt/root && exec chroot /mnt/root /calls",
        )
    }

    fn contain(&self, script: &str) -> Target {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(&self.0);
        // For the dynamic loader inside; on the host this is the host's directory of that name.
        command.env("LD_LIBRARY_PATH", "/lib64");
        Target::start(command)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn libraries_of(target: &Target) -> Vec<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("the maps");
    let mut paths: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.contains(" r-xp ") && line.contains(".so"))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .collect();
    paths.dedup();
    paths
}

/// Gives both targets the same comm, traces it while they make known numbers of calls, and checks the rows.
fn assert_each_is_counted_once(mode: AttachMode, mut a: Target, mut b: Target) {
    let name = unique("e2e");
    a.ask(&format!("name {name}"));
    b.ask(&format!("name {name}"));
    let tool = trace(mode, &["--comm", &name]);
    a.ask("malloc 97 4099");
    b.ask("malloc 89 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(
        (run.with("pid", a.pid()).len(), run.with("pid", b.pid()).len()),
        (97, 89)
    );
}

fn library_of_a_running_process_is_traced(mode: AttachMode) {
    let (there, elsewhere) = (Root::new(), Root::new());
    assert_each_is_counted_once(mode, there.start(), elsewhere.start_inside());
}

fn library_mapped_by_a_new_process_is_traced(mode: AttachMode) {
    let root = Root::new();
    let name = unique("e2e");
    let mut tool = trace(mode, &["--comm", &name]);
    let mut targets = Vec::new();
    // A new process each time, in case the mmap event of the first was missed.
    tool.until_row(|| {
        let mut target = root.start();
        target.ask(&format!("name {name}"));
        target.ask("malloc 1 5003");
        targets.push(target);
    });
    targets[0].ask("malloc 97 4099");
    let mut inside = root.start_inside();
    inside.ask(&format!("name {name}"));
    inside.ask("malloc 89 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97 + 89);
}

/// Reports a skip and returns false where overlayfs is not available.
fn has_overlayfs() -> bool {
    let types = fs::read_to_string("/proc/filesystems").expect("file system types");
    let found = types.contains("\toverlay\n");
    if !found {
        skip("overlayfs is not built into this kernel, or not loaded");
    }
    found
}

fn file_shared_by_two_containers_is_traced_once(mode: AttachMode) {
    if !has_overlayfs() {
        return;
    }
    let root = Root::new();
    assert_each_is_counted_once(mode, root.start_in_overlay(), root.start_in_overlay());
}

fn file_shared_by_container_and_host_is_traced_once(mode: AttachMode) {
    if !has_overlayfs() {
        return;
    }
    let root = Root::new();
    assert_each_is_counted_once(mode, root.start_in_overlay(), root.start());
}

fn file_shared_by_containers_started_later_is_traced_once(mode: AttachMode) {
    if !has_overlayfs() {
        return;
    }
    let root = Root::new();
    let name = unique("e2e");
    let mut tool = trace(mode, &["--comm", &name]);
    let mut targets = [root.start_in_overlay(), root.start_in_overlay()];
    for target in &mut targets {
        target.ask(&format!("name {name}"));
    }
    let [first, second] = &mut targets;
    tool.until_row(|| _ = first.ask("malloc 1 5003"));
    let mut third = root.start_in_overlay();
    third.ask(&format!("name {name}"));
    first.ask("malloc 97 4099");
    second.ask("malloc 89 4099");
    third.ask("malloc 83 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97 + 89 + 83);
}

fn process_in_a_container_is_traced_by_pid(mode: AttachMode) {
    let root = Root::new();
    let (mut inside, mut other) = (root.start_inside(), root.start_inside());
    let tool = trace_pid(mode, &inside, &[]);
    inside.ask("malloc 97 4099");
    other.ask("malloc 89 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((count(&run, BLOCK), run.rows.len()), (97, 97));
}

/// Traces a process by PID alone and asserts that its allocator is found in a file of this name.
fn assert_found(mode: AttachMode, mut target: Target, file: &str) {
    let tool = trace_pid(mode, &target, &[]);
    let files = tool.attached["files"].to_string();
    assert!(files.contains(file), "{file} is not in {files}");
    let cases = [
        ("malloc", "97 4099", 4099, 97),
        ("calloc", "89 7 601", 4207, 89),
        ("realloc", "83 4111", 4111, 83),
        ("posix_memalign", "73 64 4127", 4127, 73),
    ];
    for (call, order, ..) in cases {
        target.ask(&format!("{call} {order}"));
    }
    let run = tool.stop();
    run.assert_clean();
    for (call, _, size, expected) in cases {
        assert_eq!(with_call(&run, &[call], size).len(), expected, "{call} of {file}");
    }
}

fn preloaded_allocator_is_found(mode: AttachMode) {
    assert_found(mode, bump_target(), "libbump.so");
    for name in [
        "libjemalloc.so",
        "libtcmalloc.so",
        "libtcmalloc_minimal.so",
        "libmimalloc.so",
    ] {
        let Some(library) = installed(name) else {
            skip(&format!("{name} is not installed in /usr/lib"));
            continue;
        };
        let mut command = Command::new(calls_program());
        command.env("LD_PRELOAD", library);
        assert_found(mode, Target::start(command), name);
    }
}

/// An installed library whose file name starts with `name`.
pub fn installed(name: &str) -> Option<PathBuf> {
    let entries = |path: &Path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let usr = Path::new("/usr/lib");
    let below: Vec<PathBuf> = entries(usr)
        .filter(|path| path.is_dir())
        .flat_map(|path| entries(&path).collect::<Vec<_>>())
        .collect();
    let matches_name = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(name))
    };
    entries(usr).chain(below).find(matches_name)
}

fn other_c_libraries_are_found(mode: AttachMode) {
    let start = |program: PathBuf| Target::start(Command::new(program));
    assert_found(mode, start(program("calls-static")), "calls-static");
    for (name, file) in [("calls-musl", "musl"), ("calls-musl-static", "calls-musl-static")] {
        match program_if_built(name) {
            Some(program) => assert_found(mode, start(program), file),
            None => skip("musl-gcc is not installed"),
        }
    }
}

fn library_option_accepts_path_and_name(mode: AttachMode) {
    let bump = bump_library();
    let bump = bump.to_str().expect("a path in UTF-8");
    let (mut target, name) = (bump_target(), unique("e2e"));
    target.ask(&format!("name {name}"));
    let pid = target.pid().to_string();
    // The C library is mapped too, but this process does not call its malloc.
    let cases: [(&[&str], usize); 4] = [
        (&["-l", bump, "--comm", &name], 97),
        (&["-l", "libbump", "-p", &pid], 97),
        (&["-l", "libc", "--comm", &name], 0),
        (&["-l", "c", "-p", &pid], 0),
    ];
    for (args, expected) in cases {
        let tool = trace(mode, args);
        target.ask("malloc 97 4099");
        let run = tool.stop();
        run.assert_clean();
        assert_eq!(count(&run, BLOCK), expected, "{args:?}");
    }
}
