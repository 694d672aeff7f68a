// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! bpftrace beside us, where it is installed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{DEADLINE, Owned, run_to_end, skip};

/// A run that prints lines. It ends with this value.
pub struct Bpftrace {
    _child: Owned,
    lines: Receiver<String>,
}

impl Bpftrace {
    /// None, and the test skipped, where it is not installed.
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

    /// It does not say when it is ready, so something is done until it has seen that.
    pub fn until_ready(&self, mut something: impl FnMut(), is_marker: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "bpftrace shows nothing");
            something();
            let line = self.lines.recv_timeout(Duration::from_millis(200));
            if line.is_ok_and(|line| is_marker(&line)) {
                return;
            }
        }
    }

    /// What it has printed before a line that is the last.
    pub fn lines_before(&self, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        let next = || self.lines.recv_timeout(DEADLINE).expect("a line of bpftrace");
        std::iter::repeat_with(next)
            .take_while(|line| !is_last(line))
            .collect()
    }
}
