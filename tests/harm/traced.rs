// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Runs a program untraced or under a tool, and compares what it does.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;

use crate::programs::{Program, in_guest};

static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
    env::var_os("UBPF_TOOLS_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_ubpf-tools").into(), PathBuf::from)
});
const DEADLINE: Duration = Duration::from_secs(180);
/// Follows the last row in the FIFO to which the tools write.
const END: &str = "end\n";

/// A tool with the options of a run.
pub struct ToolRun {
    command: &'static [&'static str],
    /// Cheap enough for the larger number of calls.
    pub bulk: bool,
    /// Part of the short form.
    pub short: bool,
    /// It must hurt the programs of hazards.cc, which shows that harm is noticed.
    pub harmful: bool,
}

const fn full(command: &'static [&'static str]) -> ToolRun {
    ToolRun {
        command,
        bulk: false,
        short: false,
        harmful: false,
    }
}

const fn short(command: &'static [&'static str]) -> ToolRun {
    ToolRun {
        short: true,
        ..full(command)
    }
}

const fn harmful(command: &'static [&'static str]) -> ToolRun {
    ToolRun {
        harmful: true,
        ..short(command)
    }
}

const fn bulk(command: &'static [&'static str]) -> ToolRun {
    ToolRun {
        bulk: true,
        ..short(command)
    }
}

pub const TOOL_RUNS: &[ToolRun] = &[
    harmful(&["functrace", "--ret", "--returns", "kernel"]),
    bulk(&["funccount"]),
    full(&["funccount", "--placement", "entry"]),
    short(&["functrace", "--ret", "--stack"]),
    full(&["functrace", "--ret", "--stack", "--returns", "instructions"]),
    full(&["funclatency", "-F"]),
    short(&["funclatency", "-F", "--returns", "instructions"]),
    short(&["mallocsnoop", "--ret", "--stack", "--free"]),
    full(&[
        "mallocsnoop",
        "--ret",
        "--stack",
        "--free",
        "--returns",
        "instructions",
    ]),
];

impl ToolRun {
    pub fn name(&self) -> String {
        self.command.join(" ")
    }

    /// The tool without its options.
    pub fn tool(&self) -> &str {
        self.command[0]
    }

    /// True if it can use return probes on functions that the user chooses.
    pub fn has_return_probes(&self) -> bool {
        !self.command.contains(&"instructions") && self.tool() != "funccount" && self.tool() != "mallocsnoop"
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Behaviour {
    stdout: String,
    stderr: String,
    /// `None` if it did not end in time.
    status: Option<ExitStatus>,
    /// It left processes behind.
    left: bool,
}

pub struct Outcome {
    pub hits: u64,
    pub took: Duration,
    /// None if the program did the same as untraced.
    pub problems: Vec<String>,
}

/// What the program does; it has to succeed.
pub fn run_untraced(program: &Program, bulk: bool) -> Result<Behaviour, Outcome> {
    let began = Instant::now();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &program.script(bulk)]);
    let behaviour = run_to_end(command, DEADLINE);
    if behaviour.status.is_some_and(|status| status.success()) {
        return Ok(behaviour);
    }
    Err(Outcome {
        hits: 0,
        took: began.elapsed(),
        problems: vec![format!("{behaviour:?}")],
    })
}

pub fn run_traced(program: &Program, tool: &ToolRun, bulk: bool, expected: &Behaviour) -> Outcome {
    let began = Instant::now();
    let rows = Rows::start();
    let mut command = Command::new(&*TOOLS);
    command
        .args(tool.command)
        .args(["--json", "--quiet", "--follow", "--output"])
        .arg(&rows.path);
    if tool.command[0] == "mallocsnoop" {
        if let Some(file) = program.allocator_file() {
            command.args(["--library", &file]);
        }
    } else {
        command.args(program.specs());
    }
    command.args(["--", "/bin/sh", "-c", &program.script(bulk)]);
    let behaviour = run_to_end(command, if in_guest() { DEADLINE * 5 } else { DEADLINE });
    let (attached, summary) = rows.finish();
    let hits = summary["hits"].as_u64().unwrap_or(0);
    if in_guest() && behaviour.stderr.contains("probes exceed the limit of") {
        // For scripts/vmtest, which counts these lines.
        println!(
            "SKIPPED: {}: more functions than a run may probe on this kernel",
            program.name
        );
        return Outcome {
            hits,
            took: began.elapsed(),
            problems: Vec::new(),
        };
    }
    let mut problems = differences(expected, &behaviour);
    // A tool that sees nothing hurts nobody.
    if hits == 0 {
        problems.push(format!("no hits; attached: {attached}, summary: {summary}"));
    }
    if tool.harmful {
        problems = match problems.is_empty() {
            true => vec!["the program did the same, though it has a hazard".to_owned()],
            false => Vec::new(),
        };
    }
    if !problems.is_empty() {
        problems.push(format!("stderr: {}", behaviour.stderr));
    }
    Outcome {
        hits,
        took: began.elapsed(),
        problems,
    }
}

