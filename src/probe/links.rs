// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Closes BPF links, which takes the kernel 0.04 to 0.1 s each. The waits of several threads overlap.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Identifies a probed file within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbedFileKey(pub u32);

/// An open link. The kernel removes its probes when it is closed.
pub struct ProbeLink {
    /// The file of its probes.
    pub file: ProbedFileKey,
    _fd: OwnedFd,
}

impl ProbeLink {
    pub fn new(file: ProbedFileKey, fd: OwnedFd) -> ProbeLink {
        ProbeLink { file, _fd: fd }
    }
}

/// Closes links in parallel, and returns when all are closed.
pub fn close_all(links: Vec<ProbeLink>) {
    const THREADS: usize = 64;
    let mut shares: Vec<Vec<ProbeLink>> = Vec::new();
    shares.resize_with(links.len().min(THREADS), Vec::new);
    for (index, link) in links.into_iter().enumerate() {
        shares[index % THREADS].push(link);
    }
    std::thread::scope(|scope| {
        for share in shares {
            // If no thread can be created, the share is dropped here, which closes it.
            let _ = Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, || drop(share));
        }
    });
}

/// Closes links in a background thread, and then drops `after`. None if the thread could not be spawned: then the links
/// are closed already.
pub fn close_in_background<T: Send + 'static>(links: Vec<ProbeLink>, after: T) -> Option<JoinHandle<()>> {
    let close = move || {
        close_all(links);
        drop(after);
    };
    Builder::new().spawn(close).ok()
}

/// Closes the links of processes on a thread. Links that are handed over while it is busy are closed together.
#[derive(Default)]
pub struct LinkCloser {
    thread: Option<(Sender<ProcessLinks>, JoinHandle<()>)>,
    closing: Arc<ClosingPids>,
}

/// A PID and the links of that process.
type ProcessLinks = (u32, Vec<ProbeLink>);

/// The processes whose links are not closed yet.
#[derive(Default)]
struct ClosingPids {
    pids: Mutex<HashSet<u32>>,
    closed: Condvar,
}

impl ClosingPids {
    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkCloser {
    /// Closes the links of a process in the background, or before it returns if no thread can be created.
    pub fn close(&mut self, pid: u32, links: Vec<ProbeLink>) {
        if self.thread.is_none() {
            let (send, receive) = channel();
            let closing = Arc::clone(&self.closing);
            let thread = Builder::new().spawn(move || close_received(&receive, &closing));
            self.thread = thread.ok().map(|thread| (send, thread));
        }
        if let Some((send, _)) = &self.thread {
            self.closing.lock().insert(pid);
            // The thread runs as long as the sender exists.
            let _ = send.send((pid, links));
        }
    }

    /// Waits until the links of a process are closed.
    pub fn wait(&self, pid: u32) {
        let closed = &self.closing.closed;
        let waited = closed.wait_while(self.closing.lock(), |pids| pids.contains(&pid));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until all links are closed.
    pub fn finish(&mut self) {
        if let Some((send, thread)) = self.thread.take() {
            drop(send);
            let _ = thread.join();
        }
    }
}

fn close_received(receive: &Receiver<ProcessLinks>, closing: &ClosingPids) {
    while let Ok(first) = receive.recv() {
        let (pids, links): (Vec<u32>, Vec<Vec<ProbeLink>>) =
            std::iter::once(first).chain(receive.try_iter()).unzip();
        close_all(links.into_iter().flatten().collect());
        closing.lock().retain(|pid| !pids.contains(pid));
        closing.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};

    use super::*;

    /// The read end sees the end of file once the write end is closed.
    fn link() -> (PipeReader, ProbeLink) {
        let (reader, writer) = pipe().expect("a pipe");
        (reader, ProbeLink::new(ProbedFileKey(0), writer.into()))
    }

    #[test]
    fn wait_returns_when_the_links_of_the_process_are_closed() {
        let mut closer = LinkCloser::default();
        let (mut reader, writer) = link();
        closer.close(7, vec![writer]);
        closer.wait(7);
        assert_eq!(reader.read(&mut [0]).expect("end of file"), 0);
        closer.wait(8);
    }

    #[test]
    fn more_links_than_threads_are_all_closed() {
        let (readers, writers): (Vec<_>, Vec<_>) = (0..100).map(|_| link()).unzip();
        close_all(writers);
        for mut reader in readers {
            assert_eq!(reader.read(&mut [0]).expect("end of file"), 0);
        }
    }
}
