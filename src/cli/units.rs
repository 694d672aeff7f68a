// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How sizes, durations and percentages are written on the command line.

use std::time::Duration;

/// Parses `4096`, `64K`, `1M`, `2GiB` with powers of 1024, and `1MB` with powers of 1000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let scale = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        unit => {
            return Err(format!(
                "unknown unit `{unit}`: expected B, K, M, G or T (of 1024), or kB, MB, GB or TB"
            ));
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a size such as 4096, 64K or 1M".to_owned())?;
    number.checked_mul(scale).ok_or_else(|| "too large".to_owned())
}

const DURATION_UNITS: &str = "ns, us, ms, s, m or h";

/// Parses `10s`, `500ms`, `1.5h` or `1m30s`. A number alone is seconds. At most ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if is_number(text) => duration(seconds),
        _ => parse_latency(text),
    }
}

/// As [`parse_duration`], of times so short that a number alone could be meant in any unit.
pub fn parse_latency(text: &str) -> Result<Duration, String> {
    if is_number(text) {
        return Err(format!("expected a unit after the number: {DURATION_UNITS}"));
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !is_numeric(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(is_numeric).unwrap_or(after.len()));
        let number: f64 = number
            .parse()
            .map_err(|_| "expected a duration such as 10s, 500ms or 1m30s".to_owned())?;
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("expected a unit after each number: {DURATION_UNITS}")),
            unit => return Err(format!("unknown unit `{unit}`: expected {DURATION_UNITS}")),
        };
        seconds += number * scale;
        rest = after;
    }
    duration(seconds)
}

fn is_numeric(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_numeric)
}

fn duration(seconds: f64) -> Result<Duration, String> {
    const MAX: f64 = 10.0 * 365.0 * 86400.0;
    if !(seconds > 0.0 && seconds <= MAX) {
        return Err("expected a duration above zero and below ten years".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses `5%` or `0.5%` as a fraction. The sign is required, since 0.5 could mean either.
pub fn parse_percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent: f64 = number.ok_or_else(|| "expected a percentage such as 5%".to_owned())?;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err("expected a percentage above 0% and up to 100%".to_owned());
    }
    Ok(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_size("3k"), Ok(3072));
        assert_eq!(parse_size("16777215T"), Ok(16777215 << 40));
        assert_eq!(parse_size("2MiB"), Ok(2 << 20));
        assert_eq!(parse_size("2MB"), Ok(2_000_000));
        for wrong in [
            "1Q",
            "",
            "M",
            "-1",
            "1.5M",
            "99999999999999999999",
            "16777216T",
            "1 M",
        ] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn percentages_are_fractions() {
        assert_eq!(parse_percentage("5%"), Ok(0.05));
        assert_eq!(parse_percentage("0.5%"), Ok(0.005));
        assert_eq!(parse_percentage("100%"), Ok(1.0));
        for wrong in [
            "", "%", "5", "0.05", "abc", "0%", "-1%", "101%", "NaN%", "inf%", "5%%", "5 %",
        ] {
            assert!(parse_percentage(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units_and_fractions() {
        for (text, ns) in [
            ("10", 10_000_000_000),
            ("0.5", 500_000_000),
            ("10s", 10_000_000_000),
            ("500ms", 500_000_000),
            ("2m", 120_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0.5m", 3_630_000_000_000),
            ("5us", 5000),
            ("5\u{b5}s", 5000),
            ("1ms250us", 1_250_000),
            ("7ns", 7),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        for wrong in [
            "",
            "0",
            "s",
            "-1s",
            "1y",
            "1e400",
            "999999999h",
            "1..2",
            "1m30",
            "1 s",
            "m5",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn short_times_need_a_unit() {
        assert_eq!(parse_latency("5us"), Ok(Duration::from_micros(5)));
        let error = parse_latency("5").unwrap_err();
        assert!(error.contains("ns, us, ms, s, m or h"), "{error}");
    }
}
