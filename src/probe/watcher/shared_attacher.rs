// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The attacher, shared by the session, which finds files, and the watcher's thread, which finds processes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::probe::attach::Attacher;

/// A clone refers to the same attacher.
#[derive(Clone)]
pub struct SharedAttacher(Arc<Mutex<Attacher>>);

impl SharedAttacher {
    pub fn new(attacher: Attacher) -> Self {
        Self(Arc::new(Mutex::new(attacher)))
    }

    /// Blocks while the other thread has it.
    pub fn lock(&self) -> MutexGuard<'_, Attacher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
