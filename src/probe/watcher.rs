// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Watches for processes that start to match the filter, and attaches probes to them while the run lasts.
//!
//! The watcher's BPF programs report them. A thread of this process attaches the probes. In the session's thread, a
//! burst of rows or a blocked output would delay probes and keep processes stopped.

mod attach_thread;
mod hold_guard;
mod object;
mod pending;
pub mod shared_attacher;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::Failure;
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher};
use crate::probe::scope::filter::ProcessFilter;
use crate::probe::scope::proc_match::ProcessMatcher;
use crate::probe::watcher::hold_guard::HoldGuard;
use crate::probe::watcher::shared_attacher::SharedAttacher;
use attach_thread::AttachThread;
pub use attach_thread::{JoinedProcess, WatcherNotice};
use object::WatcherObject;

/// Most processes that get links of their own unless `--scope targeted` is given. With more, the links cost
/// the traced processes more than they save others: the kernel offers each hit to every link of the function
/// (some 27 ns each), and to remove one it walks all links for each process (measured on 6.18: 100 take 0.2
/// s, 1,000 take 13 s).
const MANY_PROCESSES: usize = 256;

/// The same limit for perf events. Their removals do not overlap: 0.11 s each (6.18) with any number of
/// threads.
const MANY_PERF_EVENTS: usize = 48;

/// Watches processes as long as it lives.
pub struct ProcessWatcher {
    object: WatcherObject,
    filter: ProcessFilter,
    matcher: Arc<ProcessMatcher>,
    guard: Option<HoldGuard>,
    threads: Vec<JoinHandle<()>>,
    notices: Option<Receiver<WatcherNotice>>,
    /// Readable when there are notices.
    notified: Arc<EventFd>,
    /// Written to end the thread.
    end: Arc<EventFd>,
    warnings: Vec<String>,
}

impl ProcessWatcher {
    /// Reports of the kernel are queued from now on. The process must have a single thread.
    ///
    /// # Errors
    /// The watcher cannot be loaded or attached, or its watchdog cannot be forked.
    pub fn watch(filter: &ProcessFilter) -> Result<Self> {
        let event_fd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let mut watcher = Self {
            object: WatcherObject::load(filter)?,
            filter: filter.clone(),
            matcher: Arc::new(ProcessMatcher::new(filter.clone())),
            guard: None,
            threads: Vec::new(),
            notices: None,
            notified: Arc::new(event_fd()?),
            end: Arc::new(event_fd()?),
            warnings: Vec::new(),
        };
        if filter.hold {
            // Before the first process can be stopped.
            let guard = HoldGuard::start(&watcher.object.held()?)?;
            watcher.object.set_holders(guard.pid())?;
            watcher.guard = Some(guard);
        }
        let warning = watcher.object.attach(filter)?;
        watcher.warnings.extend(warning.map(str::to_owned));
        Ok(watcher)
    }

    /// Attaches probes to all processes that match now. Returns how many there are, or None when there are
    /// too many for links of their own and `--scope` was not given: then all processes should get breakpoints
    /// instead.
    ///
    /// # Errors
    /// Probes cannot be attached to a process that has not exited.
    pub fn attach_present(&mut self, attacher: &mut Attacher) -> Result<Option<usize>> {
        let pids = self.matcher.processes();
        if pids.len() > MANY_PROCESSES {
            if !self.is_requested() {
                return Ok(None);
            }
            self.warnings.push(format!(
                "{} processes match: the kernel offers each call to the probes of all of them, and takes seconds to \
                 remove the probes at the end; --scope all uses a single probe for all processes",
                pids.len()
            ));
        }
        let members = self.object.members()?;
        for &pid in &pids {
            // Before the process is looked at, so that the kernel reports its exit.
            members
                .add_waiting(pid)
                .context("failed to target so many processes")?;
        }
        let mut present = 0;
        for &pid in &pids {
            if !self.matcher.matches(pid) || !attacher.join(pid)? {
                members.remove(pid);
                continue;
            }
            members.set_ready(pid);
            present += 1;
            // What one process takes is known now: refuse here rather than after thousands of probes.
            if present == 1 && !self.accepts(attacher, pids.len())? {
                return Ok(None);
            }
        }
        Ok(Some(present))
    }

