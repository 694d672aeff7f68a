// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which BPF programs of a tool a run loads, chosen by their sections and by the ends of calls that are watched.

use anyhow::{Context, Result};
use libbpf_rs::{Link, Object, OpenObject};

use crate::probe::attach::{AttachMode, Attacher, ProbeProgram};
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
        let session = ends.both && mode.has_sessions() && !ends.only_instructions;
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

    /// The programs that a file with probes on return instructions needs in addition, if these have a session program
    /// instead.
    pub fn for_instructions(self) -> Option<Self> {
        let is_complete = !self.session || (self.entry && self.at_return);
        (!is_complete).then_some(Self {
            session: false,
            at_return: true,
            entry: true,
            tracepoints: false,
            sleeps: self.sleeps,
        })
    }

    /// Two parts that can be loaded at the same time, if there are several large programs.
    pub fn parts(self) -> (Self, Option<Self>) {
        let pair = self.entry && self.at_return;
        if !pair {
            return (self, None);
        }
        // A session program is as large as a pair.
        let first = Self {
            entry: !self.session,
            at_return: false,
            ..self
        };
        let second = Self {
            session: false,
            entry: self.session,
            at_return: true,
            tracepoints: false,
            sleeps: self.sleeps,
        };
        (first, Some(second))
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
}

/// Loaded programs of an object.
#[derive(Clone, Copy)]
pub struct LoadedPrograms {
    choice: ProgramChoice,
    object: &'static Object,
}

impl LoadedPrograms {
    pub fn new(choice: ProgramChoice, object: &'static Object) -> LoadedPrograms {
        LoadedPrograms { choice, object }
    }

    /// Calls `attach` with the programs of all `parts` to attach to probe points. Return probes come first, so that an
    /// entry that was seen has its return seen.
    pub fn attach<T>(
        parts: &[LoadedPrograms],
        attach: impl FnOnce(Vec<ProbeProgram<'_>>) -> Result<T>,
    ) -> Result<T> {
        let programs: Vec<_> = parts
            .iter()
            .flat_map(|part| part.object.progs().map(|program| (part.choice, program)))
            .collect();
        let mut chosen: Vec<ProbeProgram<'_>> = Vec::new();
        for runs in [Ends::Both, Ends::Return, Ends::Entry] {
            let wanted = programs.iter().filter(|(choice, program)| {
                let role = ProgramRole::of(&program.section().to_string_lossy());
                choice.loads(role) && matches!(role, ProgramRole::Probe { ends, .. } if ends == runs)
            });
            chosen.extend(wanted.map(|(_, program)| ProbeProgram { program, runs }));
        }
        attach(chosen)
    }

    /// Attaches the programs for tracepoints. They stay attached as long as the links live.
    pub fn attach_tracepoints(parts: &[LoadedPrograms]) -> Result<Vec<Link>> {
        let programs = parts.iter().flat_map(|part| {
            part.object.progs_mut().filter(|program| {
                let role = ProgramRole::of(&program.section().to_string_lossy());
                role == ProgramRole::Tracepoint && part.choice.loads(role)
            })
        });
        let links = programs.map(|program| program.attach());
        links
            .collect::<Result<_, _>>()
            .context("failed to attach to kernel tracepoints")
    }
}

/// Programs that are loaded when the first file needs them: few runs come across one, and the verifier takes 11 ms for
/// those of functrace.
pub struct DeferredPrograms {
    /// Loads the programs, with the maps of the run.
    pub load: Box<dyn FnOnce() -> Result<LoadedPrograms>>,
}

impl DeferredPrograms {
    /// Loads the programs, for points that are attached from now on.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn add_to(self, attacher: &mut Attacher) -> Result<()> {
        let programs = (self.load)().context("failed to load the programs for return instructions")?;
        LoadedPrograms::attach(&[programs], |programs| attacher.add_programs(&programs))
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
        only_instructions: false,
        repeats: false,
    };

    fn loaded(ends: WatchedEnds, mode: AttachMode, sleeps: bool) -> Vec<&'static str> {
        loaded_by(ProgramChoice::new(ends, mode, sleeps))
    }

    fn loaded_by(choice: ProgramChoice) -> Vec<&'static str> {
        let sections = [
            "uprobe",
            "uretprobe",
            "uprobe.session",
            "uprobe.s",
            "uretprobe.s",
            "uprobe.session.s",
            "raw_tp/sched_process_exit",
        ];
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
        let only = WatchedEnds {
            only_instructions: true,
            ..instructions
        };
        assert_eq!(
            loaded(only, AttachMode::Session, false),
            ["uprobe", "uretprobe", exit]
        );
    }

    #[test]
    fn return_instructions_need_the_pair_besides_a_session() {
        let session = ProgramChoice::new(BOTH, AttachMode::Session, true);
        let expected = ProgramChoice {
            session: false,
            at_return: true,
            entry: true,
            tracepoints: false,
            sleeps: true,
        };
        assert_eq!(session.for_instructions(), Some(expected));
        let pair = ProgramChoice::new(BOTH, AttachMode::Multi, true);
        assert_eq!(pair.for_instructions(), None);
        let instructions = WatchedEnds {
            instructions: true,
            ..BOTH
        };
        let all = ProgramChoice::new(instructions, AttachMode::Session, true);
        assert_eq!(all.for_instructions(), None);
    }

    #[test]
    fn large_programs_are_loaded_in_two_parts() {
        let instructions = WatchedEnds {
            instructions: true,
            ..BOTH
        };
        for (ends, mode) in [
            (BOTH, AttachMode::Multi),
            (BOTH, AttachMode::Session),
            (instructions, AttachMode::Session),
        ] {
            let all = loaded(ends, mode, false);
            let (first, second) = ProgramChoice::new(ends, mode, false).parts();
            let (first, second) = (loaded_by(first), second.map(loaded_by).unwrap_or_default());
            assert_eq!(second.is_empty(), all.len() <= 2, "{all:?}");
            let mut both = [first, second].concat();
            both.sort_by_key(|section| all.iter().position(|other| other == section));
            assert_eq!(both, all);
        }
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
