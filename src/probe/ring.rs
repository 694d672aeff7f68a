// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Reads a BPF ring buffer without one wakeup per event.
//!
//! The kernel wakes the reader only when it commits a record at exactly the position that the reader has
//! published: then the reader has caught up. While events keep coming, this reader publishes the start of the
//! record that it read last instead of its end, so it never seems to have caught up, and the traced program
//! is spared the wakeups. Before it sleeps for an unknown time, it publishes its true position. That is the
//! kernel's own protocol (see `bpf_ringbuf_commit` in kernel/bpf/ringbuf.c), so no event can be missed
//! between the last look and the sleep.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};

// From linux/bpf.h.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const RECORD_HEADER: u64 = 8;

/// The reader of one ring buffer, which is mapped into this process.
pub struct RingReader {
    consumer: SharedMapping,
    /// Producer page, then the data twice in a row, so that every record is contiguous.
    producer: SharedMapping,
    page: usize,
    size: u64,
    /// Positions count bytes from the start of the run. Start of the next record.
    next: u64,
    /// End of the records of this batch.
    end: u64,
    /// Start of the record that was read last.
    held: u64,
    published: u64,
}

impl RingReader {
    /// Maps the ring buffer `map` of `size` bytes, a power of two and a multiple of the page size.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(map: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let page = page_size();
        let consumer = SharedMapping::new(map, page, 0, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let producer = SharedMapping::new(map, page + 2 * size, page, ProtFlags::PROT_READ)?;
        let mut ring = Self {
            consumer,
            producer,
            page,
            size: size as u64,
            next: 0,
            end: 0,
            held: 0,
            published: 0,
        };
        ring.next = ring.consumer_position().load(Ordering::Acquire);
        (ring.end, ring.held, ring.published) = (ring.next, ring.next, ring.next);
        Ok(ring)
    }

    /// Starts a batch: the records that are in the ring now. False if the next record is not complete.
    pub fn look(&mut self) -> bool {
        self.end = self.producer_position();
        self.next != self.end && self.record_len(self.next).load(Ordering::Acquire) & BUSY == 0
    }

    /// Steps to the next record of the batch. False if there is none, or if it is not complete.
    pub fn advance(&mut self) -> bool {
        while self.next != self.end {
            let start = self.next;
            let len = self.record_len(start).load(Ordering::Acquire);
            if len & BUSY != 0 {
                return false;
            }
            let bytes = u64::from(len & !DISCARDED);
            self.next = start + (RECORD_HEADER + bytes).next_multiple_of(8);
            self.held = start;
            // So that a full ring gets room before the batch ends.
            if start - self.published >= self.size / 8 {
                self.publish(start);
            }
            if len & DISCARDED == 0 {
                return true;
            }
        }
        false
    }

    /// The record that [`RingReader::advance`] stepped to. It stays valid until the next step.
    pub fn record(&self) -> &[u8] {
        let bytes = u64::from(self.record_len(self.held).load(Ordering::Relaxed));
        self.data(self.held + RECORD_HEADER, bytes.min(self.size))
    }

    /// Frees the records that were read, without asking for a wakeup.
    pub fn release(&mut self) {
        self.publish(self.held);
    }

    /// Frees all records and asks for a wakeup at the next one. False if there is one already.
    pub fn rest(&mut self) -> bool {
        self.publish(self.next);
        // Pairs with the kernel's xchg between its commit and its read of our position.
        std::sync::atomic::fence(Ordering::SeqCst);
        self.next == self.producer_position()
    }

    fn publish(&mut self, position: u64) {
        self.consumer_position().store(position, Ordering::Release);
        self.published = position;
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the kernel keeps an aligned 64-bit position at the start of this page, mapped as long as
        // `self`.
        unsafe { self.consumer.start.cast::<AtomicU64>().as_ref() }
    }

    fn producer_position(&self) -> u64 {
        // SAFETY: as above; the mapping is read-only, and this only loads.
        unsafe { self.producer.start.cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }

    fn record_len(&self, position: u64) -> &AtomicU32 {
        // SAFETY: the kernel aligns records to 8 bytes, and `at` stays inside the mapping.
        unsafe { self.at(position).cast::<AtomicU32>().as_ref() }
    }

    fn data(&self, position: u64, len: u64) -> &[u8] {
        // SAFETY: a record is at most as long as the ring, and the data is mapped twice in a row, so it is
        // inside the mapping. The kernel does not write to it until its position is published.
        unsafe { slice::from_raw_parts(self.at(position).as_ptr(), len as usize) }
    }

    fn at(&self, position: u64) -> NonNull<u8> {
        let offset = (position & (self.size - 1)) as usize;
        // SAFETY: `offset` is below `size`, and the mapping is a page and twice `size` long.
        unsafe { self.producer.start.add(self.page + offset) }
    }
}

/// The page size, bytes. The size of a ring is a multiple of it.
pub fn page_size() -> usize {
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .unwrap_or(4096)
}

struct SharedMapping {
    start: NonNull<u8>,
    len: usize,
}

impl SharedMapping {
    fn new(map: BorrowedFd<'_>, len: usize, offset: usize, prot: ProtFlags) -> io::Result<Self> {
        let length = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address that the kernel chooses, so it replaces no other mapping.
        let start = unsafe {
            mmap(
                None,
                length,
                prot,
                MapFlags::MAP_SHARED,
                map.as_fd(),
                offset as i64,
            )?
        };
        Ok(Self {
            start: start.cast(),
            len,
        })
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: created by `new` with this length; no reference into it outlives `self`. A failure only
        // leaks it.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}
