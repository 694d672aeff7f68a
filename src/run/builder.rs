// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The order of a run, in types: [`Run`] -> [`FoundFunctions`] -> [`OpenedObject`] -> [`LoadedObject`], which runs.
//! Each step consumes the one before, so none can be forgotten or come too early.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use libbpf_rs::Link;
use libbpf_rs::skel::{OpenSkel, Skel};

use super::counters::LiveCounters;
use super::maps::{create_large_maps, map, size_maps};
use super::objects::{ObjectSource, SharedMaps, load_parts, open_skeleton};
use super::probes::RunProbes;
use super::processes::RunProcesses;
use super::programs::{DeferredPrograms, LoadedPrograms, ProgramChoice};
use super::report::Report;
use super::schedule::{RunLimits, Schedule};
use super::session::{EventHandler, Phase, Session};
use super::stacks::StackNamer;
use super::wakeups::Wakeups;
use crate::bpf::{OpenToolSkel, TaskOffsets, ToolSkel, ToolSkelBuilder};
use crate::cli::{CommandArgs, CommonArgs, RunArgs};
use crate::error::{EndedBySignal, Failure};
use crate::find::returns::ReturnPolicy;
use crate::output::messages;
use crate::privileges::{has_btf, require_privileges};
use crate::probe::attach::{AttachMode, Attacher, warm_up};
use crate::probe::command::TracedCommand;
use crate::probe::follow::ChildFollower;
use crate::probe::meter::Meter;
use crate::probe::mmap_events::MmapEvents;
use crate::probe::ring::RingReader;
use crate::probe::scope::filter::ProcessFilter;
use crate::probe::search::files::FileSearch;
use crate::probe::search::finder::{Finder, SearchRequest};
use crate::probe::search::spec_target::MOVED_HINT;
use crate::probe::signals::SignalHandlers;
use crate::probe::task_offsets::task_offsets;

/// Bytes of the ring if a run sends no events.
const SMALL_RING_BYTES: u32 = 1 << 16;

/// A run whose options are resolved. The command, if any, is forked and waits.
pub struct Run {
    filter: ProcessFilter,
    argv: Vec<OsString>,
    command: Option<TracedCommand>,
    mode: AttachMode,
    options: RunArgs,
    report: Report,
}

/// A run whose functions are found.
pub struct FoundFunctions<F> {
    run: Run,
    search: FileSearch<F>,
    mmap_events: Option<MmapEvents>,
    task_offsets: Option<JoinHandle<Result<TaskOffsets>>>,
}

/// A run whose BPF object is opened: its maps and constants can be set.
pub struct OpenedObject<F, O> {
    /// The open object, for the tool's own maps.
    pub skel: O,
    source: ObjectSource,
    found: FoundFunctions<F>,
    ring_bytes: u32,
    may_sleep: bool,
}

impl Run {
    /// Checks privileges, opens the output, resolves the filter, forks the command and chooses how to attach.
    ///
    /// # Errors
    /// Missing privileges, an option that matches nothing, or a kernel without uprobes.
    pub fn begin(common: &CommonArgs, command: &CommandArgs) -> Result<Run> {
        require_privileges()?;
        let out = common.output.open(common.run.duration);
        let out = match command.command.is_empty() {
            true => out?,
            // The status is that of the command, which does not run.
            false => out.map_err(|error| Failure::of(&error))?,
        };
        let report = Report::new(out, common.output.messages(), common.run.cost);
        let mut filter = common.filter.resolve()?;
        filter.follow = command.follow;
        let held = command.hold(&mut filter)?;
        Ok(Run {
            filter,
            argv: command.command.clone(),
            command: held,
            mode: AttachMode::choose(common.run.attach)?,
            options: common.run.clone(),
            report,
        })
    }

