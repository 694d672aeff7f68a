// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Bad input: one error line, the documented exit status, and no side effects.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use super::*;
use crate::harness::{Ended, TOOLS, build_dir, program_if_built, run_to_end, skip, tool_command};

/// Runs the tool and asserts that it fails with this status and an error that contains each of `parts`.
#[track_caller]
fn refused(args: &[&str], status: i32, parts: &[&str]) -> Ended {
    refused_as(
        &mut tool_command("mallocsnoop", AttachMode::Plain, args),
        status,
        parts,
    )
}

#[track_caller]
fn refused_as(command: &mut Command, status: i32, parts: &[&str]) -> Ended {
    let ended = run_to_end(command);
    assert_eq!(ended.status.code(), Some(status), "{}", ended.stderr);
    assert!(
        parts.iter().all(|part| ended.stderr.contains(part)),
        "expected {parts:?} in: {}",
        ended.stderr
    );
    assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
    assert!(
        ended.stderr.lines().count() <= 2,
        "more than an error and a hint: {}",
        ended.stderr
    );
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    ended
}

#[test]
fn missing_process_is_named() {
    refused(&["-p", "4194304"], 1, &["4194304", "no such process"]);
}

#[test]
fn kernel_thread_is_refused() {
    if !fs::read_to_string("/proc/2/comm").is_ok_and(|comm| comm == "kthreadd\n") {
        return skip("PID 2 is not a kernel thread here");
    }
    refused(&["-p", "2"], 1, &["PID 2", "kernel thread"]);
}

#[test]
fn file_that_is_not_elf_is_refused() {
    refused(&["-l", "/etc/passwd"], 1, &["/etc/passwd", "ELF"]);
    refused(&["-l", "/no/such/file"], 1, &["/no/such/file"]);
    refused(&["-l", "/proc"], 1, &["/proc"]);
}

#[test]
fn malformed_elf_files_are_refused() {
    let whole = fs::read(bump_library()).expect("the library");
    let broken = build_dir().join(unique("libbroken"));
    let path = broken.to_str().expect("a path in UTF-8");
    for kept in [4, 16, 63, 64, 100, 1000, 4096] {
        fs::write(&broken, &whole[..kept.min(whole.len())]).expect("failed to write");
        refused(&["-l", path], 1, &[path]);
    }
    // Header fields that point outside the file.
    for (start, end) in [(32, 40), (40, 48), (54, 64)] {
        let mut hostile = whole.clone();
        hostile[start..end].fill(0xff);
        fs::write(&broken, &hostile).expect("failed to write");
        let ended = run_to_end(&mut tool_command(
            "mallocsnoop",
            AttachMode::Plain,
            ["-l", path, "-d", "10ms"],
        ));
        assert!(
            matches!(ended.status.code(), Some(0 | 1)),
            "bytes {start}..{end}: {:?} {}",
            ended.status,
            ended.stderr
        );
    }
    fs::remove_file(&broken).expect("failed to remove");
}

#[test]
fn missing_function_is_reported_with_similar_names() {
    let library = bump_library();
    let path = library.to_str().expect("a path in UTF-8");
    refused(
        &["-l", path, "--calls", "memalign"],
        1,
        &["memalign", path, "posix_memalign"],
    );
}

#[test]
fn unprobeable_function_is_skipped_with_a_warning() {
    let Some(library) = program_if_built("libbump-locked.so") else {
        return skip("instructions that cannot be probed are known for x86-64 only");
    };
    let mut command = Command::new(calls_program());
    command.env("LD_PRELOAD", library);
    let mut target = Target::start(command);
    let tool = trace_pid(AttachMode::Plain, &target, &[]);
    target.ask("malloc 97 4099");
    target.ask("realloc 89 4111");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(
        (count(&run, 4099), count(&run, 4111)),
        (0, 89),
        "the compiler no longer places the locked instruction first"
    );
    assert!(run.stderr.contains("the kernel cannot probe"), "{}", run.stderr);
}

#[test]
fn malformed_values_are_usage_errors() {
    refused(&["--min-size", "1Q"], 2, &["1Q", "hint: "]);
    refused(
        &["--min-size", "1060", "--max-size", "1050"],
        2,
        &["larger than --max-size"],
    );
    refused(&["-p", "0"], 2, &["-p"]);
    refused(&["-p", "12x"], 2, &["12x"]);
    refused(&["-d", "1y"], 2, &["1y"]);
    refused(&["--calls", "mallocate"], 2, &["mallocate"]);
}

#[test]
fn unknown_user_cgroup_or_container_is_named() {
    for option in ["-u", "--cgroup", "--container"] {
        let ended = run_to_end(&mut tool_command(
            "mallocsnoop",
            AttachMode::Plain,
            [option, "no-such-thing"],
        ));
        assert!(
            matches!(ended.status.code(), Some(1 | 2)),
            "{option}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.starts_with("error: ") && ended.stderr.contains("no-such-thing"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn missing_root_has_its_own_exit_status() {
    // Other users may have no access to the build directory.
    let copy = std::env::temp_dir().join(unique("ubpf-tools-e2e"));
    crate::harness::copy(&TOOLS, &copy);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut command = Command::new(&copy);
    command.args(["mallocsnoop", "-p", "1"]).uid(65534).gid(65534);
    let ended = run_to_end(&mut command);
    fs::remove_file(&copy).expect("failed to remove");
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("hint: ") && ended.stderr.contains("root"),
        "{}",
        ended.stderr
    );
}

/// The tool in a new mount namespace, after the shell command `hide`.
fn with_hidden(hide: &str, mode: AttachMode, args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        &format!("{hide} && exec \"$@\""),
        "sh",
    ]);
    let tool = tool_command("mallocsnoop", mode, args);
    command.arg(tool.get_program()).args(tool.get_args());
    command
}

#[test]
fn missing_btf_affects_only_follow() {
    let hide = "mount --bind /dev/null /sys/kernel/btf/vmlinux";
    let program = calls_program();
    let program = program.to_str().expect("a path in UTF-8");
    refused_as(
        &mut with_hidden(hide, AttachMode::Plain, &["--follow", "--", program]),
        3,
        &["--follow", "BTF"],
    );
    let run = Tool::start_as(with_hidden(
        hide,
        AttachMode::Plain,
        &["--", program, "malloc 97 4099"],
    ))
    .finish();
    run.assert_clean();
    assert_eq!(count(&run, BLOCK), 97);
}

#[test]
fn missing_uprobe_pmu_does_not_affect_multi() {
    let hide = "mount -t tmpfs none /sys/bus/event_source/devices/uprobe";
    for mode in [AttachMode::Single, AttachMode::Plain] {
        mode.run(|mode| {
            refused_as(
                &mut with_hidden(hide, mode, &["-p", "1"]),
                3,
                &["/sys/bus/event_source/devices/uprobe"],
            );
        });
    }
    AttachMode::Multi.run(|mode| {
        let program = calls_program();
        let args = ["--", program.to_str().expect("a path in UTF-8"), "malloc 97 4099"];
        let run = Tool::start_as(with_hidden(hide, mode, &args)).finish();
        run.assert_clean();
        assert_eq!(count(&run, BLOCK), 97);
    });
}
