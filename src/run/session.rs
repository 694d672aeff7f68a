//! One run of a tool: from the loaded programs to the last row.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libbpf_rs::Link;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::find::stack::symbolize::{Frame, Symbolizer, ends_whole};
use crate::output::escape::printable;
use crate::output::{Output, Value};
use crate::privileges::{self, Duties};
use crate::probe::attach::Attacher;
use crate::probe::command::TracedCommand;
use crate::probe::counters::BpfCounter;
use crate::probe::follow::ChildFollower;
use crate::probe::hits::HitCounters;
use crate::probe::meter::Meter;
use crate::probe::mmap_events::{MappedFile, MmapEvent, MmapEvents};
use crate::probe::ring::RingReader;
use crate::probe::scope::breakpoints::Breakpoints;
use crate::probe::scope::shared_attacher::SharedAttacher;
use crate::probe::scope::watcher::{JoinedProcess, Notice, ProcessWatcher};
use crate::probe::search::files::Targets;
use crate::probe::signals::SignalHandlers;
use crate::run::cost_report;

/// Threads whose calls can be matched with their returns at a time.
const THREADS: u32 = 8192;
/// `OWNER_SETS` of src/bpf/calls.bpf.h.
const OWNER_SETS: u32 = 1024;

/// Writes the constants of `src/bpf/event.bpf.h` and `src/bpf/filter.bpf.h` into a skeleton's `.rodata`.
macro_rules! configure {
    ($rodata:expr, $filter:expr, $ring_bytes:expr, $way:expr) => {{
        $crate::probe::scope::filter::configure_filter!($rodata, $filter);
        $rodata.has_cookies = $way.has_cookies();
        $rodata.wake_at = $crate::run::session::wake_at($ring_bytes);
    }};
}
pub(crate) use configure;

/// Makes room in the maps of src/bpf/calls.bpf.h, if calls are watched until they return.
macro_rules! make_room_for_calls {
    ($maps:expr, $watched:expr) => {{
        let [threads, owner_sets] = $crate::run::session::room_for_calls($watched);
        $maps.threads.set_max_entries(threads)?;
        $maps.claims.set_max_entries(threads)?;
        $maps.owner_sets.set_max_entries(owner_sets)?;
    }};
}
pub(crate) use make_room_for_calls;

/// Entries of the maps of threads, and of that of sets of their owners.
pub fn room_for_calls(watched: bool) -> [u32; 2] {
    if watched { [THREADS, OWNER_SETS] } else { [1, 1] }
}

/// How full a ring may get before a resting reader is woken, bytes.
pub fn wake_at(ring_bytes: u32) -> u64 {
    const MOST: u32 = 256 << 10;
    (ring_bytes / 4).min(MOST).into()
}

/// Attaches programs whose sections say where to. They are in as long as the links live.
pub fn attach_all<const N: usize>(programs: [&libbpf_rs::ProgramMut<'_>; N]) -> Result<Vec<Link>> {
    let links = programs.into_iter().map(|program| program.attach());
    links
        .collect::<Result<_, _>>()
        .context("failed to attach to the kernel's tracepoints")
}

/// When a run ends, and what it says on the way.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub duration: Option<Duration>,
    pub interval: Option<Duration>,
    /// Rows to print.
    pub rows: Option<u64>,
    /// What the probes cost is told at the end.
    pub cost: bool,
    /// Share of the CPU time that the probes may take.
    pub max_overhead: Option<f64>,
    pub quiet: bool,
    pub verbose: bool,
}

/// What a tool's loop has to look at next.
pub enum Step<'a> {
    /// A record of the ring, which starts with a [`Header`](super::event::Header).
    Event(&'a [u8]),
    /// The interval has passed.
    Tick,
}

/// While events keep coming, the reader sleeps this long between batches: short enough for an eye, and long enough
/// that a batch is worth its wakeup.
const REST: Duration = Duration::from_millis(5);
/// Losses are told at most this often.
const LOSS_REPORT: Duration = Duration::from_secs(1);

