// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What a run reports beside its rows: JSON records on stdout, messages on stderr.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cost_report;
use crate::find::host::clock::monotonic_ns;
use crate::output::messages::{self, Messages};
use crate::output::{Output, Value};
use crate::probe::meter::{Meter, ProbeCost};
use crate::probe::mmap_events::FileMapping;
use crate::probe::search::files::AttachedProbes;
use crate::probe::search::finder::Uncalled;
use crate::probe::watcher::JoinedProcess;
use crate::wording::{MOST_NAMES, counted, first_names};

/// Losses are reported at most this often.
const LOSS_REPORT: Duration = Duration::from_secs(1);

/// Where a run reports to.
pub struct Report {
    pub out: Output,
    pub messages: Messages,
    reports_cost: bool,
    /// Lost events that were reported, and when.
    lost: (u64, Option<Instant>),
    /// What to do about files that are written was said.
    explained_write: bool,
    /// Calls are shown when they begin, also those that do not return.
    pub shows_entries: bool,
}

/// Files and processes that got their probes after the start.
#[derive(Default)]
pub struct LateProbes {
    /// Processes get probes of their own.
    pub is_targeted: bool,
    pub files: u64,
    first_file: Option<PathBuf>,
    pub joined: u64,
    /// How many of these were stopped until their probes were attached, and the longest time, nanoseconds.
    pub held: u64,
    pub held_max_ns: u64,
    /// The longest time that a file was mapped or a process ran without probes, nanoseconds.
    pub late_max_ns: u64,
    /// Processes that exited before their probes were attached.
    pub missed: u64,
    /// Processes whose probes could not be attached.
    pub failed: u64,
}

impl LateProbes {
    fn add(&mut self, joined: &JoinedProcess) {
        self.joined += 1;
        self.held += u64::from(joined.held);
        let max = match joined.held {
            true => &mut self.held_max_ns,
            false => &mut self.late_max_ns,
        };
        *max = joined.late_ns.max(*max);
    }
}

/// The totals of a run.
pub struct RunTotals<'a> {
    pub lost: u64,
    pub unmatched: u64,
    pub duration: Duration,
    pub hits: u64,
    pub meter: Option<&'a Meter>,
    pub late: &'a LateProbes,
    /// Of a tool whose functions the user names.
    pub uncalled: Option<&'a Uncalled>,
}

impl Report {
    /// `reports_cost`: `--cost` was given.
    pub fn new(out: Output, messages: Messages, reports_cost: bool) -> Self {
        Self {
            out,
            messages,
            reports_cost,
            lost: (0, None),
            explained_write: false,
            shows_entries: false,
        }
    }

    /// The probes are attached. `processes`: how many members were probed. `refused`: names of functions.
    pub fn attached(
        &mut self,
        attached: &AttachedProbes,
        processes: Option<usize>,
        refused: &[Rc<str>],
    ) -> Result<()> {
        let files: Vec<Rc<str>> = attached
            .files
            .iter()
            .map(|path| path.to_string_lossy().into())
            .collect();
        let mut fields = vec![
            ("probes", Value::U64(attached.probes as u64)),
            ("stepped", Value::U64(attached.stepped as u64)),
            ("files", Value::Lines(&files)),
        ];
        fields.extend(processes.map(|count| ("processes", Value::U64(count as u64))));
        self.out.record("attached", &fields);
        self.out.flush()?;
        self.messages.note(&tracing(attached, &files, processes));
        if files.len() > 1 {
            files.iter().for_each(|file| self.messages.detail(file));
        }
        for failure in &attached.failed {
            self.messages.warn(failure);
        }
        self.refused(refused);
        Ok(())
    }

    /// Lines for `--verbose`.
    pub fn details(&self, lines: &[String]) {
        lines.iter().for_each(|line| self.messages.detail(line));
    }

    /// Functions of which the kernel refused points.
    pub fn refused(&self, functions: &[Rc<str>]) {
        // The implementations of a function have one name.
        let names: BTreeSet<&Rc<str>> = functions.iter().collect();
        let names: Vec<Rc<str>> = names.into_iter().map(Rc::clone).collect();
        if names.is_empty() {
            return;
        }
        let first = first_names(&names);
        self.messages
            .warn(&format!("the kernel cannot probe {first}: calls may be missing"));
        if names.len() > MOST_NAMES {
            for name in &names {
                self.messages.detail(&format!("the kernel cannot probe {name}"));
            }
        }
    }

    /// Another file is traced.
    pub fn file_joined(&mut self, late: &mut LateProbes, mapped: &FileMapping) {
        let late_ns = monotonic_ns().saturating_sub(mapped.time_ns);
        late.files += 1;
        late.first_file.get_or_insert_with(|| mapped.path.clone());
        late.late_max_ns = late_ns.max(late.late_max_ns);
        let fields = [
            ("time", Value::Time(self.out.wall(mapped.time_ns))),
            ("pid", Value::U64(mapped.pid.into())),
            ("file", Value::Bytes(mapped.path.as_os_str().as_bytes())),
            ("late_ns", Value::U64(late_ns)),
        ];
        self.out.record("late", &fields);
        let ms = late_ns as f64 / 1e6;
        self.messages.detail(&format!(
            "also tracing {}, late by {ms:.1} ms",
            mapped.path.display()
        ));
    }

