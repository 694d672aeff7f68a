// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Capabilities, namespaces and limits of this process.

mod landlock;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl::set_keepcaps;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgid, getuid, setgroups, setresgid, setresuid};

use crate::error::{Failure, permission_hint};

/// Refuses to run as a setuid or setgid program: any user could control the environment, `-o` and `--
/// COMMAND` of a process with root's privileges.
pub fn refuse_setuid() -> Result<()> {
    if geteuid() == getuid() && getegid() == getgid() {
        return Ok(());
    }
    let message = "not permitted: this program is setuid or setgid, and would write files and run commands with its \
                   owner's privileges for any user";
    Err(Failure::denied(message)
        .hint("remove the bit with `chmod ug-s`, and use sudo; docs/privileges.md has alternatives")
        .into())
}

/// Device and inode number of this process's PID namespace. `None` for the initial one, whose PIDs BPF
/// programs see.
pub fn pid_namespace() -> Option<(u64, u64)> {
    // PROC_PID_INIT_INO of linux/proc_ns.h.
    const INITIAL: u64 = 0xEFFF_FFFC;
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?;
    Some((namespace.dev(), namespace.ino())).filter(|&(_, inode)| inode != INITIAL)
}

/// Whether `/proc` shows the PID namespace of this process. PIDs from another namespace would be mistaken for
/// its own.
pub fn has_own_proc() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&std::process::id().to_string()))
}

/// # Errors
/// `/proc` shows another PID namespace, so that PIDs would be mistaken for those of other processes.
pub fn require_own_proc() -> Result<()> {
    if has_own_proc() {
        return Ok(());
    }
    Err(
        Failure::denied("failed to look up a process: /proc shows another PID namespace")
            .hint("mount the right one: `mount -t proc proc /proc`, or `unshare --mount-proc`")
            .into(),
    )
}

/// Fails early, with a clear message, if no BPF program can be loaded.
///
/// # Errors
/// The capabilities are missing.
pub fn require_privileges() -> Result<()> {
    // Perf-based uprobes require CAP_SYS_ADMIN since CVE-2025-38466 (5.10.240, 6.1.146, 6.12.39 and 6.16);
    // multi links do not. Which of the two is used is known when probes are attached.
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if has(Capability::CAP_SYS_ADMIN) || (has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON)) {
        return Ok(());
    }
    Err(Failure::denied("not permitted: tracing needs root")
        .hint(permission_hint())
        .into())
}

/// What a run still has to do after its probes are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duties {
    /// Read its ring, print, and detach its probes.
    Read,
    /// Also inspect other processes: memory maps and mapped files.
    Inspect,
    /// Also attach more probes.
    Attach,
    /// Also resume stopped processes.
    Hold,
    /// Only resume stopped processes.
    Release,
    /// Only send signals.
    Signal,
}

/// Irrevocably drops the privileges that `duties` do not need, for this thread and those that it creates. With
/// `asks_kernel`, bpf(2) stays usable: to read maps, or the run time of programs.
///
/// Root without capabilities still owns most files. So root becomes a user who owns nothing, and if no other process is
/// to be inspected, which Landlock would deny, nothing can be written at all. Open files stay usable.
///
/// # Errors
/// The kernel refuses to change capabilities.
pub fn drop_privileges(duties: Duties, asks_kernel: bool) -> Result<()> {
    const INSPECT: [Capability; 3] = [
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_DAC_READ_SEARCH,
        Capability::CAP_CHECKPOINT_RESTORE,
    ];
    // The last one for leases of the files.
    const ATTACH: [Capability; 4] = [
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_LEASE,
    ];
    // Before 5.19, all of bpf(2) needs CAP_BPF if kernel.unprivileged_bpf_disabled is set.
    const ASK: [Capability; 1] = [Capability::CAP_BPF];
    const RELEASE: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_KILL];
    let wanted: &[&[Capability]] = match duties {
        Duties::Read => &[],
        Duties::Inspect => &[&INSPECT],
        Duties::Attach => &[&INSPECT, &ATTACH],
        Duties::Hold => &[&INSPECT, &ATTACH, &RELEASE],
        Duties::Release => &[&RELEASE],
        Duties::Signal => &[&RELEASE[1..]],
    };
    let had = caps::read(None, CapSet::Permitted).context("failed to read the capabilities")?;
    let kept: CapsHashSet = wanted
        .concat()
        .into_iter()
        .chain(ASK.into_iter().filter(|_| asks_kernel))
        .filter(|capability| had.contains(capability))
        .collect();
    leave_root();
    caps::clear(None, CapSet::Inheritable).context("failed to drop privileges")?;
    caps::set(None, CapSet::Effective, &kept).context("failed to drop privileges")?;
    caps::set(None, CapSet::Permitted, &kept).context("failed to drop privileges")?;
    nix::sys::prctl::set_no_new_privs().context("failed to drop privileges")?;
    if duties == Duties::Read {
        landlock::deny_all_but_reading().context("failed to drop privileges")?;
    }
    Ok(())
}

/// Changes to a user and a group that own no files, if this is root, and keeps the permitted capabilities. Without
/// CAP_SETUID, or in a user namespace without that user, the process stays root.
///
/// Not `nobody`: other processes may run as nobody, and could signal this one.
fn leave_root() {
    // systemd reserves this range for nothing (UIDS-GIDS.md), and lower ones for containers. Each process has its own.
    const UNUSED: u32 = 0x7000_0000;
    let id = UNUSED + std::process::id();
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    if !geteuid().is_root() || set_keepcaps(true).is_err() {
        return;
    }
    // The groups first: a user other than root may not change them.
    let _ = setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid));
    let _ = set_keepcaps(false);
}

