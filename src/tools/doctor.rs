//! What this machine allows, found by trying it, and what that means for each tool.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Error, Result, anyhow};
use caps::{CapSet, Capability};
use clap::Parser;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;
use nix::unistd::geteuid;

use crate::cli::OutputArgs;
use crate::error::{self, Failure, MissingFeature};
use crate::find::host::mountinfo;
use crate::find::host::proc::Proc;
use crate::output::escape::push_text;
use crate::output::{Column, Output, Table, Value};
use crate::privileges;
use crate::probe::attach::{AttachMode, features};
use crate::probe::point::Ends;
use crate::probe::prices::TrapPrices;
use crate::probe::self_test::{
    ConfinedChild, DetachThreads, SeccompOutcome, SeenCalls, TEST_COOKIE, test_attach_mode,
};
use crate::tools::{TOOLS, Tool};

const EXAMPLES: &str = "\
EXAMPLES:
    doctor                             # what works here, and what to do about the rest
    doctor -j                          # the same for programs
    doctor -q > /dev/null && echo yes  # can anything be traced?";

/// Check what works on this machine, and how to fix the rest.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

const CHECKS: &[Column] = &[
    Column::left("", "ok", 5),
    Column::left("CHECK", "name", 25),
    Column::left("DETAIL", "detail", 0),
    Column::left("", "hint", 0).data_only(),
];

const TOOL_COLUMNS: &[Column] = &[
    Column::left("", "works", 5),
    Column::left("TOOL", "name", 25),
    Column::left("DETAIL", "detail", 0),
    Column::left("", "hint", 0).data_only(),
];

/// How far something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Limit,
    No,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Limit => "limit",
            Verdict::No => "no",
        }
    }
}

/// A line.
#[derive(Debug)]
struct Line {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    hint: Option<String>,
}

impl Line {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One that says what is missing, and what to do about it.
    fn missing(name: &'static str, error: &Error) -> Self {
        if error::is_refused(error) {
            return Self::new(name, Verdict::No, "not permitted").hint(error::permission_hint());
        }
        let failure = Failure::of(error);
        // The kernel version has a row of its own.
        let detail = match error.downcast_ref::<MissingFeature>() {
            Some(MissingFeature { feature, since }) => format!("no {feature} (since {since})"),
            None => failure.message,
        };
        Self {
            hint: failure.hint,
            ..Self::new(name, Verdict::No, detail)
        }
    }
}

pub fn run(args: Args) -> Result<u8> {
    let mut out = args.output.open()?;
    let mut leaving = DetachThreads::default();
    let machine = Machine::try_all(&mut leaving);
    let checks = Table::new("check", CHECKS);
    let mut hints = Vec::new();
    print(&mut out, &checks, &machine.lines, &mut hints);
    let others = TOOLS.iter().filter(|tool| !is_this(tool));
    let tools: Vec<Line> = others.map(|tool| machine.judge(tool)).collect();
    out.text(|buffer| buffer.push(b'\n'));
    print(&mut out, &Table::new("tool", TOOL_COLUMNS), &tools, &mut hints);
    out.flush()?;
    Ok(if machine.way.is_some() { 0 } else { error::DENIED })
}

fn is_this(tool: &Tool) -> bool {
    tool.name == module_path!().rsplit("::").next().unwrap_or_default()
}

/// `hints` are those that a person has read already.
fn print<'a>(out: &mut Output, table: &Table, lines: &'a [Line], hints: &mut Vec<&'a str>) {
    out.header(table);
    for line in lines {
        let hint = line.hint.as_deref();
        out.row(
            table,
            &[
                Value::Str(line.verdict.name()),
                Value::Str(line.name),
                Value::Bytes(line.detail.as_bytes()),
                hint.map_or(Value::Null, |hint| Value::Bytes(hint.as_bytes())),
            ],
        );
        if let Some(hint) = hint.filter(|hint| !hints.contains(hint)) {
            hints.push(hint);
            out.text(|buffer| push_hint(buffer, hint));
        }
    }
}

