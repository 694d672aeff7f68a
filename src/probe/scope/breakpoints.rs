// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Decides which processes get breakpoints.

use anyhow::{Context, Result};
use libbpf_rs::btf::ReferencesType as _;
use libbpf_rs::btf::{Btf, types};

use crate::error::Failure;
use crate::privileges;
use crate::probe::scope::filter::{ProcessFilter, TraceScope};

/// Which processes get breakpoints.
#[derive(Clone, Debug)]
pub enum Breakpoints {
    /// All that call the functions; the filter is applied in BPF.
    AllProcesses,
    Process(u32),
    /// Each process that matches this filter, now or later, has its own links, so that no other process is
    /// slowed down.
    Matching(ProcessFilter),
}

impl Breakpoints {
    /// Decides by `--scope`, or without it by the filter: `-p` and `--container` name a few processes that
    /// are known at the start. A thread name or a user can match many, at any time.
    ///
    /// # Errors
    /// The options contradict each other, or the kernel lacks what they need.
    pub fn choose(filter: &ProcessFilter) -> Result<Breakpoints> {
        let is_targeted_by_default = !filter.follow && (filter.in_container || !filter.pids.is_empty());
        let breakpoints = match (filter.scope, filter.only_pid()) {
            (Some(TraceScope::Targeted) | None, Some(pid)) => Breakpoints::Process(pid),
            (Some(TraceScope::Targeted), None) if filter.matches_all() => {
                return Err(Failure::usage(
                    "--scope targeted needs a filter: without one, all processes match",
                )
                .hint("filter with --comm, -u, --cgroup, --container or -p")
                .into());
            }
            (Some(TraceScope::Targeted), None) => {
                require_watcher()?;
                Breakpoints::Matching(filter.clone())
            }
            (None, None) if is_targeted_by_default && require_watcher().is_ok() => {
                Breakpoints::Matching(filter.clone())
            }
            (Some(TraceScope::All) | None, _) => Breakpoints::AllProcesses,
        };
        let can_hold =
            matches!(breakpoints, Breakpoints::Matching(_)) && (filter.follow || filter.pids.is_empty());
        if filter.hold && !can_hold {
            return Err(Failure::usage(
                "--hold only applies to programs that start to match later, in a targeted scope",
            )
            .hint("use it with --container, or with --scope targeted and --comm, -u or --cgroup")
            .into());
        }
        if filter.hold {
            require_release()?;
        }
        Ok(breakpoints)
    }
}

/// Fails unless the watcher can work: its programs read kernel types, and report PIDs of the initial PID namespace.
fn require_watcher() -> Result<()> {
    privileges::require_btf("--scope targeted")?;
    match privileges::pid_namespace() {
        None => Ok(()),
        Some(_) => Err(
            Failure::denied("--scope targeted works only in the initial PID namespace")
                .hint("run it on the host, or in a container that shares the host's PID namespace")
                .into(),
        ),
    }
}

/// Fails unless the kernel itself can resume stopped programs when nobody is left to (`hold.bpf.h`). That takes a
/// function to signal another process (6.13), and a tracepoint for the exit of a process that still has its memory,
/// whose third parameter was added with that (6.16).
fn require_release() -> Result<()> {
    let kernel = Btf::from_vmlinux().context("failed to read the kernel's BTF")?;
    let exit = kernel
        .type_by_name::<types::Typedef<'_>>("btf_trace_sched_process_exit")
        .and_then(|typedef| types::Ptr::try_from(typedef.referenced_type()).ok())
        .and_then(|pointer| types::FuncProto::try_from(pointer.referenced_type()).ok());
    let signals = kernel.type_by_name::<types::Func<'_>>("bpf_send_signal_task");
    if exit.is_some_and(|exit| exit.len() >= 3) && signals.is_some() {
        return Ok(());
    }
    Err(Failure::denied(
        "--hold needs Linux 6.16: this kernel cannot resume programs after a kill of their tracer",
    )
    .hint("without --hold, new programs get their probes some milliseconds late, and the delay is reported")
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(filter: &ProcessFilter) -> Result<Breakpoints, String> {
        Breakpoints::choose(filter).map_err(|error| error.to_string())
    }

    #[test]
    fn single_pid_is_targeted_by_default() {
        let mut filter = ProcessFilter::of_process(7);
        assert!(matches!(choose(&filter), Ok(Breakpoints::Process(7))));
        filter.scope = Some(TraceScope::All);
        assert!(matches!(choose(&filter), Ok(Breakpoints::AllProcesses)));
        (filter.scope, filter.follow) = (None, true);
        assert!(matches!(choose(&filter), Ok(Breakpoints::AllProcesses)));
    }

    #[test]
    fn user_filter_is_not_targeted_by_default_and_cannot_hold() {
        let mut filter = ProcessFilter {
            uid: Some(0),
            ..ProcessFilter::default()
        };
        assert!(matches!(choose(&filter), Ok(Breakpoints::AllProcesses)));
        filter.hold = true;
        assert!(choose(&filter).is_err());
    }

    #[test]
    fn targeted_scope_needs_a_filter() {
        let filter = ProcessFilter {
            scope: Some(TraceScope::Targeted),
            ..ProcessFilter::default()
        };
        assert!(choose(&filter).is_err());
    }
}
