// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Runs a tool beside programs with known behaviour, and lets neither outlive its test.
//!
//! Nothing here sleeps for luck: a tool is ready when its `attached` record is there, a program when it has answered,
//! and whatever is waited for has a deadline. Children are ended by the handle that this process has of them, also when
//! a test panics.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
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

/// The binary under test: `UBPF_TOOLS_BINARY`, or the one that was built with the tests.
pub static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
    env::var_os("UBPF_TOOLS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_ubpf-tools").into(), PathBuf::from)
});
/// What takes longer than this has failed; the machine may be emulated, and busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Of a run that shows more than this, the rest is not read: the filter is broken, and memory has an end.
const MOST_RECORDS: usize = 300_000;

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

    /// The way that the tool takes of itself on this kernel.
    pub fn best() -> AttachMode {
        let version = kernel_version();
        [AttachMode::Session, AttachMode::Multi, AttachMode::Single]
            .into_iter()
            .find(|mode| version >= mode.since())
            .unwrap_or(AttachMode::Plain)
    }

    /// The kernel that was the first to have it.
    pub fn since(self) -> (u32, u32) {
        match self {
            AttachMode::Session => (6, 13),
            // Between 6.6 and 6.10 its filter by process was not yet right.
            AttachMode::Multi => (6, 10),
            AttachMode::Single => (5, 15),
            AttachMode::Plain => (0, 0),
        }
    }

    /// Is a link enough for all points of a file?
    pub fn has_multi_links(self) -> bool {
        matches!(self, AttachMode::Session | AttachMode::Multi)
    }

    /// Runs a test unless this kernel is older than the way, and the tool says so; or another way is the best one, and
    /// `UBPF_TOOLS_BEST_MODE` asks for that alone.
    pub fn run(self, test: impl FnOnce(AttachMode)) {
        if env::var_os("UBPF_TOOLS_BEST_MODE").is_some() && self != AttachMode::best() {
            return skip("another way of attaching is the best one here");
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

/// Is this a guest of `make vmtest`, which is emulated and some fifty times slower?
pub fn in_guest() -> bool {
    env::var_os("UBPF_TOOLS_TARGETS").is_some()
}

/// `each_mode! { test ... }` makes of each function that takes a [`AttachMode`] one test for each way.
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

/// The same with one more way, for tests that watch both ends of calls: to others, sessions make no difference.
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

/// `best_mode! { test ... }` makes of each such function one test, as what it is about has nothing to do with the way;
/// to remove probes one by one takes seconds.
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

/// Major and minor number of the running kernel.
pub fn kernel_version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Says, past the test runner's capture, that a test or a part of it is not run, and why.
pub fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or("?").to_owned();
    // Not eprintln, which is captured where nobody looks unless the test fails.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// A tool in a run with `-j`, attached.
pub struct Tool {
    child: Owned,
    records: Receiver<Value>,
    stderr: Option<JoinHandle<String>>,
    /// The record that says what is traced.
    pub attached: Value,
    /// Records that have been read so far, without `attached`.
    pub seen: Vec<Value>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Run {
    /// Records that are none of `attached`, `joined`, `lost`, `stopped` and `summary`: events and aggregates.
    pub rows: Vec<Value>,
    pub joined: Vec<Value>,
    pub lost: Vec<Value>,
    /// Null when the run ended without one.
    pub summary: Value,
    pub stderr: String,
    pub status: ExitStatus,
}

impl Tool {
    /// Runs `ubpf-tools TOOL -j --attach WAY ARGS...` and waits until it is attached.
    pub fn start<S: AsRef<OsStr>>(tool: &str, mode: AttachMode, args: impl IntoIterator<Item = S>) -> Tool {
        Tool::start_as(tool_command(tool, mode, args))
    }

    /// The same with a command that the caller has prepared. It must end up with `-j`.
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
                .take(MOST_RECORDS)
            {
                // What a command under test prints goes the same way.
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
            Err(RecvTimeoutError::Timeout) => panic!("no record of pid {} for {DEADLINE:?}", self.pid()),
        }
    }

    /// Reads until a record is `wanted`, and returns it.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "other records for {DEADLINE:?}");
            let Some(record) = self.next() else {
                panic!(
                    "the run ended before that, and its last record was {:?}",
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

    /// Does something again and again until the tool has a row; gives up at the deadline.
    pub fn until_row(&mut self, mut something: impl FnMut()) {
        let start = Instant::now();
        while !self.seen.iter().any(is_row) {
            assert!(start.elapsed() < DEADLINE, "no row after {DEADLINE:?}");
            something();
            self.seen
                .extend(self.records.recv_timeout(Duration::from_millis(100)));
        }
    }

    /// Ends the run as Ctrl-C does.
    pub fn stop(self) -> Run {
        self.signal(Signal::SIGINT);
        self.finish()
    }

    /// Waits until the run ends by itself.
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
            lost: of("lost"),
            summary: of("summary").pop().unwrap_or_default(),
            rows: records.iter().filter(|record| is_row(record)).cloned().collect(),
            stderr,
            status,
        }
    }
}

/// `ubpf-tools TOOL -j --attach WAY ARGS...`, to be changed by the caller.
pub fn tool_command<S: AsRef<OsStr>>(
    tool: &str,
    mode: AttachMode,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(&*TOOLS);
    command.args([tool, "-j", "--attach", mode.name()]).args(args);
    command
}

fn is_row(record: &Value) -> bool {
    record.is_object()
        && !["attached", "joined", "lost", "stopped", "summary"]
            .iter()
            .any(|kind| record["type"] == *kind)
}

impl Run {
    /// Exit status 0, nothing lost, and the summary agrees with the rows.
    #[track_caller]
    pub fn assert_clean(&self) -> &Run {
        assert!(self.status.success(), "{:?}: {}", self.status, self.stderr);
        assert_eq!(self.summary["lost"], 0, "{}", self.stderr);
        assert_eq!(self.summary["events"], self.rows.len(), "{:?}", self.summary);
        self
    }

    /// The rows whose `key` has this value.
    pub fn with(&self, key: &str, value: impl Into<Value>) -> Vec<&Value> {
        let value = value.into();
        self.rows.iter().filter(|row| row[key] == value).collect()
    }
}

/// A program that ran to its end: what it wrote, and its status.
#[derive(Debug)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub status: ExitStatus,
}

/// Runs a command to its end, which must come by itself before the deadline.
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

/// A child that is killed and reaped when it is dropped.
pub struct Owned(pub Child);

impl Owned {
    pub fn signal(&self, signal: Signal) {
        // The child is not reaped as long as this handle is there, so the number is still its own.
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("failed to signal a child");
    }

    /// Its status; a panic at the deadline.
    pub fn wait(&mut self) -> ExitStatus {
        wait_until(&format!("the end of pid {}", self.0.id()), || {
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

/// Looks again and again until there is something; a panic at the deadline.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// One thread or process that did what a [`Target`] was told.
#[derive(Debug)]
pub struct Worker {
    pub tid: u32,
    /// As the JSON of the tools has them.
    pub addresses: Vec<String>,
}

/// A program that does what it is told line by line, see tests/targets/calls.c.
pub struct Target {
    child: Owned,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Target {
    /// Starts a program that reads orders. It has begun to work when this returns.
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

    /// Gives an order without waiting for the answer.
    pub fn tell(&mut self, order: &str) {
        let input = self.input.as_mut().expect("an open input");
        // At once, for programs that read what there is.
        let line = format!("{order}\n");
        input
            .write_all(line.as_bytes())
            .unwrap_or_else(|error| panic!("{order}: {error}"));
    }

    /// Waits for the answer to an order: one entry a thread or process that worked.
    pub fn answer(&mut self) -> Vec<Worker> {
        let mut workers = Vec::new();
        loop {
            let line = self
                .lines
                .recv_timeout(DEADLINE)
                .expect("no answer of the target");
            if line == "." {
                return workers;
            }
            let mut words = line.split(' ').map(str::to_owned);
            let tid = words
                .next()
                .and_then(|tid| tid.parse().ok())
                .unwrap_or_else(|| panic!("answer {line:?}"));
            workers.push(Worker {
                tid,
                addresses: words.collect(),
            });
        }
    }

    /// Gives an order and waits until it is done.
    pub fn ask(&mut self, order: &str) -> Vec<Worker> {
        self.tell(order);
        self.answer()
    }

    /// Ends its input, and waits for its end.
    pub fn end(mut self) -> ExitStatus {
        self.input = None;
        self.child.wait()
    }
}

/// A folder for what tests make.
pub fn build_dir() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        // In a guest with another kernel it is not there yet.
        fs::create_dir_all(&folder).expect("a folder");
        folder
    });
    &FOLDER
}

/// A new folder that every user can read; gone at the end, with what is in it.
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

    /// Another inode with the same in it.
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

/// Copies a program. By another process, as one that a thread of this one forks meanwhile would hold it open for
/// writing, and it could not be started.
#[track_caller]
pub fn copy(from: &Path, to: &Path) {
    let copied = run_to_end(Command::new("cp").arg(from).arg(to));
    assert!(copied.status.success(), "{}", copied.stderr);
}

/// A program of tests/targets/Makefile, or nothing where its compiler is missing.
///
/// They are built when the first test asks, unless `UBPF_TOOLS_TARGETS` names a folder that has them: a guest with
/// another kernel has no compilers.
pub fn program_if_built(name: &str) -> Option<PathBuf> {
    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| env::var_os("UBPF_TOOLS_TARGETS").map_or_else(build_programs, PathBuf::from));
    Some(FOLDER.join(name)).filter(|program| program.exists())
}

/// A program that is always built.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    program_if_built(name).unwrap_or_else(|| panic!("tests/targets/Makefile has not built {name}"))
}

fn build_programs() -> PathBuf {
    let folder = build_dir().join("targets");
    let built = run_to_end(
        Command::new("make")
            .args(["--silent", "-j2", "-C"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets"))
            .arg(format!("OUT={}", folder.display()))
            // This is no part of the make that may have started the tests.
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .env_remove("MAKELEVEL"),
    );
    assert!(built.status.success(), "make -C tests/targets: {}", built.stderr);
    folder
}
