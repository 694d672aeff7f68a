// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Medians, and the rows of the report.

use std::fs;
use std::time::Duration;

use anyhow::Result;

/// The median and range of a series.
pub struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// `values` has at least one element.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let median = (values[last / 2] + values[last.div_ceil(2)]) / 2.0;
        Self {
            median,
            least: values[0],
            most: values[last],
        }
    }

    pub fn show(&self, digits: usize) -> String {
        let Self { median, least, most } = self;
        match least == most {
            true => format!("{median:.digits$}"),
            false => format!("{median:.digits$} ({least:.digits$} - {most:.digits$})"),
        }
    }
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub fn print_row(what: &str, values: &[f64], digits: usize, goal: &str) {
    let spread = Spread::of(values.iter().copied()).show(digits);
    println!("| {what} | {spread} | {} | {goal} |", values.len());
}

pub fn print_machine(libc_version: &str) -> Result<()> {
    let read = |path| -> Result<String> { Ok(fs::read_to_string(path)?.trim().to_owned()) };
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    println!(
        "{}: Linux {}, {} x {}, glibc {libc_version}, load {} at the start",
        chrono::Local::now().format("%Y-%m-%d"),
        read("/proc/sys/kernel/osrelease")?,
        std::thread::available_parallelism()?,
        model.map_or("an unnamed CPU", |(_, model)| model),
        read("/proc/loadavg")?.split(' ').next().unwrap_or_default(),
    );
    Ok(())
}