    /// Looks for the functions of `finder` in the files that are in use now. mmap events are watched from before that,
    /// so that no file can appear unnoticed.
    ///
    /// # Errors
    /// Nothing was found, and nothing may appear later; or the finder's own errors.
    pub fn search<F: Finder>(self, mut finder: F) -> Result<FoundFunctions<F>> {
        let command = self.command.as_ref().map(|held| (&self.argv[..], held.pid()));
        let details = self.report.messages.shows_details();
        let plan = finder.plan(&SearchRequest {
            filter: &self.filter,
            returns: self.return_policy(),
            details,
            command,
        })?;
        for warning in &plan.moved {
            self.report.messages.warn(warning);
            messages::hint(MOVED_HINT);
        }
        // Parsing the kernel's BTF takes 5 ms, so it is done meanwhile.
        let task_offsets = (finder.matches_calls() && has_btf()).then(|| thread::spawn(task_offsets));
        let mut search = FileSearch::new(finder, plan.place, self.options.placement, &self.filter);
        if details {
            search.keep_details();
        }
        let mmap_events = match search.may_grow() {
            true => watch_mmap_events(&self.report),
            false => None,
        };
        let searched = search.search(plan.named, &plan.likely);
        ensure!(SignalHandlers::count() == 0, EndedBySignal);
        for warning in search.take_warnings() {
            self.report.messages.warn(&warning);
        }
        searched?;
        Ok(FoundFunctions {
            run: self,
            search,
            mmap_events,
            task_offsets,
        })
    }

    /// Without BTF, a session program cannot tell where a return probe is safe.
    fn return_policy(&self) -> ReturnPolicy {
        match self.options.returns {
            ReturnPolicy::Safe if self.mode.has_sessions() && !has_btf() => ReturnPolicy::Instructions,
            policy => policy,
        }
    }
}

impl<F: Finder> FoundFunctions<F> {
    pub fn finder(&mut self) -> &mut F {
        &mut self.search.finder
    }

    /// Whether files may appear later.
    pub fn may_grow(&self) -> bool {
        self.search.may_grow()
    }

    /// Prints a warning.
    pub fn warn(&self, text: &str) {
        self.run.report.messages.warn(text);
    }

    /// Opens the BPF object of the tool.
    ///
    /// # Errors
    /// libbpf refuses it.
    pub fn open<B: ToolSkelBuilder>(self) -> Result<OpenedObject<F, B::Open>> {
        let skel = open_skeleton::<B>()?;
        Ok(OpenedObject {
            source: ObjectSource::new::<B>(skel.open_object()),
            skel,
            ring_bytes: self.run.options.ring_bytes(),
            found: self,
            may_sleep: false,
        })
    }
}

impl<F: Finder, O: OpenToolSkel + 'static> OpenedObject<F, O> {
    /// The tool's own constants.
    ///
    /// # Errors
    /// The object has none.
    pub fn rodata(&mut self) -> Result<&mut O::Rodata> {
        self.skel.rodata()
    }

    pub fn finder(&mut self) -> &mut F {
        self.found.finder()
    }

    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }

    /// The run sends no events through the ring, so it needs little memory.
    pub fn without_events(&mut self) {
        self.ring_bytes = SMALL_RING_BYTES;
    }

    /// Programs may wait for pages that are not in memory, where the kernel allows that.
    pub fn allow_sleep(&mut self) {
        // Sleepable programs cannot use a map of control groups.
        self.may_sleep = self.found.run.filter.cgroups.is_empty() && self.found.run.mode.can_sleep();
    }

    /// Loads the programs that this run needs, without attaching them.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load(mut self) -> Result<LoadedObject<F, O::Loaded>> {
        if self.found.run.mode.has_multi_links() {
            warm_up();
        }
        let task_offsets = self.found.task_offsets.take();
        let FoundFunctions { run, search, .. } = &self.found;
        let ends = search.finder.ends();
        let choice = ProgramChoice::new(ends, run.mode, self.may_sleep);
        let mut constants = run
            .filter
            .constants(run.mode.has_cookies(), wake_at(self.ring_bytes));
        if let Some(thread) = task_offsets {
            let offsets = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            constants.task_offsets = Some(offsets?);
        }
        self.skel.set_run_constants(&constants)?;
        let object = self.skel.open_object_mut();
        let repeats = ends.repeats || search.may_grow();
        size_maps(
            object,
            &run.filter,
            self.ring_bytes,
            choice.matches_calls(),
            repeats,
        )?;
        create_large_maps(object)?;
        let (skel, programs) = load_parts(self.skel, &self.source, choice, run.mode)?;
        let pids = map(skel.object(), "pids")?;
        run.filter.fill(&pids, &map(skel.object(), "cgroups")?)?;
        let follow = run
            .filter
            .follow
            .then(|| ChildFollower::start(&pids))
            .transpose()?;
        let later = choice.for_instructions().filter(|_| search.may_grow());
        let (mode, source) = (run.mode, self.source);
        let deferred = later.map(|choice| DeferredPrograms {
            load: Box::new(move || {
                let object = source.load(&SharedMaps::of(skel.object())?, choice, mode)?;
                Ok(LoadedPrograms::new(choice, Box::leak(Box::new(object))))
            }),
        });
        Ok(LoadedObject {
            tracepoints: LoadedPrograms::attach_tracepoints(&programs)?,
            found: self.found,
            ring_bytes: self.ring_bytes,
            programs,
            deferred,
            skel,
            follow,
        })
    }

    /// Loads the programs and runs: [`OpenedObject::load`] and [`LoadedObject::run`]. `handler` gets the skeleton, for
    /// its maps.
    ///
    /// # Errors
    /// The kernel refuses the programs; or those of [`LoadedObject::run`].
    pub fn run<H: EventHandler<F>>(self, handler: impl FnOnce(&'static O::Loaded) -> H) -> Result<u8> {
        let loaded = self.load()?;
        let handler = handler(loaded.skel);
        loaded.run(handler)
    }
}

