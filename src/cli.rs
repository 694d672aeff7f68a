//! Option groups that tools share, and how their values are written.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::error::{FAILED, Failure, USAGE};
use crate::find::host::cgroups::Cgroups;
use crate::find::host::containers::find_container;
use crate::find::host::loader;
use crate::find::host::proc::Proc;
use crate::find::host::users::UserNames;
use crate::find::spec::{self, PatternSyntax, ProbeSpec};
use crate::output::{Destination, Format, Output};
use crate::privileges;
use crate::probe::attach::AttachMode;
use crate::probe::command::Command;
use crate::probe::ring::page_size;
use crate::probe::scope::filter::{CommPattern, Filter, MAX_CGROUPS, MAX_COMMS};
use crate::probe::scope::members::Scope;
use crate::probe::search::functions::no_such_file;
use crate::probe::search::placing::Placing;
use crate::probe::signals::Signals;
use crate::run::session::Limits;

/// Who is seen.
#[derive(Args, Debug)]
#[command(next_help_heading = "Filters (all must hold)")]
pub struct FilterArgs {
    /// Only these processes
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Only threads of this name; with * at the end, of names that begin so. Several: any of them
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = CommPattern::parse)]
    pub comm: Vec<CommPattern>,
    /// Only this user, by name or number
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Only processes in this control group (cgroup2) and below
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Only processes of this container
    #[arg(long, value_name = "NAME|ID")]
    pub container: Option<String>,
    /// Whose calls pay for the probes [default: targeted with -p and --container, else all]
    ///
    /// With `targeted`, a process gets breakpoints when any of its threads matches; of these threads alone calls are
    /// shown. One that matches later (started, forked, renamed, of another user, moved into the control group) gets
    /// them as soon as that is noticed, some milliseconds late: how late is said, and what it calls before is not
    /// shown. Each process takes file descriptors, and adds a little to the price of a call of all others.
    #[arg(long, value_name = "WHO")]
    pub scope: Option<Scope>,
    /// In a targeted scope: stop programs that match when they are started, until their probes are in
    ///
    /// Then nothing that they call is missed. Who watches them may notice that they stop (SIGSTOP) and go on
    /// (SIGCONT): waitid and ptrace report it, a parent gets SIGCHLD, and an interactive shell takes a command in the
    /// foreground for a stopped job. Children that are forked without an exec are not stopped.
    #[arg(long)]
    pub hold: bool,
}

impl FilterArgs {
    /// Looks up what the names stand for.
    pub fn resolve(&self) -> Result<Filter> {
        if self.comm.len() > MAX_COMMS {
            return Err(Failure::new(
                USAGE,
                format!("at most {MAX_COMMS} names can be given with --comm"),
            )
            .into());
        }
        let uid = self
            .user
            .as_deref()
            .map(|user| UserNames::load().uid(user))
            .transpose()?;
        let mut cgroups = Vec::new();
        let mut container_pids = Vec::new();
        if let Some(path) = &self.cgroup {
            cgroups.push(Cgroups::open()?.resolve(path)?);
        }
        if let Some(container) = &self.container {
            let container = find_container(container)?;
            cgroups.extend(container.cgroups);
            container_pids = container.pids;
        }
        cgroups.truncate(MAX_CGROUPS);
        let pids = self
            .pid
            .iter()
            .map(|&pid| process_of(pid))
            .collect::<Result<_>>()?;
        Ok(Filter {
            pids,
            comms: self.comm.clone(),
            uid,
            cgroups,
            container_pids,
            follow: false,
            in_container: self.container.is_some(),
            scope: self.scope,
            hold: self.hold,
        })
    }
}

/// The process that a number means: a thread stands for its process.
pub fn process_of(pid: u32) -> Result<u32> {
    privileges::require_own_proc()?;
    Proc::host()
        .tgid(pid)
        .map_err(|_| Failure::new(FAILED, format!("failed to trace pid {pid}: no such process")).into())
}

/// Which functions.
#[derive(Args, Debug)]
pub struct FunctionArgs {
    /// TARGET:FUNCTION. TARGET: a library (libc, ssl), program (bash) or path; with -p, --container or COMMAND it may be
    /// left out, for every file of the process. FUNCTION: a name, a pattern with * and ?, /regex/, NAME+0x10 or
    /// 0xADDRESS. r: in front is the return. usdt:TARGET:PROVIDER:NAME is a USDT probe
    #[arg(required = true, value_name = "TARGET:FUNCTION")]
    pub functions: Vec<String>,
    /// The part behind the target is a regular expression
    #[arg(short, long)]
    pub regex: bool,
    /// Children that -p PID or COMMAND starts are seen as well
    #[arg(long)]
    pub follow: bool,
}

impl FunctionArgs {
    /// The parsed specs.
    ///
    /// # Errors
    /// A spec cannot be parsed; a usage error.
    pub fn specs(&self) -> Result<Vec<ProbeSpec>> {
        let syntax = match self.regex {
            true => PatternSyntax::Regex,
            false => PatternSyntax::Glob,
        };
        let parse = |text: &String| {
            let spec = spec::parse_as(text, syntax);
            spec.map_err(|error| Failure::usage(format!("{error:#}")).into())
        };
        self.functions.iter().map(parse).collect()
    }
}