fn push_hint(buffer: &mut Vec<u8>, hint: &str) {
    buffer.extend_from_slice(b"      hint: ");
    push_text(buffer, hint.as_bytes());
    buffer.push(b'\n');
}

/// What was tried, and what tools make of it.
struct Machine {
    lines: Vec<Line>,
    /// The way that tools take. None: they cannot work.
    way: Option<AttachMode>,
    has_btf: bool,
    /// Prices of probes can be measured, as `--cost` wants it.
    can_price: bool,
    /// Return probes end programs under a strict seccomp filter.
    kills_confined: bool,
    /// Processes of other users can be looked into.
    sees_others: bool,
}

impl Machine {
    fn try_all(leaving: &mut DetachThreads) -> Self {
        // First, as long as there is one thread.
        let confined = ConfinedChild::hold();
        let mut lines = vec![kernel()];
        lines.extend(capabilities());
        let load = features::try_load().map_err(Error::new);
        let load = result("BPF programs", load, |()| "can be loaded".to_owned());
        let refused = (load.verdict == Verdict::No).then(|| load.detail.clone());
        lines.push(load);
        lines.push(ring(refused.as_deref()));
        let has_ring = lines.last().is_some_and(|line| line.verdict == Verdict::Ok);
        let mut way = None;
        for (name, this) in WAYS {
            // Each perf event takes the kernel a tenth of a second to remove, and return probes are one thing in every way.
            let ends = if way.is_none() { Ends::Both } else { Ends::Entry };
            let line = way_line(name, this, ends, refused.as_deref(), leaving);
            if line.verdict == Verdict::Ok {
                way.get_or_insert(this);
            }
            lines.push(line);
        }
        lines.extend(features(way, refused.as_deref()));
        let btf = privileges::require_btf("--follow");
        let has_btf = btf.is_ok();
        lines.push(result("kernel BTF", btf, |()| "present".to_owned()));
        let fate = confined.and_then(|confined| match way {
            Some(way) => confined.test_return_probe(way, leaving),
            None => Err(anyhow!("not tried: no probe can be attached")),
        });
        let kills_confined = matches!(fate, Ok(SeccompOutcome::Killed));
        lines.push(seccomp(fate));
        let prices = way.map_or_else(
            || Err(anyhow!("not measured: no probe can be attached")),
            TrapPrices::measure,
        );
        let can_price = prices.is_ok();
        lines.push(cost(prices));
        let others = Others::count();
        lines.extend([
            others.line(),
            pid_namespace(),
            mount_namespace(),
            lockdown(),
            memlock(),
        ]);
        lines.extend(settings());
        Self {
            lines,
            // Without a ring buffer no probe is of use.
            way: way.filter(|_| has_ring),
            has_btf,
            can_price,
            kills_confined,
            sees_others: others.are_seen(),
        }
    }

    /// What a tool can do here. What it wants is seen from the options that it has.
    fn judge(&self, tool: &Tool) -> Line {
        let command = (tool.command)();
        let has = |option: &str| {
            command
                .get_arguments()
                .any(|argument| argument.get_id() == option)
        };
        let attaches = has("attach");
        if attaches && self.way.is_none() {
            let failed = self.lines.iter().filter(|line| line.verdict == Verdict::No);
            return Line {
                hint: failed.filter_map(|line| line.hint.clone()).next(),
                ..Line::new(tool.name, Verdict::No, "cannot trace")
            };
        }
        let in_namespace = privileges::pid_namespace().is_some();
        let limits = [
            (
                attaches && self.way != Some(AttachMode::Multi),
                "each probe is a perf event of its own, and slow to remove",
            ),
            (
                has("args") && !self.way.is_some_and(AttachMode::can_sleep),
                "text that is not in memory cannot be read",
            ),
            (
                has("follow") && !self.has_btf,
                "no --follow, which needs the kernel's BTF",
            ),
            (
                has("follow") && in_namespace,
                "no --follow in a pid namespace of its own",
            ),
            (attaches && !self.can_price, "no --cost and no --max-overhead"),
            (
                attaches && self.kills_confined,
                "return probes end programs under a strict seccomp filter",
            ),
            (
                !self.sees_others,
                "processes of other users cannot be looked into",
            ),
        ];
        let limits: Vec<&str> = limits
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, limit)| limit)
            .collect();
        match limits[..] {
            [] => Line::new(tool.name, Verdict::Ok, "works"),
            _ => Line::new(tool.name, Verdict::Limit, limits.join("; ")),
        }
    }
}

