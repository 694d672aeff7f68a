// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Runs a tracer as a child process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TOOL: &str = env!("CARGO_BIN_EXE_ubpf-tools");

/// A tool of the suite, called by its own name as through its link. In the arguments, `PID` stands for the target.
pub fn tool_command(tool: &str, args: &str, target: u32) -> Command {
    let mut command = Command::new(TOOL);
    command.arg0(tool);
    command.args(args.replace("PID", &target.to_string()).split(' '));
    command
}

/// A running tracer. Killed on drop.
pub struct Tracer {
    pub spawned: Instant,
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    reaped: bool,
}

/// The resource usage of a tracer that has ended.
#[derive(Default)]
pub struct TracerUsage {
    pub cpu: Duration,
    pub peak_kib: f64,
    /// From SIGINT to the exit.
    pub stopping: Duration,
}

impl Tracer {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let spawned = Instant::now();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start a tracer")?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let stderr = BufReader::new(child.stderr.take().context("no pipe")?);
        Ok(Self {
            spawned,
            child,
            stdout,
            stderr,
            reaped: false,
        })
    }

    /// Waits for a line that contains `mark` on standard output.
    pub fn wait_for_row(&mut self, mark: &str) -> Result<()> {
        wait_for_line(&mut self.stdout, mark)
    }

    /// Waits for a line that contains `mark` on standard error.
    pub fn wait_for_message(&mut self, mark: &str) -> Result<()> {
        wait_for_line(&mut self.stderr, mark)
    }

    /// How often it has gone to sleep voluntarily.
    pub fn sleeps(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let count = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        Ok(count
            .context("the kernel does not count context switches")?
            .trim()
            .parse()?)
    }

    /// Sends SIGINT and waits for the exit.
    pub fn stop(mut self) -> Result<TracerUsage> {
        let pid = self.child.id() as i32;
        let interrupted = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        let mut status = 0;
        // SAFETY: a structure of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both are valid for writes, and this child has not been reaped.
        let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
        ensure!(waited == pid, "failed to wait for a tracer");
        self.reaped = true;
        let stopping = interrupted.elapsed();
        let mut messages = String::new();
        self.stderr.read_to_string(&mut messages)?;
        ensure!(status == 0, "a tracer failed: {messages}");
        let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        Ok(TracerUsage {
            cpu: time(usage.ru_utime) + time(usage.ru_stime),
            peak_kib: usage.ru_maxrss as f64,
            stopping,
        })
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn wait_for_line(from: &mut impl BufRead, mark: &str) -> Result<()> {
    let mut lines = String::new();
    while !lines.contains(mark) {
        ensure!(from.read_line(&mut lines)? > 0, "a tracer exited early: {lines}");
    }
    Ok(())
}
