// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which capabilities a tool needs and which it keeps after attaching; setuid copies are refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{
    AttachMode, Folder, TOOLS, Target, Tool, kernel_version, program, run_to_end, skip, tool_command,
    wait_until,
};

const NOBODY: &str = "65534";

/// A command that runs a program as user nobody with only these capabilities, such as `+bpf,+perfmon`. The program has
/// to be readable by that user.
pub fn as_nobody(capabilities: &str, program: &Path) -> Command {
    let mut set = "-all".to_owned();
    if !capabilities.is_empty() {
        set += ",";
        set += capabilities;
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .args(["--inh-caps", &set, "--ambient-caps", &set, "--bounding-set", &set])
        .arg(program);
    command
}

/// A hexadecimal field of /proc/PID/status.
fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(":"));
    u64::from_str_radix(line.expect("the field").trim(), 16).expect("a number")
}

const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_LEASE: u64 = 1 << 28;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;

/// Asserts that the tool has exactly these capabilities after attaching, and cannot regain others.
#[track_caller]
fn assert_keeps(expected: u64, tool: &str, args: &[&str]) {
    let tool = Tool::start(tool, AttachMode::best(), args);
    wait_until("the privileges to be dropped", || {
        (status(tool.pid(), "NoNewPrivs") == 1).then_some(())
    });
    let kept = ["CapEff", "CapPrm", "CapInh"].map(|set| status(tool.pid(), set));
    assert_eq!(kept, [expected, expected, 0], "{kept:x?}");
    assert_threads_are_not_root(tool.pid());
    assert!(tool.stop().status.success());
}

/// Root without capabilities still owns most files.
#[track_caller]
fn assert_threads_are_not_root(pid: u32) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    for thread in threads.flatten() {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let ids = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let ids = [ids("Uid:"), ids("Gid:")].map(|ids| ids.unwrap_or_default().split_whitespace());
        assert!(ids.into_iter().flatten().all(|id| id != "0"), "{status}");
    }
}

#[test]
fn only_capabilities_still_needed_are_kept() {
    let main = format!("{}:main", program("calls").display());
    assert_keeps(0, "mallocsnoop", &["-l", "libc"]);
    let inspects = CAP_SYS_PTRACE | CAP_DAC_READ_SEARCH | CAP_CHECKPOINT_RESTORE;
    assert_keeps(inspects, "mallocsnoop", &["--stack", "-l", "libc"]);
    // Probes are attached to libraries that the process loads later.
    let target = Target::start(Command::new(program("calls")));
    let attaches = inspects | CAP_SYS_ADMIN | CAP_BPF | CAP_PERFMON | CAP_LEASE;
    assert_keeps(attaches, "mallocsnoop", &["-p", &target.pid().to_string()]);
    // The file may be replaced.
    assert_keeps(attaches, "functrace", &[&main]);
    // Another thread attaches to processes that begin to match.
    assert_keeps(
        attaches,
        "functrace",
        &["--scope", "targeted", "--comm", "calls", &main],
    );
}

#[test]
fn bpf_and_perfmon_capabilities_suffice_for_multi_links() {
    if !AttachMode::best().has_multi_links() {
        return skip("this kernel has no multi-uprobe links");
    }
    let folder = Folder::new();
    let tools = folder.copy_of(&*TOOLS, "ubpf-tools");
    let calls = folder.copy_of(program("calls"), "calls");
    let mut target = Target::start(as_nobody("", &calls));
    let pid = target.pid().to_string();
    let args = tool_command(
        "mallocsnoop",
        AttachMode::Multi,
        ["-p", &pid, "--min-size", "1009", "-M", "11"],
    );
    let mut command = as_nobody("+bpf,+perfmon", &tools);
    command.args(args.get_args());
    let tool = Tool::start_as(command);
    target.ask("malloc 11 1009");
    let run = tool.finish();
    run.assert_clean();
    assert_eq!(run.with("pid", target.pid()).len(), 11);
}

#[test]
fn perf_event_probes_need_sys_admin() {
    if kernel_version() < (6, 16) {
        return skip("this kernel may lack the fix of CVE-2025-38466, which requires CAP_SYS_ADMIN");
    }
    let target = Target::start(Command::new(program("calls")));
    let folder = Folder::new();
    let tools = folder.copy_of(&*TOOLS, "ubpf-tools");
    let main = format!("{}:main", program("calls").display());
    let args = tool_command(
        "funccount",
        AttachMode::Single,
        [&main, "-p", &target.pid().to_string()],
    );
    let refused =
        run_to_end(as_nobody("+bpf,+perfmon,+sys_ptrace,+dac_read_search", &tools).args(args.get_args()));
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains(": failed to attach: Permission denied"),
        "{refused:?}"
    );
}

#[test]
fn setuid_copy_refuses_users_other_than_its_owner() {
    let folder = Folder::new();
    let tools = folder.copy_of(&*TOOLS, "ubpf-tools");
    fs::set_permissions(&tools, Permissions::from_mode(0o4755)).expect("a setuid program");
    let out = folder.path.join("out");
    let names = run_to_end(Command::new(&tools).arg("--list"));
    assert!(
        names.status.success() && names.stdout.contains("funccount"),
        "{names:?}"
    );
    for tool in names.stdout.lines() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command
            .arg(&tools)
            .arg(tool)
            .arg("-o")
            .arg(&out)
            .args(["--", "id"]);
        let refused = run_to_end(&mut command);
        assert_eq!(
            (refused.status.code(), &*refused.stdout),
            (Some(3), ""),
            "{tool}: {refused:?}"
        );
        let lines: Vec<&str> = refused.stderr.lines().collect();
        assert!(
            matches!(lines[..], [error, hint] if error.starts_with("error: not permitted: this program is setuid") && hint.starts_with("hint: ")),
            "{refused:?}"
        );
    }
    assert!(!out.exists());
}
