//! Puts BPF programs on instructions of files, and takes them off again.
//!
//! Four ways, the best that the kernel is seen to have is chosen once, before the programs are loaded:
//! one multi-uprobe link for all points of a file, and where both ends of calls are watched, one session link for both;
//! multi-uprobe links for entries and others for returns; a perf event and link for each point, with a cookie; or a
//! perf event for each point without a cookie (before 5.15), where each cookie gets a copy of the program with its
//! number written into it. tracefs is never used: what it registers survives a tracer that is killed.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use clap::ValueEnum;
use libbpf_rs::{AsRawLibbpf, libbpf_sys as sys_bpf};

use crate::error::{DENIED, FAILED, Failure};
use crate::find::code::instructions::{BEGINNING, may_be_rejected};
use crate::find::code::placement::Needs;
use crate::find::elf::Function;
use crate::privileges;
use crate::probe::hits::Trap;
use crate::probe::mmap_events::monotonic_ns;
use crate::probe::scope::filter::Filter;
use crate::probe::scope::members::{Breakpoints, Members, Site};

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AttachMode {
    /// As `Multi`, and one session link a file for both ends of calls (6.13). Its program says at each entry whether the
    /// call is worth the breakpoint at its return, and a call is seen at both ends or at none.
    Session,
    /// One multi-uprobe link a file (6.6; with a process filter that works: about 6.10).
    Multi,
    /// One perf event and link a point (5.15).
    Single,
    /// One perf event a point and one program a cookie.
    Plain,
}

impl AttachMode {
    /// The best way that this kernel is seen to have, or `asked`.
    pub fn choose(asked: Option<AttachMode>) -> Result<AttachMode> {
        let way = match asked {
            Some(AttachMode::Session) if !has_sessions() => {
                return Err(lacks("session links of uprobes", "6.13"));
            }
            Some(AttachMode::Multi) if !has_multi() => {
                return Err(lacks("multi-uprobe links with a filter by process", "6.10"));
            }
            Some(AttachMode::Single) if !has_cookies() => {
                return Err(lacks("BPF cookies of perf events", "5.15"));
            }
            Some(way) => way,
            None if has_sessions() => AttachMode::Session,
            None if has_multi() => AttachMode::Multi,
            None if has_cookies() => AttachMode::Single,
            None => AttachMode::Plain,
        };
        if !way.has_multi_links() {
            pmu_type()?;
            privileges::raise_file_limit();
        }
        Ok(way)
    }

    fn has_multi_links(self) -> bool {
        matches!(self, AttachMode::Session | AttachMode::Multi)
    }

    /// Can one program run at both ends of calls?
    pub fn has_sessions(self) -> bool {
        self == AttachMode::Session
    }

    /// Can programs ask for the cookie of the probe that runs them?
    pub fn has_cookies(self) -> bool {
        self != AttachMode::Plain
    }

    /// Can programs wait for pages that are not in memory?
    pub fn can_sleep(self) -> bool {
        self != AttachMode::Plain && has_sleepable()
    }

    /// Tells libbpf, before it loads them, what these programs for one end of calls are for.
    pub fn prepare<const N: usize>(self, programs: [&mut libbpf_rs::OpenProgramMut<'_>; N]) {
        if self.has_multi_links() {
            for program in programs {
                program.set_attach_type(libbpf_rs::ProgramAttachType::TraceUprobeMulti);
            }
        }
    }
}

/// Which ends of a function's calls are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ends {
    Entry,
    Return,
    Both,
    /// The point is an instruction that returns: the program for returns runs there, without a return probe.
    Leaving,
}

/// Set in the cookie of a point that is [`Ends::Leaving`], `LEAVING` of src/bpf/calls.bpf.h: there the return address is
/// still on the stack.
pub const LEAVING: u64 = 1 << 32;
/// Set beside it where the instruction is a jump to another function: what that will return is not known yet.
pub const JUMPING: u64 = 1 << 33;
/// Set in the cookies of a Go function: its calls belong to goroutines, which go from thread to thread.
pub const GOROUTINE: u64 = 1 << 34;

/// Where in the cookie of a return probe its process is, `PROCESS_SHIFT` of src/bpf/event.bpf.h.
const PROCESS_SHIFT: u32 = 40;

/// An instruction of a file to stop at, and the number that the program sees there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// Offset in the file, bytes.
    pub offset: u64,
    pub cookie: u64,
    pub ends: Ends,
    /// Offset in the file of the number that says how many watch this point, as some USDT probes have one: they are
    /// dead while it is 0. None where there is none.
    pub semaphore: Option<u64>,
    /// Where a later instruction of the function that begins here would do as well. None where it has to be this one.
    pub movable: Option<Movable>,
    /// The kernel has to step over the instruction. Not known before [`Placing::place`](super::placing::Placing::place).
    pub stepped: bool,
}

