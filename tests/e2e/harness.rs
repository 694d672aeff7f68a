// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Runs a tool and target programs with known behaviour, and kills both when the test ends.
//!
//! There are no arbitrary sleeps: a tool is ready when it has written its `attached` record, a target when it has
//! answered, and every wait has a deadline. Children are killed through their `Child` handles, even if a test panics.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub use crate::targets::{build_dir, program_if_built};

/// The binary under test: `UBPF_TOOLS_BINARY`, or the one built with the tests.
pub static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
    env::var_os("UBPF_TOOLS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_ubpf-tools").into(), PathBuf::from)
});
/// How long to wait before a test fails. Long, as the machine may be emulated and busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Records after this many are not read, so that a broken filter does not exhaust memory.
const MAX_RECORDS: usize = 300_000;

/// How probes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    Session,
    Multi,
    Single,
    Plain,
}

impl AttachMode {
    /// The value of `--attach`.
    pub fn name(self) -> &'static str {
        match self {
            AttachMode::Session => "session",
            AttachMode::Multi => "multi",
            AttachMode::Single => "single",
            AttachMode::Plain => "plain",
        }
    }

    /// The default of the tool on this kernel.
    pub fn best() -> AttachMode {
        let version = kernel_version();
        [AttachMode::Session, AttachMode::Multi, AttachMode::Single]
            .into_iter()
            .find(|mode| version >= mode.since())
            .unwrap_or(AttachMode::Plain)
    }

    /// The first kernel that supports it.
    pub fn since(self) -> (u32, u32) {
        match self {
            AttachMode::Session => (6, 13),
            // From 6.6 to 6.9 it filters by thread instead of by process.
            AttachMode::Multi => (6, 10),
            AttachMode::Single => (5, 15),
            AttachMode::Plain => (0, 0),
        }
    }

    /// True if one link covers all points of a file.
    pub fn has_multi_links(self) -> bool {
        matches!(self, AttachMode::Session | AttachMode::Multi)
    }

    /// Runs a test in this mode. Skips it if `UBPF_TOOLS_BEST_MODE` is set and this is not the best mode, or if the
    /// kernel lacks the mode, after checking that the tool refuses it with the right message.
    pub fn run(self, test: impl FnOnce(AttachMode)) {
        if env::var_os("UBPF_TOOLS_BEST_MODE").is_some() && self != AttachMode::best() {
            return skip("UBPF_TOOLS_BEST_MODE is set, and another mode is the best here");
        }
        if kernel_version() >= self.since() {
            return test(self);
        }
        let refused = run_to_end(&mut tool_command("mallocsnoop", self, ["-d", "1"]));
        let (major, minor) = self.since();
        let since = format!("(since {major}.{minor})\n");
        assert!(
            refused.status.code() == Some(3) && refused.stderr.ends_with(&since),
            "{refused:?}"
        );
        skip(refused.stderr.trim_end());
    }
}

/// True in a guest of `make vmtest`, which may be emulated and about fifty times slower.
pub fn in_guest() -> bool {
    env::var_os("UBPF_TOOLS_TARGETS").is_some()
}

/// `each_mode! { test ... }` generates a test for each mode except session from functions that take an [`AttachMode`].
macro_rules! each_mode {
    ($($test:ident)*) => {$(
        mod $test {
            use crate::harness::AttachMode;

            #[test]
            fn multi() {
                AttachMode::Multi.run(super::$test);
            }

            #[test]
            fn single() {
                AttachMode::Single.run(super::$test);
            }

            #[test]
            fn plain() {
                AttachMode::Plain.run(super::$test);
            }
        }
    )*};
}
pub(crate) use each_mode;

/// Like [`each_mode!`], plus session mode. For tests that probe both entry and return: only those use session links.
macro_rules! each_mode_with_session {
    ($($test:ident)*) => {
        $crate::harness::each_mode! { $($test)* }
        mod session {
            use crate::harness::AttachMode;
            $(
                #[test]
                fn $test() {
                    AttachMode::Session.run(super::$test);
                }
            )*
        }
    };
}
pub(crate) use each_mode_with_session;

/// `best_mode! { test ... }` generates one test from each function, for behaviour that does not depend on the mode:
/// removing probes one by one takes seconds.
macro_rules! best_mode {
    ($($test:ident)*) => {$(
        mod $test {
            #[test]
            fn best() {
                super::$test(crate::harness::AttachMode::best());
            }
        }
    )*};
}
pub(crate) use best_mode;

/// Major and minor version of the running kernel.
pub fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Reports that a test, or a part of it, was skipped. scripts/vmtest counts these lines.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("?").to_owned();
    // The test runner captures eprintln!, and shows it only for tests that fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// A running tool with `-j` that has attached its probes.
pub struct Tool {
    child: Owned,
    records: Receiver<Value>,
    stderr: Option<JoinHandle<String>>,
    /// Its `attached` record.
    pub attached: Value,
    /// Records read so far, without `attached`.
    pub seen: Vec<Value>,
}