/// The last line of a stack whose walk did not reach the function where the thread began.
const CUT: &str = "[cut: a function without frame pointer]";
/// All that is known of a stack that `bpf_get_stack` gave an error for.
const NO_STACK: &str = "[the kernel could not read the stack]";

const RING: u64 = 0;
const SIGNALS: u64 = 1;
const WATCH: u64 = 2;
const STDOUT: u64 = 3;
const NEWCOMERS: u64 = 4;

/// A run in progress.
pub struct Session<'a> {
    ring: RingReader,
    epoll: Epoll,
    signals: SignalHandlers,
    watch: Option<MmapEvents>,
    targets: Targets,
    /// In front of the attacher, which its thread shares.
    newcomers: Option<ProcessWatcher>,
    attacher: SharedAttacher,
    /// Processes that had probes at the start, and what became of those that came later.
    present: usize,
    later: Later,
    command: Option<TracedCommand>,
    follow: Option<ChildFollower>,
    /// Names addresses; None when no stacks are asked for.
    symbolizer: Option<Symbolizer>,
    /// Scratch of `name_frames`.
    frames: Vec<Frame>,
    cut: Rc<str>,
    no_stack: Rc<str>,
    limits: Limits,
    started: Instant,
    next_tick: Option<Instant>,
    lost: BpfCounter<'a>,
    unmatched: BpfCounter<'a>,
    hits: HitCounters<'a>,
    /// Measures what the probes cost, if that is of interest.
    meter: Option<Meter>,
    reported: (u64, Option<Instant>),
    /// Events were read since the last sleep.
    busy: bool,
    phase: Phase,
    /// Of the command, once it has ended.
    command_status: Option<u8>,
}

/// Processes that matched after the start.
#[derive(Default)]
struct Later {
    joined: u64,
    /// Those among them that stood still until their probes were in, and the longest time, nanoseconds.
    held: u64,
    held_ns: u64,
    /// The longest that another one went without probes, nanoseconds.
    late_ns: u64,
    /// Those that were gone before.
    missed: u64,
    /// Those that have none.
    failed: u64,
}

enum Phase {
    Running,
    /// The probes are on their way out; the ring is read meanwhile.
    Detaching(JoinHandle<()>),
    /// What is in the ring is the last of it.
    Draining,
    /// What is in the ring now is the last that is shown: to remove many links takes a while, which a summary does not
    /// have to wait for.
    Leaving {
        looked: bool,
    },
}

/// What a session is made of.
pub struct Parts<'a> {
    /// The ring buffer, and its size.
    pub events: BorrowedFd<'a>,
    pub ring_bytes: u32,
    pub lost: &'a u64,
    pub unmatched: &'a u64,
    pub hits: &'a [u64],
    pub targets: Targets,
    pub attacher: Attacher,
    pub command: Option<TracedCommand>,
    pub follow: Option<ChildFollower>,
    pub symbolizer: Option<Symbolizer>,
    /// The tool looks at the processes that it shows.
    pub inspects: bool,
    /// The tool reads maps while it runs.
    pub reads_maps: bool,
    pub limits: Limits,
}

