//! What the probes cost those who hit them: each hit is a trap, whose price is measured on this machine when the run
//! begins, and a run of a program, which the kernel times.
//!
//! The price of a trap is that of one thread with nothing else to do; with cold caches, or several threads in the same
//! function, it is higher. So all of this is an estimate, which tests/e2e/cost.rs holds against measured loops.

use std::arch::global_asm;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys as sys_bpf;
use libbpf_rs::skel::SkelBuilder;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::bpf::prices::PricesSkelBuilder;
use crate::find::host::proc::Proc;
use crate::output::Value;
use crate::probe::attach::{AttachMode, Attacher, Program};
use crate::probe::hits::{Hits, Trap, TrapCounts};
use crate::probe::point::{Cookie, Ends, ProbePoint};
use crate::probe::scope::filter::Filter;
use crate::run::session::load;

/// How often is looked at what the probes cost.
const PERIOD: Duration = Duration::from_millis(250);
/// Probes that take less than this share of the time that passes are never stopped: a process that sleeps nearly all the
/// time may spend half of its microseconds in them, and nobody notices.
const UNNOTICED: f64 = 0.001;

// The probes that are measured sit on the first instructions of these. The kernel executes the first and the third one
// itself, as those of most functions, and single-steps the second one. The third is called from elsewhere too, which may
// be another unit of the compiler.
unsafe extern "C" {
    fn ubpf_price_emulated();
    fn ubpf_price_stepped();
    pub(super) fn ubpf_price_returning();
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text",
    ".p2align 4",
    "ubpf_price_emulated: push rbp; pop rbp; ret",
    ".p2align 4",
    "ubpf_price_stepped: xor eax, eax; ret",
    ".p2align 4",
    ".globl ubpf_price_returning",
    ".hidden ubpf_price_returning",
    "ubpf_price_returning: push rbp; pop rbp; ret",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text",
    ".p2align 4",
    "ubpf_price_emulated: b 1f; 1: ret",
    ".p2align 4",
    "ubpf_price_stepped: mov x0, xzr; ret",
    ".p2align 4",
    ".globl ubpf_price_returning",
    ".hidden ubpf_price_returning",
    "ubpf_price_returning: b 2f; 2: ret",
    ".popsection",
);

/// What the kernel takes for a trap, without the program that it leads to; nanoseconds.
pub struct Prices {
    pub emulated: f64,
    pub stepped: f64,
    /// Of a return probe, over that of its entry.
    pub returning: f64,
}

impl Prices {
    /// The prices of this moment.
    pub fn now(way: AttachMode) -> Result<Self> {
        let _timing = time_programs()?;
        Self::measure(way)
    }

    /// Probes functions of this process that do nothing, with programs that do nothing. The kernel must already time
    /// programs, since that is part of the price.
    fn measure(way: AttachMode) -> Result<Self> {
        let mut storage = MaybeUninit::uninit();
        let mut open = PricesSkelBuilder::default().open(&mut storage)?;
        way.prepare([&mut open.progs.price_entry, &mut open.progs.price_return]);
        let skel = load(open)?;
        let programs = vec![
            Program {
                program: &skel.progs.price_return,
                runs: Ends::Return,
            },
            Program {
                program: &skel.progs.price_entry,
                runs: Ends::Entry,
            },
        ];
        // Nobody else pays: the breakpoints are in this process alone.
        let own = Filter::of_process(std::process::id());
        let mut attacher = Attacher::new(way, &own, programs)?;
        let file = File::open("/proc/self/exe").context("failed to open this program")?;
        attacher.attach(&file, &own_points()?)?;
        let [emulated, stepped, both] =
            ns_per_call([ubpf_price_emulated, ubpf_price_stepped, ubpf_price_returning]);
        let (count, ns) = attacher.runs()?;
        ensure!(count >= u64::from(4 * ROUNDS * CALLS), "its probes were not hit");
        // To take them out takes longer than all of this.
        attacher.detach_in_background();
        let program = ns as f64 / count as f64;
        // On a machine that is itself emulated, a timed program can take longer than the whole trap does at other times.
        let price = |ns: f64| ns.max(0.0);
        Ok(Self {
            emulated: price(emulated - program),
            stepped: price(stepped - program),
            returning: price(both - emulated - program),
        })
    }