/// What there is to know of a function for its probe to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movable {
    /// Bytes of the function; 0 when that is not known.
    pub size: u64,
    /// What the programs read there.
    pub needs: Needs,
}

impl ProbePoint {
    /// Both ends of a function, whose beginning tells `needs`.
    pub fn function(function: &Function, cookie: u64, needs: Needs) -> ProbePoint {
        ProbePoint {
            offset: function.offset,
            cookie,
            ends: Ends::Both,
            semaphore: None,
            movable: Some(Movable {
                size: function.size,
                needs,
            }),
            stepped: true,
        }
    }
}

/// A loaded program that goes to the points that it is for.
pub struct Program<'a> {
    pub program: &'a libbpf_rs::Program<'a>,
    /// Where it runs: at entries, at returns, or, in a session, at both. Where there is one for both, those for one end
    /// are for points that have no more.
    pub runs: Ends,
}

/// Those of the programs that are loaded, which the first value of each says.
pub fn loaded<'a, const N: usize>(
    programs: [(bool, &'a libbpf_rs::Program<'a>, Ends); N],
) -> Vec<Program<'a>> {
    let loaded = programs.into_iter().filter(|(is_loaded, ..)| *is_loaded);
    loaded
        .map(|(_, program, runs)| Program { program, runs })
        .collect()
}

/// The same for as long as it is attached, in whatever thread.
struct Loaded {
    fd: OwnedFd,
    runs: Ends,
    /// AttachMode::Plain: what copies are made of.
    source: Option<Source>,
}

impl Loaded {
    fn new(of: &Program<'_>, way: AttachMode) -> Result<Self> {
        let fd = of.program.as_fd().try_clone_to_owned();
        Ok(Self {
            fd: fd.context("failed to hold a BPF program")?,
            runs: of.runs,
            source: (way == AttachMode::Plain).then(|| Source::of(of.program)),
        })
    }

    /// Is it for points with these ends? `sessions` says whether there is a program for both.
    fn concerns(&self, ends: Ends, sessions: bool) -> bool {
        match ends {
            Ends::Both => (self.runs == Ends::Both) == sessions,
            Ends::Entry => self.runs == Ends::Entry,
            Ends::Return | Ends::Leaving => self.runs == Ends::Return,
        }
    }
}

/// The number that `probe_cookie` of src/bpf/event.bpf.h loads where there are no cookies.
const COOKIE_MARK: u64 = 0x7562_7066_636f_6f6b;

/// Which program goes where, and how.
#[derive(Clone, Copy)]
struct Destination<'a> {
    path: &'a CString,
    /// Index of the program.
    program: usize,
    kind: Kind,
    /// The one process that gets breakpoints, or everybody.
    pid: Option<u32>,
}

/// What is put there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Probe,
    ReturnProbe,
    Session,
}

/// Points that the kernel does not take.
#[derive(Default)]
struct Refused {
    points: HashSet<u64>,
    first: Option<io::Error>,
}

impl Refused {
    fn add(&mut self, point: &ProbePoint, error: io::Error) {
        self.points.insert(point.offset);
        self.first.get_or_insert(error);
    }
}

/// May the kernel refuse the instruction at this point?
fn is_doubtful(file: &File, point: &ProbePoint) -> bool {
    let mut beginning = [0; BEGINNING];
    let read = file.read_at(&mut beginning, point.offset).unwrap_or(0);
    may_be_rejected(beginning.get(..read).unwrap_or_default())
}

/// Is the error one of this instruction, so that others may do? Else it would come again with each of them.
fn is_about_a_point(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ESRCH) | None
    )
}

/// Attaches one set of programs to points of any number of files.
pub struct Attacher {
    way: AttachMode,
    breakpoints: Breakpoints,
    programs: Vec<Loaded>,
    /// Hits are counted for each kind of trap.
    marks_traps: bool,
    links: Vec<OwnedFd>,
    /// Breakpoints::Matching: the processes, with links of their own.
    members: Members,
    /// AttachMode::Plain: (program, cookie) -> its copy.
    copies: HashMap<(usize, u64), OwnedFd>,
}

