//! Tries what this kernel does and what it lets us do, with probes on functions of this very program.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::SkelBuilder;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use crate::bpf::self_test::SelfTestSkelBuilder;
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, Program};
use crate::probe::cost::{own_points, ubpf_price_returning};
use crate::probe::point::{Cookie, Ends, ProbePoint};
use crate::probe::ring::page_size;
use crate::probe::scope::filter::Filter;
use crate::run::session::{Counter, load};

/// What programs told of one call of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub entered: u64,
    pub returned: u64,
    pub cookie: u64,
}

/// The number that the probe is given: any but those that are there by chance.
pub const COOKIE: u32 = 7919;

/// Probes that are on their way out: to remove them takes the kernel a moment, and many moments can overlap.
#[derive(Default)]
pub struct Leaving(Vec<JoinHandle<()>>);

impl Drop for Leaving {
    /// Nothing is left behind.
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // One that panicked has closed its descriptors as well.
            let _ = thread.join();
        }
    }
}

/// Puts probes in this way on a function of process `pid`, this one or a child; `call` is to call it once.
fn try_probes(
    way: AttachMode,
    ends: Ends,
    pid: u32,
    leaving: &mut Leaving,
    call: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let mut storage = MaybeUninit::uninit();
    let mut open = SelfTestSkelBuilder::default().open(&mut storage)?;
    way.prepare([&mut open.progs.try_entry, &mut open.progs.try_return]);
    open.maps.events.set_max_entries(page_size() as u32)?;
    let rodata = open.maps.rodata_data.as_mut();
    let rodata = rodata.context("the BPF object has no constants")?;
    rodata.has_cookies = way.has_cookies();
    rodata.filter_pid = pid;
    (rodata.pid_ns_dev, rodata.pid_ns_ino) = privileges::pid_namespace().unwrap_or((0, 0));
    let skel = load(open)?;
    let programs = vec![
        Program {
            program: &skel.progs.try_return,
            runs: Ends::Return,
        },
        Program {
            program: &skel.progs.try_entry,
            runs: Ends::Entry,
        },
    ];
    let mut attacher = Attacher::new(way, &Filter::of_process(pid), programs)?;
    let file = File::open("/proc/self/exe").context("failed to open this program")?;
    let [_, _, point] = own_points()?;
    let point = ProbePoint {
        cookie: Cookie::of_function(COOKIE),
        ends,
        ..point
    };
    attacher.attach(&file, &[point])?;
    let called = call();
    let bss = skel.maps.bss_data.as_ref();
    let bss = bss.context("the BPF object has no counters")?;
    let seen = Seen {
        entered: Counter::new(&bss.entered).get(),
        returned: Counter::new(&bss.returned).get(),
        cookie: Counter::new(&bss.entry_cookie).get(),
    };
    leaving.0.extend(attacher.detach_in_background());
    called.map(|()| seen)
}

/// The same for one call of this process.
pub fn try_own(way: AttachMode, ends: Ends, leaving: &mut Leaving) -> Result<Seen> {
    try_probes(way, ends, std::process::id(), leaving, || {
        // SAFETY: it changes no memory and no register that a caller keeps.
        unsafe { ubpf_price_returning() };
        Ok(())
    })
}

/// What becomes of a program under a strict seccomp filter at a return probe. On kernels from 6.11 to 6.14 the
/// `uretprobe` system call, which the trampoline makes, had to be allowed like every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lives,
    Dies,
}

/// A child that will call a function of its own under such a filter.
pub struct Confined {
    child: Pid,
    /// Closed without a byte, the child ends at once.
    start: File,
}

/// Exit status of a child that could not confine itself.
const NOT_CONFINED: i32 = 2;

impl Confined {
    /// Forks it. The caller must have one thread only.
    pub fn hold() -> Result<Self> {
        let (go, start) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: there is one thread, so no lock can be held by another one in the child's copy of memory.
        match unsafe { fork() }.context("failed to fork")? {
            ForkResult::Child => {
                drop(start);
                call_confined(go)
            }
            ForkResult::Parent { child } => Ok(Self {
                child,
                start: start.into(),
            }),
        }
    }

    /// Probes the function, and lets the child call it.
    pub fn call(self, way: AttachMode, leaving: &mut Leaving) -> Result<Fate> {
        let Confined { child, mut start } = self;
        let mut end = None;
        let tried = try_probes(way, Ends::Both, child.as_raw() as u32, leaving, || {
            start.write_all(b"\n").context("failed to start a child")?;
            end = Some(waitpid(child, None).context("failed to wait for a child")?);
            Ok(())
        });
        if end.is_none() {
            drop(start);
            waitpid(child, None).context("failed to wait for a child")?;
        }
        match (end, tried?) {
            (_, Seen { entered: 0, .. }) => bail!("the probe was not hit"),
            (Some(WaitStatus::Exited(_, 0)), Seen { returned: 1, .. }) => Ok(Fate::Lives),
            (Some(WaitStatus::Signaled(_, Signal::SIGKILL | Signal::SIGSYS, _)), _) => Ok(Fate::Dies),
            (end, seen) => bail!("the child ended in another way: {end:?}, {seen:?}"),
        }
    }
}

/// What the child does. After the filter is in, only system calls that it allows: the filter knows `exit`, not the
/// `exit_group` of libc.
fn call_confined(go: OwnedFd) -> ! {
    let told = File::from(go).read(&mut [0]).is_ok_and(|bytes| bytes == 1);
    // SAFETY: numbers alone are passed, and the function changes no memory and no register that a caller keeps.
    unsafe {
        if !told || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) != 0 {
            libc::_exit(NOT_CONFINED);
        }
        ubpf_price_returning();
        libc::syscall(libc::SYS_exit, 0);
        std::hint::unreachable_unchecked()
    }
}