    /// A file is being written, so its probes were removed.
    pub fn file_written(&mut self, path: &Path) {
        let fields = [
            ("time", Value::Time(self.out.wall_now())),
            ("file", Value::Bytes(path.as_os_str().as_bytes())),
        ];
        self.out.record("detached", &fields);
        self.messages.warn(&format!(
            "removed the probes of {}, which is being written: later calls are not shown",
            path.display()
        ));
        if !std::mem::replace(&mut self.explained_write, true) {
            messages::hint(
                "trace it again once it is complete; to replace a file in use, rename a new one over it",
            );
        }
    }

    /// It takes long to remove the probes.
    pub fn slow_removal(&self, time: Duration) {
        self.messages.warn(&format!(
            "at the end, the kernel takes about {} s to remove the probes, one by one (before Linux 6.10); processes \
             that call these functions are slowed down until then",
            time.as_secs()
        ));
    }

    /// Another process is traced.
    pub fn process_joined(&mut self, late: &mut LateProbes, joined: &JoinedProcess) {
        late.add(joined);
        let fields = [
            ("time", Value::Time(self.out.wall(joined.since_ns))),
            ("pid", Value::U64(joined.pid.into())),
            ("comm", Value::Bytes(&joined.comm)),
            ("late_ns", Value::U64(joined.late_ns)),
            ("held", Value::Bool(joined.held)),
        ];
        self.out.record("joined", &fields);
        let how = if joined.held { "held for" } else { "late by" };
        let (pid, ms) = (joined.pid, joined.late_ns as f64 / 1e6);
        let comm = String::from_utf8_lossy(&joined.comm);
        self.messages
            .detail(&format!("also tracing PID {pid} ({comm}), {how} {ms:.1} ms"));
    }

    /// A process could not be probed. Only the first reason is printed.
    pub fn process_failed(&self, late: &mut LateProbes, reason: &str) {
        late.failed += 1;
        if late.failed == 1 {
            self.messages.warn(reason);
        }
    }

    /// The kernel dropped mmap events.
    pub fn mmap_events_lost(&self, count: u64) {
        self.messages.warn(&format!(
            "lost {count} mmap events: calls from new processes or libraries may be missing"
        ));
    }

    /// Losses since the last report; at the end of the run without waiting.
    pub fn losses(&mut self, lost: u64, last: bool) {
        let (reported, when) = self.lost;
        let due = last || when.is_none_or(|when| when.elapsed() >= LOSS_REPORT);
        if lost == reported || !due {
            return;
        }
        self.lost = (lost, Some(Instant::now()));
        let new = lost - reported;
        let fields = [("count", Value::U64(new)), ("total", Value::U64(lost))];
        self.out.record("lost", &fields);
        self.messages.warn(&format!(
            "lost {new} events, {lost} in total: increase --buffer-size, or filter more"
        ));
    }

    /// The probes cost more than `--max-overhead`.
    pub fn stopped(&mut self, meter: &Meter, cost: &ProbeCost) {
        self.out
            .record("stopped", &cost_report::stopped_fields(meter.limit(), cost));
        let (text, hint) = cost_report::limit_exceeded_text(meter.limit(), cost);
        self.messages.warn(&text);
        messages::hint(hint);
    }

    /// The last record.
    pub fn summary(&mut self, totals: &RunTotals<'_>) -> Result<()> {
        let mut fields = vec![
            ("events", Value::U64(self.out.rows())),
            ("lost", Value::U64(totals.lost)),
            ("unmatched", Value::U64(totals.unmatched)),
            ("duration_ns", Value::U64(totals.duration.as_nanos() as u64)),
            ("hits", Value::U64(totals.hits)),
        ];
        fields.extend(cost_report::summary_fields(totals.meter));
        let late = totals.late;
        fields.push(("late_files", Value::U64(late.files)));
        if late.is_targeted {
            fields.push(("joined", Value::U64(late.joined)));
            fields.push(("held", Value::U64(late.held)));
        }
        fields.push(("late_max_ns", Value::U64(late.late_max_ns)));
        fields.push(("missed", Value::U64(late.missed)));
        let uncalled = totals.uncalled.map(|uncalled| Value::Lines(&uncalled.names));
        fields.extend(uncalled.map(|names| ("not_called", names)));
        self.out.record("summary", &fields);
        self.out.flush()?;
        Ok(())
    }

    /// What the probes cost, with `--cost`.
    pub fn cost(&self, meter: &Meter) {
        if !self.reports_cost {
            return;
        }
        self.messages
            .result(&format!("cost: {}", cost_report::cost_text(&meter.total())));
    }