    fn of(&self, trap: Trap) -> f64 {
        match trap {
            Trap::Emulated => self.emulated,
            Trap::Stepped => self.stepped,
            Trap::Return => self.returning,
            Trap::ReturnOfEmulated => self.emulated + self.returning,
            Trap::ReturnOfStepped => self.stepped + self.returning,
        }
    }
}

/// Where the functions are that are measured.
pub(super) fn own_points() -> Result<[ProbePoint; 3]> {
    let mappings = Proc::host()
        .mappings(std::process::id())
        .context("failed to read the memory map of this process")?;
    let point = |function: unsafe extern "C" fn(), ends| -> Result<ProbePoint> {
        let address = function as usize as u64;
        let mapping = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
            .context("failed to find this program in its memory map")?;
        let offset = address - mapping.start + mapping.offset;
        Ok(ProbePoint {
            offset,
            cookie: Cookie::default(),
            ends,
            semaphore: None,
            movable: None,
            stepped: false,
        })
    };
    Ok([
        point(ubpf_price_emulated, Ends::Entry)?,
        point(ubpf_price_stepped, Ends::Entry)?,
        point(ubpf_price_returning, Ends::Both)?,
    ])
}

/// How often each function is called to be measured.
const ROUNDS: u32 = 16;
const CALLS: u32 = 48;

/// How long a call of each function takes in the best of several rounds: the others were disturbed. They take turns, so
/// that a disturbance that lasts hits all of them and not one. Not in CPU time, whose clock is coarse on some machines.
fn ns_per_call<const N: usize>(functions: [unsafe extern "C" fn(); N]) -> [f64; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..ROUNDS {
        for (best, function) in best.iter_mut().zip(functions) {
            let start = Instant::now();
            for _ in 0..CALLS {
                // SAFETY: one of the functions above, which change no memory and no register that a caller keeps.
                unsafe { function() };
            }
            *best = start.elapsed().min(*best);
        }
    }
    best.map(|time| time.as_nanos() as f64 / f64::from(CALLS))
}

/// Makes the kernel time BPF programs as long as the descriptor is open (since 5.8): all programs of the machine, which
/// costs each run of them two looks at the clock.
fn time_programs() -> Result<OwnedFd> {
    // SAFETY: only a number is passed.
    let fd = unsafe { sys_bpf::bpf_enable_stats(sys_bpf::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd)).context("failed to have BPF programs timed");
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Who hits the probes, and so pays for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payers {
    Process(u32),
    Everybody,
}

impl Payers {
    /// CPU time that they have used up to now, nanoseconds; None when the process is gone.
    fn cpu_ns(self) -> Option<u64> {
        match self {
            Payers::Process(pid) => {
                let clock = clock_getcpuclockid(Pid::from_raw(pid as i32)).ok()?;
                let time = clock_gettime(clock).ok()?;
                Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
            }
            Payers::Everybody => busy_ns(&fs::read_to_string("/proc/stat").ok()?, tick_ns()),
        }
    }

    /// CPU time that cannot be told from none, nanoseconds.
    fn resolution_ns(self) -> u64 {
        match self {
            Payers::Process(_) => 1,
            Payers::Everybody => tick_ns(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Payers::Process(_) => "the traced process",
            Payers::Everybody => "all processes",
        }
    }
}

/// What the CPUs did but wait, of the first line of /proc/stat.
fn busy_ns(stat: &str, tick_ns: u64) -> Option<u64> {
    let numbers: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = numbers[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) * tick_ns)
}

/// The unit of the kernel's times of processes, USER_HZ.
fn tick_ns() -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    1_000_000_000 / ticks.max(1) as u64
}

/// The counters at a moment.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    hits: TrapCounts,
    /// Of the programs: how many, and nanoseconds in all.
    runs: (u64, u64),
    cpu_ns: u64,
}

/// What was spent between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    pub hits: u64,
    /// The kernel's traps, all of them; nanoseconds, as are the others.
    trap_ns: f64,
    /// Our programs.
    bpf_ns: f64,
    /// CPU time of those who paid, with what the probes took of it.
    cpu_ns: u64,
    passed: Duration,
    payers: Payers,
}

impl Spent {
    fn probes_ns(&self) -> f64 {
        self.trap_ns + self.bpf_ns
    }

    /// What part of the CPU time the probes took.
    fn share(&self) -> f64 {
        let cpu_ns = self.cpu_ns.max(self.payers.resolution_ns());
        (self.probes_ns() / cpu_ns as f64).min(1.0)
    }

    fn per_hit(&self, ns: f64) -> f64 {
        ns / self.hits.max(1) as f64
    }

