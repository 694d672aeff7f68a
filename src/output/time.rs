// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Time of day: converts the clock of BPF programs and formats timestamps.

use chrono::{DateTime, Local, Offset, TimeZone, Utc};
use nix::time::{ClockId, clock_gettime};

use super::number::nine_digits;

const NS_PER_SEC: u64 = 1_000_000_000;

/// Nanoseconds by which two readings of the same distance may differ.
const NOISE: i64 = 1_000;

/// Converts the time of BPF programs, `bpf_ktime_get_ns()`, to the time of day.
///
/// The distance between the two clocks changes when the time of day is set, and slowly with NTP, so a long run measures
/// it repeatedly.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WallClock {
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds.
    offset: i64,
}

impl WallClock {
    /// Measures the distance.
    pub fn new() -> Self {
        Self {
            offset: Self::now_offset().map_or(0, |(offset, _)| offset),
        }
    }

    /// Measures the distance again. Keeps the old value when the difference is within the measurement error, so that
    /// the intervals between events stay exact across batches.
    pub fn refresh(&mut self) {
        if let Some((offset, error)) = Self::now_offset() {
            self.adopt(offset, error);
        }
    }

    /// Nanoseconds since the Unix epoch for nanoseconds of CLOCK_MONOTONIC. Saturates at both ends of `u64`.
    pub fn epoch_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.offset)
    }

    /// The distance and its error, in nanoseconds.
    fn now_offset() -> Option<(i64, i64)> {
        let before = read(ClockId::CLOCK_MONOTONIC)?;
        let day = read(ClockId::CLOCK_REALTIME)?;
        let after = read(ClockId::CLOCK_MONOTONIC)?;
        let between = after.saturating_sub(before);
        Some((day.saturating_sub(before.saturating_add(between / 2)), between))
    }

    fn adopt(&mut self, offset: i64, error: i64) {
        if offset.saturating_sub(self.offset).saturating_abs() > error.saturating_add(NOISE) {
            self.offset = offset;
        }
    }
}

/// A clock in nanoseconds. Reading either of the two clocks used here does not fail.
fn read(clock: ClockId) -> Option<i64> {
    let time = clock_gettime(clock).ok()?;
    Some(
        time.tv_sec()
            .saturating_mul(NS_PER_SEC as i64)
            .saturating_add(time.tv_nsec()),
    )
}

/// The time of day in nanoseconds since the Unix epoch; 0 if the clock is set to an earlier time.
pub(super) fn now_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME).map_or(0, |now| now.max(0) as u64)
}

/// Formats timestamps. Caches the text of the last second: calendar and time zone cost more than the rest of a row, and
/// thousands of rows share a second.
pub(super) struct TimeFormatter {
    utc: CachedSecond<QUOTED_UTC>,
    local: CachedSecond<8>,
    /// Seconds east of UTC at a second since the epoch.
    zone: fn(i64) -> i32,
}

/// The length of `"2026-02-03T04:05:06.000000007Z"` with its quotes. The year has four digits: `u64` ends in 2554.
const QUOTED_UTC: usize = 32;
/// Where the nanoseconds begin in it.
const FRACTION: usize = 21;

/// The text of one second since the epoch.
struct CachedSecond<const N: usize> {
    second: Option<u64>,
    text: [u8; N],
}

impl TimeFormatter {
    /// Local time is that of the machine, or of `TZ`.
    pub fn new() -> Self {
        Self::in_zone(local_offset)
    }

    fn in_zone(zone: fn(i64) -> i32) -> Self {
        Self {
            utc: CachedSecond::new(),
            local: CachedSecond::new(),
            zone,
        }
    }

    /// Appends RFC 3339 in UTC with nanoseconds: `2026-02-03T04:05:06.000000007Z`.
    pub fn push_utc(&mut self, out: &mut Vec<u8>, epoch_ns: u64) {
        let text = self.utc.get(epoch_ns / NS_PER_SEC, quoted_utc);
        out.extend_from_slice(&text[1..QUOTED_UTC - 1]);
        overwrite_fraction::<{ QUOTED_UTC - 1 - FRACTION }>(out, epoch_ns);
    }

    /// The same in double quotes.
    #[inline]
    pub fn push_quoted_utc(&mut self, out: &mut Vec<u8>, epoch_ns: u64) {
        out.extend_from_slice(self.utc.get(epoch_ns / NS_PER_SEC, quoted_utc));
        overwrite_fraction::<{ QUOTED_UTC - FRACTION }>(out, epoch_ns);
    }

    /// Appends local time, `HH:MM:SS`.
    pub fn push_local(&mut self, out: &mut Vec<u8>, epoch_ns: u64) {
        let zone = self.zone;
        let text = |second: i64| format(second, zone(second), "%H:%M:%S");
        out.extend_from_slice(self.local.get(epoch_ns / NS_PER_SEC, text));
    }
}

impl<const N: usize> CachedSecond<N> {
    fn new() -> Self {
        Self {
            second: None,
            text: [b' '; N],
        }
    }

    #[inline]
    fn get(&mut self, second: u64, text: impl FnOnce(i64) -> String) -> &[u8; N] {
        if self.second != Some(second) {
            self.second = Some(second);
            for (to, from) in self.text.iter_mut().zip(text(second as i64).bytes()) {
                *to = from;
            }
        }
        &self.text
    }
}

fn quoted_utc(second: i64) -> String {
    format(second, 0, "\"%Y-%m-%dT%H:%M:%S.000000000Z\"")
}

/// Writes the nanoseconds at `BACK` bytes before the end. Changing the cached text instead and copying it would stall
/// on the pending stores.
#[inline]
fn overwrite_fraction<const BACK: usize>(out: &mut [u8], epoch_ns: u64) {
    if let Some(end) = out.last_chunk_mut::<BACK>() {
        end[..9].copy_from_slice(&nine_digits(epoch_ns % NS_PER_SEC));
    }
}

fn local_offset(second: i64) -> i32 {
    let utc = DateTime::from_timestamp(second, 0)
        .unwrap_or_default()
        .naive_utc();
    Local.offset_from_utc_datetime(&utc).fix().local_minus_utc()
}

#[cold]
fn format(second: i64, east: i32, pattern: &str) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp(second + i64::from(east), 0).unwrap_or_default();
    time.format(pattern).to_string()
}

#[cfg(test)]
mod tests;
