//! A targeted scope while the run lasts: who begins to match gets probes at once, and who ceases to loses them.
//!
//! watcher.bpf.c tells of them. A thread of its own attaches, so that neither a burst of rows nor an output that
//! nobody reads makes it late, or leaves a held process standing.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::bpf::watcher::types::{member_state, process_change};
use crate::bpf::watcher::{WatcherSkel, WatcherSkelBuilder};
use crate::error::{FAILED, Failure};
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher};
use crate::probe::event::{Header, decode};
use crate::probe::mmap_events::monotonic_ns;
use crate::probe::ring::Ring;
use crate::probe::scope::filter::{Filter, configure_filter};
use crate::probe::scope::hold_guard::{Guard, Held};
use crate::probe::scope::proc_match::Matching;

/// With more processes than that, links for each cost the processes more than a test in BPF saves others: the kernel
/// offers each hit to every link of the function (some 27 ns each), and on the removal of one looks at all links for
/// each process (measured on 6.18: 100 are gone after 0.2 s, 1,000 after 13 s).
const MANY: usize = 256;

/// The same for single probes. Their removals do not overlap: 0.11 s each (6.18), from however many threads.
const MANY_SINGLE: usize = 48;

/// Bytes of the ring, for some five thousand changes that wait.
const RING_BYTES: u32 = 1 << 18;

/// Values of the map `members`.
const WAITS: [u8; 1] = [member_state::MEMBER_WAITS.0 as u8];
const READY: [u8; 1] = [member_state::MEMBER_READY.0 as u8];

/// What a record says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum What {
    Matches = process_change::PROCESS_MATCHES.0,
    New = process_change::PROCESS_NEW.0,
    Changed = process_change::PROCESS_CHANGED.0,
    Renamed = process_change::PROCESS_RENAMED.0,
    Gone = process_change::PROCESS_GONE.0,
}

/// A process that got its probes after the start.
#[derive(Clone, Debug)]
pub struct Joined {
    pub pid: u32,
    pub comm: Vec<u8>,
    /// When it began to match, CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// From then until its probes were in.
    pub late_ns: u64,
    /// It stood still meanwhile.
    pub held: bool,
}

/// What the thread tells.
pub enum Notice {
    Joined(Joined),
    /// A process was gone, or matched no more, before its probes were in.
    Missed,
    /// A process has no probes, for this reason.
    Failed(String),
}

/// Processes that join and leave, as long as this lives.
pub struct Newcomers {
    links: Vec<Link>,
    thread: Option<JoinHandle<()>>,
    skeleton: WatcherSkel<'static>,
    guard: Option<Guard>,
    matching: Arc<Matching>,
    notices: Option<Receiver<Notice>>,
    /// Wakes the reader of `notices`.
    news: Arc<EventFd>,
    /// Ends the thread.
    end: Arc<EventFd>,
    holds: bool,
    follows: bool,
    /// Somebody has asked for a targeted scope.
    asked: bool,
}

/// The attacher, which the thread shares with the session that finds files.
pub type Shared = Arc<Mutex<Attacher>>;