impl Attacher {
    /// `programs` in the order in which they are attached: return probes go first (src/bpf/calls.bpf.h says why).
    pub fn new(way: AttachMode, filter: &Filter, programs: Vec<Program<'_>>) -> Result<Self> {
        let breakpoints = filter.breakpoints()?;
        if matches!(breakpoints, Breakpoints::Matching(_)) {
            privileges::raise_file_limit();
        }
        let programs = programs.iter().map(|program| Loaded::new(program, way));
        Ok(Self {
            way,
            breakpoints,
            programs: programs.collect::<Result<_>>()?,
            marks_traps: false,
            links: Vec::new(),
            members: Members::default(),
            copies: HashMap::new(),
        })
    }

    /// Who gets breakpoints.
    pub fn breakpoints(&self) -> &Breakpoints {
        &self.breakpoints
    }

    pub fn way(&self) -> AttachMode {
        self.way
    }

    /// Puts every program on those points of `file` that it is for, in every process that has breakpoints. A point that
    /// the kernel refuses (an instruction that it cannot step over) is left out. Returns how many points were refused;
    /// an error when all were.
    pub fn attach(&mut self, file: &File, points: &[ProbePoint]) -> Result<usize> {
        match self.breakpoints {
            Breakpoints::Everybody => self.attach_for(None, file, points),
            Breakpoints::Process(pid) => self.attach_for(Some(pid), file, points),
            Breakpoints::Matching(_) => self.attach_for_members(file, points),
        }
    }

    /// The one process that has breakpoints; None when everybody has, or all that match.
    pub fn only_pid(&self) -> Option<u32> {
        match self.breakpoints {
            Breakpoints::Process(pid) => Some(pid),
            Breakpoints::Everybody | Breakpoints::Matching(_) => None,
        }
    }

    /// From now on, hits are counted for each kind of trap.
    pub fn mark_traps(&mut self) {
        self.marks_traps = true;
    }

    /// How often the programs ran, and for how long in all, nanoseconds. The kernel counts as long as it is asked to by
    /// `bpf_enable_stats`.
    pub fn runs(&self) -> Result<(u64, u64)> {
        let own = self.programs.iter().map(|program| program.fd.as_fd());
        let mut sum = (0, 0);
        for program in own.chain(self.copies.values().map(AsFd::as_fd)) {
            let info = program_info(program).context("failed to ask how often the BPF programs ran")?;
            sum = (sum.0 + info.run_cnt, sum.1 + info.run_time_ns);
        }
        Ok(sum)
    }

    /// Puts the points of a file into all members, and into those to come.
    fn attach_for_members(&mut self, file: &File, points: &[ProbePoint]) -> Result<usize> {
        let mut site = Site {
            file: file.try_clone().context("failed to hold a file")?,
            points: points.to_vec(),
        };
        for pid in self.members.pids() {
            let links = self.links_for(pid, std::slice::from_mut(&mut site))?;
            self.members.add(pid, links.unwrap_or_default(), monotonic_ns());
        }
        self.members.sites.push(site);
        Ok(points.len() - self.members.sites.last().map_or(0, |site| site.points.len()))
    }

    /// Puts all points that were found so far into a process, which is a member from now on. False when it is gone.
    pub fn join(&mut self, pid: u32) -> Result<bool> {
        self.members.wait_removed(pid);
        let mut sites = std::mem::take(&mut self.members.sites);
        let count = |sites: &[Site]| sites.iter().map(|site| site.points.len()).sum::<usize>();
        let asked = count(&sites);
        let begun = monotonic_ns();
        let links = self.links_for(pid, &mut sites);
        self.members.refused += asked - count(&sites);
        self.members.sites = sites;
        let Some(links) = links? else {
            return Ok(false);
        };
        self.members.add(pid, links, begun);
        Ok(true)
    }

    /// Puts all points into everybody instead.
    pub fn widen(&mut self) -> Result<()> {
        self.breakpoints = Breakpoints::Everybody;
        close_all(self.members.take_links());
        for site in std::mem::take(&mut self.members.sites) {
            self.attach_for(None, &site.file, &site.points)?;
        }
        Ok(())
    }

