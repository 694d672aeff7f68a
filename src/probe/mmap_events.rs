//! What appears while we watch: programs and libraries as they are mapped for execution, on the whole machine.
//!
//! The kernel reports each such mapping through perf (PERF_RECORD_MMAP2), on every kernel and without BPF, and wakes
//! us for it; an idle machine maps nothing, so an idle tool sleeps.

use std::ffi::{OsStr, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys as sys_bpf;
use libbpf_rs::{MapHandle, MapType};
use nix::time::{ClockId, clock_gettime};

use crate::probe::event::until_nul;

/// What happened to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file was mapped for execution.
    Mapped(Mapped),
    /// The process is another program now.
    Exec {
        pid: u32,
    },
    Forked {
        parent: u32,
        child: u32,
    },
    Exited {
        pid: u32,
    },
    /// The kernel could not report this many changes.
    Lost(u64),
}

/// A file that was mapped for execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub pid: u32,
    /// Addresses in the process.
    pub start: u64,
    pub end: u64,
    /// Where in the file `start` is, bytes.
    pub offset: u64,
    /// Major and minor number of the file system's device.
    pub dev: (u32, u32),
    pub inode: u64,
    /// Tells an inode from an earlier one of the same number.
    pub generation: u64,
    /// As the process names it. Untrusted.
    pub path: PathBuf,
}

/// Reports of all CPUs.
pub struct Watch {
    buffer: NonNull<sys_bpf::perf_buffer>,
    /// Where the callback puts what it reads. Owned; a raw pointer, because libbpf keeps it too.
    changes: NonNull<Vec<(u64, Change)>>,
    _map: MapHandle,
}

/// Pages of 4 KiB a CPU; a mapping takes about 150 bytes.
const PAGES: u64 = 32;

impl Watch {
    pub fn start() -> Result<Self> {
        let opts = sys_bpf::bpf_map_create_opts {
            sz: size_of::<sys_bpf::bpf_map_create_opts>() as sys_bpf::size_t,
            ..Default::default()
        };
        let cpus = libbpf_rs::num_possible_cpus().context("failed to count the CPUs")? as u32;
        let map = MapHandle::create(MapType::PerfEventArray, Some("ubpf_watch"), 4, 4, cpus, &opts)
            .context("failed to watch for new programs")?;
        let changes = NonNull::from(Box::leak(Box::<Vec<(u64, Change)>>::default()));
        let mut attr = attributes();
        // SAFETY: the callback gets `changes` back, which lives as long as the buffer; the map is kept alive as well.
        let buffer = unsafe {
            sys_bpf::perf_buffer__new_raw(
                map.as_fd().as_raw_fd(),
                PAGES,
                &mut attr,
                Some(on_record),
                changes.as_ptr().cast(),
                std::ptr::null(),
            )
        };
        let Some(buffer) = NonNull::new(buffer) else {
            let error = io::Error::last_os_error();
            // SAFETY: leaked above, and nobody else has it.
            drop(unsafe { Box::from_raw(changes.as_ptr()) });
            return Err(error).context("failed to watch for new programs");
        };
        Ok(Self {
            buffer,
            changes,
            _map: map,
        })
    }

    /// Ready when there is something to read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the buffer, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(sys_bpf::perf_buffer__epoll_fd(self.buffer.as_ptr())) }
    }

    /// What has happened since the last call, oldest first.
    ///
    /// The buffers of the CPUs are read one after the other, so the one that was read first may lack what happened
    /// before something in the one that was read last. What is older than the reading is complete; the rest waits for
    /// another reading.
    pub fn changes(&mut self) -> Vec<Change> {
        // While programs start without a pause, there is always a rest: the next call gets it.
        const READINGS: usize = 8;
        let mut complete = Vec::new();
        for _ in 0..READINGS {
            let begun = monotonic_ns();
            // SAFETY: buffer and list are valid as long as `self`, and nobody else borrows the list while the callback
            // runs.
            let read = unsafe {
                sys_bpf::perf_buffer__consume(self.buffer.as_ptr());
                self.changes.as_mut()
            };
            take_until(begun, read, &mut complete);
            if read.is_empty() {
                break;
            }
        }
        complete
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: both made by `start`, and not used afterwards.
        unsafe {
            sys_bpf::perf_buffer__free(self.buffer.as_ptr());
            drop(Box::from_raw(self.changes.as_ptr()));
        }
    }
}

