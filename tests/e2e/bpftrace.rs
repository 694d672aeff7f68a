// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Runs bpftrace, if it is installed, to compare its output with that of the tools.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Owned, run_to_end, skip};

/// A running bpftrace script. Killed on drop.
pub struct Bpftrace {
    _child: Owned,
    lines: Receiver<String>,
}

impl Bpftrace {
    /// Returns `None`, and reports a skipped test, if bpftrace is not installed.
    pub fn start(script: &str) -> Option<Bpftrace> {
        if run_to_end(Command::new("sh").args(["-c", "command -v bpftrace"]))
            .stdout
            .is_empty()
        {
            skip("bpftrace is not installed");
            return None;
        }
        let mut command = Command::new("bpftrace");
        command
            .args(["-B", "line", "-e", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = Owned(command.spawn().expect("bpftrace"));
        let stdout = child.0.stdout.take().expect("a pipe");
        let (send, lines) = channel();
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .for_each(|line| _ = send.send(line));
        });
        Some(Bpftrace { _child: child, lines })
    }

    /// Repeats an action until bpftrace prints its marker: bpftrace does not report when it has attached its probes.
    pub fn until_ready(&self, mut action: impl FnMut(), is_marker: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "bpftrace has not printed the marker");
            action();
            let line = self.lines.recv_timeout(Duration::from_millis(200));
            if line.is_ok_and(|line| is_marker(&line)) {
                return;
            }
        }
    }

    /// The next line.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line from bpftrace")
    }

    /// The lines printed before the first line for which `is_last` is true.
    pub fn lines_before(&self, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        std::iter::repeat_with(|| self.line())
            .take_while(|line| !is_last(line))
            .collect()
    }
}
