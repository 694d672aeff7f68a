// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Capabilities, limits and settings of the kernel.

use std::fs;
use std::path::Path;

use anyhow::Error;
use caps::{CapSet, Capability};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::check::Check;

struct CapabilityUse {
    capability: Capability,
    name: &'static str,
    /// CAP_SYS_ADMIN includes it.
    in_sys_admin: bool,
    purpose: &'static str,
}

const CAPABILITIES: [CapabilityUse; 6] = [
    CapabilityUse {
        capability: Capability::CAP_BPF,
        name: "CAP_BPF",
        in_sys_admin: true,
        purpose: "load BPF programs",
    },
    CapabilityUse {
        capability: Capability::CAP_PERFMON,
        name: "CAP_PERFMON",
        in_sys_admin: true,
        purpose: "attach BPF programs",
    },
    CapabilityUse {
        capability: Capability::CAP_SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        in_sys_admin: false,
        purpose: "use perf events (CVE-2025-38466) and --cost",
    },
    CapabilityUse {
        capability: Capability::CAP_SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        in_sys_admin: false,
        purpose: "inspect processes of other users",
    },
    CapabilityUse {
        capability: Capability::CAP_DAC_READ_SEARCH,
        name: "CAP_DAC_READ_SEARCH",
        in_sys_admin: false,
        purpose: "read files that only their owner may read",
    },
    CapabilityUse {
        capability: Capability::CAP_CHECKPOINT_RESTORE,
        name: "CAP_CHECKPOINT_RESTORE",
        in_sys_admin: true,
        purpose: "open files that were replaced",
    },
];

pub fn capabilities() -> Vec<Check> {
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => return vec![Check::failed("capabilities", &Error::new(error))],
    };
    let check = |entry: &CapabilityUse| {
        let is_included = entry.in_sys_admin && held.contains(&Capability::CAP_SYS_ADMIN);
        match held.contains(&entry.capability) || is_included {
            true => Check::ok(entry.name, format!("held, needed to {}", entry.purpose)),
            false => Check::limit(entry.name, format!("missing, needed to {}", entry.purpose)),
        }
    };
    CAPABILITIES.iter().map(check).collect()
}

pub fn lockdown() -> Check {
    let name = "lockdown";
    let Ok(text) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        return Check::ok(name, "none reported by the kernel");
    };
    // The active mode is in brackets.
    match text.split(['[', ']']).nth(1).unwrap_or_default() {
        "confidentiality" => Check::no(name, "confidentiality: BPF programs may not read kernel memory")
            .hint("boot with lockdown=integrity, or without Secure Boot"),
        mode => Check::ok(name, mode),
    }
}

/// The limit of locked memory, which BPF maps count towards before 5.11.
pub fn memlock() -> Check {
    let name = "memlock limit";
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Check::ok(name, "unknown");
    };
    let size = match soft {
        RLIM_INFINITY => "unlimited".to_owned(),
        bytes => format!("{} KiB", bytes / 1024),
    };
    let can_raise = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard);
    let raise = match can_raise {
        true => "can be raised",
        false => "cannot be raised",
    };
    Check::ok(name, format!("{size}, {raise}; only used before Linux 5.11"))
}

/// Settings that restrict processes without capabilities.
pub fn sysctls() -> impl Iterator<Item = Check> {
    const SYSCTLS: [(&str, &str); 2] = [
        ("perf_event_paranoid", "CAP_PERFMON"),
        ("unprivileged_bpf_disabled", "CAP_BPF"),
    ];
    SYSCTLS.into_iter().map(|(name, capability)| {
        let path = Path::new("/proc/sys/kernel").join(name);
        let value = fs::read_to_string(path).map_err(Error::new);
        Check::from_result(name, value, |value| {
            format!("{}, overridden by {capability}", value.trim())
        })
    })
}
