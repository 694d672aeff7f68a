// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `--readline` and `-s`: other programs that read lines, and files named by the user.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::{RawTool, program_with_libreadline, start};
use crate::harness::{Folder, skip};
use crate::pty::{Shell, Terminal};

#[test]
fn readline_option_shows_every_program_using_libreadline() {
    let tool = start(["--readline"]);
    let mut other = Shell::run(&mut Command::new(program_with_libreadline()));
    let mut bash = Shell::bash();
    other.enter("any line");
    bash.enter(": of a shell");
    let run = tool.stop();
    assert_eq!(run.lines_of(other.pid()), ["any line"]);
    assert_eq!(run.with("pid", other.pid())[0]["comm"], "lines-library");
    assert_eq!(run.lines_of(bash.pid()), [": of a shell"]);
}

/// gdb and python3 use the callback interface of libreadline, sqlite3 uses `readline()`.
#[test]
fn readline_option_shows_gdb_python_and_sqlite() {
    let tool = start(["--readline"]);
    let seen: Vec<(u32, &str, &str)> = [
        (&["gdb", "-q", "-nx"][..], "(gdb) ", "print 40 + 2", "42"),
        (&["/usr/bin/python3", "-q", "-E"], ">>> ", "40 + 2", "42"),
        (&["sqlite3", "-interactive"], "sqlite> ", "select 40 + 2;", "42"),
    ]
    .into_iter()
    .filter_map(|(program, prompt, line, answer)| {
        let path = program_in_path(program[0])?;
        let mut terminal = Terminal::run(Command::new(path).args(&program[1..]));
        terminal.wait_for(prompt);
        terminal.press(format!("{line}\n").as_bytes());
        terminal.wait_for(&format!("{answer}\r\n"));
        Some((terminal.pid(), program[0], line))
    })
    .collect();
    let run = tool.stop();
    for (pid, program, line) in seen {
        assert_eq!(run.lines_of(pid), [line], "{program}");
    }
}

/// The path of an installed program. Otherwise reports a skip and returns `None`.
fn program_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        skip(&format!(
            "{name} is not installed: not found in {}",
            path.display()
        ));
    }
    found
}

#[test]
fn comm_column_appears_only_with_readline_option() {
    let mut other = Shell::run(&mut Command::new(program_with_libreadline()));
    let pid = other.pid().to_string();
    let with = RawTool::start(["--readline", "-p", &pid]);
    other.enter("any line");
    let text = with.stop().stdout;
    let [header, row] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(header), ["TIME", "PID", "COMM", "USER", "TTY", "COMMAND"]);
    assert_eq!(
        words(row)[1..],
        [&pid, "lines-library", "root", &other.tty(), "any", "line"]
    );

    let mut bash = Shell::bash();
    let without = RawTool::start(["-p", &bash.pid().to_string()]);
    bash.enter(": of bash");
    let text = without.stop().stdout;
    let [header, row] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    assert_eq!(words(header), ["TIME", "PID", "USER", "TTY", "COMMAND"]);
    assert_eq!(
        words(row)[1..],
        [&bash.pid().to_string(), "root", &bash.tty(), ":", "of", "bash"]
    );
}

#[test]
fn shared_option_traces_only_the_named_file() {
    let folder = Folder::new();
    let copy = folder.copy_of("/bin/bash", "named");
    let (mut named, mut other) = (Shell::at(&copy), Shell::bash());
    let tool = start([OsStr::new("-s"), copy.as_os_str()]);
    assert_eq!(tool.attached["files"], json!([copy]));
    named.enter(": named");
    other.enter(": not named");
    let run = tool.stop();
    assert_eq!(
        (run.lines_of(named.pid()), run.lines_of(other.pid())),
        (vec![": named"], vec![])
    );
    assert_eq!(run.rows[0]["exe"], json!(copy));
}

#[test]
fn shared_option_with_a_library_traces_its_users() {
    let mut other = Shell::run(&mut Command::new(program_with_libreadline()));
    let maps = fs::read_to_string(format!("/proc/{}/maps", other.pid())).expect("a memory map");
    let library = maps.lines().find_map(|line| {
        line.find("/")
            .map(|at| &line[at..])
            .filter(|path| path.contains("readline.so"))
    });
    for name in [library.expect("libreadline in the map"), "libreadline"] {
        let tool = start(["-s", name]);
        other.enter(name);
        let run = tool.stop();
        assert_eq!(run.lines_of(other.pid()), [name]);
    }
}
