//! Time of day: from the kernel's clock to the text of a row.

use chrono::{DateTime, Local, Offset, TimeZone, Utc};
use nix::time::{ClockId, clock_gettime};

const NS_PER_SEC: u64 = 1_000_000_000;

/// Below this, a difference between two readings is noise, in nanoseconds.
const NOISE: i64 = 1_000;

/// Converts the time of BPF programs, `bpf_ktime_get_ns()`, to the time of day.
///
/// The distance between the two clocks moves when somebody sets the time of day, and slowly with NTP: a long run
/// measures it again now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Nanoseconds from one clock to the other.
    offset: i64,
}

impl Clock {
    /// The distance as it is now.
    pub fn new() -> Self {
        Self {
            offset: Self::now_offset().map_or(0, |(offset, _)| offset),
        }
    }

    /// Measures the distance again. Keeps the old one when the difference is within the error of the measurement,
    /// so that events keep their distance from each other across batches.
    pub fn refresh(&mut self) {
        if let Some((offset, error)) = Self::now_offset() {
            self.adopt(offset, error);
        }
    }

    /// Nanoseconds since the Unix epoch for nanoseconds of CLOCK_MONOTONIC. Saturates at both ends of `u64`.
    pub fn epoch_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.offset)
    }

    /// Nanoseconds to add to CLOCK_MONOTONIC to get CLOCK_REALTIME, and by how many they may be wrong.
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

/// A clock in nanoseconds. The kernel refuses neither of the two that are asked for.
fn read(clock: ClockId) -> Option<i64> {
    let time = clock_gettime(clock).ok()?;
    Some(
        time.tv_sec()
            .saturating_mul(NS_PER_SEC as i64)
            .saturating_add(time.tv_nsec()),
    )
}

/// The time of day in nanoseconds since the Unix epoch; 0 before it.
pub(super) fn now_ns() -> u64 {
    read(ClockId::CLOCK_REALTIME).map_or(0, |now| now.max(0) as u64)
}

/// Writes times of day, and works each second out only once: calendar and time zone cost more than all the rest of
/// a row, and thousands of rows share a second.
pub(super) struct Stamps {
    utc: Cached,
    local: Cached,
    /// Seconds east of UTC at a second since the epoch.
    zone: fn(i64) -> i32,
}

/// The text of one second since the epoch.
#[derive(Default)]
struct Cached {
    second: Option<u64>,
    text: Vec<u8>,
}

impl Stamps {
    /// Local time is that of the machine, or of `TZ`.
    pub fn new() -> Self {
        Self::in_zone(local_offset)
    }

    fn in_zone(zone: fn(i64) -> i32) -> Self {
        Self {
            utc: Cached::default(),
            local: Cached::default(),
            zone,
        }
    }

    /// Appends RFC 3339 in UTC with nine digits of a second: `2026-02-03T04:05:06.000000007Z`.
    pub fn push_utc(&mut self, out: &mut Vec<u8>, epoch_ns: u64) {
        let second = epoch_ns / NS_PER_SEC;
        out.extend_from_slice(
            self.utc
                .get(second, |second| format(second, 0, "%Y-%m-%dT%H:%M:%S.")),
        );
        push_padded(out, epoch_ns % NS_PER_SEC, 9);
        out.push(b'Z');
    }

    /// Appends local time, `HH:MM:SS`.
    pub fn push_local(&mut self, out: &mut Vec<u8>, epoch_ns: u64) {
        let zone = self.zone;
        let text = |second: i64| format(second, zone(second), "%H:%M:%S");
        out.extend_from_slice(self.local.get(epoch_ns / NS_PER_SEC, text));
    }
}

impl Cached {
    fn get(&mut self, second: u64, text: impl FnOnce(i64) -> String) -> &[u8] {
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = text(second as i64).into_bytes();
        }
        &self.text
    }
}

fn local_offset(second: i64) -> i32 {
    let utc = DateTime::from_timestamp(second, 0)
        .unwrap_or_default()
        .naive_utc();
    Local.offset_from_utc_datetime(&utc).fix().local_minus_utc()
}

fn format(second: i64, east: i32, pattern: &str) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp(second + i64::from(east), 0).unwrap_or_default();
    time.format(pattern).to_string()
}