/// Output and exit status of a finished run.
#[derive(Debug)]
pub struct Run {
    /// Events and aggregates: all records except those that every tool has.
    pub rows: Vec<Value>,
    pub joined: Vec<Value>,
    pub late: Vec<Value>,
    pub lost: Vec<Value>,
    /// Null if the run ended without one.
    pub summary: Value,
    pub stderr: String,
    pub status: ExitStatus,
}

impl Tool {
    /// Runs `ubpf-tools TOOL -j --attach MODE ARGS...` and waits until it has attached.
    pub fn start<S: AsRef<OsStr>>(tool: &str, mode: AttachMode, args: impl IntoIterator<Item = S>) -> Tool {
        let mut command = tool_command(tool, mode, args);
        // SIGTSTP does not stop a process group without a parent in its session, which that of the tests may be.
        command.process_group(0);
        Tool::start_as(command)
    }

    /// Like [`Tool::start`], for a prepared command that runs the tool with `-j`.
    pub fn start_as(command: Command) -> Tool {
        let mut tool = Tool::spawn(command);
        match tool.next() {
            Some(record) if record["type"] == "attached" => tool.attached = record,
            first => {
                tool.seen.extend(first);
                let run = tool.finish();
                panic!(
                    "the tool did not attach: {:?} {}\n{:?}",
                    run.status, run.stderr, run.rows
                );
            }
        }
        tool
    }

    fn spawn(mut command: Command) -> Tool {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("a pipe");
        let stderr = child.stderr.take().expect("a pipe");
        let (send, records) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .take(MAX_RECORDS)
            {
                // A command run by the tool writes to the same pipe.
                let record = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(record).is_err() {
                    return;
                }
            }
        });
        let stderr = Some(thread::spawn(move || read_all(stderr)));
        Tool {
            child: Owned(child),
            records,
            stderr,
            attached: Value::Null,
            seen: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    fn next(&self) -> Option<Value> {
        match self.records.recv_timeout(DEADLINE) {
            Ok(record) => Some(record),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no record from PID {} for {DEADLINE:?}", self.pid()),
        }
    }

    /// Reads records until one is `wanted`, and returns it.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "no wanted record for {DEADLINE:?}");
            let Some(record) = self.next() else {
                panic!(
                    "the run ended without the wanted record; the last was {:?}",
                    self.seen.last()
                )
            };
            self.seen.push(record.clone());
            if wanted(&record) {
                return record;
            }
        }
    }

    /// Reads until `count` rows have arrived since the start.
    pub fn wait_rows(&mut self, count: usize) {
        while self.seen.iter().filter(|record| is_row(record)).count() < count {
            self.wait_for(is_row);
        }
    }

    /// Repeats `action` until the tool has printed a row; gives up at the deadline.
    pub fn until_row(&mut self, action: impl FnMut()) {
        self.until(is_row, action);
    }

    /// Repeats `action` until the tool has printed a row of process `pid`; gives up at the deadline.
    pub fn until_row_of(&mut self, pid: u32, action: impl FnMut()) {
        self.until(|record| is_row(record) && record["pid"] == pid, action);
    }

    /// Repeats `action` until the tool has printed such a record; gives up at the deadline.
    pub fn until(&mut self, is_expected: impl Fn(&Value) -> bool, mut action: impl FnMut()) {
        let start = Instant::now();
        while !self.seen.iter().any(&is_expected) {
            assert!(start.elapsed() < DEADLINE, "no such record after {DEADLINE:?}");
            action();
            self.seen
                .extend(self.records.recv_timeout(Duration::from_millis(100)));
        }
    }

    /// Ends the run with SIGINT, as Ctrl-C does.
    pub fn stop(self) -> Run {
        self.signal(Signal::SIGINT);
        self.finish()
    }

    /// Waits until the run ends.
    pub fn finish(mut self) -> Run {
        let mut records = std::mem::take(&mut self.seen);
        while let Some(record) = self.next() {
            records.push(record);
        }
        let status = self.child.wait();
        let stderr = self
            .stderr
            .take()
            .map(|thread| thread.join().expect("stderr"))
            .unwrap_or_default();
        let of = |kind: &str| {
            records
                .iter()
                .filter(|record| record["type"] == kind)
                .cloned()
                .collect::<Vec<_>>()
        };
        Run {
            joined: of("joined"),
            late: of("late"),
            lost: of("lost"),
            summary: of("summary").pop().unwrap_or_default(),
            rows: records.iter().filter(|record| is_row(record)).cloned().collect(),
            stderr,
            status,
        }
    }
}

/// `ubpf-tools TOOL -j --attach MODE ARGS...`
pub fn tool_command<S: AsRef<OsStr>>(
    tool: &str,
    mode: AttachMode,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(&*TOOLS);
    command.args([tool, "-j", "--attach", mode.name()]).args(args);
    // Under nohup(1), the tests ignore SIGHUP, and the tool would, too.
    // SAFETY: signal(2) is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    command
}

fn is_row(record: &Value) -> bool {
    record.is_object()
        && ![
            "attached", "detached", "joined", "late", "lost", "stopped", "summary",
        ]
        .iter()
        .any(|kind| record["type"] == *kind)
}