impl<'a> Session<'a> {
    /// Attaches, lets the command run, and tells that tracing has begun.
    pub fn start(parts: Parts<'a>, out: &mut Output) -> Result<Self> {
        let Parts {
            events,
            ring_bytes,
            lost,
            unmatched,
            hits,
            mut targets,
            mut attacher,
            mut command,
            follow,
            mut symbolizer,
            inspects,
            reads_maps,
            limits,
        } = parts;
        let signals = SignalHandlers::install()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let ring = RingReader::map(events, ring_bytes as usize).context("failed to map the ring buffer")?;
        // Edge-triggered, so that records which may wait do not end the rest: only the kernel's wakeup does.
        epoll.add(
            events,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, RING),
        )?;
        epoll.add(signals.fd(), EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        // Before the look at what is there, so that nothing can appear in between.
        let watch = (targets.may_grow() || symbolizer.is_some())
            .then(MmapEvents::start)
            .transpose()
            .or_else(|error| told(&error, limits))?;
        if let Some(watch) = &watch {
            epoll.add(watch.fd(), EpollEvent::new(EpollFlags::EPOLLIN, WATCH))?;
        }
        watch_reader(&epoll, io::stdout().as_fd());
        let mut newcomers = match attacher.breakpoints() {
            Breakpoints::Matching(filter) => Some(ProcessWatcher::watch(filter)?),
            Breakpoints::AllProcesses | Breakpoints::Process(_) => None,
        };

        let hits = HitCounters::new(hits);
        let mut meter = (limits.cost || limits.max_overhead.is_some())
            .then(|| Meter::new(&mut attacher, &hits, limits.max_overhead))
            .transpose()?;
        targets.find()?;
        targets.attach(&mut attacher)?;
        let present = match &mut newcomers {
            Some(newcomers) => newcomers.attach_present(&mut attacher)?,
            None => None,
        };
        for warning in newcomers.iter_mut().flat_map(ProcessWatcher::take_warnings) {
            eprintln!("warning: {warning}");
        }
        match (&newcomers, present) {
            (Some(newcomers), Some(_)) => {
                epoll.add(newcomers.fd(), EpollEvent::new(EpollFlags::EPOLLIN, NEWCOMERS))?;
                targets.attached.refuse(attacher.members().refused);
            }
            (Some(_), None) => {
                newcomers = None;
                attacher.widen()?;
            }
            (None, _) => {}
        }
        if let Some(symbolizer) = &mut symbolizer {
            // Now, as they may be gone when their first event is looked at. Of later ones the watch tells.
            targets
                .processes()
                .iter()
                .for_each(|&pid| symbolizer.observe(pid));
        }
        if let Some(meter) = &mut meter {
            meter.begin(&attacher, &hits)?;
        }
        let started = Instant::now();
        let mut session = Self {
            ring,
            epoll,
            signals,
            watch,
            targets,
            newcomers: None,
            attacher: SharedAttacher::new(attacher),
            present: present.unwrap_or(0),
            later: Later::default(),
            command: None,
            follow,
            symbolizer,
            frames: Vec::new(),
            cut: CUT.into(),
            no_stack: NO_STACK.into(),
            limits,
            started,
            next_tick: limits.interval.map(|interval| started + interval),
            lost: BpfCounter::new(lost),
            unmatched: BpfCounter::new(unmatched),
            hits,
            meter,
            reported: (0, None),
            busy: false,
            phase: Phase::Running,
            command_status: None,
        };
        session.newcomers = newcomers;
        session.announce(out)?;
        if let Some(command) = &mut command {
            command.start()?;
        }
        session.command = command;
        privileges::drop_privileges(session.duties(inspects), reads_maps || session.meter.is_some())?;
        if let Some(newcomers) = &mut session.newcomers {
            newcomers.start(&session.attacher)?;
        }
        Ok(session)
    }

