// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The probes of a run: attached to files and processes at the start, and to more while it lasts.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::programs::DeferredPrograms;
use super::report::{LateProbes, Report};
use crate::error::Failure;
use crate::privileges::Duties;
use crate::probe::attach::Attacher;
use crate::probe::change_watcher::ChangeWatcher;
use crate::probe::mmap_events::FileMapping;
use crate::probe::scope::breakpoints::Breakpoints;
use crate::probe::search::files::FileSearch;
use crate::probe::search::finder::Finder;
use crate::probe::watcher::shared_attacher::SharedAttacher;
use crate::probe::watcher::{ProcessWatcher, WatcherNotice};
use crate::wording::{counted, first_function};

/// Probes, and where more of them are placed.
pub struct RunProbes<F> {
    pub search: FileSearch<F>,
    /// Watches for processes that begin to match. Declared before the attacher, which its thread shares.
    watcher: Option<ProcessWatcher>,
    /// Watches for files that are written. Once privileges are dropped.
    changes: Option<ChangeWatcher>,
    attacher: SharedAttacher,
    /// For the first file with probes on return instructions.
    deferred: Option<DeferredPrograms>,
    /// Members that were probed at the start.
    present: usize,
    late: LateProbes,
}

impl<F: Finder> RunProbes<F> {
    /// If it takes as long to remove the probes, the results are printed before.
    const SLOW: Duration = Duration::from_secs(1);
    /// If it takes as long, that is said at the start.
    const VERY_SLOW: Duration = Duration::from_secs(10);

    /// Attaches to the files that were found, in all processes that match.
    pub fn attach(
        mut search: FileSearch<F>,
        mut attacher: Attacher,
        deferred: Option<DeferredPrograms>,
        report: &Report,
    ) -> Result<Self> {
        let mut watcher = match attacher.breakpoints() {
            Breakpoints::Matching(filter) => Some(ProcessWatcher::watch(filter)?),
            Breakpoints::AllProcesses | Breakpoints::Process(_) => None,
        };
        search.attach(&mut attacher)?;
        let present = match &mut watcher {
            Some(watcher) => watcher.attach_present(&mut attacher)?,
            None => None,
        };
        for warning in watcher.iter_mut().flat_map(ProcessWatcher::take_warnings) {
            report.messages.warn(&warning);
        }
        match present {
            Some(_) => search.attached.refuse(&attacher.members().refused),
            // With so many members, probes for all processes cost less.
            None if watcher.take().is_some() => search.attached.refuse(&attacher.widen()?),
            None => {}
        }
        if search.attached.probes == 0 && !search.attached.refused.is_empty() && search.has_paths_only() {
            let names = search.names(search.attached.refused.iter().copied());
            return Err(all_refused(&names).into());
        }
        for warning in search.take_warnings().into_iter().chain(untried(&mut attacher)) {
            report.messages.warn(&warning);
        }
        let removal = attacher.removal_time();
        if removal >= Self::VERY_SLOW {
            report.slow_removal(removal);
        }
        Ok(Self {
            search,
            watcher,
            changes: None,
            attacher: SharedAttacher::new(attacher),
            deferred,
            present: present.unwrap_or(0),
            late: LateProbes::default(),
        })
    }

    pub fn with_attacher<T>(&self, run: impl FnOnce(&Attacher) -> T) -> T {
        run(&self.attacher.lock())
    }

    /// How many members were probed at the start; None if all processes are probed.
    pub fn processes(&self) -> Option<usize> {
        self.watcher.as_ref().map(|_| self.present)
    }

    pub fn watcher(&self) -> Option<&ProcessWatcher> {
        self.watcher.as_ref()
    }

    /// Whether removing the probes takes seconds: links of many processes, or perf events of many points.
    pub fn are_removed_slowly(&self) -> bool {
        self.watcher.is_some() || self.with_attacher(Attacher::removal_time) >= Self::SLOW
    }

