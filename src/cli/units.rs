// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How sizes, durations and percentages are written on the command line.

use std::time::Duration;

/// Parses `4096`, `64K`, `1M`, `2G`, `1T`, with powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        unit => return Err(format!("unknown unit `{unit}`: expected K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected a size such as 4096, 64K or 1M".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

/// Parses `10`, `10s`, `500ms`, `2m`, `1h`, with fractions: `0.5s`. At most ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const MAX: f64 = 10.0 * 365.0 * 86400.0;
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("unknown unit `{unit}`: expected us, ms, s, m or h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "expected a duration such as 10s, 500ms or 2m".to_owned())?;
    let seconds = number * scale;
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
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_size("3k"), Ok(3072));
        assert_eq!(parse_size("16777215T"), Ok(16777215 << 40));
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
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "0", "s", "-1s", "1y", "1e400", "999999999h", "1..2"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
