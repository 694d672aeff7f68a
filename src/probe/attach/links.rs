//! Closes links, which is how probes are removed.

use std::os::fd::OwnedFd;
use std::thread::{Builder, JoinHandle};

/// Closes links and waits until the kernel has removed their probes.
///
/// Each removal waits 0.04 to 0.1 s in the kernel, so many threads close them: their waits overlap.
pub fn close_all(links: Vec<OwnedFd>) {
    const THREADS: usize = 64;
    let mut shares: Vec<Vec<OwnedFd>> = Vec::new();
    shares.resize_with(links.len().min(THREADS), Vec::new);
    for (index, link) in links.into_iter().enumerate() {
        shares[index % THREADS].push(link);
    }
    std::thread::scope(|scope| {
        for share in shares {
            // If the thread cannot be spawned, the share is dropped, and so closed, right here.
            let _ = Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, || drop(share));
        }
    });
}

/// Closes links in a background thread. None if it could not be spawned: then the links are closed already.
pub fn close_in_background(links: Vec<OwnedFd>) -> Option<JoinHandle<()>> {
    Builder::new().spawn(move || close_all(links)).ok()
}
