// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! mmap events: programs and libraries of all processes, as they are mapped for execution.
//!
//! The kernel reports each executable mapping through perf (PERF_RECORD_MMAP2), on all supported kernels and
//! without BPF. Each report wakes the reader; an idle machine maps nothing, so an idle tool sleeps.

use std::ffi::{OsStr, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys as sys_bpf;
use libbpf_rs::{MapHandle, MapType};

use crate::find::host::clock::monotonic_ns;
use crate::probe::event::until_nul;

/// A report of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MmapEvent {
    /// A file was mapped for execution.
    Mapped(FileMapping),
    /// The process has executed a program.
    Exec {
        /// When, CLOCK_MONOTONIC nanoseconds.
        time_ns: u64,
        pid: u32,
    },
    Forked {
        parent: u32,
        child: u32,
    },
    Exited {
        pid: u32,
    },
    /// The kernel dropped this many reports, as a buffer was full.
    Lost(u64),
}

/// A file that was mapped for execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMapping {
    /// When, CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    pub pid: u32,
    /// First address in the process.
    pub start: u64,
    /// Address after the last one.
    pub end: u64,
    /// File offset of `start`, bytes.
    pub offset: u64,
    /// Major and minor number of the file system's device.
    pub dev: (u32, u32),
    pub inode: u64,
    /// Distinguishes inodes that had the same number at different times.
    pub generation: u64,
    /// Path in the mount namespace of the process. Untrusted.
    pub path: PathBuf,
}

/// Reads the mmap events of all CPUs.
pub struct MmapEvents {
    buffer: NonNull<sys_bpf::perf_buffer>,
    /// Events that the callback has read, with their times. Owned; a raw pointer, because libbpf has a copy
    /// of it.
    events: NonNull<Vec<TimedEvent>>,
    _map: MapHandle,
}

/// CLOCK_MONOTONIC nanoseconds, and the event.
type TimedEvent = (u64, MmapEvent);

/// Pages of 4 KiB per CPU. A report takes about 150 bytes.
const PAGES: u64 = 32;

impl MmapEvents {
    /// The kernel buffers events from now on.
    ///
    /// # Errors
    /// A perf event cannot be opened, or its buffer cannot be mapped.
    pub fn start() -> Result<Self> {
        let opts = sys_bpf::bpf_map_create_opts {
            sz: size_of::<sys_bpf::bpf_map_create_opts>() as sys_bpf::size_t,
            ..Default::default()
        };
        let cpus = libbpf_rs::num_possible_cpus().context("failed to count the CPUs")? as u32;
        let map = MapHandle::create(MapType::PerfEventArray, Some("ubpf_watch"), 4, 4, cpus, &opts)
            .context("failed to open mmap events")?;
        let events = NonNull::from(Box::leak(Box::<Vec<TimedEvent>>::default()));
        let mut attr = attributes();
        // SAFETY: the callback gets `events` back, which lives as long as the buffer; the map is kept open as
        // well.
        let buffer = unsafe {
            sys_bpf::perf_buffer__new_raw(
                map.as_fd().as_raw_fd(),
                PAGES,
                &mut attr,
                Some(on_record),
                events.as_ptr().cast(),
                std::ptr::null(),
            )
        };
        let Some(buffer) = NonNull::new(buffer) else {
            let error = io::Error::last_os_error();
            // SAFETY: leaked above, without another owner.
            drop(unsafe { Box::from_raw(events.as_ptr()) });
            return Err(error).context("failed to open mmap events");
        };
        Ok(Self {
            buffer,
            events,
            _map: map,
        })
    }

    /// Readable when there are events.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the buffer, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(sys_bpf::perf_buffer__epoll_fd(self.buffer.as_ptr())) }
    }

    /// Makes room in the kernel's buffers while attaching takes long. The events stay for [`MmapEvents::read`].
    pub fn drain(&mut self) {
        // SAFETY: the buffer is valid as long as `self`, and nothing borrows the events while the callback runs.
        unsafe { sys_bpf::perf_buffer__consume(self.buffer.as_ptr()) };
    }

    /// Events since the last call, in the order of their times.
    ///
    /// The buffers of the CPUs are read one after the other, so an event that is read last may be newer than
    /// one that the first buffer did not have yet. Events up to the start of a pass are complete; newer ones
    /// are kept until another pass.
    pub fn read(&mut self) -> Vec<MmapEvent> {
        // While programs start without a pause, some events always remain: the next call returns them.
        const PASSES: usize = 8;
        let mut complete = Vec::new();
        for _ in 0..PASSES {
            let start_ns = monotonic_ns();
            // SAFETY: the buffer and the list are valid as long as `self`, and the list is not borrowed while
            // the callback runs.
            let read = unsafe {
                sys_bpf::perf_buffer__consume(self.buffer.as_ptr());
                self.events.as_mut()
            };
            take_until(start_ns, read, &mut complete);
            if read.is_empty() {
                break;
            }
        }
        complete
    }
}

impl Drop for MmapEvents {
    fn drop(&mut self) {
        // SAFETY: both were created by `start`, and are not used afterwards.
        unsafe {
            sys_bpf::perf_buffer__free(self.buffer.as_ptr());
            drop(Box::from_raw(self.events.as_ptr()));
        }
    }
}

/// Moves the events up to this time from `read` to `complete`, oldest first.
fn take_until(time_ns: u64, read: &mut Vec<TimedEvent>, complete: &mut Vec<MmapEvent>) {
    read.sort_by_key(|(time, _)| *time);
    let newer = read.partition_point(|(time, _)| *time <= time_ns);
    complete.extend(read.drain(..newer).map(|(_, event)| event));
}

