//! What this process may do: capabilities, namespaces and limits.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getegid, geteuid, getgid, getuid};

use crate::error::{Failure, permission_hint};

/// Refuses to run with rights that whoever starts this does not have, as a setuid program would: its environment, `-o`
/// and `-- COMMAND` would be root's for anybody.
pub fn refuse_setuid() -> Result<()> {
    if geteuid() == getuid() && getegid() == getgid() {
        return Ok(());
    }
    let message = "not permitted: this program is setuid or setgid, and would write files and run commands with the \
                   rights of its owner for everybody";
    Err(Failure::denied(message)
        .hint("take the bit off with `chmod ug-s`, and use sudo; docs/privileges.md has other ways")
        .into())
}

/// Device and inode of the pid namespace of this process. None when it is the initial one, whose numbers BPF programs see.
pub fn pid_namespace() -> Option<(u64, u64)> {
    // PROC_PID_INIT_INO of linux/proc_ns.h.
    const INITIAL: u64 = 0xEFFF_FFFC;
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?;
    Some((namespace.dev(), namespace.ino())).filter(|&(_, inode)| inode != INITIAL)
}

/// Has /proc the numbers of this process's own pid namespace? Those of another one would be taken for it.
pub fn has_own_proc() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&std::process::id().to_string()))
}

/// Refuses to take a number of a process for that of another one.
pub fn require_own_proc() -> Result<()> {
    if has_own_proc() {
        return Ok(());
    }
    Err(
        Failure::denied("failed to look up a process: /proc is not that of this pid namespace")
            .hint("mount it: `mount -t proc proc /proc`, or `unshare --mount-proc`")
            .into(),
    )
}

/// Refuses early and clearly where no BPF program can be loaded at all.
pub fn require_privileges() -> Result<()> {
    // Perf-based uprobes want CAP_SYS_ADMIN since CVE-2025-38466, on 5.10.240, 6.1.146, 6.12.39 and 6.16; multi links
    // do without. Which of them there is shows when probes are attached.
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if has(Capability::CAP_SYS_ADMIN) || (has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON)) {
        return Ok(());
    }
    Err(Failure::denied("not permitted: tracing needs root")
        .hint(permission_hint())
        .into())
}

/// What a run still has to do once its probes are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duties {
    /// Read its ring, print, and close its probes.
    Read,
    /// Look into other processes as well: memory maps and mapped files.
    Inspect,
    /// Attach more probes as well.
    Attach,
    /// All of that, and let processes go on that were stopped.
    Hold,
    /// That alone.
    Release,
}

/// Gives up every privilege that `duties` do not need, for good. `asks_kernel`: the run still reads maps, or asks how long
/// its programs take.
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
    // Before 5.19 bpf(2) was closed for others altogether where kernel.unprivileged_bpf_disabled is set.
    const ASK: [Capability; 1] = [Capability::CAP_BPF];
    const RELEASE: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_KILL];
    let wanted: &[&[Capability]] = match duties {
        Duties::Read => &[],
        Duties::Inspect => &[&INSPECT],
        Duties::Attach => &[&INSPECT, &ATTACH],
        Duties::Hold => &[&INSPECT, &ATTACH, &RELEASE],
        Duties::Release => &[&RELEASE],
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

/// Lets this process have as many open files as it may: single probes take one each. A command that is to be traced
/// must have been forked before, as it would inherit the limit.
pub fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is refused, attaching says so when it gets there.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// How many open files this process may have.
pub fn file_limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(now, _)| now as usize)
}

/// Gives the kernel back what has been freed, which the C library would keep for ever.
pub fn return_memory() {
    // SAFETY: takes no pointers and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Programs that read kernel types are relocated against the kernel's own description of them.
pub fn require_btf(what: &str) -> Result<()> {
    // Not all of it: that is megabytes.
    let mut magic = [0; 2];
    let read = File::open(KERNEL_BTF).and_then(|mut btf| btf.read_exact(&mut magic));
    if read.is_ok() && magic == [0x9f, 0xeb] {
        return Ok(());
    }
    Err(Failure::denied(format!(
        "{what} needs the kernel's type information, and {KERNEL_BTF} holds none"
    ))
    .hint("the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, and /sys must be mounted")
    .into())
}