pub fn lock(attacher: &Mutex<Attacher>) -> MutexGuard<'_, Attacher> {
    attacher.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Newcomers {
    /// Watches for them from now on. The caller must have one thread only.
    pub fn watch(filter: &Filter) -> Result<Self> {
        // One a run, and what the skeleton refers to has to live as long as it does.
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = WatcherSkelBuilder::default().open(storage)?;
        if let Some(rodata) = open.maps.rodata_data.as_mut() {
            configure_filter!(rodata, filter);
            rodata.follow = filter.follow;
            rodata.hold = filter.hold;
        }
        open.maps.events.set_max_entries(RING_BYTES)?;
        open.maps.pids.set_max_entries(filter.map_entries())?;
        if !filter.hold {
            open.maps.held.set_max_entries(1)?;
        }
        open.progs.scope_rename.set_autoload(!filter.comms.is_empty());
        let users = Users::of(filter);
        open.progs.scope_user.set_autoload(users == Users::Kprobe);
        let progs = &mut open.progs;
        for program in [
            &mut progs.scope_setuid,
            &mut progs.scope_setreuid,
            &mut progs.scope_setresuid,
        ] {
            program.set_autoload(users == Users::Calls);
        }
        open.progs.scope_cgroup.set_autoload(!filter.cgroups.is_empty());
        let skeleton = open.load().context("failed to watch for processes that match")?;
        filter.fill(&skeleton.maps.pids, &skeleton.maps.cgroups)?;
        let wake = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let mut newcomers = Self {
            links: Vec::new(),
            thread: None,
            skeleton,
            guard: None,
            matching: Arc::new(Matching::new(filter.clone())),
            notices: None,
            news: Arc::new(wake()?),
            end: Arc::new(wake()?),
            holds: filter.hold,
            follows: filter.follow,
            asked: filter.scope.is_some(),
        };
        if filter.hold {
            newcomers.guard = Some(Guard::start(&newcomers.held()?)?);
        }
        newcomers.attach(filter, users)?;
        Ok(newcomers)
    }

    fn attach(&mut self, filter: &Filter, users: Users) -> Result<()> {
        let progs = &self.skeleton.progs;
        let mut programs = vec![&progs.scope_exec, &progs.scope_fork, &progs.scope_exit];
        programs.extend((!filter.comms.is_empty()).then_some(&progs.scope_rename));
        programs.extend((!filter.cgroups.is_empty()).then_some(&progs.scope_cgroup));
        match users {
            Users::NotAsked => {}
            Users::Kprobe => programs.push(&progs.scope_user),
            Users::Calls => {
                eprintln!(
                    "warning: this kernel has no kprobes: to notice who changes his user makes all system calls a little \
                     slower"
                );
                programs.extend([&progs.scope_setuid, &progs.scope_setreuid, &progs.scope_setresuid]);
            }
        }
        for program in programs {
            let link = program.attach();
            self.links
                .push(link.context("failed to watch for processes that match")?);
        }
        Ok(())
    }

    fn held(&self) -> Result<Held<'static>> {
        let data = self.skeleton.maps.data_data.as_ref();
        let holding = &raw const data.context("the BPF object has no switch")?.holding;
        Ok(Held {
            pids: MapHandle::try_from(&self.skeleton.maps.held)?,
            // SAFETY: a byte in memory that the skeleton has mapped, and that others change while we look, so it is only
            // ever accessed through this atomic. The thread ends before the skeleton does, and the guard's memory is a
            // copy of this process's.
            holding: unsafe { AtomicBool::from_ptr(holding.cast_mut()) },
        })
    }

    /// Puts probes into all that match now, and returns how many there are. None when there are so many that it was
    /// better not done, and nobody has asked for it.
    pub fn join_present(&self, attacher: &mut Attacher) -> Result<Option<usize>> {
        let pids = self.matching.processes();
        if pids.len() > MANY {
            if !self.asked {
                return Ok(None);
            }
            eprintln!(
                "warning: {} processes match: each call in one of them is offered to the probes of all, and to remove so \
                 many at the end takes the kernel seconds; --scope all has one probe for everybody",
                pids.len()
            );
        }
        let members = &self.skeleton.maps.members;
        for pid in &pids {
            // First, so that its end is told of.
            members
                .update(&pid.to_ne_bytes(), &WAITS, MapFlags::ANY)
                .context("failed to target so many processes")?;
        }
        let mut present = 0;
        for &pid in &pids {
            let key = pid.to_ne_bytes();
            if !self.matching.matches(pid) || !attacher.join(pid)? {
                let _ = members.delete(&key);
                continue;
            }
            let _ = members.update(&key, &READY, MapFlags::EXIST);
            present += 1;
            if present == 1 && !self.may_go_on(attacher, pids.len())? {
                return Ok(None);
            }
        }
        Ok(Some(present))
    }

    /// Are the probes of so many processes what was asked for, or few enough? What the kernel limits is known from the
    /// first process, and better said now than at the end.
    fn may_go_on(&self, attacher: &Attacher, processes: usize) -> Result<bool> {
        let each = attacher.members().count_links();
        require_files(each, processes)?;
        if attacher.mode() == AttachMode::Multi || each * processes <= MANY_SINGLE {
            return Ok(true);
        }
        if self.asked {
            eprintln!(
                "warning: {} single probes, as this kernel has no multi-uprobe links (since 6.10): at the end it removes \
                 them one after the other, some ten a second",
                each * processes
            );
        }
        Ok(self.asked)
    }

    /// Begins to look after those that come. Privileges must have been dropped before, as each thread has its own.
    pub fn start(&mut self, attacher: &Shared) -> Result<()> {
        let (send, notices) = channel();
        let events = self.skeleton.maps.events.as_fd().try_clone_to_owned()?;
        let keeper = Keeper {
            attacher: Arc::clone(attacher),
            matching: Arc::clone(&self.matching),
            members: MapHandle::try_from(&self.skeleton.maps.members)?,
            held: self.holds.then(|| self.held()).transpose()?,
            lost: self.lost()?,
            follows: self.follows,
            notices: send,
            news: Arc::clone(&self.news),
        };
        let end = Arc::clone(&self.end);
        let thread = Builder::new().spawn(move || keeper.run(events, &end));
        self.thread = Some(thread.context("failed to look after processes that come")?);
        self.notices = Some(notices);
        Ok(())
    }

    /// Ready when there are notices.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// What has happened since the last call.
    pub fn notices(&self) -> Vec<Notice> {
        let _ = self.news.read();
        self.notices.iter().flat_map(Receiver::try_iter).collect()
    }

    /// Are programs stopped when they are started?
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Lets nobody join any more, and all that stand still go on.
    pub fn end(&mut self) {
        // In this order: nobody is stopped any more, then all go on, and then the guard has nothing to do.
        self.links.clear();
        let _ = self.end.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let (Some(guard), Ok(held)) = (self.guard.take(), self.held()) {
            held.release_all();
            drop(guard);
        }
    }

    /// Changes that could not be told of, for lack of room in the ring.
    fn lost(&self) -> Result<&'static AtomicU64> {
        let counters = self.skeleton.maps.bss_data.as_ref();
        let lost = std::ptr::from_ref(&counters.context("the BPF object has no counters")?.lost);
        // SAFETY: as in `held`.
        Ok(unsafe { AtomicU64::from_ptr(lost.cast_mut()) })
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.end();
    }
}