/// What comes out, and where.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// How rows are written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// The same as --format json
    #[arg(short, long, conflicts_with = "format")]
    pub json: bool,
    /// Write the rows to this file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// No header and no remarks
    #[arg(short, long)]
    pub quiet: bool,
    /// More remarks: the files that are traced, and those that appear
    #[arg(short, long)]
    pub verbose: bool,
}

impl OutputArgs {
    pub fn open(&self) -> Result<Output> {
        let format = if self.json { Format::Json } else { self.format };
        let destination = match &self.output {
            Some(path) => {
                let file =
                    File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
                Destination::File(file)
            }
            None => Destination::Stdout,
        };
        Ok(Output::new(format, destination, self.quiet, Signals::ending()))
    }
}

/// How long, how much, and how.
#[derive(Args, Debug)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// End after this time: 10s, 500ms, 2m
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// End after this many rows
    #[arg(short = 'M', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_rows: Option<u64>,
    /// Room for events that wait to be printed
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_size)]
    pub buffer_size: u64,
    /// Where in a function its probe is
    #[arg(long, value_name = "WHERE", default_value = "best")]
    pub placement: Placing,
    /// Say at the end what the probes cost those who hit them
    #[arg(long)]
    pub cost: bool,
    /// Stop when probes take more of the traced CPU time than this: 5%
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub max_overhead: Option<f64>,
    /// How probes are attached, for tests
    #[arg(long, hide = true)]
    pub attach: Option<AttachMode>,
}

impl RunArgs {
    pub fn limits(&self, output: &OutputArgs, interval: Option<Duration>) -> Limits {
        Limits {
            duration: self.duration,
            interval,
            rows: self.max_rows,
            cost: self.cost,
            max_overhead: self.max_overhead,
            quiet: output.quiet,
            verbose: output.verbose,
        }
    }

    /// Bytes of the ring: a power of two and whole pages, as the kernel wants it; at most 1 GiB.
    pub fn ring_bytes(&self) -> u32 {
        const MOST: u64 = 1 << 30;
        self.buffer_size
            .clamp(page_size() as u64, MOST)
            .next_power_of_two() as u32
    }
}

/// A command to run and trace.
#[derive(Args, Debug)]
pub struct CommandArgs {
    /// Run this command and trace it from its first call on
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl CommandArgs {
    /// Forks the command, which waits, and makes it the process that the filter is about. None when there is none.
    pub fn hold(&self, filter: &mut Filter) -> Result<Option<Command>> {
        if self.command.is_empty() {
            return Ok(None);
        }
        if !filter.pids.is_empty() {
            return Err(Failure::new(USAGE, "-p and a command exclude each other").into());
        }
        let command = Command::hold(&self.command)?;
        filter.pids.push(command.pid());
        Ok(Some(command))
    }
}

/// A library or program named by a person: a path, or a name as the processes meant have it mapped, as the loader
/// would look it up, or the shell.
pub fn named_file(name: &Path, pids: &[u32]) -> Result<PathBuf> {
    let text = name.to_string_lossy();
    if text.contains('/') {
        return Ok(name.to_owned());
    }
    for &pid in pids {
        let mapped = Proc::host().mappings(pid).unwrap_or_default();
        if let Some(found) = mapped
            .iter()
            .find(|mapping| mapping.exec && loader::is_called(&mapping.path, &text))
        {
            return Ok(PathBuf::from(format!("/proc/{pid}/root"))
                .join(found.path.strip_prefix("/").unwrap_or(&found.path)));
        }
    }
    loader::find_library(&text)
        .or_else(|| loader::find_program(&text))
        .ok_or_else(|| no_such_file(&text))
}

/// Parses `4096`, `64K`, `1M`, `2G`, `1T`, with powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        unit => return Err(format!("`{unit}` is no unit: use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "give a number, such as 4096, 64K or 1M".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

/// Parses `10`, `10s`, `500ms`, `2m`, `1h`, with fractions: `0.5s`. At most ten years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 10.0 * 365.0 * 86400.0;
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
        unit => return Err(format!("`{unit}` is no unit: use ms, s, m or h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "give a time, such as 10s, 500ms or 2m".to_owned())?;
    let seconds = number * scale;
    if !(seconds > 0.0 && seconds <= MOST) {
        return Err("give a time above zero and below ten years".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses `5%` or `0.5%` as a part of the whole. Without the sign it could be either.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent: f64 = number.ok_or_else(|| "give a percentage, such as 5%".to_owned())?;
    if !(percent > 0.0 && percent <= 100.0) {
        return Err("give a percentage above 0% and up to 100%".to_owned());
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
    fn shares_are_percentages() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("0.5%"), Ok(0.005));
        assert_eq!(parse_share("100%"), Ok(1.0));
        for wrong in [
            "", "%", "5", "0.05", "abc", "0%", "-1%", "101%", "NaN%", "inf%", "5%%", "5 %",
        ] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units_and_fractions() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "0", "s", "-1s", "1y", "1e400", "999999999h", "1..2"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