    /// The next thing to do, or None at the end. Sleeps until there is one; what is printed is flushed before.
    pub fn next(&mut self, out: &mut Output) -> Result<Option<Step<'_>>> {
        loop {
            if self.limits.rows.is_some_and(|rows| out.rows() >= rows) {
                return Ok(None);
            }
            if out.is_full() {
                out.flush()?;
            }
            if self.ring.advance() {
                self.busy = true;
                return Ok(Some(Step::Event(self.ring.record())));
            }
            if matches!(self.phase, Phase::Leaving { looked: true }) {
                return Ok(None);
            }
            let more = self.ring.look();
            match &mut self.phase {
                Phase::Leaving { looked } if more => *looked = true,
                Phase::Draining | Phase::Leaving { .. } if !more => return Ok(None),
                Phase::Detaching(thread) if thread.is_finished() && !more => self.phase = Phase::Draining,
                _ => {
                    if self.attend(out, more)? {
                        return Ok(Some(Step::Tick));
                    }
                }
            }
        }
    }

    /// The stack of a process as lines, from the return addresses of its calls, innermost first. A stack that ends
    /// too early says so in its last line.
    pub fn name_frames(&mut self, pid: u32, addresses: &[u64], lines: &mut Vec<Rc<str>>) {
        lines.clear();
        let Some(symbolizer) = &mut self.symbolizer else {
            return;
        };
        self.frames.clear();
        symbolizer.frames(pid, addresses, false, &mut self.frames);
        let astray = self
            .frames
            .iter()
            .position(|frame| !frame.mapped)
            .unwrap_or(self.frames.len());
        lines.extend(self.frames[..astray].iter().map(|frame| Rc::clone(&frame.text)));
        if addresses.is_empty() {
            lines.push(Rc::clone(&self.no_stack));
        } else if !ends_whole(&self.frames) {
            lines.push(Rc::clone(&self.cut));
        }
    }

    /// Takes the probes out if they still are in, and tells what the run came to. Returns the exit status.
    pub fn finish(mut self, out: &mut Output) -> Result<u8> {
        let duration = self.started.elapsed();
        if matches!(self.phase, Phase::Running) {
            self.read_meter()?;
        }
        self.report_losses(out, true);
        let newcomers = self.newcomers.take().map(|mut newcomers| {
            newcomers.end();
            self.on_notices(newcomers.notices(), out);
        });
        let (lost, unmatched) = (self.lost.get(), self.unmatched.get());
        let mut fields = vec![
            ("events", Value::U64(out.rows())),
            ("lost", Value::U64(lost)),
            ("unmatched", Value::U64(unmatched)),
            ("duration_ns", Value::U64(duration.as_nanos() as u64)),
            ("hits", Value::U64(self.hits.total())),
        ];
        fields.extend(cost_report::summary_fields(self.meter.as_ref()));
        if newcomers.is_some() {
            fields.push(("joined", Value::U64(self.later.joined)));
            fields.push(("held", Value::U64(self.later.held)));
            fields.push(("late_max_ns", Value::U64(self.later.late_ns)));
            fields.push(("missed", Value::U64(self.later.missed)));
        }
        out.record("summary", &fields);
        out.flush()?;
        if let Some(meter) = self.meter.as_ref().filter(|_| self.limits.cost) {
            eprintln!("cost: {}", cost_report::cost_text(&meter.total()));
        }
        self.say_later();
        if unmatched > 0 {
            eprintln!("{unmatched} calls were not seen to return, and are not shown");
        }
        let unfollowed = self.follow.as_ref().map_or(0, ChildFollower::missed);
        if unfollowed > 0 {
            eprintln!("warning: {unfollowed} children could not be followed: there are too many processes");
        }
        if let (Some(command), None) = (&self.command, self.command_status) {
            self.say(&format!("the command goes on as pid {}", command.pid()));
        }
        self.attacher.lock().detach();
        Ok(self.command_status.unwrap_or(0))
    }

    /// Looks after everything but events: before each batch of them, and while there are none, sleeping until something
    /// happens. True when the interval has passed.
    fn attend(&mut self, out: &mut Output, more: bool) -> Result<bool> {
        let timeout = match more {
            true => EpollTimeout::ZERO,
            false => self.before_sleep(out)?,
        };
        self.report_losses(out, false);
        let mut ready = [EpollEvent::empty(); 8];
        let count = match self.epoll.wait(&mut ready, timeout) {
            Err(Errno::EINTR) => 0,
            other => other.context("failed to wait for events")?,
        };
        for event in &ready[..count] {
            match event.data() {
                SIGNALS => self.on_signal()?,
                WATCH => self.on_changes(),
                NEWCOMERS => {
                    let notices = self.newcomers.as_ref().map(ProcessWatcher::notices);
                    self.on_notices(notices.unwrap_or_default(), out);
                }
                STDOUT => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
                _ => {}
            }
        }
        if more && self.symbolizer.is_some() {
            // What a process mapped before these events has to be known before their stacks are named.
            self.on_changes();
        }
        let now = Instant::now();
        if self
            .limits
            .duration
            .is_some_and(|duration| now >= self.started + duration)
        {
            self.end()?;
        }
        self.check_cost(out)?;
        Ok(self.tick(now))
    }

    /// Flushes, gives the ring's room back, and says how long to sleep.
    fn before_sleep(&mut self, out: &mut Output) -> Result<EpollTimeout> {
        out.flush()?;
        let rest = match (&self.phase, self.busy) {
            (Phase::Running, false) => !self.ring.rest(),
            _ => {
                self.ring.release();
                true
            }
        };
        self.busy = false;
        Ok(self.timeout(rest.then_some(REST)))
    }

    fn tick(&mut self, now: Instant) -> bool {
        let (Some(next), Some(interval)) = (self.next_tick, self.limits.interval) else {
            return false;
        };
        if now < next || !matches!(self.phase, Phase::Running) {
            return false;
        }
        // A tick that could not be served in time is skipped, not made up for.
        let late = now.duration_since(next).as_nanos() / interval.as_nanos().max(1);
        self.next_tick = Some(next + interval * (late as u32 + 1));
        true
    }

    /// How long to sleep: until the next moment at which there is something to do, for ever if there is none.
    fn timeout(&self, rest: Option<Duration>) -> EpollTimeout {
        let now = Instant::now();
        let until = |moment: Instant| moment.saturating_duration_since(now);
        let running = matches!(self.phase, Phase::Running);
        let deadline = self
            .limits
            .duration
            .filter(|_| running)
            .map(|duration| until(self.started + duration));
        let tick = self.next_tick.filter(|_| running).map(until);
        let check = self
            .meter
            .as_ref()
            .filter(|_| running)
            .map(|meter| until(meter.next()));
        match [rest, deadline, tick, check].into_iter().flatten().min() {
            // Rounded up: a timeout that ends early would be slept again and again.
            Some(time) => {
                EpollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(EpollTimeout::NONE)
            }
            None => EpollTimeout::NONE,
        }
    }

    /// Begins the end: no new events, and those on their way are still shown.
    fn end(&mut self) -> Result<()> {
        if matches!(self.phase, Phase::Running) {
            self.read_meter()?;
            if self.newcomers.is_some() {
                self.phase = Phase::Leaving { looked: false };
                return Ok(());
            }
            self.phase = match self.attacher.lock().detach_in_background() {
                Some(thread) => Phase::Detaching(thread),
                None => Phase::Draining,
            };
        }
        Ok(())
    }

    /// Once more before the probes go.
    fn read_meter(&mut self) -> Result<()> {
        if let Some(meter) = &mut self.meter {
            meter.read(&self.attacher.lock(), &self.hits)?;
        }
        Ok(())
    }

    /// Ends the run when the probes cost more than allowed.
    fn check_cost(&mut self, out: &mut Output) -> Result<()> {
        let Some(meter) = self
            .meter
            .as_mut()
            .filter(|_| matches!(self.phase, Phase::Running))
        else {
            return Ok(());
        };
        let cost = meter.check(&self.attacher.lock(), &self.hits)?;
        if let Some(cost) = cost {
            out.record("stopped", &cost_report::stopped_fields(meter.limit(), &cost));
            let (text, hint) = cost_report::limit_exceeded_text(meter.limit(), &cost);
            eprintln!("{text}\nhint: {hint}");
            self.end()?;
        }
        Ok(())
    }

    fn on_signal(&mut self) -> Result<()> {
        self.signals.clear();
        if matches!(self.phase, Phase::Running) {
            // A child that has ended still knows what it has used, until it is asked for its status.
            self.read_meter()?;
        }
        if let (Some(command), None) = (&self.command, self.command_status) {
            self.command_status = command.exit_status();
        }
        if self.command_status.is_some() || SignalHandlers::ending().load(Ordering::Relaxed) {
            self.end()?;
        }
        Ok(())
    }

    fn on_changes(&mut self) {
        let Some(changes) = self.watch.as_mut().map(MmapEvents::read) else {
            return;
        };
        for change in changes {
            if let Some(symbolizer) = &mut self.symbolizer {
                observe(symbolizer, &change);
            }
            match change {
                MmapEvent::Mapped(mapped) => self.on_mapped(&mapped),
                MmapEvent::Exec { pid } => self.targets.replaced(pid),
                MmapEvent::Lost(count) => eprintln!(
                    "warning: {count} new programs or libraries went unnoticed; what they call is perhaps not shown"
                ),
                MmapEvent::Forked { .. } | MmapEvent::Exited { .. } => {}
            }
        }
    }

    /// Tells of processes that have joined.
    fn on_notices(&mut self, notices: Vec<Notice>, out: &mut Output) {
        for notice in notices {
            match notice {
                Notice::Joined(joined) => self.on_joined(&joined, out),
                Notice::Missed => self.later.missed += 1,
                Notice::Failed(reason) => {
                    self.later.failed += 1;
                    if self.later.failed == 1 {
                        eprintln!("warning: {}", printable(reason.as_bytes()));
                    }
                }
            }
        }
    }

    fn on_joined(&mut self, joined: &JoinedProcess, out: &mut Output) {
        self.later.joined += 1;
        self.later.held += u64::from(joined.held);
        let worst = match joined.held {
            true => &mut self.later.held_ns,
            false => &mut self.later.late_ns,
        };
        *worst = joined.late_ns.max(*worst);
        out.record(
            "joined",
            &[
                ("time", Value::Time(out.wall(joined.since_ns))),
                ("pid", Value::U64(joined.pid.into())),
                ("comm", Value::Bytes(&joined.comm)),
                ("late_ns", Value::U64(joined.late_ns)),
                ("held", Value::Bool(joined.held)),
            ],
        );
        if self.limits.verbose {
            let how = if joined.held { "held for" } else { "late by" };
            let ms = joined.late_ns as f64 / 1e6;
            let name = printable(&joined.comm);
            self.say(&format!(
                "tracing pid {} ({name}) too, {how} {ms:.1} ms",
                joined.pid
            ));
        }
    }

    fn say_later(&self) {
        let later = &self.later;
        let late = later.joined - later.held;
        let ms = |ns: u64| ns as f64 / 1e6;
        if later.held > 0 {
            let worst = ms(later.held_ns);
            self.say(&format!(
                "{} programs were held at their start until their probes were in, at most {worst:.1} ms",
                later.held
            ));
        }
        if late + later.missed > 0 {
            let worst = ms(later.late_ns);
            self.say(&format!(
                "{late} processes got their probes late, by at most {worst:.1} ms, and {} were gone before; what they \
                 called until then is not shown",
                later.missed
            ));
        }
        if later.failed > 0 {
            eprintln!("warning: {} processes match and have no probes", later.failed);
        }
        let refused = self.attacher.lock().members().refused;
        warn_of_refused(refused.saturating_sub(self.targets.attached.refused));
    }

    fn duties(&self, inspects: bool) -> Duties {
        match self.watch.is_some() && self.targets.may_grow() {
            _ if self.newcomers.as_ref().is_some_and(ProcessWatcher::holds) => Duties::Hold,
            _ if self.newcomers.is_some() => Duties::Attach,
            true => Duties::Attach,
            false if inspects || self.symbolizer.is_some() => Duties::Inspect,
            false => Duties::Read,
        }
    }

    fn on_mapped(&mut self, mapped: &MappedFile) {
        let refused = self.targets.attached.refused;
        let result = self.targets.appeared(mapped).and_then(|found| {
            self.targets.attach(&mut self.attacher.lock())?;
            Ok(found)
        });
        match result {
            Ok(true) if self.limits.verbose => self.say(&format!("tracing {} too", shown(&mapped.path))),
            Ok(_) => {}
            Err(error) => eprintln!("warning: {}", printable(format!("{error:#}").as_bytes())),
        }
        warn_of_refused(self.targets.attached.refused - refused);
        self.tell_placed();
    }

    fn announce(&mut self, out: &mut Output) -> Result<()> {
        let attached = &self.targets.attached;
        let files: Vec<Rc<str>> = attached
            .files
            .iter()
            .map(|path| path.to_string_lossy().into())
            .collect();
        let mut fields = vec![
            ("probes", Value::U64(attached.probes as u64)),
            ("stepped", Value::U64(attached.stepped as u64)),
            ("files", Value::Lines(&files)),
        ];
        if self.newcomers.is_some() {
            fields.push(("processes", Value::U64(self.present as u64)));
        }
        out.record("attached", &fields);
        out.flush()?;
        let place = match &files[..] {
            [] => "files to come".to_owned(),
            [file] => printable(file.as_bytes()),
            files if self.limits.verbose => files
                .iter()
                .map(|file| printable(file.as_bytes()))
                .collect::<Vec<_>>()
                .join(", "),
            files => format!("{} files", files.len()),
        };
        let whose = match &self.newcomers {
            Some(_) => format!(" of {} processes", self.present),
            None => String::new(),
        };
        self.say(&format!(
            "Tracing {} functions in {place}{whose}. Hit Ctrl-C to end.",
            attached.probes
        ));
        for failure in &attached.failed {
            eprintln!("warning: {}", printable(failure.as_bytes()));
        }
        warn_of_refused(attached.refused);
        self.tell_placed();
        Ok(())
    }

    fn tell_placed(&mut self) {
        let placed = self.targets.take_placed();
        if self.limits.verbose {
            placed
                .iter()
                .for_each(|line| eprintln!("probe at {}", printable(line.as_bytes())));
        }
    }

    fn say(&self, text: &str) {
        if !self.limits.quiet {
            eprintln!("{text}");
        }
    }

    /// Tells of losses since the last report, at the end with the whole number.
    fn report_losses(&mut self, out: &mut Output, last: bool) {
        let lost = self.lost.get();
        let (reported, when) = self.reported;
        let due = last || when.is_none_or(|when| when.elapsed() >= LOSS_REPORT);
        if lost == reported || !due {
            return;
        }
        self.reported = (lost, Some(Instant::now()));
        out.record(
            "lost",
            &[
                ("count", Value::U64(lost - reported)),
                ("total", Value::U64(lost)),
            ],
        );
        eprintln!(
            "warning: lost {} events, {lost} in all: give more room with --buffer-size, or filter more",
            lost - reported
        );
    }
}