/// How it is noticed that a process changes its user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    /// The filter is not about users.
    NotAsked,
    /// Where the kernel does so for all calls.
    Kprobe,
    /// At the end of system calls: this kernel has no kprobes. Those of tracefs outlive a tool that is killed, and are
    /// not used.
    Calls,
}

impl Users {
    fn of(filter: &Filter) -> Self {
        match filter.uid {
            None => Users::NotAsked,
            Some(_) if Path::new("/sys/bus/event_source/devices/kprobe/type").exists() => Users::Kprobe,
            Some(_) => Users::Calls,
        }
    }
}

/// Each process takes as many descriptors as the first one.
fn require_files(each: usize, processes: usize) -> Result<()> {
    const OTHERS: usize = 256;
    let most = privileges::file_limit().saturating_sub(OTHERS);
    if each * processes <= most {
        return Ok(());
    }
    Err(Failure::new(
        FAILED,
        format!(
            "{processes} processes match, and the probes of each take {each} file descriptors, of which this process may \
             have {most} for them"
        ),
    )
    .hint("match fewer processes, name fewer functions, allow more with `ulimit -n`, or use --scope all")
    .into())
}

/// The thread that lets processes join and leave.
struct Keeper {
    attacher: Shared,
    matching: Arc<Matching>,
    members: MapHandle,
    /// With --hold.
    held: Option<Held<'static>>,
    lost: &'static AtomicU64,
    follows: bool,
    notices: Sender<Notice>,
    news: Arc<EventFd>,
}

/// What is to be done about a process, from all that was told of it meanwhile.
#[derive(Debug, Default, PartialEq, Eq)]
struct Todo {
    /// Probes that are older than this were those of another program.
    anew_ns: u64,
    /// Probes are wanted, or not. None: that depends on a look at it.
    wanted: Option<bool>,
    since_ns: u64,
    held: bool,
    comm: Vec<u8>,
    /// Threads and their new names.
    renamed: Vec<(u32, Vec<u8>)>,
    /// It began to match, whatever came then.
    matched: bool,
}

impl Todo {
    fn add(&mut self, what: What, header: &Header) {
        let begins = self.wanted != Some(true);
        match what {
            What::Matches | What::New => self.wanted = Some(true),
            What::Changed => self.wanted = None,
            What::Renamed => {
                self.wanted = None;
                self.renamed.push((header.tid, header.comm().to_vec()));
            }
            What::Gone => self.wanted = Some(false),
        }
        if matches!(what, What::New | What::Gone) {
            self.anew_ns = header.time_ns;
        }
        if begins || what == What::New {
            self.since_ns = header.time_ns;
        }
        self.matched |= self.wanted == Some(true);
        self.held |= header.func != 0;
        self.comm = header.comm().to_vec();
    }
}