    /// A line without its subject.
    pub fn text(&self) -> String {
        let us = |ns| self.per_hit(ns) / 1000.0;
        match self.hits {
            0 => "no hits".to_owned(),
            hits => format!(
                "{} hits, {:.2} us each ({:.2} the kernel's trap, {:.2} our program): about {} of the CPU time of {}",
                grouped(hits),
                us(self.probes_ns()),
                us(self.trap_ns),
                us(self.bpf_ns),
                percent(self.share()),
                self.payers.name()
            ),
        }
    }

    fn values(&self) -> [Value<'static>; 5] {
        let each = |ns| match self.hits {
            0 => Value::Null,
            _ => Value::U64(self.per_hit(ns).round() as u64),
        };
        [
            each(self.bpf_ns),
            each(self.trap_ns),
            Value::U64(self.probes_ns() as u64),
            Value::U64(self.cpu_ns),
            Value::Share(self.share()),
        ]
    }
}

/// Measures a run.
pub struct Meter {
    prices: Prices,
    /// Share of the CPU time that the probes may take.
    limit: Option<f64>,
    payers: Payers,
    first: Reading,
    last: Reading,
    /// The beginning of the last period, if that cost more than allowed.
    over_since: Option<Reading>,
    _timing: OwnedFd,
}

impl Meter {
    /// Measures prices. The attacher must not have attached anything yet.
    pub fn new(attacher: &mut Attacher, hits: &Hits<'_>, limit: Option<f64>) -> Result<Self> {
        let _timing = time_programs()?;
        let prices = Prices::measure(attacher.mode()).context("failed to measure the price of a probe")?;
        attacher.mark_traps();
        let payers = attacher.only_pid().map_or(Payers::Everybody, Payers::Process);
        let now = Reading {
            at: Instant::now(),
            hits: hits.by_trap(),
            runs: (0, 0),
            cpu_ns: payers.cpu_ns().unwrap_or(0),
        };
        Ok(Self {
            prices,
            limit,
            payers,
            first: now,
            last: now,
            over_since: None,
            _timing,
        })
    }

    /// The run begins: what was before does not count.
    pub fn begin(&mut self, attacher: &Attacher, hits: &Hits<'_>) -> Result<()> {
        self.read(attacher, hits)?;
        self.first = self.last;
        Ok(())
    }

    /// When [`Meter::check`] wants to be called again.
    pub fn next(&self) -> Instant {
        self.last.at + PERIOD
    }

    /// Once a period, looks at what that has cost. Returns what this and the last one have cost when it was more than
    /// allowed in both: a single one may be that of a program that starts, or of a program of ours that was interrupted.
    pub fn check(&mut self, attacher: &Attacher, hits: &Hits<'_>) -> Result<Option<Spent>> {
        if Instant::now() < self.next() {
            return Ok(None);
        }
        let before = self.last;
        let is_known = self.read(attacher, hits)?;
        if !is_known || !self.is_over(&self.spent(&before, &self.last)) {
            self.over_since = None;
            return Ok(None);
        }
        match self.over_since {
            Some(since) => Ok(Some(self.spent(&since, &self.last))),
            None => {
                self.over_since = Some(before);
                Ok(None)
            }
        }
    }

    fn is_over(&self, spent: &Spent) -> bool {
        let is_noticed = spent.probes_ns() > UNNOTICED * spent.passed.as_nanos() as f64;
        is_noticed && self.limit.is_some_and(|limit| spent.share() > limit)
    }

    /// Reads the counters. False when the CPU time is not known any more, and stays what it was.
    pub fn read(&mut self, attacher: &Attacher, hits: &Hits<'_>) -> Result<bool> {
        let cpu_ns = self.payers.cpu_ns();
        self.last = Reading {
            at: Instant::now(),
            hits: hits.by_trap(),
            runs: attacher.runs()?,
            cpu_ns: cpu_ns.unwrap_or(self.last.cpu_ns),
        };
        Ok(cpu_ns.is_some())
    }

    /// What the run has cost up to the last reading.
    pub fn whole(&self) -> Spent {
        self.spent(&self.first, &self.last)
    }

