//! What this machine allows, and how a failure is told: one line, its exit status, and a hint where a person can act.

use std::fmt;
use std::io;
use std::path::Path;

use anyhow::Result;

/// Exit statuses, the same for every tool.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
/// Not permitted, or the kernel lacks what is needed.
pub const DENIED: u8 = 3;

/// A failure that knows its exit status and what a person can do about it.
#[derive(Debug)]
pub struct Failure {
    pub status: u8,
    message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None }
    }

    /// Adds what a person can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Exit status and hint of an error, from the innermost cause that knows them.
pub fn explain(error: &anyhow::Error) -> (u8, Option<String>) {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return (failure.status, failure.hint.clone());
        }
    }
    let refused = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    });
    if refused { (DENIED, Some(permission_hint())) } else { (FAILED, None) }
}

/// Did the reader of our output go away? That is success: `| head -3` has seen enough.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

fn permission_hint() -> String {
    if nix::unistd::geteuid().is_root() {
        "root is not enough here: the kernel is locked down, or a container withholds CAP_BPF, CAP_PERFMON or \
         CAP_SYS_ADMIN"
            .to_owned()
    } else {
        "run it as root, for example with sudo".to_owned()
    }
}

/// Refuses early and clearly where no BPF program can be loaded at all.
pub fn require_privileges() -> Result<()> {
    const CAP_SYS_ADMIN: u32 = 21;
    if has_capability(CAP_SYS_ADMIN) {
        return Ok(());
    }
    Err(Failure::new(DENIED, "not permitted: tracing needs root").hint(permission_hint()).into())
}

/// Is the capability in the effective set? False where that cannot be read.
fn has_capability(number: u32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Programs that read kernel types are relocated against the kernel's own description of them.
pub fn require_btf(what: &str) -> Result<()> {
    if std::fs::read(Path::new(KERNEL_BTF)).is_ok_and(|btf| btf.starts_with(&[0x9f, 0xeb])) {
        return Ok(());
    }
    Err(Failure::new(DENIED, format!("{what} needs the kernel's type information, and {KERNEL_BTF} holds none"))
        .hint("the kernel must be built with CONFIG_DEBUG_INFO_BTF=y, and /sys must be mounted")
        .into())
}