/// A run whose programs are loaded: the tool can fill its maps.
pub struct LoadedObject<F, S: 'static> {
    pub skel: &'static S,
    found: FoundFunctions<F>,
    programs: Vec<LoadedPrograms>,
    deferred: Option<DeferredPrograms>,
    ring_bytes: u32,
    follow: Option<ChildFollower>,
    tracepoints: Vec<Link>,
}

impl<F: Finder, S: ToolSkel> LoadedObject<F, S> {
    pub fn finder(&mut self) -> &mut F {
        self.found.finder()
    }

    /// Attaches the probes, starts the command, drops the privileges that are no longer needed, and passes events to
    /// `handler` until the end. Returns the exit status.
    ///
    /// # Errors
    /// The kernel refuses all probes, rows cannot be written, or the handler's own errors.
    pub fn run(self, handler: impl EventHandler<F>) -> Result<u8> {
        let needs = handler.needs();
        let FoundFunctions {
            run,
            search,
            mmap_events,
            ..
        } = self.found;
        let events: OwnedFd = map(self.skel.object(), "events")?.as_fd().try_clone_to_owned()?;
        let ring = RingReader::map(events.as_fd(), self.ring_bytes as usize)
            .context("failed to map the ring buffer")?;
        let wakeups = Wakeups::new(events.as_fd())?;
        let mut stacks = StackNamer::new(needs.stacks);
        let mut mmap_events = mmap_events.or_else(|| needs.stacks.then(|| watch_mmap_events(&run.report))?);
        if let Some(events) = &mut mmap_events {
            wakeups.add_mmap_events(events)?;
            // Since the search, programs were loaded.
            events.drain();
        }
        let counters = LiveCounters::new(self.skel.counters()?);
        let mut attacher = LoadedPrograms::attach(&self.programs, |programs| {
            Attacher::new(run.mode, &run.filter, programs)
        })?;
        let limit = run.options.max_overhead;
        let mut meter = match run.options.cost || limit.is_some() {
            true => Some(Meter::new(&mut attacher, &counters.hits, limit)?),
            false => None,
        };
        let probes = RunProbes::attach(search, attacher, self.deferred, &run.report)?;
        if let Some(watcher) = probes.watcher() {
            wakeups.add_watcher(watcher.fd())?;
        }
        // Now, as they may have exited when their first event is read.
        for &pid in probes.search.processes() {
            stacks.observe_process(pid);
        }
        if let Some(meter) = &mut meter {
            probes.with_attacher(|attacher| meter.begin(attacher, &counters.hits))?;
        }
        let limits = RunLimits {
            duration: run.options.duration,
            interval: needs.interval,
            rows: run.options.max_rows,
        };
        let mut report = run.report;
        report.shows_entries = needs.shows_entries;
        let session = Session {
            ring,
            wakeups,
            mmap_events,
            probes,
            stacks,
            schedule: Schedule::start(limits, Instant::now()),
            counters,
            meter,
            processes: RunProcesses::new(run.command, run.filter.pids, self.follow, self.tracepoints),
            report,
            phase: Phase::Running,
        };
        session.run(handler, needs)
    }
}

/// The run works without mmap events, and says what it then misses.
fn watch_mmap_events(report: &Report) -> Option<MmapEvents> {
    MmapEvents::start()
        .inspect_err(|error| {
            let text = format!("{error:#}: programs that start later may be missed");
            report.messages.warn(&text);
        })
        .ok()
}

/// How full a ring may get before a resting reader is woken, bytes.
fn wake_at(ring_bytes: u32) -> u64 {
    const MAX: u32 = 256 << 10;
    (ring_bytes / 4).min(MAX).into()
}
