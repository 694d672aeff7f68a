//! mallocsnoop: every call counted once, with the right size, process and outcome.

use std::process::Command;

use crate::harness::{Target, Tool, Way, build, each_way};

each_way! {
    each_call_is_a_row
}

const TOOL: &str = "mallocsnoop";

fn calls() -> Command {
    Command::new(build("cc", "calls.c", "calls", &["-Wall", "-Wextra", "-Werror", "-fno-builtin", "-pthread"]))
}

fn each_call_is_a_row(way: Way) {
    let mut target = Target::start(calls());
    let tool = Tool::start(TOOL, way, ["-p", &target.pid().to_string()]);
    target.ask("malloc 97 4099");
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.with("size_bytes", 4099).len(), 97);
}
