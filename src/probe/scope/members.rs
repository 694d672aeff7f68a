//! Who gets breakpoints: everybody, with the filter in BPF; one process; or each process that matches, with links of
//! its own, so that nobody else pays.
//!
//! What the links of a process are to be is remembered as files and points, since processes come and go while a run
//! lasts, and files are found.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use clap::ValueEnum;

use crate::probe::attach::links::close_all;
use crate::probe::point::ProbePoint;
use crate::probe::scope::filter::Filter;

/// Whose calls pay for the probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scope {
    /// Every process that has the functions: nothing is missed, and each call of anybody costs
    All,
    /// Processes that match
    Targeted,
}

/// Who gets breakpoints.
#[derive(Clone, Debug)]
pub enum Breakpoints {
    Everybody,
    Process(u32),
    /// The processes that this filter matches, now and later.
    Matching(Filter),
}

/// A file whose points each member gets.
pub struct Site {
    pub file: File,
    pub points: Vec<ProbePoint>,
}

/// The processes that have links of their own, and what links those are.
#[derive(Default)]
pub struct Members {
    pub sites: Vec<Site>,
    /// Points that the kernel refused.
    pub refused: usize,
    links: HashMap<u32, Links>,
    closer: Closer,
}

/// The links of a process.
struct Links {
    fds: Vec<OwnedFd>,
    /// What is older than this was before them, CLOCK_MONOTONIC.
    since_ns: u64,
}

impl Members {
    pub fn pids(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }

    pub fn contains(&self, pid: u32) -> bool {
        self.links.contains_key(&pid)
    }

    /// Are the links of this process older than that?
    pub fn were_before(&self, pid: u32, time_ns: u64) -> bool {
        self.links.get(&pid).is_some_and(|links| links.since_ns < time_ns)
    }

    /// Links of all members.
    pub fn count_links(&self) -> usize {
        self.links.values().map(|links| links.fds.len()).sum()
    }

    /// A process is a member, and these links that were begun then are its own, beside those that it has.
    pub fn add(&mut self, pid: u32, fds: Vec<OwnedFd>, since_ns: u64) {
        let links = self.links.entry(pid).or_insert(Links {
            fds: Vec::new(),
            since_ns,
        });
        links.fds.extend(fds);
    }

    /// The process is a member no longer. Its links are closed while the caller goes on.
    pub fn remove(&mut self, pid: u32) {
        if let Some(links) = self.links.remove(&pid) {
            self.closer.close(pid, links.fds);
        }
    }

    /// Waits until the links are closed that the process had before: with those and new ones, calls would count twice.
    pub fn wait_removed(&self, pid: u32) {
        self.closer.wait(pid);
    }

    /// All links, for the caller to close. Those that are being closed already are closed when this returns.
    pub fn take_links(&mut self) -> Vec<OwnedFd> {
        self.closer.finish();
        self.links.drain().flat_map(|(_, links)| links.fds).collect()
    }
}

/// A thread that closes links. Each takes the kernel 40 ms and more, and those that pile up meanwhile are closed together.
#[derive(Default)]
struct Closer {
    thread: Option<(Sender<Removed>, JoinHandle<()>)>,
    closing: Arc<Closing>,
}

/// A process and its links.
type Removed = (u32, Vec<OwnedFd>);

/// The processes whose links are not closed yet.
#[derive(Default)]
struct Closing {
    pids: Mutex<HashSet<u32>>,
    closed: Condvar,
}

impl Closing {
    fn pids(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closer {
    /// Closes the links of a process in the background; right here where no thread can be had.
    fn close(&mut self, pid: u32, links: Vec<OwnedFd>) {
        if self.thread.is_none() {
            let (send, receive) = channel();
            let closing = Arc::clone(&self.closing);
            let thread = Builder::new().spawn(move || close_each(&receive, &closing));
            self.thread = thread.ok().map(|thread| (send, thread));
        }
        if let Some((send, _)) = &self.thread {
            self.closing.pids().insert(pid);
            // The thread ends when the sender does.
            let _ = send.send((pid, links));
        }
    }

    fn wait(&self, pid: u32) {
        let closed = &self.closing.closed;
        let waited = closed.wait_while(self.closing.pids(), |pids| pids.contains(&pid));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until all are closed.
    fn finish(&mut self) {
        if let Some((send, thread)) = self.thread.take() {
            drop(send);
            let _ = thread.join();
        }
    }
}

fn close_each(receive: &Receiver<Removed>, closing: &Closing) {
    while let Ok(first) = receive.recv() {
        let (pids, links): (Vec<u32>, Vec<Vec<OwnedFd>>) =
            std::iter::once(first).chain(receive.try_iter()).unzip();
        close_all(links.into_iter().flatten().collect());
        closing.pids().retain(|pid| !pids.contains(pid));
        closing.closed.notify_all();
    }
}