/// Raises the limit of open files to the maximum: single probes need one each. A command to trace must be
/// forked first, because it would inherit the limit.
pub fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If this fails, attaching reports the limit when it is reached.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error. By default, SIGXFSZ kills the process.
pub fn ignore_file_size_signal() {
    // SAFETY: installs no handler. If it fails, the default stays.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// The limit of open files of this process.
pub fn file_limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(now, _)| now as usize)
}

/// Returns freed memory to the kernel, which the C library would keep.
pub fn return_memory() {
    // SAFETY: takes no pointers, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Whether the kernel describes its types.
pub fn has_btf() -> bool {
    // Only the magic number: the file has megabytes.
    let mut magic = [0; 2];
    let read = File::open(KERNEL_BTF).and_then(|mut btf| btf.read_exact(&mut magic));
    read.is_ok() && magic == [0x9f, 0xeb]
}

/// Checks for kernel BTF, which programs that read kernel types need. `what` is the subject of the message.
///
/// # Errors
/// The kernel has none.
pub fn require_btf(what: &str) -> Result<()> {
    if has_btf() {
        return Ok(());
    }
    Err(
        Failure::denied(format!("{what} needs kernel BTF, and {KERNEL_BTF} has none"))
            .hint("the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, and /sys must be mounted")
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions, Permissions};
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Names a file of root that only root may read.
    const SECRET: &str = "UBPF_TOOLS_TEST_SECRET";

    fn secret() -> PathBuf {
        std::env::var_os(SECRET).expect("the path of a file").into()
    }

    /// Privileges cannot be regained, so a copy of the test binary drops them.
    fn run_in_own_process(name: &str) {
        if !geteuid().is_root() {
            return eprintln!("SKIPPED: {name}: needs root");
        }
        let file = secret_of_root();
        let output = Command::new("/proc/self/exe")
            .args(["--exact", name, "--ignored", "--test-threads=1"])
            .env(SECRET, &file)
            .output()
            .expect("the test binary");
        fs::remove_dir_all(file.parent().expect("a folder")).expect("no more folder");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }

    #[test]
    fn root_without_duties_can_write_nothing() {
        run_in_own_process("privileges::tests::write_after_dropping_for_read");
    }

    #[test]
    fn root_that_inspects_or_attaches_can_read_everything_and_write_nothing_of_root() {
        run_in_own_process("privileges::tests::write_after_dropping_for_inspect");
        run_in_own_process("privileges::tests::write_after_dropping_for_attach");
    }

    /// Tries it on this thread and on a new one.
    fn on_both_threads(attempt: impl Fn() -> Option<ErrorKind> + Sync) {
        assert_eq!(attempt(), Some(ErrorKind::PermissionDenied));
        let on_other = std::thread::scope(|scope| scope.spawn(&attempt).join());
        assert_eq!(on_other.expect("no panic"), Some(ErrorKind::PermissionDenied));
    }

    /// The file, in a folder that is open to all users.
    fn secret_of_root() -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ubpf-tools-secret-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("a new folder");
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("an open folder");
        let file = folder.join("secret");
        fs::write(&file, "secret").expect("a new file");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a secret file");
        file
    }

    fn assert_nothing_of_root_is_writable(file: &Path) {
        on_both_threads(|| {
            OpenOptions::new()
                .write(true)
                .open(file)
                .err()
                .map(|error| error.kind())
        });
        on_both_threads(|| {
            let mode = Permissions::from_mode(0o666);
            fs::set_permissions(file, mode).err().map(|error| error.kind())
        });
        on_both_threads(|| {
            let setting = OpenOptions::new()
                .write(true)
                .open("/proc/sys/kernel/core_pattern");
            setting.err().map(|error| error.kind())
        });
    }

    #[test]
    #[ignore = "drops privileges, and is run by another test in its own process"]
    fn write_after_dropping_for_read() {
        let file = secret();
        drop_privileges(Duties::Read, false).expect("dropped privileges");
        assert_nothing_of_root_is_writable(&file);
        on_both_threads(|| fs::read(&file).err().map(|error| error.kind()));
        // The folder is open to all users, but not to Landlock.
        if landlock::deny_all_but_reading().expect("Landlock") {
            on_both_threads(|| {
                fs::write(file.with_file_name("new"), "")
                    .err()
                    .map(|error| error.kind())
            });
        }
    }

    fn write_after_dropping(duties: Duties) {
        let file = secret();
        drop_privileges(duties, false).expect("dropped privileges");
        assert_nothing_of_root_is_writable(&file);
        assert_eq!(fs::read(&file).expect("a readable file"), b"secret");
        let parent = std::os::unix::process::parent_id();
        let maps = fs::read(format!("/proc/{parent}/maps")).expect("readable mappings");
        assert!(!maps.is_empty());
        assert!(fs::read(format!("/proc/{parent}/root/proc/self/comm")).is_ok());
    }

    #[test]
    #[ignore = "drops privileges, and is run by another test in its own process"]
    fn write_after_dropping_for_inspect() {
        write_after_dropping(Duties::Inspect);
    }

    #[test]
    #[ignore = "drops privileges, and is run by another test in its own process"]
    fn write_after_dropping_for_attach() {
        write_after_dropping(Duties::Attach);
    }
}
