// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How a run ends, and that it leaves no probes behind.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::{RawTool, TOOL, start};
use crate::harness::{self, AttachMode, Tool, build_dir, copy, each_mode, wait_until};
use crate::pty::Shell;

each_mode! {
    probes_are_removed_when_the_tool_ends
}

#[test]
fn max_rows_ends_the_run() {
    let mut bash = Shell::bash();
    let tool = start(["-M", "7", "-p", &bash.pid().to_string()]);
    let lines: Vec<String> = (0..11).map(|number| format!(": {number}")).collect();
    lines.iter().for_each(|line| bash.enter(line));
    let run = tool.finish();
    assert_eq!(run.all_lines(), lines[..7]);
    run.assert_clean();
}

#[test]
fn duration_ends_the_run() {
    let run = start(["-d", "300ms"]).finish();
    run.assert_clean();
    assert!(
        run.summary["duration_ns"].as_u64() >= Some(300_000_000),
        "{}",
        run.summary
    );
}

#[test]
fn closed_stdout_ends_an_idle_run_quietly() {
    let bash = Shell::bash();
    for format in ["text", "json", "csv"] {
        let mut tool = RawTool::start(["--format", format, "-p", &bash.pid().to_string()]);
        drop(tool.stdout.take());
        let ended = tool.finish();
        assert_eq!(
            (ended.status.code(), ended.stderr.as_str()),
            (Some(0), ""),
            "{format}"
        );
    }
}

/// After any signal, the code of the traced program is that of its file again, and the program keeps running.
fn probes_are_removed_when_the_tool_ends(mode: AttachMode) {
    // A private copy, which no other test attaches to.
    let program = build_dir().join(format!("lines-own-{}", mode.name()));
    copy(&harness::program("lines-own"), &program);
    let mut shell = Shell::run(&mut Command::new(&program));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGKILL] {
        assert!(code_matches_file(&shell, &program), "before {signal}");
        let tool = Tool::start(TOOL, mode, [OsStr::new("-s"), program.as_os_str()]);
        assert!(!code_matches_file(&shell, &program), "no breakpoint was inserted");
        tool.signal(signal);
        let status = tool.finish().status;
        assert_eq!(status.success(), signal != Signal::SIGKILL, "{signal}: {status}");
        wait_until("the removal of the probes", || {
            code_matches_file(&shell, &program).then_some(())
        });
        shell.enter("still running");
    }
}

/// Whether the code in memory equals that of the file.
fn code_matches_file(shell: &Shell, program: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{}", shell.pid()));
    let maps = fs::read_to_string(process.join("maps")).expect("a memory map");
    let code = maps
        .lines()
        .find(|line| line.contains(" r-xp ") && line.ends_with(program.to_str().expect("UTF-8")))
        .expect("the program's code");
    let words: Vec<&str> = code.split_whitespace().collect();
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("a hexadecimal number");
    let (start, end) = words[0].split_once('-').expect("a range");
    let (start, end, offset) = (hex(start), hex(end), hex(words[2]));

    let mut memory = vec![0; (end - start) as usize];
    let mem = fs::File::open(process.join("mem")).expect("a process");
    mem.read_exact_at(&mut memory, start).expect("its memory");
    // The last page extends past the end of the file's content for it.
    let file = fs::read(program).expect("a program");
    let file = &file[offset as usize..];
    let len = memory.len().min(file.len());
    memory[..len] == file[..len]
}