    /// Takes the probes of a process out, in the background.
    pub fn leave(&mut self, pid: u32) {
        self.members.remove(pid);
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The links of one process at these points, from which those are removed that the kernel refuses. None when the
    /// process is gone.
    fn links_for(&mut self, pid: u32, sites: &mut [Site]) -> Result<Option<Vec<OwnedFd>>> {
        let others = std::mem::take(&mut self.links);
        let result = sites.iter_mut().try_for_each(|site| {
            let refused = self.attach_points(Some(pid), &site.file, &site.points)?;
            site.points
                .retain(|point| !refused.points.contains(&point.offset));
            Ok(())
        });
        let links = std::mem::replace(&mut self.links, others);
        match result {
            Ok(()) => Ok(Some(links)),
            Err(error) => {
                close_all(links);
                let is_gone = |error: &anyhow::Error| {
                    let cause = error.downcast_ref::<io::Error>();
                    cause.and_then(io::Error::raw_os_error) == Some(libc::ESRCH)
                };
                if is_gone(&error) { Ok(None) } else { Err(error) }
            }
        }
    }

    fn attach_for(&mut self, pid: Option<u32>, file: &File, points: &[ProbePoint]) -> Result<usize> {
        let refused = self.attach_points(pid, file, points)?;
        match refused.first {
            Some(error) if points.iter().all(|point| refused.points.contains(&point.offset)) => {
                Err(anyhow::Error::new(error).context("failed to attach"))
            }
            _ => Ok(refused.points.len()),
        }
    }

    fn attach_points(&mut self, pid: Option<u32>, file: &File, points: &[ProbePoint]) -> Result<Refused> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let mut refused = Refused::default();
        let sessions = self.programs.iter().any(|program| program.runs == Ends::Both);
        let entered = self.entered(points, sessions);
        for index in 0..self.programs.len() {
            let program = &self.programs[index];
            // An entry without its return would look like a call that never ends.
            let wanted = points.iter().filter(|point| {
                program.concerns(point.ends, sessions) && !refused.points.contains(&point.offset)
            });
            let (leaving, others): (Vec<ProbePoint>, Vec<ProbePoint>) =
                wanted.partition(|point| point.ends == Ends::Leaving);
            let kind = match program.runs {
                Ends::Both => Kind::Session,
                Ends::Return => Kind::ReturnProbe,
                Ends::Entry | Ends::Leaving => Kind::Probe,
            };
            for (mut points, kind) in [(leaving, Kind::Probe), (others, kind)] {
                self.mark(file, &mut points, kind, &entered);
                let to = Destination {
                    path: &path,
                    program: index,
                    kind,
                    pid,
                };
                match self.way {
                    AttachMode::Session | AttachMode::Multi => {
                        self.attach_multi_all(to, file, &points, &mut refused)?
                    }
                    AttachMode::Single | AttachMode::Plain => self.attach_each(to, &points, &mut refused)?,
                }
            }
        }
        Ok(refused)
    }

    /// Offsets where a program runs when the instruction there does.
    fn entered(&self, points: &[ProbePoint], sessions: bool) -> HashSet<u64> {
        let is_entered = |point: &&ProbePoint| {
            let mut programs = self.programs.iter();
            programs.any(|program| program.runs != Ends::Return && program.concerns(point.ends, sessions))
        };
        points
            .iter()
            .filter(is_entered)
            .map(|point| point.offset)
            .collect()
    }

    /// Makes the kernel count the hits of each kind of trap apart, if that is asked for.
    fn mark(&self, file: &File, points: &mut [ProbePoint], kind: Kind, entered: &HashSet<u64>) {
        for point in points.iter_mut().filter(|_| self.marks_traps) {
            let is_entered = entered.contains(&point.offset);
            let trap = Trap::at(file, point.offset, kind == Kind::ReturnProbe, is_entered);
            point.cookie = trap.mark(point.cookie);
        }
    }

    /// Takes the probes out.
    pub fn detach(&mut self) {
        close_all(self.take_links());
    }

    fn take_links(&mut self) -> Vec<OwnedFd> {
        let mut links = self.members.take_links();
        links.append(&mut self.links);
        links
    }

    /// Takes the probes out while the caller goes on. None where no thread can be had: then they are out now.
    pub fn detach_in_background(&mut self) -> Option<JoinHandle<()>> {
        let links = self.take_links();
        std::thread::Builder::new().spawn(move || close_all(links)).ok()
    }

    /// One link for all points but those that the kernel may refuse: one refused point fails its whole link, and to
    /// search it out among thousands takes the kernel half a minute.
    fn attach_multi_all(
        &mut self,
        to: Destination<'_>,
        file: &File,
        points: &[ProbePoint],
        refused: &mut Refused,
    ) -> Result<()> {
        let (doubtful, others): (Vec<ProbePoint>, Vec<ProbePoint>) =
            points.iter().partition(|point| is_doubtful(file, point));
        for point in doubtful {
            self.attach_multi(to, &[point], refused)?;
        }
        self.attach_multi(to, &others, refused)
    }

