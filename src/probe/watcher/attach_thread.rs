// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The thread that attaches probes to processes when they start to match, and detaches them when they stop to.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::object::{MemberMap, RING_BYTES};
use super::pending::{PendingChange, parse_report};
use crate::find::host::clock::monotonic_ns;
use crate::probe::ring::RingReader;
use crate::probe::scope::proc_match::ProcessMatcher;
use crate::probe::watcher::hold_guard::HeldProcesses;
use crate::probe::watcher::shared_attacher::SharedAttacher;

/// A process that got its probes after the start.
#[derive(Clone, Debug)]
pub struct JoinedProcess {
    pub pid: u32,
    pub comm: Vec<u8>,
    /// When it started to match, CLOCK_MONOTONIC nanoseconds.
    pub since_ns: u64,
    /// Nanoseconds from then until its probes were attached.
    pub late_ns: u64,
    /// It was stopped until then.
    pub held: bool,
}

/// What the thread reports to the session.
pub enum WatcherNotice {
    Joined(JoinedProcess),
    /// A process exited, or no longer matched, before its probes were attached.
    Missed,
    /// Attaching to a process failed, for this reason.
    Failed(String),
    /// The watchdog was killed: no more programs are stopped.
    Unguarded,
}

/// What the thread works with.
pub struct AttachThread {
    pub attacher: SharedAttacher,
    pub matcher: Arc<ProcessMatcher>,
    pub members: MemberMap,
    /// With --hold.
    pub held: Option<HeldProcesses<'static>>,
    pub lost: &'static AtomicU64,
    /// Members stay members as long as they exist (--follow).
    pub follows: bool,
    pub notices: Sender<WatcherNotice>,
    /// Written after each notice.
    pub notified: Arc<EventFd>,
}

impl AttachThread {
    /// Handles the reports in the ring `events` until `end` is written.
    pub fn run(self, events: OwnedFd, end: &EventFd) {
        let Ok(mut ring) = RingReader::map(events.as_fd(), RING_BYTES as usize) else {
            return;
        };
        let mut lost = 0;
        loop {
            let mut ready = [
                PollFd::new(events.as_fd(), PollFlags::POLLIN),
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
            ];
            let is_last = match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) => ready[1].any() == Some(true),
                Err(Errno::EINTR) => false,
                Err(_) => true,
            };
            for (pid, change) in read_reports(&mut ring) {
                self.handle(pid, change);
            }
            if is_last {
                return;
            }
            let lost_now = self.lost.load(Ordering::Relaxed);
            if std::mem::replace(&mut lost, lost_now) != lost_now {
                self.reconcile();
            }
        }
    }

    /// After lost reports: compares the members with the processes that match.
    fn reconcile(&self) {
        let matching: HashSet<u32> = self.matcher.processes().into_iter().collect();
        let members: HashSet<u32> = self.attacher.lock().members().pids().into_iter().collect();
        let stays = |pid: &u32| match self.follows {
            true => Path::new(&format!("/proc/{pid}")).exists(),
            false => matching.contains(pid),
        };
        for &pid in members.iter().filter(|pid| !stays(pid)) {
            self.handle(pid, PendingChange::found(false, monotonic_ns()));
        }
        for &pid in matching.difference(&members) {
            self.handle(pid, PendingChange::found(true, monotonic_ns()));
        }
    }

    /// Attaches or detaches the probes of a process.
    fn handle(&self, pid: u32, change: PendingChange) {
        let is_wanted = change.wanted.unwrap_or_else(|| {
            // Before /proc is read, so that the kernel reports changes from now on.
            self.members.remove(pid);
            self.matcher.matches_renamed(pid, &change.renamed)
        });
        let mut attacher = self.attacher.lock();
        let was_member = attacher.members().contains(pid);
        if !is_wanted || attacher.members().joined_before(pid, change.replaced_ns) {
            attacher.leave(pid);
        }
        let joined = (is_wanted && !attacher.members().contains(pid)).then(|| attacher.join(pid));
        let now_ns = monotonic_ns();
        drop(attacher);
        // Not if it was resumed before it had its probes.
        let held = change.held && self.held.as_ref().is_some_and(|held| held.resume(pid));
        if is_wanted && change.wanted.is_none() {
            self.add_checked(pid, &change);
        }
        let missed = change.matched && !is_wanted && !was_member;
        match joined {
            Some(joined) => {
                self.notify(self.joined_notice(pid, joined, PendingChange { held, ..change }, now_ns))
            }
            None if missed => self.notify(WatcherNotice::Missed),
            None => {}
        }
    }

    /// Adds a process that was looked up in /proc. If it no longer matches then, its probes are detached: the
    /// kernel did not report that, as the process was not in the map.
    fn add_checked(&self, pid: u32, change: &PendingChange) {
        self.members.add_ready(pid);
        if !self.matcher.matches_renamed(pid, &change.renamed) {
            self.members.remove(pid);
            self.attacher.lock().leave(pid);
        }
    }

    /// `joined` is the result of attaching to a process.
    fn joined_notice(
        &self,
        pid: u32,
        joined: Result<bool>,
        change: PendingChange,
        now_ns: u64,
    ) -> WatcherNotice {
        match joined {
            Ok(true) => {
                match change.wanted {
                    // The kernel has it in the map, unless it has exited meanwhile.
                    Some(_) => self.members.set_ready(pid),
                    None => self.members.add_ready(pid),
                }
                WatcherNotice::Joined(JoinedProcess {
                    pid,
                    comm: change.comm,
                    since_ns: change.since_ns,
                    late_ns: now_ns.saturating_sub(change.since_ns),
                    held: change.held,
                })
            }
            Ok(false) => WatcherNotice::Missed,
            Err(error) => WatcherNotice::Failed(format!("{error:#}")),
        }
    }

    fn notify(&self, notice: WatcherNotice) {
        // Fails at the end of the run, when the receiver is gone.
        let _ = self.notices.send(notice);
        let _ = self.notified.write(1);
    }
}

/// All reports in the ring, combined for each process, in the order of the first one.
fn read_reports(ring: &mut RingReader) -> Vec<(u32, PendingChange)> {
    let mut changes: Vec<(u32, PendingChange)> = Vec::new();
    let mut indexes: HashMap<u32, usize> = HashMap::new();
    while !ring.rest() && ring.look() {
        while ring.advance() {
            let Some((header, change)) = parse_report(ring.record()) else {
                continue;
            };
            let index = *indexes.entry(header.pid).or_insert_with(|| {
                changes.push((header.pid, PendingChange::default()));
                changes.len() - 1
            });
            changes[index].1.add(change, header);
        }
    }
    changes
}
