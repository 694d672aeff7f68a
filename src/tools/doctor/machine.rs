// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! All checks of this machine, and what follows from them for a tool.

use super::check::{Check, Verdict};
use super::kernel::{self, KernelChecks};
use super::processes::{self, ProcessAccess};
use super::settings;
use crate::privileges;
use crate::probe::attach::AttachMode;
use crate::probe::self_test::{ConfinedChild, DetachThreads};
use crate::tools::Tool;

pub struct MachineChecks {
    /// In the order of the output.
    pub checks: Vec<Check>,
    mode: Option<AttachMode>,
    has_btf: bool,
    measures_cost: bool,
    kills_confined: bool,
    sees_other_users: bool,
}

impl MachineChecks {
    /// Runs all checks. The process must have a single thread.
    pub fn test() -> Self {
        let mut threads = DetachThreads::default();
        // First, because detaching probes starts threads.
        let confined = ConfinedChild::hold();
        let mut checks = vec![kernel::release()];
        checks.extend(settings::capabilities());
        let kernel = KernelChecks::test(confined, &mut threads);
        checks.extend(kernel.checks);
        let access = ProcessAccess::test();
        checks.extend([
            access.check(),
            processes::pid_namespace(),
            processes::mount_namespace(),
            settings::lockdown(),
            settings::memlock(),
        ]);
        checks.extend(settings::sysctls());
        Self {
            checks,
            mode: kernel.mode,
            has_btf: kernel.has_btf,
            measures_cost: kernel.measures_cost,
            kills_confined: kernel.kills_confined,
            sees_other_users: access.includes_other_users(),
        }
    }

    pub fn can_trace(&self) -> bool {
        self.mode.is_some()
    }

    /// What a tool can do here. What it needs follows from the options that it has.
    pub fn check_tool(&self, tool: &Tool) -> Check {
        let command = (tool.command)();
        let has = |option: &str| {
            command
                .get_arguments()
                .any(|argument| argument.get_id() == option)
        };
        let attaches = has("attach");
        if attaches && !self.can_trace() {
            return Check {
                hint: self.first_hint(),
                ..Check::no(tool.name, "cannot trace")
            };
        }
        let limits = [
            (
                attaches && self.mode != Some(AttachMode::Multi),
                "each probe is a separate perf event, slow to remove",
            ),
            (
                has("args") && !self.mode.is_some_and(AttachMode::can_sleep),
                "strings that are paged out cannot be read",
            ),
            (has("follow") && !self.has_btf, "no --follow without kernel BTF"),
            (
                has("follow") && privileges::pid_namespace().is_some(),
                "no --follow outside the initial PID namespace",
            ),
            (attaches && !self.measures_cost, "no --cost and --max-overhead"),
            (
                attaches && self.kills_confined,
                "return probes kill programs under a strict seccomp filter",
            ),
            (
                !self.sees_other_users,
                "processes of other users cannot be inspected",
            ),
        ];
        let applies = |(applies, limit): (bool, &'static str)| applies.then_some(limit);
        let limits: Vec<&str> = limits.into_iter().filter_map(applies).collect();
        match limits[..] {
            [] => Check::ok(tool.name, "works"),
            _ => Check::limit(tool.name, limits.join("; ")),
        }
    }

    /// What to do first when no tool can trace.
    fn first_hint(&self) -> Option<String> {
        let failed = self.checks.iter().filter(|check| check.verdict == Verdict::No);
        failed.filter_map(|check| check.hint.clone()).next()
    }
}
