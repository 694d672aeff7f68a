// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The allocator of the program. Without memory, as under `ulimit -v`, it ends the program with one error line: the
//! standard library would abort, with a backtrace.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::error::FAILED;

#[global_allocator]
static ALLOCATOR: ExitingAllocator = ExitingAllocator;

struct ExitingAllocator;

// SAFETY: every call is passed on to the system's allocator.
unsafe impl GlobalAlloc for ExitingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the rules of this trait.
        require(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        require(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        require(unsafe { System.realloc(memory, layout, size) })
    }
}

/// Blocks of at least this size are returned to the kernel when they are freed, bytes.
const LARGE: libc::c_int = 1 << 20;

/// Maps large blocks one by one. By default, glibc keeps blocks of up to 32 MiB in its heap once one of that size was
/// freed. The tables of a file with 300,000 functions, which grow and go, then take a third more memory.
pub fn map_large_blocks() {
    // SAFETY: takes no pointers, and no other thread runs yet. If it fails, the default stays.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

#[inline]
fn require(memory: *mut u8) -> *mut u8 {
    if memory.is_null() {
        exit_without_memory();
    }
    memory
}

#[cold]
fn exit_without_memory() -> ! {
    const MESSAGE: &[u8] = b"error: out of memory\n";
    // SAFETY: the message is valid for its length, and _exit(2) may be called at any time.
    unsafe {
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(FAILED.into())
    }
}
