// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A section that a thread decompresses while other work is done.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Builder;

use anyhow::{Context, Result};

use super::{DeflateStream, SlidingOutput};
use crate::find::elf::sections::SectionReader;

/// The bytes that are decompressed so far. All are kept.
pub struct SectionAhead(Arc<SharedProgress>);

#[derive(Default)]
struct SharedProgress {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    bytes: Vec<u8>,
    /// No more will be added.
    is_over: bool,
}

impl SectionAhead {
    /// Starts the thread, which ends early if the section is dropped. `stored` is where the section is in `file`, and
    /// `size` its size when decompressed.
    ///
    /// # Errors
    /// No thread can be created.
    pub fn start(file: File, stored: Range<u64>, size: usize) -> io::Result<SectionAhead> {
        let shared = Arc::new(SharedProgress::default());
        let other = Arc::downgrade(&shared);
        Builder::new().spawn(move || {
            // Bytes before the damage count.
            let _ = decompress(file, stored, size, &other);
            if let Some(shared) = other.upgrade() {
                shared.lock().is_over = true;
                shared.changed.notify_all();
            }
        })?;
        Ok(SectionAhead(shared))
    }

    /// Waits until these bytes are decompressed. `None` if they are damaged.
    pub fn get(&self, range: Range<usize>) -> Option<Vec<u8>> {
        let lacks_some = |progress: &mut Progress| !progress.is_over && progress.bytes.len() < range.end;
        let waited = self.0.changed.wait_while(self.0.lock(), lacks_some);
        let progress = waited.unwrap_or_else(PoisonError::into_inner);
        progress.bytes.get(range).map(<[u8]>::to_vec)
    }
}

impl SharedProgress {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decompress(file: File, stored: Range<u64>, size: usize, shared: &Weak<SharedProgress>) -> Result<()> {
    let file = Rc::new(SectionReader::open(file)?);
    let mut stream = DeflateStream::new(&file, stored);
    let mut output = SlidingOutput::new(&[]);
    let mut left = size;
    while left > 0 {
        let added = output.inflate(&mut stream, left)?;
        left -= added.len();
        let shared = shared.upgrade().context("not needed any more")?;
        let mut progress = shared.lock();
        if progress.bytes.capacity() == 0 {
            progress.bytes.reserve_exact(size);
        }
        progress.bytes.extend_from_slice(added);
        drop(progress);
        shared.changed.notify_all();
    }
    Ok(())
}
