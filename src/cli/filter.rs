// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Options that choose processes and threads.

use anyhow::Result;
use clap::Args;

use crate::error::Failure;
use crate::find::host::cgroups::Cgroups;
use crate::find::host::containers::find_container;
use crate::find::host::proc::Proc;
use crate::find::host::users::UserNames;
use crate::privileges;
use crate::probe::scope::filter::{CommPattern, MAX_CGROUPS, MAX_COMMS, ProcessFilter, TraceScope};

/// Which processes and threads to trace.
#[derive(Args, Debug)]
#[command(next_help_heading = "Filters (all must match)")]
pub struct FilterArgs {
    /// Trace only these processes
    ///
    /// The run ends when they have exited.
    #[arg(short, long, value_name = "PID,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Trace only threads with this name; NAME* matches a prefix
    ///
    /// Several names can be given, separated by commas. The kernel keeps 15 bytes of a thread name, so longer names are
    /// compared by these.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = CommPattern::parse)]
    pub comm: Vec<CommPattern>,
    /// Trace only this user (name or UID)
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Trace only this cgroup (v2) and its descendants
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Trace only this container
    #[arg(long, value_name = "NAME|ID")]
    pub container: Option<String>,
    /// Set which processes get breakpoints [default: by filter]
    ///
    /// `all`: every process that maps the functions; the filter runs in BPF. Nothing is missed, but every process pays
    /// for each call. `targeted`: only processes with a thread that matches. A process that starts to match later
    /// (by exec, fork, a new name, user or cgroup) gets breakpoints within milliseconds: its delay is reported, and
    /// calls before that are missed. Each process takes file descriptors and slows the calls of the others slightly.
    /// The default is `targeted` with -p and --container, otherwise `all`.
    #[arg(long, value_name = "all|targeted", hide_possible_values = true)]
    pub scope: Option<TraceScope>,
    /// Stop new matching programs until they have breakpoints
    ///
    /// In a targeted scope, a program that matches when it is executed is stopped (SIGSTOP) until its breakpoints are
    /// in place, and then resumed (SIGCONT), so none of its calls is missed. Its parent can notice: waitid and ptrace
    /// report the stop, SIGCHLD is sent, and an interactive shell takes a foreground command for a stopped job. A child
    /// that forks without exec is not stopped.
    #[arg(long)]
    pub hold: bool,
}

impl FilterArgs {
    /// Looks up users, containers and control groups.
    ///
    /// # Errors
    /// One of them does not exist.
    pub fn resolve(&self) -> Result<ProcessFilter> {
        if self.comm.len() > MAX_COMMS {
            return Err(Failure::usage(format!("--comm takes at most {MAX_COMMS} names")).into());
        }
        let uid = self
            .user
            .as_deref()
            .map(|user| UserNames::load().uid(user))
            .transpose()?;
        let mut cgroups = Vec::new();
        let mut container_pids = Vec::new();
        if let Some(path) = &self.cgroup {
            cgroups.push(Cgroups::open()?.resolve(path)?);
        }
        if let Some(container) = &self.container {
            let container = find_container(container)?;
            cgroups.extend(container.cgroups);
            container_pids = container.pids;
        }
        cgroups.truncate(MAX_CGROUPS);
        let pids = self.pid.iter().map(|&pid| process_of(pid));
        let pids = pids.collect::<Result<Vec<u32>>>()?;
        // The kernel finds a process by the memory of its main thread.
        let has_main_threads = !pids.iter().any(|&pid| Proc::host().has_lost_main_thread(pid));
        Ok(ProcessFilter {
            pids,
            comms: self.comm.clone(),
            uid,
            cgroups,
            container_pids,
            follow: false,
            in_container: self.container.is_some(),
            scope: match has_main_threads {
                true => self.scope,
                false => Some(TraceScope::All),
            },
            hold: self.hold,
        })
    }
}

/// The PID of the process that a PID or TID belongs to.
///
/// # Errors
/// The process does not exist, or runs a 32-bit program.
pub fn process_of(pid: u32) -> Result<u32> {
    privileges::require_own_proc()?;
    let proc = Proc::host();
    let tgid = proc
        .tgid(pid)
        .map_err(|_| Failure::failed(format!("failed to trace PID {pid}: no such process")))?;
    if proc.is_32_bit(tgid) {
        let message = format!("failed to trace PID {pid}: a 32-bit program");
        return Err(Failure::failed(message)
            .hint("only 64-bit programs can be traced")
            .into());
    }
    Ok(tgid)
}