/// A line of something that fails or not.
fn result<T>(name: &'static str, tried: Result<T>, detail: impl FnOnce(T) -> String) -> Line {
    match tried {
        Ok(found) => Line::new(name, Verdict::Ok, detail(found)),
        Err(error) => Line::missing(name, &error),
    }
}

fn kernel() -> Line {
    let text = uname().map(|name| {
        let parts = [name.sysname(), name.release(), name.machine()];
        parts.map(|part| part.to_string_lossy().into_owned()).join(" ")
    });
    result("kernel", text.map_err(Error::new), |text| text)
}

/// What capabilities are for, and whether CAP_SYS_ADMIN will do as well.
const PURPOSES: [(Capability, &str, bool, &str); 6] = [
    (Capability::CAP_BPF, "CAP_BPF", true, "loads BPF programs"),
    (Capability::CAP_PERFMON, "CAP_PERFMON", true, "attaches them"),
    (
        Capability::CAP_SYS_ADMIN,
        "CAP_SYS_ADMIN",
        false,
        "allows perf events (CVE-2025-38466) and --cost",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "CAP_SYS_PTRACE",
        false,
        "looks into others' processes",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        false,
        "reads files that are their owners' alone",
    ),
    (
        Capability::CAP_CHECKPOINT_RESTORE,
        "CAP_CHECKPOINT_RESTORE",
        true,
        "opens files that were replaced",
    ),
];

/// A line for each capability that is of use.
fn capabilities() -> Vec<Line> {
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => return vec![Line::missing("capabilities", &Error::new(error))],
    };
    let line = |&(capability, name, includes, purpose): &(Capability, &'static str, bool, &'static str)| {
        let included = includes && held.contains(&Capability::CAP_SYS_ADMIN);
        match held.contains(&capability) || included {
            true => Line::new(name, Verdict::Ok, format!("held: it {purpose}")),
            false => Line::new(name, Verdict::Limit, format!("missing: it {purpose}")),
        }
    };
    PURPOSES.iter().map(line).collect()
}

/// A ring buffer of the size that tools make. Before 5.11 it counts against the memory that a user may lock.
fn ring(refused: Option<&str>) -> Line {
    let name = "ring buffer";
    match (refused, features::try_ring(RING_BYTES)) {
        (Some(why), _) => Line::new(name, Verdict::No, why),
        (None, Ok(())) => Line::new(name, Verdict::Ok, "one of 8 MiB can be made"),
        (None, Err(error)) if error.kind() == ErrorKind::PermissionDenied => Line::new(
            name,
            Verdict::No,
            "one of 8 MiB is more memory than may be locked",
        )
        .hint("allow it with `ulimit -l unlimited`, or have CAP_SYS_RESOURCE"),
        (None, Err(error)) => Line::missing(name, &Error::new(error)),
    }
}

/// What `--buffer-size` is unless it is given.
const RING_BYTES: u32 = 8 << 20;

/// The best first.
const WAYS: [(&str, AttachMode); 3] = [
    ("uprobes: multi links", AttachMode::Multi),
    ("uprobes: perf links", AttachMode::Single),
    ("uprobes: perf events", AttachMode::Plain),
];