    /// One link for all points. If one is refused all the same, it is looked for by halves.
    fn attach_multi(
        &mut self,
        to: Destination<'_>,
        points: &[ProbePoint],
        refused: &mut Refused,
    ) -> Result<()> {
        if points.is_empty() {
            return Ok(());
        }
        match self.multi_link(to, points) {
            Ok(link) => self.links.push(link),
            Err(error) if !is_about_a_point(&error) => {
                return Err(anyhow::Error::new(error).context("failed to attach"));
            }
            Err(error) => match points {
                [point] => refused.add(point, error),
                _ => {
                    let (left, right) = points.split_at(points.len() / 2);
                    self.attach_multi(to, left, refused)?;
                    self.attach_multi(to, right, refused)?;
                }
            },
        }
        Ok(())
    }

    fn attach_each(
        &mut self,
        to: Destination<'_>,
        points: &[ProbePoint],
        refused: &mut Refused,
    ) -> Result<()> {
        self.require_files(points.len())?;
        let no_entries = self.programs.iter().all(|program| program.runs == Ends::Return);
        for point in points {
            let event = perf_event(to, point);
            let alone = to.kind == Kind::ReturnProbe && (no_entries || point.ends == Ends::Return);
            let process = to.pid.filter(|_| alone).map_or(0, u64::from);
            let cookie = point.cookie | process << PROCESS_SHIFT;
            match event.and_then(|event| self.bind(to.program, event, cookie)) {
                Ok(link) => self.links.push(link),
                Err(error) if is_about_a_point(&error) => refused.add(point, error),
                Err(error) => return Err(anyhow::Error::new(error).context("failed to attach")),
            }
        }
        Ok(())
    }

    /// Single probes take a descriptor each, and a second one for their copy of the program where there are no cookies.
    fn require_files(&self, probes: usize) -> Result<()> {
        const OTHERS: usize = 64;
        let each = if self.way == AttachMode::Plain { 2 } else { 1 };
        let room = privileges::file_limit().saturating_sub(OTHERS + self.count_files());
        if probes * each <= room {
            return Ok(());
        }
        Err(Failure::new(
            FAILED,
            format!(
                "{probes} probes are more than this kernel lets a process have at a time: without multi-uprobe links \
                 (since 6.10) each takes a file descriptor, and {room} are left"
            ),
        )
        .hint("name fewer functions, or allow more descriptors with `ulimit -n`")
        .into())
    }

    /// Descriptors that the probes take.
    fn count_files(&self) -> usize {
        self.links.len() + self.members.count_links() + self.copies.len()
    }

    fn multi_link(&self, to: Destination<'_>, points: &[ProbePoint]) -> io::Result<OwnedFd> {
        let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
        let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
        let semaphores: Vec<u64> = points.iter().map(|point| point.semaphore.unwrap_or(0)).collect();
        let mut opts = link_options();
        // SAFETY: filling the member of the union that BPF_TRACE_UPROBE_MULTI reads; it is all integers and pointers.
        let multi = unsafe { &mut opts.__bindgen_anon_1.uprobe_multi };
        multi.path = to.path.as_ptr();
        multi.offsets = offsets.as_ptr();
        multi.cookies = cookies.as_ptr();
        if points.iter().any(|point| point.semaphore.is_some()) {
            multi.ref_ctr_offsets = semaphores.as_ptr();
        }
        multi.cnt = points.len() as u32;
        multi.pid = to.pid.unwrap_or(0);
        let attach_type = match to.kind {
            Kind::Session => sys_bpf::BPF_TRACE_UPROBE_SESSION,
            Kind::Probe | Kind::ReturnProbe => sys_bpf::BPF_TRACE_UPROBE_MULTI,
        };
        if to.kind == Kind::ReturnProbe {
            multi.flags = sys_bpf::BPF_F_UPROBE_MULTI_RETURN;
        }
        link(self.program_fd(to.program), 0, attach_type, &opts)
    }

    /// Makes a perf event run the program. What keeps the probe alive is the descriptor that is returned.
    fn bind(&mut self, index: usize, event: OwnedFd, cookie: u64) -> io::Result<OwnedFd> {
        if self.way == AttachMode::Plain {
            let program = self.copy_for(index, cookie)?;
            perf_ioctl(&event, PERF_EVENT_IOC_SET_BPF, program)?;
            perf_ioctl(&event, PERF_EVENT_IOC_ENABLE, 0)?;
            return Ok(event);
        }
        let mut opts = link_options();
        opts.__bindgen_anon_1.perf_event =
            sys_bpf::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_1 { bpf_cookie: cookie };
        let link = link(
            self.program_fd(index),
            event.as_raw_fd(),
            sys_bpf::BPF_PERF_EVENT,
            &opts,
        )?;
        perf_ioctl(&event, PERF_EVENT_IOC_ENABLE, 0)?;
        Ok(link) // which holds the event
    }