impl Keeper {
    fn run(self, events: OwnedFd, end: &EventFd) {
        let Ok(mut ring) = Ring::map(events.as_fd(), RING_BYTES as usize) else {
            return;
        };
        let mut lost = 0;
        loop {
            let mut ready = [
                PollFd::new(events.as_fd(), PollFlags::POLLIN),
                PollFd::new(end.as_fd(), PollFlags::POLLIN),
            ];
            let ending = match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) => ready[1].any() == Some(true),
                Err(nix::errno::Errno::EINTR) => false,
                Err(_) => true,
            };
            let mut order = Vec::new();
            let mut todo: HashMap<u32, Todo> = HashMap::new();
            while !ring.rest() && ring.look() {
                while ring.advance() {
                    let Some((header, what)) = read(ring.record()) else {
                        continue;
                    };
                    let of = todo.entry(header.pid).or_insert_with(|| {
                        order.push(header.pid);
                        Todo::default()
                    });
                    of.add(what, header);
                }
            }
            for pid in order {
                if let Some(todo) = todo.remove(&pid) {
                    self.attend(pid, todo);
                }
            }
            if ending {
                return;
            }
            let lost_now = self.lost.load(Ordering::Relaxed);
            if std::mem::replace(&mut lost, lost_now) != lost_now {
                self.look_at_all();
            }
        }
    }

    /// After changes that could not be told of: who matches and has no probes, and who has some and does not?
    fn look_at_all(&self) {
        let present: HashSet<u32> = self.matching.processes().into_iter().collect();
        let members: HashSet<u32> = lock(&self.attacher).members().pids().into_iter().collect();
        let stays = |pid: &u32| match self.follows {
            true => Path::new(&format!("/proc/{pid}")).exists(),
            false => present.contains(pid),
        };
        let todo = |wanted| Todo {
            wanted: Some(wanted),
            since_ns: monotonic_ns(),
            ..Todo::default()
        };
        for &pid in members.iter().filter(|pid| !stays(pid)) {
            self.attend(pid, todo(false));
        }
        for &pid in present.difference(&members) {
            self.attend(pid, todo(true));
        }
    }

    fn attend(&self, pid: u32, todo: Todo) {
        let key = pid.to_ne_bytes();
        let wanted = todo.wanted.unwrap_or_else(|| {
            // First, so that the kernel tells of what changes while it is looked at.
            let _ = self.members.delete(&key);
            self.matching.matches_renamed(pid, &todo.renamed)
        });
        let mut attacher = lock(&self.attacher);
        let is_member = attacher.members().contains(pid);
        if !wanted || attacher.members().were_before(pid, todo.anew_ns) {
            attacher.leave(pid);
        }
        let joined = (wanted && !attacher.members().contains(pid)).then(|| attacher.join(pid));
        let now = monotonic_ns();
        drop(attacher);
        if todo.held
            && let Some(held) = &self.held
        {
            held.release(pid);
        }
        if wanted && todo.wanted.is_none() {
            let _ = self.members.update(&key, &READY, MapFlags::ANY);
            if !self.matching.matches_renamed(pid, &todo.renamed) {
                // It has ended before its end would have been told of.
                let _ = self.members.delete(&key);
                lock(&self.attacher).leave(pid);
            }
        }
        let notice = match joined {
            Some(Ok(true)) => {
                // The kernel knows it already, unless it was found by a look; or it has ended meanwhile.
                let flags = if todo.wanted.is_some() {
                    MapFlags::EXIST
                } else {
                    MapFlags::ANY
                };
                let _ = self.members.update(&key, &READY, flags);
                Notice::Joined(Joined {
                    pid,
                    comm: todo.comm,
                    since_ns: todo.since_ns,
                    late_ns: now.saturating_sub(todo.since_ns),
                    held: todo.held,
                })
            }
            Some(Err(error)) => Notice::Failed(format!("{error:#}")),
            Some(Ok(false)) => Notice::Missed,
            None if wanted => return,
            None => {
                if is_member || !todo.matched {
                    return;
                }
                Notice::Missed
            }
        };
        // Nobody listens at the end any more.
        let _ = self.notices.send(notice);
        let _ = self.news.write(1);
    }
}

fn read(record: &[u8]) -> Option<(&Header, What)> {
    let header = decode::<Header>(record)?;
    let what = [What::Matches, What::New, What::Changed, What::Renamed, What::Gone];
    let what = what
        .into_iter()
        .find(|&what| what as u32 == u32::from(header.kind))?;
    Some((header, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn todo(told: &[(What, u64)]) -> Todo {
        let mut todo = Todo::default();
        for &(what, time_ns) in told {
            // SAFETY: integers, every bit pattern is valid.
            let mut header: Header = unsafe { std::mem::zeroed() };
            header.time_ns = time_ns;
            todo.add(what, &header);
        }
        todo
    }

    #[test]
    fn the_last_word_counts_and_the_first_one_for_how_late_it_is() {
        let found = todo(&[(What::Matches, 7), (What::Matches, 9)]);
        assert_eq!((found.wanted, found.since_ns, found.anew_ns), (Some(true), 7, 0));
        let found = todo(&[(What::Matches, 7), (What::Gone, 8)]);
        assert_eq!(
            (found.wanted, found.matched, found.anew_ns),
            (Some(false), true, 8)
        );
        assert_eq!(todo(&[(What::Matches, 7), (What::Changed, 8)]).wanted, None);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let found = todo(&[(What::New, 5), (What::Gone, 6), (What::New, 8)]);
        assert_eq!((found.wanted, found.since_ns, found.anew_ns), (Some(true), 8, 8));
    }
}
