// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Safe wrappers around the `bpf(2)` and `perf_event_open(2)` calls that libbpf-rs does not offer.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::libbpf_sys as sys;
use libbpf_rs::{AsRawLibbpf, Program};

pub use sys::{bpf_func_info, bpf_insn};

/// Name of the programs and maps that are made here.
const NAME: &CStr = c"ubpf_tools";

/// A multi-uprobe link: one program at many points of a file.
pub struct MultiLinkPoints<'a> {
    pub path: &'a CStr,
    /// File offsets, bytes.
    pub offsets: &'a [u64],
    /// One per offset.
    pub cookies: &'a [u64],
    /// File offsets of USDT semaphores, one per offset; 0 for points without one.
    pub semaphores: Option<&'a [u64]>,
    pub kind: MultiLinkKind,
    /// The process that gets breakpoints; 0 for all.
    pub pid: u32,
}

/// When the program of a multi-uprobe link runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MultiLinkKind {
    Entry,
    Return,
    /// At both ends of a call.
    Session,
}

impl MultiLinkKind {
    /// The attach type that programs of such links are loaded with.
    pub fn attach_type(self) -> u32 {
        match self {
            MultiLinkKind::Session => sys::BPF_TRACE_UPROBE_SESSION,
            MultiLinkKind::Entry | MultiLinkKind::Return => sys::BPF_TRACE_UPROBE_MULTI,
        }
    }
}

/// Attaches a program to points of a file with one link.
pub fn create_multi_link(program: BorrowedFd<'_>, points: &MultiLinkPoints<'_>) -> io::Result<OwnedFd> {
    let count = points.offsets.len();
    if points.cookies.len() != count || points.semaphores.is_some_and(|all| all.len() != count) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut opts = link_options();
    // SAFETY: this is the member of the union that both attach types read; it is all integers and pointers.
    let multi = unsafe { &mut opts.__bindgen_anon_1.uprobe_multi };
    multi.path = points.path.as_ptr();
    multi.offsets = points.offsets.as_ptr();
    multi.cookies = points.cookies.as_ptr();
    multi.ref_ctr_offsets = points.semaphores.map_or(ptr::null(), <[u64]>::as_ptr);
    multi.cnt = u32::try_from(count).map_err(io::Error::other)?;
    multi.pid = points.pid;
    if points.kind == MultiLinkKind::Return {
        multi.flags = sys::BPF_F_UPROBE_MULTI_RETURN;
    }
    // SAFETY: the pointers in `opts` are those of `points`, whose slices have `cnt` elements each.
    owned(unsafe { sys::bpf_link_create(program.as_raw_fd(), 0, points.kind.attach_type(), &opts) })
}

/// Attaches a program to a perf event. The link holds the event.
pub fn create_perf_link(program: BorrowedFd<'_>, event: BorrowedFd<'_>, cookie: u64) -> io::Result<OwnedFd> {
    let mut opts = link_options();
    opts.__bindgen_anon_1.perf_event =
        sys::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_1 { bpf_cookie: cookie };
    let (program, event) = (program.as_raw_fd(), event.as_raw_fd());
    // SAFETY: `opts` outlives the call and holds no pointers.
    owned(unsafe { sys::bpf_link_create(program, event, sys::BPF_PERF_EVENT, &opts) })
}

fn link_options() -> sys::bpf_link_create_opts {
    sys::bpf_link_create_opts {
        sz: size_of::<sys::bpf_link_create_opts>() as sys::size_t,
        ..Default::default()
    }
}

/// What a kprobe program is loaded from, besides its instructions.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// 0 for none.
    pub attach_type: u32,
    pub sleepable: bool,
    /// Type information, and the functions that it describes.
    pub functions: Option<(BorrowedFd<'a>, &'a [bpf_func_info])>,
}

/// Loads a program of the type that uprobes run.
pub fn load_program(insns: &[bpf_insn], options: &LoadOptions<'_>) -> io::Result<OwnedFd> {
    let mut opts = sys::bpf_prog_load_opts {
        sz: size_of::<sys::bpf_prog_load_opts>() as sys::size_t,
        expected_attach_type: options.attach_type,
        ..Default::default()
    };
    if options.sleepable {
        opts.prog_flags = sys::BPF_F_SLEEPABLE;
    }
    if let Some((btf, functions)) = &options.functions {
        opts.prog_btf_fd = btf.as_raw_fd() as u32;
        opts.func_info = functions.as_ptr().cast();
        opts.func_info_cnt = functions.len() as u32;
        opts.func_info_rec_size = size_of::<bpf_func_info>() as u32;
    }
    // SAFETY: the strings are constants; the instructions and what the options refer to outlive the call.
    owned(unsafe {
        sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_KPROBE,
            NAME.as_ptr(),
            c"GPL".as_ptr(),
            insns.as_ptr(),
            insns.len() as sys::size_t,
            &mut opts,
        )
    })
}

