// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Start-up: from exec to the `attached` record, and from SIGINT to the exit.

use anyhow::{Context, Result};

use crate::Effort;
use crate::cases::{Case, Rows, has_bpftrace};
use crate::programs::{LoopProgram, fresh_rows_file};
use crate::report::{ms, print_row};
use crate::tracer::{Tracer, tool_command};

/// Tools and their arguments, besides `-j`; goal in milliseconds. None of them prints rows: nothing reads the pipe
/// after `attached`.
const STARTS: [(&str, &str, &str); 6] = [
    ("mallocsnoop", "-p PID", "25"),
    ("mallocsnoop", "--comm nosuch", "25"),
    ("funccount", "libc:malloc -p PID", "30"),
    ("funclatency", "libc:malloc -p PID", "30"),
    ("functrace", "libc:malloc -p PID", "30"),
    ("functrace", "libc:getaddrinfo --ret -p PID", "30"),
];

/// Tools alternate, so that a noisy minute affects all of them.
pub fn print(target: &LoopProgram, effort: &Effort) -> Result<()> {
    let mut starts: Vec<_> = STARTS
        .into_iter()
        .map(|(tool, args, goal)| {
            (
                format!("exec to attached: `{tool} {args} -j`, ms"),
                tool,
                args,
                goal,
            )
        })
        .filter(|(name, ..)| effort.includes(name))
        .map(|start| (start, Vec::new(), Vec::new()))
        .collect();
    for _ in 0..effort.repetitions {
        for ((_, tool, args, _), starting, stopping) in &mut starts {
            let mut tracer = Tracer::spawn(tool_command(tool, args, target.pid()).arg("-j"))?;
            tracer.wait_for_row("\"attached\"")?;
            starting.push(ms(tracer.spawned.elapsed()));
            stopping.push(ms(tracer.stop()?.stopping));
        }
    }
    for ((name, _, _, goal), starting, stopping) in &starts {
        print_row(name, starting, 1, goal);
        print_row("SIGINT to the exit, ms", stopping, 1, "");
    }
    print_bpftrace(target, effort)
}

fn print_bpftrace(target: &LoopProgram, effort: &Effort) -> Result<()> {
    const NAME: &str = "exec to attached: bpftrace, ms";
    if !has_bpftrace() || !effort.includes(NAME) {
        return Ok(());
    }
    let case = Case::Bpftrace(
        "uprobe:LIBC:malloc /pid == PID/ { printf(\"%d\\n\", arg0); }",
        Rows::None,
    );
    let (mut starting, mut stopping) = (Vec::new(), Vec::new());
    for _ in 0..effort.repetitions.div_ceil(4) {
        target.wait_for_breakpoint(false)?;
        let tracer = case.start(target, &fresh_rows_file()?)?.context("no bpftrace")?;
        starting.push(ms(tracer.spawned.elapsed()));
        case.settle();
        stopping.push(ms(tracer.stop()?.stopping));
    }
    print_row(NAME, &starting, 1, "");
    print_row("SIGINT to the exit, ms", &stopping, 1, "");
    Ok(())
}