/// Appends a number with leading zeros, `digits` long (20 at most).
pub(super) fn push_padded(out: &mut Vec<u8>, mut number: u64, digits: usize) {
    let mut text = [b'0'; 20];
    for place in text[..digits].iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&text[..digits]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(stamps: &mut Stamps, ns: u64) -> String {
        let mut out = Vec::new();
        stamps.push_utc(&mut out, ns);
        String::from_utf8(out).unwrap()
    }

    fn local(stamps: &mut Stamps, second: u64) -> String {
        let mut out = Vec::new();
        stamps.push_local(&mut out, second * NS_PER_SEC + 999_999_999);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn utc_has_nine_digits() {
        let stamps = &mut Stamps::new();
        assert_eq!(utc(stamps, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            utc(stamps, 951_782_400_000_000_007),
            "2000-02-29T00:00:00.000000007Z"
        );
        assert_eq!(utc(stamps, u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn the_cache_follows_the_second_both_ways() {
        let stamps = &mut Stamps::new();
        let noon = 1_800_000_000_000_000_000;
        assert_eq!(utc(stamps, noon - 1), "2027-01-15T07:59:59.999999999Z");
        assert_eq!(utc(stamps, noon), "2027-01-15T08:00:00.000000000Z");
        assert_eq!(utc(stamps, noon + 999_999_999), "2027-01-15T08:00:00.999999999Z");
        assert_eq!(utc(stamps, noon - 1), "2027-01-15T07:59:59.999999999Z");
        assert_eq!(
            utc(stamps, noon + 1_000_000_000),
            "2027-01-15T08:00:01.000000000Z"
        );
        assert_eq!(utc(stamps, noon), "2027-01-15T08:00:00.000000000Z");
    }

    /// The end of European summer time in 2026, 01:00 UTC on 25 October.
    const WINTER: u64 = 1_792_890_000;

    fn berlin(second: i64) -> i32 {
        if second < WINTER as i64 { 7200 } else { 3600 }
    }

    #[test]
    fn local_time_follows_the_clock_change() {
        let stamps = &mut Stamps::in_zone(berlin);
        assert_eq!(local(stamps, WINTER - 2), "02:59:58");
        assert_eq!(local(stamps, WINTER - 1), "02:59:59");
        assert_eq!(local(stamps, WINTER), "02:00:00");
        assert_eq!(local(stamps, WINTER - 1), "02:59:59");
        assert_eq!(local(stamps, WINTER + 22 * 3600), "00:00:00");
    }

    #[test]
    fn local_time_is_that_of_the_machine() {
        let now = Utc::now().timestamp();
        let expected = Local
            .timestamp_opt(now, 0)
            .unwrap()
            .format("%H:%M:%S")
            .to_string();
        assert_eq!(local(&mut Stamps::new(), now as u64), expected);
    }

    #[test]
    fn the_clock_meets_the_time_of_day() {
        let clock = Clock::new();
        let monotonic = read(ClockId::CLOCK_MONOTONIC).unwrap() as u64;
        let day = read(ClockId::CLOCK_REALTIME).unwrap() as u64;
        assert!(clock.epoch_ns(monotonic).abs_diff(day) < 10 * NS_PER_SEC);
    }

    #[test]
    fn the_clock_saturates() {
        assert_eq!(Clock { offset: -5 }.epoch_ns(3), 0);
        assert_eq!(Clock { offset: 5 }.epoch_ns(u64::MAX - 1), u64::MAX);
        assert_eq!(Clock { offset: i64::MIN }.epoch_ns(0), 0);
    }

    #[test]
    fn noise_does_not_move_the_clock_and_a_step_does() {
        let mut clock = Clock { offset: 1_000_000 };
        clock.adopt(1_000_900, 50);
        assert_eq!(clock.offset, 1_000_000);
        clock.adopt(1_400_000, 500_000);
        assert_eq!(clock.offset, 1_000_000, "a slow reading is no step");
        clock.adopt(1_400_000, 50);
        assert_eq!(clock.offset, 1_400_000);
        clock.adopt(-3_000_000_000, 50);
        assert_eq!(clock.offset, -3_000_000_000, "set back");
        clock.adopt(i64::MAX, i64::MAX);
        assert_eq!(clock.offset, -3_000_000_000);
    }

    #[test]
    fn leading_zeros() {
        let mut out = Vec::new();
        push_padded(&mut out, 42, 3);
        push_padded(&mut out, u64::MAX, 20);
        assert_eq!(out, b"04218446744073709551615");
    }
}