/// Moves what happened until then, oldest first.
fn take_until(time_ns: u64, read: &mut Vec<(u64, Change)>, complete: &mut Vec<Change>) {
    read.sort_by_key(|(time, _)| *time);
    let newer = read.partition_point(|(time, _)| *time <= time_ns);
    complete.extend(read.drain(..newer).map(|(_, change)| change));
}

/// On the clock of the records.
pub fn monotonic_ns() -> u64 {
    // Fails for unknown clocks only.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(u64::MAX, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

/// An event that counts nothing and reports mappings, names and tasks; each report wakes the reader.
fn attributes() -> sys_bpf::perf_event_attr {
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_DUMMY: u64 = 9;
    const PERF_SAMPLE_TIME: u64 = 1 << 2;
    // SAFETY: a structure of integers, for which all zeroes is the kernel's "nothing asked for".
    let mut attr: sys_bpf::perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<sys_bpf::perf_event_attr>() as u32;
    attr.type_ = PERF_TYPE_SOFTWARE;
    attr.config = PERF_COUNT_SW_DUMMY;
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    // Records of several CPUs are put in order by their times, and the clock that perf uses by default is one a CPU.
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
    // SAFETY: libbpf hands over a whole record, whose size its header says, and the context of `Watch::start`.
    let (changes, kind, misc, bytes) = unsafe {
        let size = usize::from((*record).size);
        let changes = &mut *context.cast::<Vec<(u64, Change)>>();
        (
            changes,
            (*record).type_,
            (*record).misc,
            std::slice::from_raw_parts(record.cast::<u8>(), size),
        )
    };
    let body = &bytes[size_of::<sys_bpf::perf_event_header>().min(bytes.len())..];
    // `sample_id_all` puts the time behind each record.
    let time = body.last_chunk().map_or(0, |time| u64::from_ne_bytes(*time));
    changes.extend(decode(kind, misc, body).map(|change| (time, change)));
    CONTINUE
}

/// A record's meaning; None for those of no interest and for short ones. Layouts: linux/perf_event.h.
fn decode(kind: u32, misc: u16, body: &[u8]) -> Option<Change> {
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
        MMAP2 => Some(Change::Mapped(Mapped {
            pid: u32_at(0)?,
            start: u64_at(8)?,
            end: u64_at(8)?.checked_add(u64_at(16)?)?,
            offset: u64_at(24)?,
            dev: (u32_at(32)?, u32_at(36)?),
            inode: u64_at(40)?,
            generation: u64_at(48)?,
            path: PathBuf::from(OsStr::from_bytes(until_nul(body.get(PATH..)?))),
        })),
        COMM if misc & MISC_COMM_EXEC != 0 => Some(Change::Exec { pid: u32_at(0)? }),
        FORK if u32_at(0)? != u32_at(4)? => Some(Change::Forked {
            child: u32_at(0)?,
            parent: u32_at(4)?,
        }),
        // The report names process and thread; a process is gone when its first thread is.
        EXIT if u32_at(0)? == u32_at(8)? => Some(Change::Exited { pid: u32_at(0)? }),
        LOST => Some(Change::Lost(u64_at(8)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_read_and_a_cut_one_is_not() {
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
        let expected = Mapped {
            pid: 7,
            start: 0x1000,
            end: 0x3000,
            offset: 0x3000,
            dev: (254, 1),
            inode: 99,
            generation: 5,
            path: "/lib/libc.so.6".into(),
        };
        assert_eq!(decode(10, 0, &body), Some(Change::Mapped(expected)));
        for len in 0..64 {
            assert_eq!(decode(10, 0, &body[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn what_is_newer_than_the_reading_waits() {
        let exit = |pid| Change::Exited { pid };
        let mut read = vec![(30, exit(3)), (10, exit(1)), (20, exit(2)), (21, exit(4))];
        let mut complete = Vec::new();
        take_until(20, &mut read, &mut complete);
        assert_eq!(complete, [exit(1), exit(2)]);
        assert_eq!(read, [(21, exit(4)), (30, exit(3))]);
    }

    #[test]
    fn only_an_exec_is_a_change_of_name() {
        let body = 7u32.to_ne_bytes().repeat(2);
        assert_eq!(decode(3, 1 << 13, &body), Some(Change::Exec { pid: 7 }));
        assert_eq!(decode(3, 0, &body), None);
    }
}