/// `refused` says why no BPF program can be loaded: then it would look as if the kernel had no way at all.
fn way_line(
    name: &'static str,
    way: AttachMode,
    ends: Ends,
    refused: Option<&str>,
    leaving: &mut DetachThreads,
) -> Line {
    if let Some(why) = refused {
        return Line::new(name, Verdict::No, why);
    }
    let expected = SeenCalls {
        entered: 1,
        returned: u64::from(ends == Ends::Both),
        cookie: TEST_COOKIE.into(),
    };
    match AttachMode::choose(Some(way)).and_then(|way| test_attach_mode(way, ends, leaving)) {
        Ok(seen) if seen == expected => {
            Line::new(name, Verdict::Ok, "a call of our own was seen, with its number")
        }
        Ok(seen) => Line::new(
            name,
            Verdict::No,
            format!("of a call of our own, {seen:?} was seen"),
        ),
        Err(error) => Line::missing(name, &error),
    }
}

/// What the kernel has beyond what is needed.
fn features(way: Option<AttachMode>, refused: Option<&str>) -> [Line; 4] {
    let line = |name, has: bool, yes: &str, no: &str| match (refused, has) {
        (Some(why), _) => Line::new(name, Verdict::No, why),
        (None, true) => Line::new(name, Verdict::Ok, yes),
        (None, false) => Line::new(name, Verdict::No, no),
    };
    [
        line(
            "multi links' filter",
            features::has_multi(),
            "-p costs other processes nothing",
            "perf events are used, which filter by process",
        ),
        line(
            "session links",
            features::has_sessions(),
            "calls that a filter drops pay for no return probe",
            "every call pays for its return probe",
        ),
        line(
            "cookies",
            features::has_cookies(),
            "one program serves all functions",
            "each function takes a copy of the programs",
        ),
        line(
            "sleepable programs",
            way.is_some_and(AttachMode::can_sleep),
            "functrace reads text that is not in memory",
            "text that is not in memory is shown as <fault>",
        ),
    ]
}

fn seccomp(fate: Result<SeccompOutcome>) -> Line {
    let name = "return probes and seccomp";
    match fate {
        Ok(SeccompOutcome::Survives) => Line::new(
            name,
            Verdict::Ok,
            "a child under a strict filter was probed and lives",
        ),
        Ok(SeccompOutcome::Killed) => Line::new(
            name,
            Verdict::Limit,
            "a child under a strict filter was probed and killed",
        )
        .hint("do not trace returns of confined programs, such as browsers; Linux 6.14 has the cure"),
        Err(error) => Line::missing(name, &error),
    }
}

fn cost(prices: Result<TrapPrices>) -> Line {
    let name = "cost of a probe";
    match prices {
        Ok(prices) => Line::new(
            name,
            Verdict::Ok,
            format!(
                "{:.0} ns, {:.0} single-stepped, a return {:.0} more",
                prices.emulated, prices.stepped, prices.returning
            ),
        ),
        Err(error) => Line::missing(name, &error),
    }
}

/// How many processes can be looked into, of ourselves and of other users?
#[derive(Default)]
struct Others {
    open: usize,
    closed: usize,
    /// Of these, those of other users.
    foreign_open: usize,
    foreign_closed: usize,
}

