// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A Python program: the tool shows the same calls as the well-known bpftrace one-liner.

use std::fs;

use super::*;
use crate::bpftrace::Bpftrace;
use crate::harness::{best_mode, build_dir, run_to_end, skip};

best_mode! {
    large_blocks_of_python_are_counted
}

/// Carries out `bytes SIZE COUNT` and answers as tests/targets/calls.c does.
const SCRIPT: &str = "
import sys
for line in sys.stdin:
    words = line.split()
    if words[0] == 'bytes':
        for _ in range(int(words[2])):
            bytearray(int(words[1]))
    print('.', flush=True)
";

/// Python under a unique name, to exclude other Python programs. Reports a skip and returns `None` without Python.
fn python() -> Option<(Target, String)> {
    let found =
        run_to_end(Command::new("sh").args(["-c", "ls /usr/bin/python3 || command -v python3"])).stdout;
    let Some(path) = found.lines().next() else {
        skip("python3 is not installed");
        return None;
    };
    let name = unique("py");
    let link = build_dir().join(&name);
    std::os::unix::fs::symlink(path, &link).expect("a link");
    let mut command = Command::new(&link);
    command.args(["-c", SCRIPT]);
    let target = Target::start(command);
    fs::remove_file(&link).expect("the link");
    Some((target, name))
}

fn large_blocks_of_python_are_counted(mode: AttachMode) {
    let Some((mut target, name)) = python() else {
        return;
    };
    let tool = trace(mode, &["--comm", &name, "--min-size", "1M"]);
    target.ask("bytes 1000003 31");
    target.ask("bytes 3000017 97");
    let run = tool.stop();
    run.assert_clean();
    // One byte more: Python appends a NUL.
    assert_eq!((count(&run, 3_000_018), run.rows.len()), (97, 97));
}

#[test]
fn bpftrace_one_liner_shows_the_same_calls() {
    let Some((mut target, name)) = python() else {
        return;
    };
    let script = format!(
        r#"uprobe:libc:malloc /comm == "{name}"/ {{ if (arg0 > 1048576) {{ printf("%-6d%10d\n", pid, arg0); }} }}"#
    );
    let Some(other) = Bpftrace::start(&script) else {
        return;
    };
    let mut tool = trace(
        AttachMode::Plain,
        &["--comm", &name, "--min-size", "1048577", "--calls", "malloc"],
    );
    // functrace takes the one-liner almost unchanged.
    let condition = format!("comm == \"{name}\" && arg0 > 1048576");
    let options = ["libc:malloc", "--where", &condition, "--args", "arg0"];
    let mut general = Tool::start("functrace", AttachMode::Plain, options);
    let marker = 1_200_007;
    let is_marker = |line: &str| line.ends_with(&(marker + 1).to_string());
    other.until_ready(|| _ = target.ask(&format!("bytes {marker} 1")), is_marker);
    for (bytes, times) in [
        (1_048_574, 3),
        (1_048_575, 3),
        (1_048_576, 3),
        (5_000_011, 97),
        (70_000_027, 2),
    ] {
        target.ask(&format!("bytes {bytes} {times}"));
    }
    let last = 1_300_021;
    target.ask(&format!("bytes {last} 1"));
    tool.wait_for(|row| row["size_bytes"] == last + 1);
    general.wait_for(|row| row["args"]["arg0"] == last + 1);
    let mut expected = other.lines_before(|line| line.ends_with(&(last + 1).to_string()));
    expected.retain(|line| !line.is_empty() && !is_marker(line));
    let sizes: [fn(&Value) -> &Value; 2] = [|row| &row["size_bytes"], |row| &row["args"]["arg0"]];
    for (run, size) in [tool.stop(), general.stop()].into_iter().zip(sizes) {
        run.assert_clean();
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let shown = |row: &Value| format!("{:<6}{:>10}", number(&row["pid"]), number(size(row)));
        let lines = run.rows.iter().map(shown);
        let ours: Vec<String> = lines.filter(|line| !is_marker(line)).collect();
        assert_eq!(ours[..ours.len() - 1], expected);
    }
    assert!(expected.len() >= 97 + 2);
}