/// A perf event that counts nothing, but reports mappings, execs, forks and exits. Each report wakes the
/// reader.
fn attributes() -> sys_bpf::perf_event_attr {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_DUMMY: u64 = 9;
    const PERF_SAMPLE_TIME: u64 = 1 << 2;
    // SAFETY: a structure of integers, in which zero is the default of the kernel.
    let mut attr: sys_bpf::perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<sys_bpf::perf_event_attr>() as u32;
    attr.type_ = PERF_TYPE_SOFTWARE;
    attr.config = PERF_COUNT_SW_DUMMY;
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    // Records of different CPUs are sorted by time, and perf's default clock differs between CPUs.
    attr.set_use_clockid(1);
    attr.clockid = libc::CLOCK_MONOTONIC;
    attr.sample_type = PERF_SAMPLE_TIME;
    attr.set_sample_id_all(1);
    attr.set_task(1);
    attr.set_watermark(1);
    attr.__bindgen_anon_2.wakeup_watermark = 1;
    attr
}

unsafe extern "C" fn on_record(
    context: *mut c_void,
    _cpu: i32,
    record: *mut sys_bpf::perf_event_header,
) -> sys_bpf::bpf_perf_event_ret {
    const CONTINUE: sys_bpf::bpf_perf_event_ret = -2; // LIBBPF_PERF_EVENT_CONT
    // SAFETY: libbpf passes a complete record, whose size is in its header, and the context of
    // `MmapEvents::start`.
    let (events, kind, misc, bytes) = unsafe {
        let size = usize::from((*record).size);
        let events = &mut *context.cast::<Vec<TimedEvent>>();
        (
            events,
            (*record).type_,
            (*record).misc,
            std::slice::from_raw_parts(record.cast::<u8>(), size),
        )
    };
    let body = &bytes[size_of::<sys_bpf::perf_event_header>().min(bytes.len())..];
    // `sample_id_all` appends the time to each record.
    let time = body.last_chunk().map_or(0, |time| u64::from_ne_bytes(*time));
    events.extend(decode(time, kind, misc, body).map(|event| (time, event)));
    CONTINUE
}

/// Decodes the body of a record. None for unused types and truncated records. Layouts: linux/perf_event.h.
fn decode(time_ns: u64, kind: u32, misc: u16, body: &[u8]) -> Option<MmapEvent> {
    const MMAP2: u32 = 10;
    const LOST: u32 = 2;
    const COMM: u32 = 3;
    const EXIT: u32 = 4;
    const FORK: u32 = 7;
    const MISC_COMM_EXEC: u16 = 1 << 13;
    const PATH: usize = 64;

    let u32_at = |at: usize| body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let u64_at = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    match kind {
        MMAP2 => Some(MmapEvent::Mapped(FileMapping {
            time_ns,
            pid: u32_at(0)?,
            start: u64_at(8)?,
            end: u64_at(8)?.checked_add(u64_at(16)?)?,
            offset: u64_at(24)?,
            dev: (u32_at(32)?, u32_at(36)?),
            inode: u64_at(40)?,
            generation: u64_at(48)?,
            path: PathBuf::from(OsStr::from_bytes(until_nul(body.get(PATH..)?))),
        })),
        COMM if misc & MISC_COMM_EXEC != 0 => Some(MmapEvent::Exec {
            time_ns,
            pid: u32_at(0)?,
        }),
        FORK if u32_at(0)? != u32_at(4)? => Some(MmapEvent::Forked {
            child: u32_at(0)?,
            parent: u32_at(4)?,
        }),
        // Reported for each thread. The process has exited when its leader has.
        EXIT if u32_at(0)? == u32_at(8)? => Some(MmapEvent::Exited { pid: u32_at(0)? }),
        LOST => Some(MmapEvent::Lost(u64_at(8)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_is_decoded_unless_it_is_truncated() {
        let mut body = Vec::new();
        body.extend(7u32.to_ne_bytes());
        body.extend(8u32.to_ne_bytes());
        for word in [0x1000u64, 0x2000, 0x3000] {
            body.extend(word.to_ne_bytes());
        }
        body.extend(254u32.to_ne_bytes());
        body.extend(1u32.to_ne_bytes());
        body.extend(99u64.to_ne_bytes());
        body.extend(5u64.to_ne_bytes());
        body.extend([0; 8]);
        body.extend(b"/lib/libc.so.6\0\0");
        let expected = FileMapping {
            time_ns: 77,
            pid: 7,
            start: 0x1000,
            end: 0x3000,
            offset: 0x3000,
            dev: (254, 1),
            inode: 99,
            generation: 5,
            path: "/lib/libc.so.6".into(),
        };
        assert_eq!(decode(77, 10, 0, &body), Some(MmapEvent::Mapped(expected)));
        for len in 0..64 {
            assert_eq!(decode(77, 10, 0, &body[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn events_after_the_start_of_a_pass_are_kept() {
        let exit = |pid| MmapEvent::Exited { pid };
        let mut read = vec![(30, exit(3)), (10, exit(1)), (20, exit(2)), (21, exit(4))];
        let mut complete = Vec::new();
        take_until(20, &mut read, &mut complete);
        assert_eq!(complete, [exit(1), exit(2)]);
        assert_eq!(read, [(21, exit(4)), (30, exit(3))]);
    }

    #[test]
    fn comm_record_is_an_exec_only_with_its_flag() {
        let body = 7u32.to_ne_bytes().repeat(2);
        let exec = MmapEvent::Exec { time_ns: 77, pid: 7 };
        assert_eq!(decode(77, 3, 1 << 13, &body), Some(exec));
        assert_eq!(decode(0, 3, 0, &body), None);
    }
}
