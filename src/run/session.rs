// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The event loop of a run: from attached probes to the summary.

use std::collections::BTreeSet;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::epoll::{EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;

use super::counters::LiveCounters;
use super::probes::RunProbes;
use super::processes::RunProcesses;
use super::report::{Report, RunTotals};
use super::schedule::Schedule;
use super::stacks::StackNamer;
use super::wakeups::{MMAP_EVENTS, PROCESS, SIGNALS, STDOUT, WATCHER, WRITTEN, Wakeups};
use crate::output::Output;
use crate::output::messages::Messages;
use crate::privileges::drop_privileges;
use crate::probe::meter::Meter;
use crate::probe::mmap_events::{MmapEvent, MmapEvents};
use crate::probe::ring::RingReader;
use crate::probe::search::finder::Finder;
use crate::probe::signals::SignalHandlers;

/// While events keep coming, the reader sleeps this long between batches: short enough for the eye, long enough that a
/// batch is worth its wakeup.
const REST: Duration = Duration::from_millis(5);

/// What a session does for a tool beside reading events. The privileges for the rest are dropped once probes are
/// attached.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionNeeds {
    /// How often [`EventHandler::interval`] is called.
    pub interval: Option<Duration>,
    /// Stacks are named.
    pub stacks: bool,
    /// The tool reads BPF maps.
    pub reads_maps: bool,
    /// The tool reads /proc of the processes that it shows.
    pub inspects: bool,
    /// Calls are shown when they begin, also those that do not return.
    pub shows_entries: bool,
}

/// What a tool does with the events of its run.
pub trait EventHandler<F> {
    /// Asked once, before probes are attached.
    fn needs(&self) -> SessionNeeds;

    /// Before the first event: for the header.
    fn begin(&mut self, _out: &mut Output) {}

    /// A record of the ring.
    fn event(&mut self, event: Event<'_, F>);

    /// The interval has passed.
    ///
    /// # Errors
    /// End the run.
    fn interval(&mut self, _state: RunState<'_, F>) -> Result<()> {
        Ok(())
    }

    /// After the last event. The last interval ends here, unless a tool says otherwise.
    ///
    /// # Errors
    /// As above.
    fn end(&mut self, state: RunState<'_, F>) -> Result<()> {
        self.interval(state)
    }
}

/// What a tool needs to print between events.
pub struct RunState<'s, F> {
    pub finder: &'s mut F,
    pub out: &'s mut Output,
    pub messages: Messages,
}

/// What the event loop has to do next.
enum Step<'s, F> {
    Event(Event<'s, F>),
    Interval,
}

/// A record, and what a tool needs to make a row of it.
pub struct Event<'s, F> {
    /// Starts with a [`Header`](crate::probe::event::Header).
    pub record: &'s [u8],
    pub finder: &'s mut F,
    pub stacks: &'s mut StackNamer,
    pub out: &'s mut Output,
}

/// A run in progress: `F` finds its functions.
pub(super) struct Session<F> {
    pub ring: RingReader,
    pub wakeups: Wakeups,
    pub mmap_events: Option<MmapEvents>,
    pub probes: RunProbes<F>,
    pub stacks: StackNamer,
    pub schedule: Schedule,
    pub counters: LiveCounters,
    pub meter: Option<Meter>,
    pub processes: RunProcesses,
    pub report: Report,
    pub phase: Phase,
}

pub(super) enum Phase {
    Running,
    /// The probes are being removed while the ring is read.
    Detaching(JoinHandle<()>),
    /// What is in the ring now is all there will be.
    Draining,
    /// As above with probes still attached: removing them takes seconds, which results need not wait for.
    Leaving {
        looked: bool,
    },
}

impl<F: Finder> Session<F> {
    /// Reports that tracing has started, starts the command, drops privileges, and runs until the end. Returns the exit
    /// status.
    ///
    /// # Errors
    /// Rows cannot be written, the kernel refuses a request, or the handler's own errors.
    pub(super) fn run(mut self, handler: impl EventHandler<F>, needs: SessionNeeds) -> Result<u8> {
        let ended = self.handle_events(handler, needs).and_then(|()| self.finish());
        // A failed write must not keep the signal from the command, nor leave its probes in place until it exits.
        if ended.is_err() && SignalHandlers::count() > 0 {
            self.probes.detach();
            self.end_command();
        }
        ended
    }