    fn program_fd(&self, index: usize) -> RawFd {
        self.programs[index].fd.as_raw_fd()
    }

    fn copy_for(&mut self, index: usize, cookie: u64) -> io::Result<RawFd> {
        if let Some(copy) = self.copies.get(&(index, cookie)) {
            return Ok(copy.as_raw_fd());
        }
        let source = self.programs[index].source.as_ref();
        let copy = source.ok_or(io::ErrorKind::Unsupported)?.load(cookie)?;
        let fd = copy.as_raw_fd();
        self.copies.insert((index, cookie), copy);
        Ok(fd)
    }
}

impl Drop for Attacher {
    /// Many at a time: one after the other they take seconds, and the descriptors' own drop would do so.
    fn drop(&mut self) {
        self.detach();
    }
}

/// Closes links. Each removal waits for the kernel (0.04 to 0.1 s), and the waits of several threads overlap.
pub fn close_all(links: Vec<OwnedFd>) {
    const THREADS: usize = 64;
    let mut shares: Vec<Vec<OwnedFd>> = Vec::new();
    shares.resize_with(links.len().min(THREADS), Vec::new);
    for (index, link) in links.into_iter().enumerate() {
        shares[index % THREADS].push(link);
    }
    std::thread::scope(|scope| {
        for share in shares {
            // Where no thread can be had the share is dropped, and so closed, right here.
            let _ = std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn_scoped(scope, || drop(share));
        }
    });
}

/// Replaces the mark by `cookie` in every 64-bit load of it.
fn write_cookie(insns: &mut [sys_bpf::bpf_insn], cookie: u64) {
    const LOAD_IMMEDIATE_64: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW, two instructions long
    for index in 1..insns.len() {
        let (low, high) = (insns[index - 1], insns[index]);
        let value = u64::from(low.imm as u32) | u64::from(high.imm as u32) << 32;
        if low.code == LOAD_IMMEDIATE_64 && low.src_reg() == 0 && value == COOKIE_MARK {
            insns[index - 1].imm = cookie as u32 as i32;
            insns[index].imm = (cookie >> 32) as u32 as i32;
        }
    }
}

fn link_options() -> sys_bpf::bpf_link_create_opts {
    sys_bpf::bpf_link_create_opts {
        sz: size_of::<sys_bpf::bpf_link_create_opts>() as sys_bpf::size_t,
        ..Default::default()
    }
}

fn link(
    program: RawFd,
    target: RawFd,
    attach_type: sys_bpf::bpf_attach_type,
    opts: &sys_bpf::bpf_link_create_opts,
) -> io::Result<OwnedFd> {
    // SAFETY: every pointer in `opts` belongs to the caller and is read during the call only.
    owned(unsafe { sys_bpf::bpf_link_create(program, target, attach_type, opts) })
}

/// A descriptor from a libbpf call, which returns a negative errno on failure.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load_program(insns: &[sys_bpf::bpf_insn], attach_type: sys_bpf::bpf_attach_type) -> io::Result<OwnedFd> {
    load_with(
        insns,
        sys_bpf::bpf_prog_load_opts {
            expected_attach_type: attach_type,
            ..Default::default()
        },
    )
}

fn load_with(insns: &[sys_bpf::bpf_insn], opts: sys_bpf::bpf_prog_load_opts) -> io::Result<OwnedFd> {
    let mut opts = sys_bpf::bpf_prog_load_opts {
        sz: size_of::<sys_bpf::bpf_prog_load_opts>() as sys_bpf::size_t,
        ..opts
    };
    // SAFETY: the strings are constants; the instructions, and what the options refer to, outlive the call.
    owned(unsafe {
        sys_bpf::bpf_prog_load(
            sys_bpf::BPF_PROG_TYPE_KPROBE,
            c"ubpf_tools".as_ptr(),
            c"GPL".as_ptr(),
            insns.as_ptr(),
            insns.len() as sys_bpf::size_t,
            &mut opts,
        )
    })
}

/// What a program was loaded from. It keeps the description of its functions: the verifier looks at each of those that
/// are described as global once, not at each call.
struct Source {
    insns: Vec<sys_bpf::bpf_insn>,
    functions: Vec<sys_bpf::bpf_func_info>,
    types: Option<OwnedFd>,
}

impl Source {
    fn of(program: &libbpf_rs::Program<'_>) -> Self {
        let raw = program.as_libbpf_object().as_ptr();
        // SAFETY: the program lives, and what is returned lives as long.
        let (functions, count) = unsafe {
            (
                sys_bpf::bpf_program__func_info(raw),
                sys_bpf::bpf_program__func_info_cnt(raw),
            )
        };
        let functions = match functions.is_null() {
            true => Vec::new(),
            // SAFETY: so many records of this type, which libbpf owns, and which are copied.
            false => unsafe { std::slice::from_raw_parts(functions, count as usize) }.to_vec(),
        };
        Self {
            insns: program.insns().to_vec(),
            functions,
            types: types_of(program),
        }
    }