fn differences(expected: &Behaviour, seen: &Behaviour) -> Vec<String> {
    let mut problems = Vec::new();
    if seen.status.is_none() {
        problems.push("did not end in time".to_owned());
    } else if seen.status != expected.status {
        problems.push(format!(
            "status: {:?}, untraced {:?}",
            seen.status, expected.status
        ));
    }
    if seen.left && !expected.left {
        problems.push("left processes behind".to_owned());
    }
    if seen.stdout != expected.stdout {
        let mut text = "output, - untraced + traced:".to_owned();
        let (mut before, mut after) = (expected.stdout.lines(), seen.stdout.lines());
        loop {
            let lines = (before.next(), after.next());
            if lines == (None, None) {
                break;
            }
            if lines.0 != lines.1 {
                let _ = write!(
                    text,
                    "\n  - {}\n  + {}",
                    lines.0.unwrap_or(""),
                    lines.1.unwrap_or("")
                );
            }
        }
        problems.push(text);
    }
    problems
}

/// Runs a command in a process group, and kills what is left of it.
fn run_to_end(mut command: Command, deadline: Duration) -> Behaviour {
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let group = Pid::from_raw(child.id() as i32);
    let stdout = read_to_end(child.stdout.take());
    let stderr = read_to_end(child.stderr.take());
    let status = wait(&mut child, deadline);
    let left = killpg(group, Signal::SIGKILL).is_ok();
    if status.is_none() {
        // Killed with its group.
        child.wait().expect("failed to wait");
    }
    Behaviour {
        stdout: stdout.join().expect("stdout"),
        stderr: stderr.join().expect("stderr"),
        status,
        left,
    }
}

fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("failed to wait") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

fn read_to_end(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A FIFO that a tool writes its rows to, of which only the first and the last record are kept.
struct Rows {
    path: PathBuf,
    reader: JoinHandle<(Value, Value)>,
}

impl Rows {
    fn start() -> Rows {
        let path = env::temp_dir().join(format!("harm-{}.rows", std::process::id()));
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a new FIFO");
        let fifo = open(&path);
        Rows {
            path,
            reader: thread::spawn(|| first_and_last(fifo)),
        }
    }

    fn finish(self) -> (Value, Value) {
        let mut fifo = open(&self.path);
        let _ = fs::remove_file(&self.path);
        fifo.write_all(END.as_bytes()).expect("failed to write");
        self.reader.join().expect("rows")
    }
}

/// Opened for both, a FIFO does not wait for another end.
fn open(fifo: &Path) -> File {
    let opened = OpenOptions::new().read(true).write(true).open(fifo);
    opened.unwrap_or_else(|error| panic!("{}: {error}", fifo.display()))
}

fn first_and_last(fifo: File) -> (Value, Value) {
    let mut fifo = BufReader::with_capacity(1 << 20, fifo);
    let (mut first, mut last, mut line) = (Value::Null, Vec::new(), Vec::new());
    while fifo.read_until(b'\n', &mut line).is_ok() && line != END.as_bytes() {
        if first.is_null() {
            first = serde_json::from_slice(&line).unwrap_or_default();
        }
        std::mem::swap(&mut line, &mut last);
        line.clear();
    }
    (first, serde_json::from_slice(&last).unwrap_or_default())
}
