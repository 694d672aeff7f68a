// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The watcher's BPF object: opened, loaded, and its maps in use.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};
use nix::unistd::Pid;

use crate::bpf::OpenToolSkel;
use crate::bpf::watcher::types::member_state;
use crate::bpf::watcher::{OpenWatcherSkel, WatcherSkel, WatcherSkelBuilder};
use crate::probe::scope::filter::{MAX_PIDS, ProcessFilter};
use crate::probe::watcher::hold_guard::HeldProcesses;

/// Bytes of the ring: room for some five thousand reports.
pub const RING_BYTES: u32 = 1 << 18;
/// Bytes in the ring that wake the reader.
const WAKE_AT: u64 = 1 << 16;

const NO_VARIABLES: &str = "the BPF object has no memory for its variables";

const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe/type";

/// The loaded object, and the links of its programs.
pub struct WatcherObject {
    links: Vec<Link>,
    /// With --hold: those that resume the stopped processes. Kept until the object is dropped.
    release_links: Vec<Link>,
    skeleton: WatcherSkel<'static>,
    user_hook: UserHook,
}

/// How a change of a thread's user is noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UserHook {
    /// Not at all: the filter names no user.
    Unused,
    /// A kprobe on the function that all changes go through.
    Kprobe,
    /// Tracepoints of the system calls, on kernels without the kprobe PMU. Kprobes of tracefs are not an
    /// alternative: they outlive a tool that is killed.
    Syscalls,
}

impl UserHook {
    fn choose(filter: &ProcessFilter) -> Self {
        match filter.uid {
            None => UserHook::Unused,
            Some(_) if Path::new(KPROBE_PMU).exists() => UserHook::Kprobe,
            Some(_) => UserHook::Syscalls,
        }
    }
}

impl WatcherObject {
    /// Loads the programs that this filter needs.
    ///
    /// # Errors
    /// The kernel cannot load the programs.
    pub fn load(filter: &ProcessFilter) -> Result<Self> {
        // Leaked, because the skeleton borrows it. There is one per run.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = WatcherSkelBuilder::default().open(storage)?;
        open.set_run_constants(&filter.constants(true, WAKE_AT))?;
        let rodata = open.rodata()?;
        rodata.follow = filter.follow;
        rodata.hold = filter.hold;
        open.maps.events.set_max_entries(RING_BYTES)?;
        open.maps.pids.set_max_entries(filter.map_entries())?;
        open.maps.members.set_max_entries(MAX_PIDS)?;
        if !filter.hold {
            open.maps.held.set_max_entries(1)?;
        }
        let user_hook = UserHook::choose(filter);
        select_programs(&mut open, filter, user_hook);
        let skeleton = open.load().context("failed to load the process watcher")?;
        filter.fill(&skeleton.maps.pids, &skeleton.maps.cgroups)?;
        Ok(Self {
            links: Vec::new(),
            release_links: Vec::new(),
            skeleton,
            user_hook,
        })
    }

