// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Tests what this kernel does and what it permits, with probes on functions of this process and of a child.

use std::fs::File;
use std::mem::MaybeUninit;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::SkelBuilder;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::bpf::load;
use crate::bpf::self_test::SelfTestSkelBuilder;
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, ProbeProgram};
use crate::probe::child::{StartPipe, WaitingChild};
use crate::probe::counters::BpfCounter;
use crate::probe::point::{Cookie, Ends, ProbePoint};
use crate::probe::prices::{own_points, ubpf_price_returning};
use crate::probe::ring::page_size;
use crate::probe::scope::filter::ProcessFilter;

/// What the BPF programs saw of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenCalls {
    pub entered: u64,
    pub returned: u64,
    /// The cookie at the entry.
    pub cookie: u64,
}

/// The cookie that the probe gets: a value that is unlikely to be there by chance.
pub const TEST_COOKIE: u32 = 7919;

/// Threads that detach probes. Each probe takes the kernel about 0.1 s to remove, and removals overlap.
#[derive(Default)]
pub struct DetachThreads(Vec<JoinHandle<()>>);

impl Drop for DetachThreads {
    /// Waits until all probes are removed.
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // A thread that panicked has closed its descriptors as well.
            let _ = thread.join();
        }
    }
}

/// Attaches probes in this mode to a function of process `pid`, which is this one or a child, and runs
/// `call`, which is to make the process call the function once.
fn try_probes(
    mode: AttachMode,
    ends: Ends,
    pid: u32,
    threads: &mut DetachThreads,
    call: impl FnOnce() -> Result<()>,
) -> Result<SeenCalls> {
    let mut storage = MaybeUninit::uninit();
    let mut open = SelfTestSkelBuilder::default().open(&mut storage)?;
    mode.prepare([&mut open.progs.test_entry, &mut open.progs.test_return]);
    open.maps.events.set_max_entries(page_size() as u32)?;
    let rodata = open.maps.rodata_data.as_mut();
    let rodata = rodata.context("the BPF object has no constants")?;
    rodata.has_cookies = mode.has_cookies();
    rodata.filter_pid = pid;
    (rodata.pid_ns_dev, rodata.pid_ns_ino) = privileges::pid_namespace().unwrap_or((0, 0));
    let skel = load(open)?;
    let programs = vec![
        ProbeProgram {
            program: &skel.progs.test_return,
            runs: Ends::Return,
        },
        ProbeProgram {
            program: &skel.progs.test_entry,
            runs: Ends::Entry,
        },
    ];
    let mut attacher = Attacher::new(mode, &ProcessFilter::of_process(pid), programs)?;
    let file = File::open("/proc/self/exe").context("failed to open /proc/self/exe")?;
    let [_, _, point] = own_points()?;
    let point = ProbePoint {
        cookie: Cookie::of_function(TEST_COOKIE),
        ends,
        ..point
    };
    attacher.attach(&file, &[point])?;
    let called = call();
    let bss = skel.maps.bss_data.as_ref();
    let bss = bss.context("the BPF object has no counters")?;
    let seen = SeenCalls {
        entered: BpfCounter::new(&bss.entered).get(),
        returned: BpfCounter::new(&bss.returned).get(),
        cookie: BpfCounter::new(&bss.entry_cookie).get(),
    };
    threads.0.extend(attacher.detach_in_background());
    called.map(|()| seen)
}

/// Attaches probes in this mode to a function of this process, and calls it once.
///
/// # Errors
/// The kernel cannot load or attach the programs in this mode.
pub fn test_attach_mode(mode: AttachMode, ends: Ends, threads: &mut DetachThreads) -> Result<SeenCalls> {
    try_probes(mode, ends, std::process::id(), threads, || {
        // SAFETY: it changes no memory and no callee-saved register.
        unsafe { ubpf_price_returning() };
        Ok(())
    })
}

/// What a return probe does to a process under a strict seccomp filter. From 6.11 to 6.14 it makes the
/// process call uretprobe(2), which the filter has to allow like any other system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeccompOutcome {
    Survives,
    Killed,
}

/// A child that confines itself with seccomp and then calls a function.
pub struct ConfinedChild(WaitingChild);

/// Exit status of a child that failed to confine itself.
const NOT_CONFINED: i32 = 2;

impl ConfinedChild {
    /// Forks it. The process must have a single thread.
    ///
    /// # Errors
    /// The child cannot be forked.
    pub fn hold() -> Result<Self> {
        WaitingChild::fork(call_confined).map(Self)
    }

    /// Attaches a return probe to the function, and lets the child call it.
    ///
    /// # Errors
    /// The probes cannot be attached, or the child ended before it hit them.
    pub fn test_return_probe(self, mode: AttachMode, threads: &mut DetachThreads) -> Result<SeccompOutcome> {
        let mut child = self.0;
        let pid = child.pid();
        let mut status = None;
        let tested = try_probes(mode, Ends::Both, pid.as_raw() as u32, threads, || {
            child.start().context("failed to start a child")?;
            status = Some(waitpid(pid, None).context("failed to wait for a child")?);
            Ok(())
        });
        if status.is_none() {
            child.cancel();
            waitpid(pid, None).context("failed to wait for a child")?;
        }
        match (status, tested?) {
            (_, SeenCalls { entered: 0, .. }) => bail!("the probe was not hit"),
            (Some(WaitStatus::Exited(_, 0)), SeenCalls { returned: 1, .. }) => Ok(SeccompOutcome::Survives),
            (Some(WaitStatus::Signaled(_, Signal::SIGKILL | Signal::SIGSYS, _)), _) => {
                Ok(SeccompOutcome::Killed)
            }
            (status, seen) => bail!("unexpected end of the child: {status:?}, {seen:?}"),
        }
    }
}

/// Runs in the child. Once the filter is set, it only makes system calls that strict mode allows: `exit`, but
/// not the `exit_group` of libc.
fn call_confined(start: StartPipe) -> i32 {
    if !start.wait() {
        return NOT_CONFINED;
    }
    // SAFETY: passes integers only; the function changes no memory and no callee-saved register.
    unsafe {
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) != 0 {
            return NOT_CONFINED;
        }
        ubpf_price_returning();
        libc::syscall(libc::SYS_exit, 0);
        std::hint::unreachable_unchecked()
    }
}
