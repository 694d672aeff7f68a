// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Clocks and their text.

use super::*;

fn utc(times: &mut TimeFormatter, ns: u64) -> String {
    let (mut plain, mut quoted) = (Vec::new(), Vec::new());
    times.push_utc(&mut plain, ns);
    times.push_quoted_utc(&mut quoted, ns);
    let plain = String::from_utf8(plain).unwrap();
    assert_eq!(String::from_utf8(quoted).unwrap(), format!("\"{plain}\""));
    plain
}

fn local(times: &mut TimeFormatter, second: u64) -> String {
    let mut out = Vec::new();
    times.push_local(&mut out, second * NS_PER_SEC + 999_999_999);
    String::from_utf8(out).unwrap()
}

#[test]
fn utc_has_nine_digits() {
    let times = &mut TimeFormatter::new();
    assert_eq!(utc(times, 0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(
        utc(times, 951_782_400_000_000_007),
        "2000-02-29T00:00:00.000000007Z"
    );
    assert_eq!(utc(times, u64::MAX), "2554-07-21T23:34:33.709551615Z");
}

#[test]
fn seconds_may_go_backwards() {
    let times = &mut TimeFormatter::new();
    let noon = 1_800_000_000_000_000_000;
    assert_eq!(utc(times, noon - 1), "2027-01-15T07:59:59.999999999Z");
    assert_eq!(utc(times, noon), "2027-01-15T08:00:00.000000000Z");
    assert_eq!(utc(times, noon + 999_999_999), "2027-01-15T08:00:00.999999999Z");
    assert_eq!(utc(times, noon - 1), "2027-01-15T07:59:59.999999999Z");
    assert_eq!(utc(times, noon + 1_000_000_000), "2027-01-15T08:00:01.000000000Z");
    assert_eq!(utc(times, noon), "2027-01-15T08:00:00.000000000Z");
}

/// 25 October 2026, 01:00 UTC: European summer time ends.
const WINTER: u64 = 1_792_890_000;

fn berlin(second: i64) -> i32 {
    if second < WINTER as i64 { 7200 } else { 3600 }
}

#[test]
fn local_time_follows_daylight_saving() {
    let times = &mut TimeFormatter::in_zone(berlin);
    assert_eq!(local(times, WINTER - 2), "02:59:58");
    assert_eq!(local(times, WINTER - 1), "02:59:59");
    assert_eq!(local(times, WINTER), "02:00:00");
    assert_eq!(local(times, WINTER - 1), "02:59:59");
    assert_eq!(local(times, WINTER + 22 * 3600), "00:00:00");
}

#[test]
fn local_time_uses_the_zone_of_the_machine() {
    let now = Utc::now().timestamp();
    let expected = Local
        .timestamp_opt(now, 0)
        .unwrap()
        .format("%H:%M:%S")
        .to_string();
    assert_eq!(local(&mut TimeFormatter::new(), now as u64), expected);
}

#[test]
fn monotonic_time_maps_to_the_time_of_day() {
    let clock = WallClock::new();
    let monotonic = read(ClockId::CLOCK_MONOTONIC).unwrap() as u64;
    let day = read(ClockId::CLOCK_REALTIME).unwrap() as u64;
    assert!(clock.epoch_ns(monotonic).abs_diff(day) < 10 * NS_PER_SEC);
}

#[test]
fn conversion_saturates() {
    assert_eq!(WallClock { offset: -5 }.epoch_ns(3), 0);
    assert_eq!(WallClock { offset: 5 }.epoch_ns(u64::MAX - 1), u64::MAX);
    assert_eq!(WallClock { offset: i64::MIN }.epoch_ns(0), 0);
}

#[test]
fn clock_follows_a_step_and_ignores_noise() {
    let mut clock = WallClock { offset: 1_000_000 };
    clock.adopt(1_000_900, 50);
    assert_eq!(clock.offset, 1_000_000);
    clock.adopt(1_400_000, 500_000);
    assert_eq!(clock.offset, 1_000_000, "within the error of a slow reading");
    clock.adopt(1_400_000, 50);
    assert_eq!(clock.offset, 1_400_000);
    clock.adopt(-3_000_000_000, 50);
    assert_eq!(clock.offset, -3_000_000_000, "set back");
    clock.adopt(i64::MAX, i64::MAX);
    assert_eq!(clock.offset, -3_000_000_000);
}
