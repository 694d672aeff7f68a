// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How much is read of one file, whatever its headers claim.
//!
//! A sparse file of a few kilobytes can claim tables of gigabytes, and the entries of a real table can make the same
//! bytes be read again and again. Any user can map such a file and so make this tool read it.

use std::cell::Cell;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use anyhow::{Result, ensure};

/// Largest table that is read, in bytes. Browsers with all symbols need half of it.
const MAX_TABLE: u64 = 1 << 30;
/// Bytes of a file per byte that it has on disk, at most. Compressed file systems (btrfs, ZFS, EROFS) reach 2 to 4 with
/// programs. Only holes have more.
const MOST_EXPANSION: u64 = 8;
/// Bytes that a file may have without any on disk: some file systems report no blocks for small files, or for any.
const UNCOUNTED: u64 = 8 << 20;
/// Bytes of a block in `st_blocks`.
const BLOCK: u64 = 512;
/// How often a file may be read completely.
const MOST_PASSES: u64 = 64;
/// Bytes that may be read of even the smallest file.
const LEAST_TOTAL: u64 = 512 << 20;
/// Cost of a read in addition to its bytes: a system call takes as long as copying some hundred bytes, but files have
/// many small functions.
const READ_COST: u64 = 64;
/// Decoding instructions takes several times as long as reading them.
pub const DECODING_COST: u64 = 8;

/// What may still be read of a file.
#[derive(Debug)]
pub struct ReadBudget {
    most_at_once: u64,
    total: u64,
    left: Cell<u64>,
    is_exhausted: Cell<bool>,
}

impl ReadBudget {
    /// The budget of a file that uses `meta.blocks()` on disk.
    pub fn of_file(meta: &Metadata) -> ReadBudget {
        let on_disk = meta.blocks().saturating_mul(BLOCK);
        Self::new(
            meta.len()
                .min(on_disk.saturating_mul(MOST_EXPANSION).max(UNCOUNTED)),
        )
    }

    /// The budget of a file that has `content` bytes.
    pub fn new(content: u64) -> ReadBudget {
        let total = content.saturating_mul(MOST_PASSES).max(LEAST_TOTAL);
        ReadBudget {
            most_at_once: content.min(MAX_TABLE),
            total,
            left: Cell::new(total),
            is_exhausted: Cell::new(false),
        }
    }

    /// The most bytes of a table, or of a text that is made of the file.
    pub fn most_at_once(&self) -> u64 {
        self.most_at_once
    }

    /// Allows one read of `size` bytes.
    ///
    /// # Errors
    /// The file cannot have as many bytes, or too much of it was read.
    pub fn take(&self, size: u64) -> Result<()> {
        let most = self.most_at_once;
        ensure!(
            size <= most,
            "a table of {size} bytes is too large, the file has at most {most} on disk"
        );
        self.spend(size.saturating_add(READ_COST))
    }

    /// Accounts for work that takes as long as reading `bytes`.
    ///
    /// # Errors
    /// It is too much for this file.
    pub fn spend(&self, bytes: u64) -> Result<()> {
        match self.left.get().checked_sub(bytes) {
            Some(left) => self.left.set(left),
            None => self.is_exhausted.set(true),
        }
        self.check()
    }

    /// # Errors
    /// Something was not read because it would have been too much.
    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.is_exhausted.get(),
            "reading it takes too long for its size: its tables or functions overlap"
        );
        Ok(())
    }

    /// Starts again for the next question of the user, unless the budget was exceeded.
    pub fn renew(&self) {
        self.left.set(self.total);
    }
}

#[cfg(test)]
mod tests;
