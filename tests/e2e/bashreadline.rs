// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! bashreadline: every line entered in bash is shown once, complete and in order, and nothing else is.
//!
//! Other tests type into shells at the same time, so rows are selected by PID.

mod discovery;
mod ends;
mod errors;
mod filters;
mod output;
mod rows;
mod targets;
mod text;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::{Ended, Owned, Run, TOOLS, Tool, program, wait_until};
use crate::pty::state_of;

const TOOL: &str = "bashreadline";
const EMPTY: [&str; 0] = [];

/// Has the functions that identify bash and links against libreadline, as bash does in other distributions.
fn bash_with_libreadline() -> PathBuf {
    program("lines-bash")
}

/// Links against libreadline, and is not bash.
fn program_with_libreadline() -> PathBuf {
    program("lines-library")
}

impl Run {
    /// The commands of all rows of one process, in order.
    fn lines_of(&self, pid: u32) -> Vec<&str> {
        self.with("pid", pid)
            .iter()
            .map(|row| row["command"].as_str().expect("a line"))
            .collect()
    }

    /// The commands of all rows, in order.
    fn all_lines(&self) -> Vec<&str> {
        self.rows
            .iter()
            .map(|row| row["command"].as_str().expect("a line"))
            .collect()
    }
}

impl Ended {
    /// Asserts that stderr is one error line containing `message` and at most one hint, and stdout is empty.
    #[track_caller]
    fn assert_refused(&self, status: i32, message: &str) {
        let lines: Vec<&str> = self.stderr.lines().collect();
        let as_expected = match lines[..] {
            [error] => error.starts_with("error: ") && error.contains(message),
            [error, hint] => {
                error.starts_with("error: ") && error.contains(message) && hint.starts_with("hint: ")
            }
            _ => false,
        };
        assert!(as_expected, "expected {message:?} in:\n{}", self.stderr);
        assert_eq!(
            (self.status.code(), self.stdout.as_str()),
            (Some(status), ""),
            "{}",
            self.stderr
        );
    }
}

/// Runs the tool with `-j`, without forcing an attach mode, and waits until it is attached.
fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Tool {
    let mut command = Command::new(&*TOOLS);
    command.args([TOOL, "-j"]).args(args);
    Tool::start_as(command)
}

/// A run in text or CSV format, which reports on stderr that it is attached.
struct RawTool {
    child: Owned,
    stdout: Option<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl RawTool {
    fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut tool = Self::spawn(args);
        let mut line = String::new();
        tool.stderr.read_line(&mut line).expect("UTF-8");
        assert!(line.starts_with("Tracing "), "{line}");
        tool
    }

    fn spawn<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(&*TOOLS);
        command
            .arg(TOOL)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("failed to run the tool");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take().expect("a pipe"));
        Self {
            child: Owned(child),
            stdout,
            stderr: BufReader::new(stderr),
        }
    }

    fn stop(self) -> Ended {
        self.child.signal(Signal::SIGINT);
        self.finish()
    }

    fn finish(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let Some(mut pipe) = self.stdout {
            pipe.read_to_string(&mut stdout).expect("UTF-8");
        }
        self.stderr.read_to_string(&mut stderr).expect("UTF-8");
        Ended {
            stdout,
            stderr,
            status: self.child.wait(),
        }
    }
}

/// Keeps a tool stopped with SIGSTOP until this value is dropped.
struct StoppedTool<'a>(&'a Tool);

impl<'a> StoppedTool<'a> {
    fn new(tool: &'a Tool) -> Self {
        tool.signal(Signal::SIGSTOP);
        wait_until("the tool to stop", || (state_of(tool.pid()) == 'T').then_some(()));
        Self(tool)
    }
}

impl Drop for StoppedTool<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}