    /// Loads the program once more, with this cookie in it.
    fn load(&self, cookie: u64) -> io::Result<OwnedFd> {
        let mut insns = self.insns.clone();
        write_cookie(&mut insns, cookie);
        let Some(types) = self.types.as_ref().filter(|_| !self.functions.is_empty()) else {
            return load_program(&insns, 0);
        };
        load_with(
            &insns,
            sys_bpf::bpf_prog_load_opts {
                prog_btf_fd: types.as_raw_fd() as u32,
                func_info: self.functions.as_ptr().cast(),
                func_info_cnt: self.functions.len() as u32,
                func_info_rec_size: size_of::<sys_bpf::bpf_func_info>() as u32,
                ..Default::default()
            },
        )
    }
}

/// What the kernel knows of a program.
fn program_info(program: BorrowedFd<'_>) -> io::Result<sys_bpf::bpf_prog_info> {
    let mut info = sys_bpf::bpf_prog_info::default();
    let mut bytes = size_of::<sys_bpf::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes no more than `bytes`.
    match unsafe { sys_bpf::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut bytes) } {
        0 => Ok(info),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// The type information that a program was loaded with.
fn types_of(program: &libbpf_rs::Program<'_>) -> Option<OwnedFd> {
    let info = program_info(program.as_fd())
        .ok()
        .filter(|info| info.btf_id != 0)?;
    // SAFETY: only a number is passed.
    owned(unsafe { sys_bpf::bpf_btf_get_fd_by_id(info.btf_id) }).ok()
}

/// Can uprobe programs sleep (6.0), and use a map of free numbers nevertheless (6.9)? Found by loading one.
pub fn has_sleepable() -> bool {
    const LOAD_IMMEDIATE_64: u8 = 0x18;
    const MAP_FD: u8 = 1; // BPF_PSEUDO_MAP_FD
    // SAFETY: no options are passed, and the name is a constant.
    let map = owned(unsafe {
        sys_bpf::bpf_map_create(
            sys_bpf::BPF_MAP_TYPE_STACK,
            c"ubpf_tools".as_ptr(),
            0,
            4,
            1,
            ptr::null(),
        )
    });
    let Ok(map) = map else { return false };
    let mut load = sys_bpf::bpf_insn {
        code: LOAD_IMMEDIATE_64,
        imm: map.as_raw_fd(),
        ..Default::default()
    };
    load.set_dst_reg(1);
    load.set_src_reg(MAP_FD);
    let insns = [&[load, sys_bpf::bpf_insn::default()][..], &empty_program()].concat();
    load_with(
        &insns,
        sys_bpf::bpf_prog_load_opts {
            prog_flags: sys_bpf::BPF_F_SLEEPABLE,
            ..Default::default()
        },
    )
    .is_ok()
}

/// Does this kernel have multi-uprobe links that filter by process? Found by making links that must fail, each in
/// its own way: a folder is no file to probe (EBADF), and pid -1 is refused (EINVAL) only since the filter is about
/// processes and not threads (kernel commit 46ba0e49b642).
pub fn has_multi() -> bool {
    let attempt = |pid| try_link(sys_bpf::BPF_TRACE_UPROBE_MULTI, pid);
    attempt(0) == Some(libc::EBADF) && attempt(u32::MAX) == Some(libc::EINVAL)
}

/// Can a BPF program be loaded?
pub fn try_load() -> io::Result<()> {
    load_program(&empty_program(), 0).map(drop)
}

/// Can a ring buffer of this size be made?
pub fn try_ring(bytes: u32) -> io::Result<()> {
    // SAFETY: no options are passed, and the name is a constant.
    let map = unsafe {
        sys_bpf::bpf_map_create(
            sys_bpf::BPF_MAP_TYPE_RINGBUF,
            c"ubpf_tools".as_ptr(),
            0,
            0,
            bytes,
            ptr::null(),
        )
    };
    owned(map).map(drop)
}

/// Does it have session links as well (6.13)? Found in the same way: older ones take the program and refuse the link.
pub fn has_sessions() -> bool {
    has_multi() && try_link(sys_bpf::BPF_TRACE_UPROBE_SESSION, 0) == Some(libc::EBADF)
}

/// Why a link of this type to a folder fails; None where its program does not load.
fn try_link(attach_type: sys_bpf::bpf_attach_type, pid: u32) -> Option<i32> {
    let program = load_program(&empty_program(), attach_type).ok()?;
    let offset: u64 = 0;
    let mut opts = link_options();
    // SAFETY: as in `multi_link`.
    let multi = unsafe { &mut opts.__bindgen_anon_1.uprobe_multi };
    multi.path = c"/".as_ptr();
    multi.offsets = &offset;
    multi.cnt = 1;
    multi.pid = pid;
    link(program.as_raw_fd(), 0, attach_type, &opts)
        .err()?
        .raw_os_error()
}

/// `return 0`.
fn empty_program() -> [sys_bpf::bpf_insn; 2] {
    const MOV64_IMM: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    [MOV64_IMM, EXIT].map(|code| sys_bpf::bpf_insn {
        code,
        ..Default::default()
    })
}

/// `since` is the kernel that was the first to have it.
fn lacks(feature: &str, since: &str) -> anyhow::Error {
    let release = nix::sys::utsname::uname().map_or_else(
        |_| "this kernel".to_owned(),
        |name| format!("kernel {}", name.release().to_string_lossy()),
    );
    Failure::new(DENIED, format!("{release} has no {feature} (since {since})")).into()
}

/// Can a program ask for its cookie? Kernels that can have perf links as well (both 5.15).
pub fn has_cookies() -> bool {
    // SAFETY: no options are passed.
    unsafe {
        sys_bpf::libbpf_probe_bpf_helper(
            sys_bpf::BPF_PROG_TYPE_KPROBE,
            sys_bpf::BPF_FUNC_get_attach_cookie,
            ptr::null(),
        ) == 1
    }
}

const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe/type";

fn pmu_type() -> Result<u32> {
    fs::read_to_string(UPROBE_PMU)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| {
            Failure::new(
                DENIED,
                format!("this kernel offers no uprobes: {UPROBE_PMU} cannot be read"),
            )
            .hint("the kernel must be built with CONFIG_UPROBE_EVENTS=y, and /sys must be mounted")
            .into()
        })
}