    /// Starts to remove the probes of files that are written, and to probe processes that begin to match. Privileges
    /// must have been dropped before, as each thread has its own. Returns what is readable when files were written.
    pub fn start_watching(&mut self) -> Result<BorrowedFd<'_>> {
        if let Some(watcher) = &mut self.watcher {
            watcher.start(&self.attacher)?;
        }
        let changes = ChangeWatcher::start(&self.attacher)?;
        Ok(self.changes.insert(changes).fd())
    }

    /// Reports files that were written. False if nothing is left to trace.
    pub fn on_written(&mut self, report: &mut Report) -> bool {
        let written = self.changes.as_ref().map(ChangeWatcher::take_written);
        for path in written.unwrap_or_default() {
            report.file_written(&path);
        }
        !self.search.has_paths_only() || self.with_attacher(Attacher::has_files)
    }

    /// What the run still has to do, which decides the privileges that it keeps. `inspects`: it reads memory maps of
    /// processes.
    pub fn duties(&self, may_find_files: bool, inspects: bool) -> Duties {
        match &self.watcher {
            Some(watcher) if watcher.holds() => Duties::Hold,
            Some(_) => Duties::Attach,
            None if may_find_files => Duties::Attach,
            None if inspects => Duties::Inspect,
            None => Duties::Read,
        }
    }

    /// A file was mapped: it may get probes.
    pub fn on_mapped(&mut self, mapped: &FileMapping, report: &mut Report) {
        let known = self.search.attached.refused.clone();
        let result = self.search.on_mapped(mapped).and_then(|found| {
            let mut attacher = self.attacher.lock();
            if found
                && self.search.finder.ends().instructions
                && let Some(deferred) = self.deferred.take()
            {
                deferred.add_to(&mut attacher)?;
            }
            self.search.attach(&mut attacher)?;
            Ok(found)
        });
        let untried = untried(&mut self.attacher.lock());
        for warning in self.search.take_warnings().into_iter().chain(untried) {
            report.messages.warn(&warning);
        }
        match result {
            Ok(true) => report.file_joined(&mut self.late, mapped),
            Ok(false) => {}
            Err(error) => report.messages.warn(&format!("{error:#}")),
        }
        report.refused(&self.names_of_refused(&known));
        report.details(&self.search.take_details());
    }

    /// Reports the processes that were probed since the last call.
    pub fn on_notices(&mut self, report: &mut Report) {
        let notices = self.watcher.as_ref().map(ProcessWatcher::notices);
        for notice in notices.unwrap_or_default() {
            match notice {
                WatcherNotice::Joined(joined) => report.process_joined(&mut self.late, &joined),
                WatcherNotice::Missed => self.late.missed += 1,
                WatcherNotice::Unguarded => report
                    .messages
                    .warn("the watchdog of --hold was killed: new programs are no longer stopped"),
                WatcherNotice::Failed(reason) => report.process_failed(&mut self.late, &reason),
            }
        }
    }

    /// Lets no more processes join. Returns what was probed late.
    pub fn stop_watching(&mut self, report: &mut Report) -> &LateProbes {
        if let Some(watcher) = &mut self.watcher {
            watcher.end();
            self.late.is_targeted = true;
            self.on_notices(report);
            self.watcher = None;
        }
        self.late.missed += std::mem::take(&mut self.search.attached.missed);
        &self.late
    }

    /// Reports what became of processes that joined, and points that the kernel refused in them.
    pub fn report_late(&self, report: &Report) {
        report.late(&self.late);
        let attacher = self.attacher.lock();
        let new = attacher
            .members()
            .refused
            .difference(&self.search.attached.refused);
        report.refused(&self.search.names(new.copied()));
    }

    /// The names of functions of which the kernel refused points, without those that are known.
    pub fn names_of_refused(&self, known: &BTreeSet<u32>) -> Vec<Rc<str>> {
        self.search
            .names(self.search.attached.refused.difference(known).copied())
    }

    /// Removes the probes in a thread, if that takes a while.
    pub fn detach_in_background(&mut self) -> Option<JoinHandle<()>> {
        self.attacher.lock().detach_in_background()
    }

    pub fn detach(&mut self) {
        self.attacher.lock().detach();
    }
}

/// A warning of instructions that the kernel may have refused without a word.
fn untried(attacher: &mut Attacher) -> Option<String> {
    let count = attacher.take_untried();
    let instructions = counted(count as u64, "instruction");
    (count > 0).then(|| {
        format!(
            "the kernel may be unable to probe {instructions}, too many to try: calls may be missing; name fewer functions"
        )
    })
}

fn all_refused(functions: &[Rc<str>]) -> Failure {
    let first = functions.first().map_or("", Rc::as_ref);
    let message = format!(
        "the kernel cannot probe {}",
        first_function(first, functions.len())
    );
    Failure::failed(message).hint("trace a function that it calls, or one that calls it")
}