/// Creates a map without options.
pub fn create_map(map_type: u32, value_size: u32, max_entries: u32) -> io::Result<OwnedFd> {
    // SAFETY: no options are passed, and the name is a constant.
    owned(unsafe { sys::bpf_map_create(map_type, NAME.as_ptr(), 0, value_size, max_entries, ptr::null()) })
}

/// True if programs of the type that uprobes run can call this helper.
pub fn has_helper(helper: u32) -> bool {
    // SAFETY: no options are passed.
    unsafe { sys::libbpf_probe_bpf_helper(sys::BPF_PROG_TYPE_KPROBE, helper, ptr::null()) == 1 }
}

/// What the kernel reports about a program.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<sys::bpf_prog_info> {
    let mut info = sys::bpf_prog_info::default();
    let mut bytes = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `bytes` bytes to `info`.
    match unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut bytes) } {
        0 => Ok(info),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// The type information that a program was loaded with, if any.
pub fn program_btf(program: BorrowedFd<'_>) -> Option<OwnedFd> {
    let info = program_info(program).ok().filter(|info| info.btf_id != 0)?;
    // SAFETY: only an integer is passed.
    owned(unsafe { sys::bpf_btf_get_fd_by_id(info.btf_id) }).ok()
}

/// The functions that a loaded program consists of.
pub fn program_functions(program: &Program<'_>) -> Vec<bpf_func_info> {
    let raw = program.as_libbpf_object().as_ptr();
    // SAFETY: `program` is alive, and libbpf keeps the array as long as it is.
    let (functions, count) = unsafe {
        (
            sys::bpf_program__func_info(raw),
            sys::bpf_program__func_info_cnt(raw),
        )
    };
    if functions.is_null() {
        return Vec::new();
    }
    // SAFETY: libbpf owns `count` records of this type, which are copied.
    unsafe { std::slice::from_raw_parts(functions, count as usize) }.to_vec()
}

/// A uprobe as `perf_event_open` takes it.
pub struct UprobeEvent<'a> {
    /// Type of the uprobe PMU.
    pub pmu_type: u32,
    pub path: &'a CStr,
    /// File offset, bytes.
    pub offset: u64,
    /// File offset of a USDT semaphore; 0 for none.
    pub semaphore: u32,
    pub return_probe: bool,
    /// The process that gets a breakpoint. None for all.
    pub pid: Option<u32>,
}

/// Opens a disabled perf event for a uprobe.
pub fn open_uprobe_event(event: &UprobeEvent<'_>) -> io::Result<OwnedFd> {
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8; // linux/perf_event.h
    // SAFETY: a structure of integers, for which all zeroes means "nothing requested".
    let mut attr: sys::perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<sys::perf_event_attr>() as u32;
    attr.type_ = event.pmu_type;
    // See /sys/bus/event_source/devices/uprobe/format: bit 0 is retprobe, bits 32 to 63 are ref_ctr_offset.
    attr.config = u64::from(event.semaphore) << 32 | u64::from(event.return_probe);
    attr.__bindgen_anon_3.uprobe_path = event.path.as_ptr() as u64;
    attr.__bindgen_anon_4.probe_offset = event.offset;
    let (pid, cpu) = match event.pid {
        Some(pid) => (pid as libc::pid_t, -1),
        None => (-1, 0), // the probe is not per CPU: any one CPU will do
    };
    // SAFETY: `attr` and the path that it points to outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &attr,
            pid,
            cpu,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    owned(fd as i32)
}

/// Makes a perf event run a program, without a link.
pub fn set_event_program(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const PERF_EVENT_IOC_SET_BPF: u64 = 0x4004_2408; // linux/perf_event.h
    perf_ioctl(event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())
}

/// Enables a perf event. Fails with the error of ioctl(2).
pub fn enable_event(event: BorrowedFd<'_>) -> io::Result<()> {
    const PERF_EVENT_IOC_ENABLE: u64 = 0x2400; // linux/perf_event.h
    perf_ioctl(event, PERF_EVENT_IOC_ENABLE, 0)
}

fn perf_ioctl(event: BorrowedFd<'_>, request: u64, argument: i32) -> io::Result<()> {
    // SAFETY: both requests take an integer, not a pointer.
    match unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The descriptor that a libbpf call returned, or the error if it is a negative errno.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn multi_link_needs_one_cookie_and_semaphore_per_offset() {
        let no_program = File::open("/dev/null").expect("/dev/null opens");
        let error = |cookies: &[u64], semaphores: Option<&[u64]>| {
            let points = MultiLinkPoints {
                path: c"/",
                offsets: &[0, 1],
                cookies,
                semaphores,
                kind: MultiLinkKind::Entry,
                pid: 0,
            };
            let link = create_multi_link(no_program.as_fd(), &points);
            link.expect_err("no link without a program").kind()
        };
        assert_eq!(error(&[0], None), io::ErrorKind::InvalidInput);
        assert_eq!(error(&[0, 1], Some(&[0])), io::ErrorKind::InvalidInput);
    }
}