impl Run {
    /// Asserts exit status 0, no lost events, and as many events in the summary as rows.
    #[track_caller]
    pub fn assert_clean(&self) -> &Run {
        assert!(self.status.success(), "{:?}: {}", self.status, self.stderr);
        assert_eq!(self.summary["lost"], 0, "{}", self.stderr);
        assert_eq!(self.summary["events"], self.rows.len(), "{:?}", self.summary);
        self
    }

    /// The rows in which `key` has this value.
    pub fn with(&self, key: &str, value: impl Into<Value>) -> Vec<&Value> {
        let value = value.into();
        self.rows.iter().filter(|row| row[key] == value).collect()
    }
}

/// Output and exit status of a program.
#[derive(Debug)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

/// Runs a command and waits until it exits. Panics at the deadline.
pub fn run_to_end(command: &mut Command) -> Ended {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Owned(
        command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}")),
    );
    let stdout = child.0.stdout.take().expect("a pipe");
    let stderr = child.0.stderr.take().expect("a pipe");
    let (stdout, stderr) = (
        thread::spawn(move || read_all(stdout)),
        thread::spawn(move || read_all(stderr)),
    );
    let status = child.wait();
    Ended {
        stdout: stdout.join().expect("stdout"),
        stderr: stderr.join().expect("stderr"),
        status,
    }
}

fn read_all(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A child process, killed and reaped on drop.
pub struct Owned(pub Child);

impl Owned {
    pub fn signal(&self, signal: Signal) {
        // Only this handle reaps the child, so its PID has not been reused.
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("failed to signal a child");
    }

    /// Waits for the exit status. Panics at the deadline.
    pub fn wait(&mut self) -> ExitStatus {
        wait_until(&format!("PID {} to exit", self.0.id()), || {
            self.0.try_wait().expect("failed to wait")
        })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Polls until `poll` returns a value. Panics at the deadline.
pub fn wait_until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A thread or process that carried out an order of a [`Target`].
#[derive(Debug)]
pub struct Worker {
    pub tid: u32,
    /// In the format of the tools' JSON.
    pub addresses: Vec<String>,
}

/// Whether a process is in a state, by its letter in /proc/PID/stat.
pub fn is_in_state(pid: u32, state: char) -> Option<()> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.starts_with(state).then_some(())
}

/// A program that reads orders from standard input, one per line; see tests/targets/calls.c.
pub struct Target {
    child: Owned,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Target {
    /// Starts a program and waits until it has answered a first order.
    pub fn start(mut command: Command) -> Target {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("a pipe");
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        let mut target = Target {
            child: Owned(child),
            input,
            lines,
        };
        target.ask("spin 0");
        target
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Sends an order without waiting for the answer.
    pub fn tell(&mut self, order: &str) {
        let input = self.input.as_mut().expect("an open input");
        // In a single write, for programs that do not buffer their input.
        let line = format!("{order}\n");
        input
            .write_all(line.as_bytes())
            .unwrap_or_else(|error| panic!("{order}: {error}"));
    }

    /// Waits for the answer to an order: one worker for each thread or process that carried it out.
    pub fn answer(&mut self) -> Vec<Worker> {
        let mut workers = Vec::new();
        loop {
            let line = self
                .lines
                .recv_timeout(DEADLINE)
                .expect("an answer from the target");
            if line == "." {
                return workers;
            }
            let mut words = line.split(' ').map(str::to_owned);
            let tid = words
                .next()
                .and_then(|tid| tid.parse().ok())
                .unwrap_or_else(|| panic!("malformed answer {line:?}"));
            workers.push(Worker {
                tid,
                addresses: words.collect(),
            });
        }
    }

    /// Sends an order and waits until it has been carried out.
    pub fn ask(&mut self, order: &str) -> Vec<Worker> {
        self.tell(order);
        self.answer()
    }

    /// Closes its standard input and waits until it exits.
    pub fn end(mut self) -> ExitStatus {
        self.input = None;
        self.child.wait()
    }
}

/// A new temporary folder that every user can read, removed on drop.
pub struct Folder {
    pub path: PathBuf,
}

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("ubpf-tools-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self { path }
    }

    /// Copies a file into the folder: uprobes are set per inode, so the copy has none.
    #[track_caller]
    pub fn copy_of(&self, file: impl AsRef<Path>, name: &str) -> PathBuf {
        let to = self.path.join(name);
        copy(file.as_ref(), &to);
        to
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Copies a program with cp: if this process wrote the file, a child that another thread forks meanwhile would inherit
/// the descriptor, and exec would fail with ETXTBSY.
#[track_caller]
pub fn copy(from: &Path, to: &Path) {
    let copied = run_to_end(Command::new("cp").arg(from).arg(to));
    assert!(copied.status.success(), "{}", copied.stderr);
}

/// A program of tests/targets/Makefile that does not need an optional compiler.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    program_if_built(name).unwrap_or_else(|| panic!("tests/targets/Makefile did not build {name}"))
}