    fn handle_events(&mut self, mut handler: impl EventHandler<F>, needs: SessionNeeds) -> Result<()> {
        self.start(needs)?;
        handler.begin(&mut self.report.out);
        while let Some(step) = self.next()? {
            match step {
                Step::Event(event) => handler.event(event),
                Step::Interval => handler.interval(self.state())?,
            }
        }
        if SignalHandlers::last() == Some(Signal::SIGINT) {
            self.report.out.after_ctrl_c();
        }
        handler.end(self.state())
    }

    fn start(&mut self, needs: SessionNeeds) -> Result<()> {
        let processes = self.probes.processes();
        let refused = self.probes.names_of_refused(&BTreeSet::new());
        self.report
            .attached(&self.probes.search.attached, processes, &refused)?;
        self.report.details(&self.probes.search.take_details());
        self.processes.start(&self.wakeups)?;
        let asks_kernel = needs.reads_maps || self.meter.is_some() || self.processes.are_followed();
        let may_find_files = self.mmap_events.is_some() && self.probes.search.may_grow();
        let duties = self.probes.duties(may_find_files, needs.inspects || needs.stacks);
        drop_privileges(duties, asks_kernel)?;
        let written = self.probes.start_watching()?;
        self.wakeups.add(written, EpollFlags::EPOLLIN, WRITTEN)?;
        // Files that were mapped while probes were attached, and processes that have exited.
        self.on_mmap_events();
        if self.processes.are_named() {
            self.on_exit()?;
        }
        Ok(())
    }