    /// False when so many perf events should be avoided. Fails when there are too few file descriptors.
    fn accepts(&mut self, attacher: &Attacher, processes: usize) -> Result<bool> {
        let per_process = attacher.members().count_links();
        require_files(per_process, processes)?;
        let probes = per_process * processes;
        let has_multi_links = matches!(attacher.mode(), AttachMode::Session | AttachMode::Multi);
        if has_multi_links || probes <= MANY_PERF_EVENTS {
            return Ok(true);
        }
        if self.is_requested() {
            self.warnings.push(format!(
                "{probes} perf events, as this kernel has no multi-uprobe links (since 6.10): it removes about ten per \
                 second at the end"
            ));
        }
        Ok(self.is_requested())
    }

    fn is_requested(&self) -> bool {
        self.filter.scope.is_some()
    }

    /// Starts the thread that attaches probes. Privileges must be dropped before, as each thread has its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(&mut self, attacher: &SharedAttacher) -> Result<()> {
        let (send, receive) = channel();
        let events = self.object.events().try_clone_to_owned()?;
        let held = match self.filter.hold {
            true => Some(self.object.held()?),
            false => None,
        };
        let attach_thread = AttachThread {
            attacher: attacher.clone(),
            matcher: Arc::clone(&self.matcher),
            members: self.object.members()?,
            held,
            lost: self.object.lost()?,
            follows: self.filter.follow,
            notices: send.clone(),
            notified: Arc::clone(&self.notified),
        };
        let end = Arc::clone(&self.end);
        let thread = Builder::new().spawn(move || attach_thread.run(events, &end));
        self.threads
            .push(thread.context("failed to spawn the process watcher thread")?);
        if self.filter.hold {
            let held = self.object.held()?;
            let end = Arc::clone(&self.end);
            let notified = Arc::clone(&self.notified);
            let thread = Builder::new().spawn(move || {
                if !held.beat(&end) && send.send(WatcherNotice::Unguarded).is_ok() {
                    let _ = notified.write(1);
                }
            });
            self.threads.push(thread.context("failed to spawn a thread")?);
        }
        self.notices = Some(receive);
        Ok(())
    }

    /// Readable when there are notices.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.notified.as_fd()
    }

    /// Notices since the last call.
    pub fn notices(&self) -> Vec<WatcherNotice> {
        let _ = self.notified.read();
        self.notices.iter().flat_map(Receiver::try_iter).collect()
    }

    /// Warnings for the user since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// True if programs are stopped when they are executed (`--hold`).
    pub fn holds(&self) -> bool {
        self.filter.hold
    }

    /// Stops watching and resumes all stopped processes. Processes that start to match later get no probes.
    pub fn end(&mut self) {
        // In this order: no more processes are stopped, all are resumed, and the watchdog is not needed.
        self.object.detach();
        let _ = self.end.write(1);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let (Some(guard), Ok(held)) = (self.guard.take(), self.object.held()) {
            held.resume_all();
            drop(guard);
        }
    }
}

impl Drop for ProcessWatcher {
    fn drop(&mut self) {
        self.end();
    }
}

/// Each process takes as many file descriptors as the first one.
fn require_files(per_process: usize, processes: usize) -> Result<()> {
    const OTHER_FILES: usize = 256;
    let available = privileges::file_limit().saturating_sub(OTHER_FILES);
    if per_process * processes <= available {
        return Ok(());
    }
    Err(Failure::failed(format!(
            "too many open files: {processes} processes match and their probes take {per_process} file descriptors each, \
             but only {available} are available"
        ),
    )
    .hint("match fewer processes, name fewer functions, raise the limit with `ulimit -n`, or use --scope all")
    .into())
}
