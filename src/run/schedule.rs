// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! When a run ends, and when it prints in between.

use std::time::{Duration, Instant};

/// When a run ends, and how often it prints.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunLimits {
    pub duration: Option<Duration>,
    pub interval: Option<Duration>,
    /// Rows to print.
    pub rows: Option<u64>,
}

/// The limits of a run that has started.
#[derive(Debug)]
pub struct Schedule {
    limits: RunLimits,
    started: Instant,
    next_tick: Option<Instant>,
}

impl Schedule {
    pub fn start(limits: RunLimits, now: Instant) -> Self {
        Self {
            limits,
            started: now,
            next_tick: limits.interval.map(|interval| now + interval),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether this many rows are enough.
    pub fn is_enough(&self, rows: u64) -> bool {
        self.limits.rows.is_some_and(|limit| rows >= limit)
    }

    pub fn is_over(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| now >= deadline)
    }

    /// Whether an interval has passed. A tick that could not be served in time is skipped, not repeated.
    pub fn tick(&mut self, now: Instant) -> bool {
        let (Some(next), Some(interval)) = (self.next_tick, self.limits.interval) else {
            return false;
        };
        if now < next {
            return false;
        }
        let late = now.duration_since(next).as_nanos() / interval.as_nanos().max(1);
        self.next_tick = Some(next + interval * (late as u32 + 1));
        true
    }

    /// When the run has something to do next; None if only events matter.
    pub fn next(&self) -> Option<Instant> {
        [self.deadline(), self.next_tick].into_iter().flatten().min()
    }

    fn deadline(&self) -> Option<Instant> {
        self.limits.duration.map(|duration| self.started + duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_skipped() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let limits = RunLimits {
            interval: Some(second),
            ..RunLimits::default()
        };
        let mut schedule = Schedule::start(limits, start);
        assert!(!schedule.tick(start + second / 2));
        assert!(schedule.tick(start + second * 7 / 2));
        assert_eq!(schedule.next(), Some(start + second * 4));
        assert!(!schedule.tick(start + second * 15 / 4));
    }

    #[test]
    fn run_ends_at_its_deadline_or_with_its_rows() {
        let start = Instant::now();
        let limits = RunLimits {
            duration: Some(Duration::from_secs(2)),
            rows: Some(3),
            ..RunLimits::default()
        };
        let schedule = Schedule::start(limits, start);
        assert!(!schedule.is_over(start) && schedule.is_over(start + Duration::from_secs(2)));
        assert!(!schedule.is_enough(2) && schedule.is_enough(3));
        assert_eq!(schedule.next(), Some(start + Duration::from_secs(2)));
    }
}
