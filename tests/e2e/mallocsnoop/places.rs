// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which allocators are found: those in use, those that appear, those in containers, and those that are no C library.

use std::fs;
use std::path::Path;

use super::*;
use crate::harness::{best_way, build_dir, copy, each_way, program_if_built, skip};

each_way! {
    a_library_that_appears_later_is_traced
    a_library_that_is_there_already_is_traced
    one_file_in_two_containers_is_traced_once
    one_file_in_two_containers_that_start_later_is_traced_once
    one_file_in_a_container_and_outside_is_traced_once
    a_process_in_a_container_is_traced_by_its_number
    a_library_that_is_loaded_later_is_traced
}

best_way! {
    a_preloaded_allocator_is_the_one_of_the_process
    other_c_libraries_are_found
    a_library_is_named_by_path_and_by_name
}

/// A folder that can be the root of a container: the program of orders, and copies of the libraries that it needs.
struct Root(PathBuf);

impl Root {
    fn new() -> Root {
        let root = build_dir().join(unique("root"));
        fs::create_dir_all(root.join("lib64")).expect("a folder");
        fs::create_dir_all(root.join("proc")).expect("a folder");
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

    /// The program as part of this system, with the libraries of the folder.
    fn start(&self) -> Target {
        let mut command = Command::new(self.0.join("calls"));
        command.env("LD_LIBRARY_PATH", self.0.join("lib64"));
        Target::start(command)
    }

    /// The program in a mount namespace of its own with the folder as its root.
    fn start_inside(&self) -> Target {
        self.contain("mount --bind \"$0\" \"$0\" && exec chroot \"$0\" /calls")
    }

    /// The same with an overlay in between, as containers of one image have it.
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
        // For the loader inside; outside it is the host's folder of that name.
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

/// Gives both the name, and runs the tool on it while they make known numbers of calls.
fn assert_each_is_counted_once(way: Way, mut a: Target, mut b: Target) {
    let name = unique("e2e");
    a.ask(&format!("name {name}"));
    b.ask(&format!("name {name}"));
    let tool = trace(way, &["--comm", &name]);
    a.ask("malloc 97 4099");
    b.ask("malloc 89 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(
        (run.with("pid", a.pid()).len(), run.with("pid", b.pid()).len()),
        (97, 89)
    );
}

fn a_library_that_is_there_already_is_traced(way: Way) {
    let (there, elsewhere) = (Root::new(), Root::new());
    assert_each_is_counted_once(way, there.start(), elsewhere.start_inside());
}

fn a_library_that_appears_later_is_traced(way: Way) {
    let root = Root::new();
    let name = unique("e2e");
    let mut tool = trace(way, &["--comm", &name]);
    let mut targets = Vec::new();
    // Another one each time, should the kernel not have told of the first.
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

/// Why there are no overlays here, if that is so.
fn no_overlays() -> bool {
    let kinds = fs::read_to_string("/proc/filesystems").expect("the kinds of file systems");
    let missing = !kinds.contains("\toverlay\n");
    if missing {
        skip("this kernel has no overlayfs, or has not loaded it");
    }
    missing
}

fn one_file_in_two_containers_is_traced_once(way: Way) {
    if no_overlays() {
        return;
    }
    let root = Root::new();
    assert_each_is_counted_once(way, root.start_in_overlay(), root.start_in_overlay());
}

fn one_file_in_a_container_and_outside_is_traced_once(way: Way) {
    if no_overlays() {
        return;
    }
    let root = Root::new();
    assert_each_is_counted_once(way, root.start_in_overlay(), root.start());
}

fn one_file_in_two_containers_that_start_later_is_traced_once(way: Way) {
    if no_overlays() {
        return;
    }
    let root = Root::new();
    let name = unique("e2e");
    let mut tool = trace(way, &["--comm", &name]);
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

fn a_process_in_a_container_is_traced_by_its_number(way: Way) {
    let root = Root::new();
    let (mut inside, mut other) = (root.start_inside(), root.start_inside());
    let tool = trace_pid(way, &inside, &[]);
    inside.ask("malloc 97 4099");
    other.ask("malloc 89 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!((count(&run, BLOCK), run.rows.len()), (97, 97));
}

/// Traces a process by its number alone, and expects that its allocator is found, in a file of this name.
fn assert_found(way: Way, mut target: Target, file: &str) {
    let tool = trace_pid(way, &target, &[]);
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
    for (call, _, size, number) in cases {
        assert_eq!(with_call(&run, &[call], size).len(), number, "{call} of {file}");
    }
}

fn a_preloaded_allocator_is_the_one_of_the_process(way: Way) {
    assert_found(way, bump_target(), "libbump.so");
    for name in [
        "libjemalloc.so",
        "libtcmalloc.so",
        "libtcmalloc_minimal.so",
        "libmimalloc.so",
    ] {
        let Some(library) = installed(name) else {
            skip(&format!("{name} is not below /usr/lib"));
            continue;
        };
        let mut command = Command::new(calls_program());
        command.env("LD_PRELOAD", library);
        assert_found(way, Target::start(command), name);
    }
}

/// A library whose file name begins so.
fn installed(name: &str) -> Option<PathBuf> {
    let folder = |path: &Path| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let usr = Path::new("/usr/lib");
    let below: Vec<PathBuf> = folder(usr)
        .filter(|path| path.is_dir())
        .flat_map(|path| folder(&path).collect::<Vec<_>>())
        .collect();
    let is_called = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(name))
    };
    folder(usr).chain(below).find(is_called)
}

fn other_c_libraries_are_found(way: Way) {
    let start = |program: PathBuf| Target::start(Command::new(program));
    assert_found(way, start(program("calls-static")), "calls-static");
    for (name, file) in [("calls-musl", "musl"), ("calls-musl-static", "calls-musl-static")] {
        match program_if_built(name) {
            Some(program) => assert_found(way, start(program), file),
            None => skip("there was no musl-gcc to build with"),
        }
    }
}

fn a_library_is_named_by_path_and_by_name(way: Way) {
    let bump = bump_library();
    let bump = bump.to_str().expect("a path in UTF-8");
    let (mut target, name) = (bump_target(), unique("e2e"));
    target.ask(&format!("name {name}"));
    let pid = target.pid().to_string();
    // The C library is there too, but this process does not call its malloc.
    let cases: [(&[&str], usize); 4] = [
        (&["-l", bump, "--comm", &name], 97),
        (&["-l", "libbump", "-p", &pid], 97),
        (&["-l", "libc", "--comm", &name], 0),
        (&["-l", "c", "-p", &pid], 0),
    ];
    for (args, expected) in cases {
        let tool = trace(way, args);
        target.ask("malloc 97 4099");
        let run = tool.stop();
        run.assert_clean();
        assert_eq!(count(&run, BLOCK), expected, "{args:?}");
    }
}

fn a_library_that_is_loaded_later_is_traced(way: Way) {
    // An exec replaces the allocator of a process that is being traced.
    let mut command = Command::new("sh");
    let script = "while read -r order; do case $order in go) exec \"$0\";; *) echo .;; esac; done";
    command.args(["-c", script]).arg(program("calls-static"));
    let mut target = Target::start(command);
    let mut tool = trace_pid(way, &target, &["--min-size", "4099", "--max-size", "5003"]);
    target.tell("go");
    tool.until_row(|| _ = target.ask("malloc 1 5003"));
    target.ask("malloc 97 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}
