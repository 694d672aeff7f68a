// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Capabilities, namespaces and limits of this process.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid, getgid, getuid};

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

/// Irrevocably drops the privileges that `duties` do not need. With `asks_kernel`, bpf(2) stays usable: to
/// read maps, or the run time of programs.
///
/// # Errors
/// The kernel refuses to change capabilities.
pub fn drop_privileges(duties: Duties, asks_kernel: bool) -> Result<()> {
    const INSPECT: [Capability; 3] = [
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_DAC_READ_SEARCH,
        Capability::CAP_CHECKPOINT_RESTORE,
    ];
    const ATTACH: [Capability; 3] = [
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
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
    caps::clear(None, CapSet::Inheritable).context("failed to drop privileges")?;
    caps::set(None, CapSet::Effective, &kept).context("failed to drop privileges")?;
    caps::set(None, CapSet::Permitted, &kept).context("failed to drop privileges")?;
    nix::sys::prctl::set_no_new_privs().context("failed to drop privileges")
}

/// Raises the limit of open files to the maximum: single probes need one each. A command to trace must be
/// forked first, because it would inherit the limit.
pub fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If this fails, attaching reports the limit when it is reached.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
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