    /// What is to be said of probes that are stopped.
    pub fn excess(&self, spent: &Spent) -> (String, &'static str) {
        // As it was given: a percentage with few decimals.
        let limit = (self.limit.unwrap_or(1.0) * 1e6).round() / 1e4;
        let text = format!(
            "stopped, since the probes took more than {limit} % of the CPU time in the last {:.2} s: {}",
            spent.passed.as_secs_f64(),
            spent.text()
        );
        let hint = match self.payers {
            Payers::Process(_) => "trace functions that are called less often",
            Payers::Everybody => {
                "trace functions that are called less often, or one process with -p, so that no other pays"
            }
        };
        (text, hint)
    }

    /// Of a summary: what is not measured is null.
    pub fn summary(meter: Option<&Meter>) -> [(&'static str, Value<'static>); 8] {
        let spent = meter.map_or([Value::Null; 5], |meter| meter.whole().values());
        let [bpf, trap, probes, cpu, share] = spent;
        let price = |of: fn(&Prices) -> f64| {
            meter.map_or(Value::Null, |meter| Value::U64(of(&meter.prices).round() as u64))
        };
        [
            ("bpf_ns_per_hit", bpf),
            ("trap_ns_per_hit", trap),
            ("probes_ns", probes),
            ("cpu_ns", cpu),
            ("cpu_share", share),
            ("emulated_trap_ns", price(|prices| prices.emulated)),
            ("stepped_trap_ns", price(|prices| prices.stepped)),
            ("return_trap_ns", price(|prices| prices.returning)),
        ]
    }

    /// Of a record that says why the probes were stopped.
    pub fn stopped(&self, spent: &Spent) -> [(&'static str, Value<'static>); 8] {
        let [bpf, trap, probes, cpu, share] = spent.values();
        [
            ("max_overhead", self.limit.map_or(Value::Null, Value::Share)),
            ("period_ns", Value::U64(spent.passed.as_nanos() as u64)),
            ("hits", Value::U64(spent.hits)),
            ("bpf_ns_per_hit", bpf),
            ("trap_ns_per_hit", trap),
            ("probes_ns", probes),
            ("cpu_ns", cpu),
            ("cpu_share", share),
        ]
    }

    fn spent(&self, from: &Reading, to: &Reading) -> Spent {
        let counts = Trap::ALL.into_iter().zip(from.hits.iter().zip(&to.hits));
        let counts = counts.map(|(trap, (from, to))| (trap, to - from));
        let hits = counts.clone().map(|(_, count)| count).sum();
        let trap_ns = counts
            .map(|(trap, count)| count as f64 * self.prices.of(trap))
            .sum();
        let runs = to.runs.0 - from.runs.0;
        let per_run = (to.runs.1 - from.runs.1) as f64 / runs.max(1) as f64;
        Spent {
            hits,
            trap_ns,
            bpf_ns: hits as f64 * per_run,
            cpu_ns: to.cpu_ns - from.cpu_ns,
            passed: to.at - from.at,
            payers: self.payers,
        }
    }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        small @ ..10.0 => format!("{small:.1} %"),
        large => format!("{large:.0} %"),
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_all_but_waiting() {
        let stat = "cpu  10 2 30 4000 500 6 7 800 9 10\ncpu0 1 2 3\n";
        assert_eq!(busy_ns(stat, 1000), Some(55_000));
        assert_eq!(busy_ns("cpu 1 2", 1000), None);
        assert_eq!(busy_ns("", 1000), None);
    }

    #[test]
    fn a_line_says_what_a_hit_costs_and_what_that_comes_to() {
        let spent = Spent {
            hits: 1_234_567,
            trap_ns: 1_234_567.0 * 620.0,
            bpf_ns: 1_234_567.0 * 90.0,
            cpu_ns: 7_304_521_416,
            passed: Duration::from_secs(10),
            payers: Payers::Process(7),
        };
        assert_eq!(
            spent.text(),
            "1,234,567 hits, 0.71 us each (0.62 the kernel's trap, 0.09 our program): \
             about 12 % of the CPU time of the traced process"
        );
    }

    #[test]
    fn digits_are_grouped() {
        let texts = [0, 999, 1000, 12_345_678].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "12,345,678"]);
    }

    #[test]
    fn cpu_time_of_a_process_and_of_all() {
        let own = Payers::Process(std::process::id());
        let all = Payers::Everybody;
        assert!(
            own.cpu_ns() < all.cpu_ns(),
            "{:?} {:?}",
            own.cpu_ns(),
            all.cpu_ns()
        );
        assert!(own.cpu_ns() > Some(0));
        // Above every number that the kernel gives.
        assert_eq!(Payers::Process(1 << 23).cpu_ns(), None);
    }
}
