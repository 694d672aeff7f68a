// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What the probes cost the processes that hit them.
//!
//! A hit is a trap, whose price is measured when the run begins ([`TrapPrices`]), and a run of a BPF program,
//! which the kernel times. The price of a trap is that of a single thread with warm caches; with cold caches,
//! or with several threads in the same function, it is higher. All figures are estimates; tests/e2e/cost.rs
//! compares them with measured loops.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::probe::attach::Attacher;
use crate::probe::cpu_clock::CpuClock;
use crate::probe::hits::{HitCounters, TrapCounts, TrapKind};
use crate::probe::prices::{TrapPrices, enable_run_stats};

/// Interval between two readings while the run lasts.
const PERIOD: Duration = Duration::from_millis(250);
/// Probes that take less than this share of wall time never exceed the limit: a process that sleeps nearly
/// all the time may spend half of its few microseconds of CPU time in them without harm.
const NEGLIGIBLE: f64 = 0.001;

/// The counters at one moment.
#[derive(Clone, Copy)]
struct MeterReading {
    at: Instant,
    hits: TrapCounts,
    /// Runs of the BPF programs, and their duration in all, nanoseconds.
    runs: (u64, u64),
    cpu_ns: u64,
}

/// What the probes cost between two readings. Estimates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbeCost {
    pub hits: u64,
    /// Time in the kernel's traps, nanoseconds.
    pub trap_ns: f64,
    /// Time in our BPF programs, nanoseconds.
    pub bpf_ns: f64,
    /// CPU time of the processes that hit the probes, including the time in the probes; nanoseconds.
    pub cpu_ns: u64,
    /// Wall time between the readings.
    pub period: Duration,
    /// The clock that `cpu_ns` is from.
    pub clock: CpuClock,
}

impl ProbeCost {
    /// Time in the probes, nanoseconds.
    pub fn probes_ns(&self) -> f64 {
        self.trap_ns + self.bpf_ns
    }

    /// Share of the CPU time that the probes took, 0 to 1.
    pub fn cpu_share(&self) -> f64 {
        let cpu_ns = self.cpu_ns.max(self.clock.resolution_ns());
        (self.probes_ns() / cpu_ns as f64).min(1.0)
    }

    /// `ns` divided by the number of hits.
    pub fn per_hit(&self, ns: f64) -> f64 {
        ns / self.hits.max(1) as f64
    }
}

/// Measures a run.
pub struct Meter {
    prices: TrapPrices,
    /// Share of the CPU time that the probes may take.
    limit: Option<f64>,
    clock: CpuClock,
    first: MeterReading,
    last: MeterReading,
    /// Start of the last period, if the cost exceeded the limit in it.
    over_since: Option<MeterReading>,
    _stats: OwnedFd,
}

impl Meter {
    /// Measures the prices of traps. The attacher must not have attached anything yet. `limit`: share of the
    /// CPU time that the probes may take, 0 to 1.
    ///
    /// # Errors
    /// Run-time statistics cannot be enabled, or the probes of the measurement cannot be attached.
    pub fn new(attacher: &mut Attacher, hits: &HitCounters<'_>, limit: Option<f64>) -> Result<Self> {
        let stats = enable_run_stats()?;
        let prices = TrapPrices::measure_with_stats(attacher.mode())
            .context("failed to measure the price of a probe")?;
        attacher.mark_traps();
        let clock = attacher.only_pid().map_or(CpuClock::Machine, CpuClock::Process);
        let now = MeterReading {
            at: Instant::now(),
            hits: hits.by_trap(),
            runs: (0, 0),
            cpu_ns: clock.now_ns().unwrap_or(0),
        };
        Ok(Self {
            prices,
            limit,
            clock,
            first: now,
            last: now,
            over_since: None,
            _stats: stats,
        })
    }

    /// The prices of traps, measured when the run began.
    pub fn prices(&self) -> &TrapPrices {
        &self.prices
    }

    /// The share of CPU time that probes may take, 0 to 1; None without a limit.
    pub fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// Starts the measurement of the run: earlier hits are ignored.
    ///
    /// # Errors
    /// The kernel does not report a program's counts.
    pub fn begin(&mut self, attacher: &Attacher, hits: &HitCounters<'_>) -> Result<()> {
        self.read(attacher, hits)?;
        self.first = self.last;
        Ok(())
    }

    /// When [`Meter::check`] is due.
    pub fn next(&self) -> Instant {
        self.last.at + PERIOD
    }

    /// Reads the counters once per period. Returns the cost of this period and the previous one if it
    /// exceeded the limit in both: in a single one, a program may be starting, or one of our BPF programs was
    /// interrupted.
    ///
    /// # Errors
    /// The kernel does not report a program's counts.
    pub fn check(&mut self, attacher: &Attacher, hits: &HitCounters<'_>) -> Result<Option<ProbeCost>> {
        if Instant::now() < self.next() {
            return Ok(None);
        }
        let before = self.last;
        let is_known = self.read(attacher, hits)?;
        if !is_known || !self.exceeds_limit(&self.cost_between(&before, &self.last)) {
            self.over_since = None;
            return Ok(None);
        }
        match self.over_since {
            Some(since) => Ok(Some(self.cost_between(&since, &self.last))),
            None => {
                self.over_since = Some(before);
                Ok(None)
            }
        }
    }

    fn exceeds_limit(&self, cost: &ProbeCost) -> bool {
        let matters = cost.probes_ns() > NEGLIGIBLE * cost.period.as_nanos() as f64;
        matters && self.limit.is_some_and(|limit| cost.cpu_share() > limit)
    }

    /// Reads the counters. Returns false when the process has exited: its CPU time then stays at the last
    /// reading.
    ///
    /// # Errors
    /// The kernel does not report a program's counts.
    pub fn read(&mut self, attacher: &Attacher, hits: &HitCounters<'_>) -> Result<bool> {
        let cpu_ns = self.clock.now_ns();
        self.last = MeterReading {
            at: Instant::now(),
            hits: hits.by_trap(),
            runs: attacher.runs()?,
            cpu_ns: cpu_ns.unwrap_or(self.last.cpu_ns),
        };
        Ok(cpu_ns.is_some())
    }

    /// What the run has cost, from [`Meter::begin`] to the last reading.
    pub fn total(&self) -> ProbeCost {
        self.cost_between(&self.first, &self.last)
    }

    fn cost_between(&self, from: &MeterReading, to: &MeterReading) -> ProbeCost {
        let counts = TrapKind::ALL.into_iter().zip(from.hits.iter().zip(&to.hits));
        let counts = counts.map(|(kind, (from, to))| (kind, to - from));
        let hits = counts.clone().map(|(_, count)| count).sum();
        let trap_ns = counts
            .map(|(kind, count)| count as f64 * self.prices.of(kind))
            .sum();
        let runs = to.runs.0 - from.runs.0;
        let per_run = (to.runs.1 - from.runs.1) as f64 / runs.max(1) as f64;
        ProbeCost {
            hits,
            trap_ns,
            bpf_ns: hits as f64 * per_run,
            cpu_ns: to.cpu_ns - from.cpu_ns,
            period: to.at - from.at,
            clock: self.clock,
        }
    }
}
