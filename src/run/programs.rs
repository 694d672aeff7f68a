// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which BPF programs of a tool a run loads, chosen by their sections and by the ends of calls that are watched.

use anyhow::{Context, Result};
use libbpf_rs::{Link, Object, OpenObject};

use crate::probe::attach::{AttachMode, ProbeProgram};
use crate::probe::point::Ends;
use crate::probe::search::finder::WatchedEnds;

/// What a program is for, by its `SEC()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgramRole {
    /// `uprobe`, `uretprobe` or `uprobe.session`; with `.s` behind it if it can sleep.
    Probe { ends: Ends, sleeps: bool },
    /// Anything else: attached to a kernel tracepoint while calls are matched with their returns.
    Tracepoint,
}

impl ProgramRole {
    fn of(section: &str) -> ProgramRole {
        let (base, sleeps) = match section.strip_suffix(".s") {
            Some(base) => (base, true),
            None => (section, false),
        };
        let ends = match base {
            "uprobe" => Ends::Entry,
            "uretprobe" => Ends::Return,
            "uprobe.session" => Ends::Both,
            _ => return ProgramRole::Tracepoint,
        };
        ProgramRole::Probe { ends, sleeps }
    }
}

/// The programs that a run loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramChoice {
    session: bool,
    at_return: bool,
    entry: bool,
    tracepoints: bool,
    sleeps: bool,
}

impl ProgramChoice {
    /// `sleeps`: programs may wait for pages that are not in memory.
    pub fn new(ends: WatchedEnds, mode: AttachMode, sleeps: bool) -> Self {
        let session = ends.both && mode.has_sessions();
        // Sessions replace return probes, not probes on return instructions.
        let pair = ends.both && (!session || ends.instructions);
        Self {
            session,
            at_return: ends.at_return || pair,
            entry: ends.entry || pair,
            tracepoints: ends.both,
            sleeps,
        }
    }

    fn loads(self, role: ProgramRole) -> bool {
        match role {
            ProgramRole::Tracepoint => self.tracepoints,
            ProgramRole::Probe { sleeps, .. } if sleeps != self.sleeps => false,
            ProgramRole::Probe { ends: Ends::Both, .. } => self.session,
            ProgramRole::Probe {
                ends: Ends::Return, ..
            } => self.at_return,
            ProgramRole::Probe { .. } => self.entry,
        }
    }

    /// Whether calls are matched with their returns.
    pub fn matches_calls(self) -> bool {
        self.tracepoints
    }

    /// Selects the programs to load, before the object is loaded.
    pub fn select(self, object: &mut OpenObject, mode: AttachMode) {
        for mut program in object.progs_mut() {
            let role = ProgramRole::of(&program.section().to_string_lossy());
            program.set_autoload(self.loads(role));
            if matches!(
                role,
                ProgramRole::Probe {
                    ends: Ends::Entry | Ends::Return,
                    ..
                }
            ) {
                mode.prepare([&mut program]);
            }
        }
    }

    /// The loaded programs to attach to probe points. Return probes come first, so that an entry that was seen has its
    /// return seen.
    pub fn attach<T>(
        self,
        object: &Object,
        attach: impl FnOnce(Vec<ProbeProgram<'_>>) -> Result<T>,
    ) -> Result<T> {
        let programs: Vec<_> = object.progs().collect();
        let mut chosen: Vec<ProbeProgram<'_>> = Vec::new();
        for runs in [Ends::Both, Ends::Return, Ends::Entry] {
            let wanted = programs.iter().filter(|program| {
                let role = ProgramRole::of(&program.section().to_string_lossy());
                self.loads(role) && matches!(role, ProgramRole::Probe { ends, .. } if ends == runs)
            });
            chosen.extend(wanted.map(|program| ProbeProgram { program, runs }));
        }
        attach(chosen)
    }

    /// Attaches the programs for tracepoints. They stay attached as long as the links live.
    pub fn attach_tracepoints(self, object: &Object) -> Result<Vec<Link>> {
        let programs = object.progs_mut().filter(|program| {
            let role = ProgramRole::of(&program.section().to_string_lossy());
            role == ProgramRole::Tracepoint && self.loads(role)
        });
        let links = programs.map(|program| program.attach());
        links
            .collect::<Result<_, _>>()
            .context("failed to attach to kernel tracepoints")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: WatchedEnds = WatchedEnds {
        entry: false,
        at_return: false,
        both: true,
        instructions: false,
    };

    fn loaded(ends: WatchedEnds, mode: AttachMode, sleeps: bool) -> Vec<&'static str> {
        let sections = [
            "uprobe",
            "uretprobe",
            "uprobe.session",
            "uprobe.s",
            "uretprobe.s",
            "uprobe.session.s",
            "raw_tp/sched_process_exit",
        ];
        let choice = ProgramChoice::new(ends, mode, sleeps);
        sections
            .into_iter()
            .filter(|section| choice.loads(ProgramRole::of(section)))
            .collect()
    }

    #[test]
    fn sessions_replace_pairs_where_the_kernel_has_them() {
        let exit = "raw_tp/sched_process_exit";
        assert_eq!(loaded(BOTH, AttachMode::Session, false), ["uprobe.session", exit]);
        assert_eq!(
            loaded(BOTH, AttachMode::Multi, false),
            ["uprobe", "uretprobe", exit]
        );
        let instructions = WatchedEnds {
            instructions: true,
            ..BOTH
        };
        let all = ["uprobe", "uretprobe", "uprobe.session", exit];
        assert_eq!(loaded(instructions, AttachMode::Session, false), all);
    }

    #[test]
    fn one_end_needs_one_program() {
        let entry = WatchedEnds {
            entry: true,
            ..WatchedEnds::default()
        };
        assert_eq!(loaded(entry, AttachMode::Session, false), ["uprobe"]);
        assert_eq!(loaded(entry, AttachMode::Session, true), ["uprobe.s"]);
    }
}