    /// Attaches the programs. Returns a warning for the user, if there is one.
    ///
    /// # Errors
    /// The kernel cannot attach a program.
    pub fn attach(&mut self, filter: &ProcessFilter) -> Result<Option<&'static str>> {
        let progs = &self.skeleton.progs;
        if filter.hold {
            for program in [&progs.hold_exit, &progs.hold_switch] {
                let link = program.attach();
                self.release_links
                    .push(link.context("failed to attach the programs that resume held processes")?);
            }
        }
        let mut programs = vec![&progs.scope_exec, &progs.scope_fork, &progs.scope_exit];
        programs.extend((!filter.comms.is_empty()).then_some(&progs.scope_rename));
        programs.extend((!filter.cgroups.is_empty()).then_some(&progs.scope_cgroup));
        match self.user_hook {
            UserHook::Unused => {}
            UserHook::Kprobe => programs.push(&progs.scope_user),
            UserHook::Syscalls => {
                programs.extend([&progs.scope_setuid, &progs.scope_setreuid, &progs.scope_setresuid]);
            }
        }
        for program in programs {
            let link = program.attach();
            self.links
                .push(link.context("failed to attach the process watcher")?);
        }
        let is_slow = self.user_hook == UserHook::Syscalls;
        Ok(is_slow
            .then_some("this kernel has no kprobes: watching for setuid() slows every system call slightly"))
    }

    /// Detaches the programs: there are no more reports, and no process is stopped any more.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// The ring buffer of the reports.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.skeleton.maps.events.as_fd()
    }

    /// The map of members.
    pub fn members(&self) -> Result<MemberMap> {
        Ok(MemberMap(MapHandle::try_from(&self.skeleton.maps.members)?))
    }

    /// Names the two processes that resume what is stopped: this one and its watchdog.
    ///
    /// # Errors
    /// The object has no memory for its variables.
    pub fn set_holders(&mut self, watchdog: Pid) -> Result<()> {
        let data = self.skeleton.maps.bss_data.as_mut();
        let data = data.context(NO_VARIABLES)?;
        (data.tool_pid, data.guard_pid) = (std::process::id(), watchdog.as_raw() as u32);
        Ok(())
    }

    /// The result must not be used once the object is dropped.
    ///
    /// # Errors
    /// The object has no memory for its variables.
    pub fn held(&self) -> Result<HeldProcesses<'static>> {
        let data = self.skeleton.maps.data_data.as_ref();
        let data = data.context(NO_VARIABLES)?;
        let (holding, heartbeat) = (&raw const data.holding, &raw const data.heartbeat);
        let guarded_ns = &raw const data.guarded_ns;
        let zeroed = self.skeleton.maps.bss_data.as_ref();
        let abandoned = &raw const zeroed.context(NO_VARIABLES)?.abandoned;
        Ok(HeldProcesses {
            pids: MapHandle::try_from(&self.skeleton.maps.held)?,
            // SAFETY: a byte in memory that the skeleton has mapped. The kernel and the watchdog change it
            // concurrently, so it is only accessed through this atomic. The thread ends before the skeleton
            // is dropped, and the watchdog has its own mapping.
            holding: unsafe { AtomicBool::from_ptr(holding.cast_mut()) },
            // SAFETY: as above; four bytes, aligned.
            heartbeat: unsafe { AtomicU32::from_ptr(heartbeat.cast_mut()) },
            // SAFETY: as above; eight bytes, aligned.
            guarded_ns: unsafe { AtomicU64::from_ptr(guarded_ns.cast_mut()) },
            // SAFETY: as above; a byte.
            abandoned: unsafe { AtomicBool::from_ptr(abandoned.cast_mut()) },
        })
    }

    /// Reports that were lost because the ring was full. The result must not be used once the object is
    /// dropped.
    ///
    /// # Errors
    /// The object has no memory for its variables.
    pub fn lost(&self) -> Result<&'static AtomicU64> {
        let counters = self.skeleton.maps.bss_data.as_ref();
        let lost = std::ptr::from_ref(&counters.context(NO_VARIABLES)?.lost);
        // SAFETY: as in `held`.
        Ok(unsafe { AtomicU64::from_ptr(lost.cast_mut()) })
    }
}

fn select_programs(open: &mut OpenWatcherSkel<'_>, filter: &ProcessFilter, user_hook: UserHook) {
    let progs = &mut open.progs;
    progs.scope_rename.set_autoload(!filter.comms.is_empty());
    progs.scope_cgroup.set_autoload(!filter.cgroups.is_empty());
    progs.scope_user.set_autoload(user_hook == UserHook::Kprobe);
    progs.hold_exit.set_autoload(filter.hold);
    progs.hold_switch.set_autoload(filter.hold);
    for program in [
        &mut progs.scope_setuid,
        &mut progs.scope_setreuid,
        &mut progs.scope_setresuid,
    ] {
        program.set_autoload(user_hook == UserHook::Syscalls);
    }
}

/// The map `members`: processes that have probes, or are about to get them.
pub struct MemberMap(MapHandle);

impl MemberMap {
    const WAITING: [u8; 1] = [member_state::MEMBER_WAITING.0 as u8];
    const READY: [u8; 1] = [member_state::MEMBER_READY.0 as u8];

    /// Adds a process that is about to get its probes.
    ///
    /// # Errors
    /// The map is full.
    pub fn add_waiting(&self, pid: u32) -> Result<()> {
        Ok(self.0.update(&pid.to_ne_bytes(), &Self::WAITING, MapFlags::ANY)?)
    }

    /// Adds a process that has its probes.
    pub fn add_ready(&self, pid: u32) {
        // If the map is full, the kernel does not report the exit of the process.
        let _ = self.0.update(&pid.to_ne_bytes(), &Self::READY, MapFlags::ANY);
    }

    /// Marks a process as having its probes, unless the kernel has removed it, as it does at the exit.
    pub fn set_ready(&self, pid: u32) {
        let _ = self.0.update(&pid.to_ne_bytes(), &Self::READY, MapFlags::EXIST);
    }

    /// Removes a process, if it is in the map.
    pub fn remove(&self, pid: u32) {
        // The kernel may have removed it.
        let _ = self.0.delete(&pid.to_ne_bytes());
    }
}
