// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What is compared: tools of the suite with their options, bpftrace, and libbpf-tools.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::Effort;
use crate::programs::LoopProgram;
use crate::tracer::{Tracer, tool_command};

/// How long after the breakpoint the return probe is attached by tracers that do not announce it.
const RETURN_PROBE: Duration = Duration::from_millis(100);

/// A way to trace the loop.
#[derive(Clone, Copy)]
pub enum Case {
    NoProbe,
    /// An empty program at the entry, or at entry and return.
    Floor {
        with_return: bool,
    },
    /// A tool of the suite, its arguments, and how its rows are counted.
    Ours(&'static str, &'static str, Rows),
    /// bpftrace with a program.
    Bpftrace(&'static str, Rows),
    /// A program of bcc's libbpf-tools, at its path in Debian's package, with arguments.
    LibbpfTools(&'static str, &'static str),
}

/// How to count the calls that were delivered.
#[derive(Clone, Copy)]
pub enum Rows {
    /// The case prints none.
    None,
    /// Lines that contain this text.
    With(&'static str),
    /// The sum of a field of JSON records: their type, and the key.
    Summed(&'static str, &'static str),
}

/// All cases. The floors are at [`FLOOR`] and [`FLOOR_WITH_RETURN`].
const CASES: &[Case] = &[
    Case::NoProbe,
    Case::Floor { with_return: false },
    Case::Floor { with_return: true },
    Case::Ours("mallocsnoop", "-p PID", Rows::With(" malloc ")),
    Case::Ours(
        "mallocsnoop",
        "-p PID --format json",
        Rows::With("\"call\":\"malloc\""),
    ),
    Case::Ours("mallocsnoop", "-p PID --format csv", Rows::With(",malloc,")),
    Case::Ours("mallocsnoop", "-p PID --min-size 1G", Rows::None),
    Case::Ours("mallocsnoop", "--comm nosuch", Rows::None),
    Case::Ours(
        "mallocsnoop",
        "-p PID --summary -j",
        Rows::Summed("process", "calls"),
    ),
    Case::Ours("mallocsnoop", "-p PID --ret", Rows::With(" malloc ")),
    Case::Ours("mallocsnoop", "-p PID --stack", Rows::With(" malloc ")),
    Case::Ours(
        "funccount",
        "libc:malloc -p PID -j",
        Rows::Summed("count", "count"),
    ),
    Case::Ours(
        "funccount",
        "libc:malloc -p PID --by thread -j",
        Rows::Summed("count", "count"),
    ),
    Case::Ours(
        "funclatency",
        "libc:malloc -p PID -j",
        Rows::Summed("latency", "count"),
    ),
    Case::Ours(
        "funclatency",
        "libc:malloc -p PID -u -j",
        Rows::Summed("latency", "count"),
    ),
    Case::Ours("functrace", "libc:malloc -p PID", Rows::With(" malloc ")),
    Case::Ours("functrace", "libc:malloc -p PID --where arg0>1G", Rows::None),
    Case::Ours("functrace", "libc:malloc -p PID --ret", Rows::With(" malloc ")),
    Case::Ours("functrace", "libc:malloc -p PID --min-latency 1s", Rows::None),
    Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID/ { printf(\"%-6d%10d\\n\", pid, arg0); }",
        Rows::With(" 100"),
    ),
    Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID && arg0 > 1073741824/ { printf(\"%-6d%10d\\n\", pid, arg0); }",
        Rows::None,
    ),
    Case::Bpftrace("uprobe:LIBC:malloc /pid == PID/ { @ = count(); }", Rows::None),
    Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID/ { @start[tid] = nsecs; } \
         uretprobe:LIBC:malloc /@start[tid]/ { @ = hist(nsecs - @start[tid]); delete(@start[tid]); }",
        Rows::None,
    ),
    Case::LibbpfTools("/usr/sbin/funclatency", "-p PID c:malloc"),
];
pub const FLOOR: usize = 1;
pub const FLOOR_WITH_RETURN: usize = 2;

impl Case {
    /// Tools that only count in maps have no ring buffer.
    pub fn has_ring(self) -> bool {
        match self {
            Self::Ours("funccount" | "funclatency", args, _) => args.contains("--by"),
            Self::Ours(..) => true,
            _ => false,
        }
    }

    pub fn name(self) -> String {
        match self {
            Self::NoProbe => "no probe".to_owned(),
            Self::Floor { with_return: false } => "floor: an empty program at the entry".to_owned(),
            Self::Floor { with_return: true } => "an empty program at entry and return".to_owned(),
            Self::Ours(tool, args, _) => format!("`{tool} {args}`"),
            Self::Bpftrace(action, _) => format!("bpftrace `{action}`"),
            Self::LibbpfTools(program, args) => format!("libbpf-tools `{program} {args}`"),
        }
    }

    pub fn rows(self) -> Rows {
        match self {
            Self::NoProbe | Self::Floor { .. } | Self::LibbpfTools(..) => Rows::None,
            Self::Ours(_, _, rows) | Self::Bpftrace(_, rows) => rows,
        }
    }

    pub fn sees_returns(self) -> bool {
        match self {
            Self::Ours(tool, args, _) => {
                tool == "funclatency" || args.contains("--ret") || args.contains("--min-latency")
            }
            Self::Bpftrace(program, _) => program.contains("uretprobe"),
            Self::LibbpfTools(..) => true,
            _ => false,
        }
    }

    /// Starts the tracer and waits until it is attached. None for cases without a tracer.
    pub fn start(self, target: &LoopProgram, file: &Path) -> Result<Option<Tracer>> {
        match self {
            Self::NoProbe | Self::Floor { .. } => Ok(None),
            Self::Ours(tool, args, _) => {
                let mut tracer = Tracer::spawn(tool_command(tool, args, target.pid()).arg("-o").arg(file))?;
                tracer.wait_for_message("Tracing")?;
                Ok(Some(tracer))
            }
            Self::LibbpfTools(program, args) => {
                let args = resolved(args, target);
                start_peer(Command::new(program).args(args.split(' ')), target).map(Some)
            }
            Self::Bpftrace(program, _) => {
                let mut command = Command::new("bpftrace");
                command.args(["-e", &resolved(program, target), "-o"]).arg(file);
                start_peer(&mut command, target).map(Some)
            }
        }
    }

    /// Waits until bpftrace sleeps: it ignores an earlier SIGINT until the next event.
    pub fn settle(self) {
        if matches!(self, Self::Bpftrace(..)) {
            sleep(Duration::from_millis(300));
        }
    }
}

/// Starts a tracer that does not announce when it is attached.
fn start_peer(command: &mut Command, target: &LoopProgram) -> Result<Tracer> {
    let tracer = Tracer::spawn(command)?;
    target.wait_for_breakpoint(true)?;
    sleep(RETURN_PROBE);
    Ok(tracer)
}

fn resolved(text: &str, target: &LoopProgram) -> String {
    text.replace("PID", &target.pid().to_string())
        .replace("LIBC", &target.libc.display().to_string())
}

pub fn has_bpftrace() -> bool {
    Command::new("bpftrace").arg("--version").output().is_ok()
}

/// The cases that are selected and installed. If there are any, those without a tracer come first.
pub fn available_cases(effort: &Effort) -> Vec<Case> {
    let has_bpftrace = has_bpftrace();
    let installed = |case: &Case| match case {
        Case::Bpftrace(..) => has_bpftrace,
        Case::LibbpfTools(program, _) => Path::new(program).exists(),
        _ => true,
    };
    let selected = |case: &&Case| effort.includes(&case.name()) && installed(case);
    let (baselines, tracers) = CASES.split_at(FLOOR_WITH_RETURN + 1);
    let tracers: Vec<&Case> = tracers.iter().filter(selected).collect();
    if tracers.is_empty() {
        return Vec::new();
    }
    baselines.iter().chain(tracers).copied().collect()
}