    /// Calls that were seen to begin and not to return.
    pub fn unmatched(&self, calls: u64) {
        if calls > 0 && !self.shows_entries {
            let calls = counted(calls, "call");
            self.messages
                .note(&format!("{calls} did not return while traced (not shown)"));
        }
    }

    /// Says why there are no rows, if there are none. Some need `returns`.
    pub fn nothing_shown(&self, hits: u64, returns: bool) {
        if self.out.rows() > 0 {
            return;
        }
        self.messages.note(&match hits {
            0 => "no calls: the probes were not hit".to_owned(),
            _ => format!(
                "no calls shown: {}the filter or options exclude all of {}",
                if returns { "none has returned, or " } else { "" },
                counted(hits, "probe hit")
            ),
        });
    }

    /// What was not called while other functions were.
    pub fn uncalled(&self, uncalled: &Uncalled) {
        if uncalled.others_called && !uncalled.names.is_empty() {
            self.messages
                .note(&format!("no calls of {}", first_names(&uncalled.names)));
        }
    }

    /// Children that `--follow` had no room for.
    pub fn unfollowed(&self, children: u64) {
        if children > 0 {
            let children = counted(children, "child");
            self.messages.warn(&format!(
                "failed to follow {children}: the filter has no room for more processes"
            ));
        }
    }

    /// All processes of `-p` have exited, which ends the run.
    pub fn processes_exited(&self) {
        self.messages.note("the traced processes have exited");
    }

    /// The command has exited before processes that it started.
    pub fn descendants_continue(&self) {
        self.messages
            .note("the command has exited; tracing its descendants. Hit Ctrl-C to end.");
    }

    /// The run ends before its command.
    pub fn command_continues(&self, pid: u32) {
        self.messages.note(&format!("the command continues as PID {pid}"));
    }

    /// What was probed late.
    pub fn late(&self, late: &LateProbes) {
        let ms = |ns: u64| ns as f64 / 1e6;
        if late.held > 0 {
            self.messages.note(&format!(
                "held {} at exec until their probes were attached, for at most {:.1} ms",
                counted(late.held, "process"),
                ms(late.held_max_ns)
            ));
        }
        let mut probed = Vec::new();
        if late.files > 0 {
            let first = late.first_file.iter().map(|path| path.display());
            let such_as = if late.files == 1 { "" } else { "such as " };
            let names: String = first.map(|path| format!(" ({such_as}{path})")).collect();
            probed.push(counted(late.files, "file") + &names);
        }
        if late.joined > late.held {
            probed.push(counted(late.joined - late.held, "process"));
        }
        if !probed.is_empty() {
            let (probed, max) = (probed.join(" and "), ms(late.late_max_ns));
            self.messages.note(&format!(
                "probed {probed} late, by at most {max:.1} ms: earlier calls are not shown"
            ));
        }
        if late.missed > 0 {
            let missed = counted(late.missed, "process");
            let its = if late.missed == 1 { "its" } else { "their" };
            self.messages.note(&format!(
                "{missed} exited before {its} probes were attached: {its} calls are not shown"
            ));
        }
        if late.failed > 0 {
            self.messages
                .warn(&format!("failed to probe {}", counted(late.failed, "process")));
        }
    }
}

/// `Tracing 2 functions in /bin/bash of 3 processes. Hit Ctrl-C to end.` What makes it slow is said as well.
fn tracing(attached: &AttachedProbes, files: &[Rc<str>], processes: Option<usize>) -> String {
    let place = match files {
        [] => return "Waiting for a matching file to be mapped. Hit Ctrl-C to end.".to_owned(),
        [file] => file.to_string(),
        files => format!("{} files", files.len()),
    };
    let whose = processes.map_or(String::new(), |count| {
        format!(" of {}", counted(count as u64, "process"))
    });
    let functions = counted(attached.probes as u64, "function");
    let slow = match attached.stepped_returns {
        0 => String::new(),
        count => format!(", {count} with slow returns (docs/overhead.md)"),
    };
    format!("Tracing {functions} in {place}{whose}{slow}. Hit Ctrl-C to end.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_message_counts_functions_and_processes() {
        let file = [Rc::from("/bin/bash")];
        let attached = |probes, stepped_returns| AttachedProbes {
            probes,
            stepped_returns,
            ..AttachedProbes::default()
        };
        assert_eq!(
            tracing(&attached(1, 0), &file, None),
            "Tracing 1 function in /bin/bash. Hit Ctrl-C to end."
        );
        assert_eq!(
            tracing(&attached(2, 1), &file, Some(1)),
            "Tracing 2 functions in /bin/bash of 1 process, 1 with slow returns (docs/overhead.md). Hit Ctrl-C to end."
        );
        assert!(tracing(&attached(0, 0), &[], None).starts_with("Waiting"));
    }
}