// From linux/perf_event.h.
const PERF_EVENT_IOC_ENABLE: u64 = 0x2400;
const PERF_EVENT_IOC_SET_BPF: u64 = 0x4004_2408;
const PERF_FLAG_FD_CLOEXEC: u64 = 8;

/// A disabled perf event at an instruction of a file.
fn perf_event(to: Destination<'_>, point: &ProbePoint) -> io::Result<OwnedFd> {
    // SAFETY: a structure of integers, for which all zeroes is the kernel's "nothing asked for".
    let mut attr: sys_bpf::perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<sys_bpf::perf_event_attr>() as u32;
    attr.type_ = pmu_type().map_err(io::Error::other)?;
    // See .../uprobe/format/: bit 0 is retprobe, bits 32 to 63 are ref_ctr_offset.
    let semaphore = u32::try_from(point.semaphore.unwrap_or(0)).map_err(io::Error::other)?;
    attr.config = u64::from(semaphore) << 32 | u64::from(to.kind == Kind::ReturnProbe);
    attr.__bindgen_anon_3.uprobe_path = to.path.as_ptr() as u64;
    attr.__bindgen_anon_4.probe_offset = point.offset;
    let (pid, cpu) = match to.pid {
        Some(pid) => (pid as i32, -1),
        None => (-1, 0), // one CPU stands for all: the probe is not per CPU
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

fn perf_ioctl(event: &OwnedFd, request: u64, argument: RawFd) -> io::Result<()> {
    // SAFETY: these two requests take an integer, no pointer.
    match unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_replaces_the_mark_and_nothing_else() {
        let load = |value: u64| {
            let mut low = sys_bpf::bpf_insn {
                code: 0x18,
                imm: value as u32 as i32,
                ..Default::default()
            };
            low.set_dst_reg(1);
            [
                low,
                sys_bpf::bpf_insn {
                    imm: (value >> 32) as u32 as i32,
                    ..Default::default()
                },
            ]
        };
        let mut insns = [load(COOKIE_MARK), load(COOKIE_MARK + 1), load(COOKIE_MARK)].concat();
        write_cookie(&mut insns, 0x1234_5678_9abc_def0);
        let values: Vec<u64> = insns
            .chunks(2)
            .map(|pair| u64::from(pair[0].imm as u32) | u64::from(pair[1].imm as u32) << 32)
            .collect();
        assert_eq!(
            values,
            [0x1234_5678_9abc_def0, COOKIE_MARK + 1, 0x1234_5678_9abc_def0]
        );
    }
}