impl Others {
    fn count() -> Self {
        let own = geteuid().as_raw();
        let mut others = Self::default();
        for pid in Proc::host().pids().unwrap_or_default() {
            let foreign = fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() != own);
            let maps = File::open(format!("/proc/{pid}/maps")).and_then(|mut maps| maps.read(&mut [0]));
            match maps {
                // The kernel's own threads have no memory to look into.
                Ok(0) => {}
                Ok(_) => {
                    others.open += 1;
                    others.foreign_open += usize::from(foreign);
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    others.closed += 1;
                    others.foreign_closed += usize::from(foreign);
                }
                Err(_) => {} // It has ended.
            }
        }
        others
    }

    /// Single ones may be closed to everybody.
    fn are_seen(&self) -> bool {
        self.foreign_open > 0 || self.foreign_closed == 0
    }

    fn line(&self) -> Line {
        let name = "other processes";
        if !privileges::has_own_proc() {
            return Line::new(name, Verdict::No, "/proc is that of another pid namespace")
                .hint("mount it: `mount -t proc proc /proc`");
        }
        let mounts = mountinfo::read().unwrap_or_default();
        let hidden = mountinfo::hidepid(&mounts).map_or(String::new(), |option| {
            format!(", /proc is mounted with {option}")
        });
        let all = self.open + self.closed;
        let detail = format!("{} of {all} can be looked into{hidden}", self.open);
        match self.closed {
            0 => Line::new(name, Verdict::Ok, detail),
            _ => Line::new(name, Verdict::Limit, detail)
                .hint("CAP_SYS_PTRACE opens those of other users; some are closed to everybody"),
        }
    }
}

fn pid_namespace() -> Line {
    let name = "pid namespace";
    match privileges::pid_namespace() {
        None => Line::new(
            name,
            Verdict::Ok,
            "the initial one: pids are those of the machine",
        ),
        Some(_) => Line::new(
            name,
            Verdict::Limit,
            "one of its own: pids are as seen in it, 0 for others",
        )
        .hint("share the host's (hostPID, --pid=host) to see all processes"),
    }
}

fn mount_namespace() -> Line {
    let name = "mount namespace";
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt"));
    match (of("self"), of("1")) {
        (Ok(own), Ok(first)) if own == first => Line::new(name, Verdict::Ok, "that of process 1"),
        (Ok(_), Ok(_)) => Line::new(
            name,
            Verdict::Limit,
            "not that of process 1: paths mean the files seen here",
        )
        .hint("name a process with -p, or a path below /proc/PID/root"),
        (_, Err(error)) | (Err(error), _) => Line::new(name, Verdict::Limit, format!("not known: {error}")),
    }
}

fn lockdown() -> Line {
    let name = "lockdown";
    let Ok(text) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        return Line::new(name, Verdict::Ok, "the kernel tells of none");
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or_default();
    match chosen {
        "confidentiality" => Line::new(
            name,
            Verdict::No,
            "confidentiality: BPF programs may not read the kernel's memory",
        )
        .hint("boot with lockdown=integrity, or without Secure Boot's lockdown"),
        _ => Line::new(name, Verdict::Ok, chosen),
    }
}

/// Before 5.11, maps count against the memory that a process may lock.
fn memlock() -> Line {
    let name = "memlock limit";
    let Ok((now, most)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Line::new(name, Verdict::Ok, "not known");
    };
    let size = |bytes| match bytes {
        RLIM_INFINITY => "unlimited".to_owned(),
        bytes => format!("{} KiB", bytes / 1024),
    };
    let raised = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    let more = match raised {
        true => "may be raised",
        false => "may not be raised",
    };
    // Not to be inherited.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, now, most);
    Line::new(
        name,
        Verdict::Ok,
        format!("{}, {more}; it is for maps before 5.11 only", size(now)),
    )
}

/// Settings that are for those without capabilities.
fn settings() -> impl Iterator<Item = Line> {
    const SETTINGS: [(&str, &str); 2] = [
        ("perf_event_paranoid", "CAP_PERFMON overrides it"),
        ("unprivileged_bpf_disabled", "CAP_BPF overrides it"),
    ];
    SETTINGS.into_iter().map(|(name, meaning)| {
        let path = Path::new("/proc/sys/kernel").join(name);
        let value = fs::read_to_string(path).map_err(Error::new);
        result(name, value, |value| format!("{}: {meaning}", value.trim()))
    })
}