    fn state(&mut self) -> RunState<'_, F> {
        RunState {
            finder: &mut self.probes.search.finder,
            out: &mut self.report.out,
            messages: self.report.messages,
        }
    }

    /// The next thing to do, or None at the end. Sleeps until there is one, after flushing the rows.
    fn next(&mut self) -> Result<Option<Step<'_, F>>> {
        loop {
            if self.schedule.is_enough(self.report.out.rows()) {
                return Ok(None);
            }
            if self.report.out.is_full() {
                self.report.out.flush()?;
            }
            if self.ring.advance() {
                self.wakeups.busy = true;
                return Ok(Some(Step::Event(Event {
                    record: self.ring.record(),
                    finder: &mut self.probes.search.finder,
                    stacks: &mut self.stacks,
                    out: &mut self.report.out,
                })));
            }
            if matches!(self.phase, Phase::Leaving { looked: true }) {
                return Ok(None);
            }
            let more = self.ring.look();
            match &mut self.phase {
                Phase::Leaving { looked } if more => *looked = true,
                Phase::Draining | Phase::Leaving { .. } if !more => return Ok(None),
                Phase::Detaching(thread) if thread.is_finished() && !more => self.phase = Phase::Draining,
                _ => {
                    if self.attend(more)? {
                        return Ok(Some(Step::Interval));
                    }
                }
            }
        }
    }

    /// Removes the probes if they are still attached, and reports the totals. Returns the exit status.
    fn finish(&mut self) -> Result<u8> {
        let duration = self.schedule.elapsed();
        if self.is_running() {
            self.read_meter()?;
        }
        let lost = self.counters.lost();
        self.report.losses(lost, true);
        let uncalled = self.probes.search.uncalled(&self.counters.called);
        let late = self.probes.stop_watching(&mut self.report);
        let unmatched = self.counters.unmatched();
        self.report.summary(&RunTotals {
            lost,
            unmatched,
            duration,
            hits: self.counters.hits.total(),
            meter: self.meter.as_ref(),
            late,
            uncalled: uncalled.as_ref(),
        })?;
        if let Some(meter) = &self.meter {
            self.report.cost(meter);
        }
        self.probes.report_late(&self.report);
        self.report.unmatched(unmatched);
        if unmatched == 0 && lost == 0 {
            let returns = self.probes.search.finder.matches_calls();
            self.report.nothing_shown(self.counters.hits.total(), returns);
        }
        if let Some(uncalled) = &uncalled {
            self.report.uncalled(uncalled);
        }
        self.report.unfollowed(self.processes.unfollowed());
        self.probes.detach();
        Ok(self.end_command())
    }

    /// Returns the exit status of the run.
    fn end_command(&mut self) -> u8 {
        let ended = self.processes.end_command(&self.wakeups.signals);
        ended.unwrap_or_else(|pid| {
            self.report.command_continues(pid);
            0
        })
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Handles everything but events: before each batch of them and, if there are none, sleeping until something
    /// happens. True if the interval has passed.
    fn attend(&mut self, more: bool) -> Result<bool> {
        let timeout = match more {
            true => EpollTimeout::ZERO,
            false => self.before_sleep()?,
        };
        self.report.losses(self.counters.lost(), false);
        for meaning in self.wakeups.wait(timeout)? {
            match meaning {
                SIGNALS => self.on_signal()?,
                MMAP_EVENTS => self.on_mmap_events(),
                WATCHER => self.probes.on_notices(&mut self.report),
                WRITTEN => self.on_written()?,
                PROCESS => _ = self.on_exit()?,
                STDOUT => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
                _ => {}
            }
        }
        if more && self.stacks.enabled() {
            // What a process mapped before these events must be known before their stacks are named.
            self.on_mmap_events();
        }
        let now = Instant::now();
        if self.schedule.is_over(now) {
            self.end()?;
        }
        self.check_cost()?;
        Ok(self.is_running() && self.schedule.tick(now))
    }

    /// Flushes, releases the ring's space, and returns how long to sleep.
    fn before_sleep(&mut self) -> Result<EpollTimeout> {
        self.report.out.flush()?;
        let rest = match (&self.phase, self.wakeups.busy) {
            (Phase::Running, false) => !self.ring.rest(),
            _ => {
                self.ring.release();
                true
            }
        };
        self.wakeups.busy = false;
        Ok(self.timeout(rest.then_some(REST)))
    }

    /// How long to sleep: `rest`, or until the next thing to do; forever if there is none.
    fn timeout(&self, rest: Option<Duration>) -> EpollTimeout {
        let check = self.meter.as_ref().map(Meter::next);
        let moments = [self.schedule.next(), check].into_iter().flatten();
        let next = moments.min().filter(|_| self.is_running());
        let until = next.map(|moment| moment.saturating_duration_since(Instant::now()));
        match [rest, until].into_iter().flatten().min() {
            // Rounded up: a timeout that ends early would be slept again and again.
            Some(time) => {
                EpollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(EpollTimeout::NONE)
            }
            None => EpollTimeout::NONE,
        }
    }

    /// Starts to end the run: no new events, and those on their way are still shown.
    fn end(&mut self) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        self.read_meter()?;
        self.phase = match self.probes.are_removed_slowly() {
            true => Phase::Leaving { looked: false },
            false => match self.probes.detach_in_background() {
                Some(thread) => Phase::Detaching(thread),
                None => Phase::Draining,
            },
        };
        Ok(())
    }

    /// Once more before the probes are removed.
    fn read_meter(&mut self) -> Result<()> {
        if let Some(meter) = &mut self.meter {
            self.probes
                .with_attacher(|attacher| meter.read(attacher, &self.counters.hits))?;
        }
        Ok(())
    }

    /// Ends the run if the probes cost more than allowed.
    fn check_cost(&mut self) -> Result<()> {
        let running = self.is_running();
        let Some(meter) = self.meter.as_mut().filter(|_| running) else {
            return Ok(());
        };
        let spent = self
            .probes
            .with_attacher(|attacher| meter.check(attacher, &self.counters.hits))?;
        if let Some(spent) = spent {
            self.report.stopped(meter, &spent);
            self.end()?;
        }
        Ok(())
    }

    fn on_signal(&mut self) -> Result<()> {
        self.wakeups.signals.clear();
        if self.is_running() {
            // A child that has exited reports its CPU time until it is waited for.
            self.read_meter()?;
        }
        if SignalHandlers::count() > 0 {
            return self.end();
        }
        if self.processes.command_has_just_exited() && self.on_exit()? {
            self.report.descendants_continue();
        }
        Ok(())
    }

    /// The command or another process of the run has exited, and the run ends with the last of them. False if none is
    /// left.
    fn on_exit(&mut self) -> Result<bool> {
        let continues = self.processes.are_left(&self.wakeups)?;
        if !continues && self.is_running() {
            if !self.processes.has_command() {
                self.report.processes_exited();
            }
            self.end()?;
        }
        Ok(continues)
    }

    /// Without a command, a run ends when no file is left.
    fn on_written(&mut self) -> Result<()> {
        match self.probes.on_written(&mut self.report) || self.processes.has_command() {
            true => Ok(()),
            false => self.end(),
        }
    }

    fn on_mmap_events(&mut self) {
        let changes = self.mmap_events.as_mut().map(MmapEvents::read);
        for change in changes.unwrap_or_default() {
            self.stacks.observe(&change);
            match change {
                MmapEvent::Mapped(mapped) => self.probes.on_mapped(&mapped, &mut self.report),
                MmapEvent::Exec { pid, .. } => self.probes.search.on_exec(pid),
                MmapEvent::Lost(count) => self.report.mmap_events_lost(count),
                MmapEvent::Forked { .. } | MmapEvent::Exited { .. } => {}
            }
        }
    }
}