/// The run can do without; what it then misses is said.
fn told(error: &anyhow::Error, limits: Limits) -> Result<Option<MmapEvents>> {
    if !limits.quiet {
        eprintln!("warning: {error:#}; programs that start later are perhaps not seen");
    }
    Ok(None)
}

fn warn_of_refused(functions: usize) {
    if functions > 0 {
        eprintln!("warning: the kernel cannot probe {functions} functions; their calls are not shown");
    }
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// Keeps the memory maps of processes, so that the stacks of one that is gone still have names.
fn observe(symbolizer: &mut Symbolizer, change: &MmapEvent) {
    match change {
        MmapEvent::Mapped(m) => symbolizer.mapped(
            m.pid,
            m.start,
            m.end,
            m.offset,
            &m.path,
            (makedev(m.dev), m.inode),
        ),
        MmapEvent::Exec { pid } => symbolizer.exec(*pid),
        MmapEvent::Forked { parent, child } => symbolizer.forked(*parent, *child),
        MmapEvent::Exited { pid } => symbolizer.exited(*pid),
        MmapEvent::Lost(_) => {}
    }
}

fn makedev((major, minor): (u32, u32)) -> u64 {
    libc::makedev(major, minor)
}

/// A pipe whose reader is gone ends the run at once, not at the next row. Files cannot be watched and need not be.
fn watch_reader(epoll: &Epoll, stdout: BorrowedFd<'_>) {
    let _ = epoll.add(stdout, EpollEvent::new(EpollFlags::empty(), STDOUT));
}
