// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The USDT probes of python3. It checks a semaphore before each one, so they fire only if the kernel increments the
//! semaphore.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{calls, count_in_command, trace_orders};
use crate::funclist::funclist;
use crate::harness::{
    AttachMode, Folder, Run, TOOLS, Target, Tool, best_mode, each_mode, run_to_end, skip, tool_command,
};

const PYTHON: &str = "/usr/bin/python3";

/// Carries out orders: `WHAT COUNT`. Reads them without calling functions written in Python, which would fire probes.
const SCRIPT: &str = "
import gc, os, sys
def called(): pass
gc.disable()
while True:
    words = os.read(0, 99).split()
    if not words: break
    for _ in range(int(words[1])):
        if words[0] == b'audit': sys.audit('of the test')
        if words[0] == b'collect': gc.collect()
        if words[0] == b'call': called()
    os.write(1, b'.\\n')";

/// Reports a skip and returns false where python3 or one of these probes is missing.
fn has_probes(names: &[&str]) -> bool {
    if !Path::new(PYTHON).exists() {
        skip("/usr/bin/python3 is not installed");
        return false;
    }
    let missing = names.iter().find(|name| {
        let ended = funclist([&format!("usdt:{PYTHON}:python:{name}")]);
        assert!(
            ended.status.success() || ended.stderr.contains("failed to find"),
            "{ended:?}"
        );
        !ended.status.success()
    });
    if let Some(missing) = missing {
        skip(&format!("/usr/bin/python3 was built without the probe {missing}"));
    }
    missing.is_none()
}

fn python() -> Target {
    let mut command = Command::new(PYTHON);
    command.args(["-S", "-c", SCRIPT]);
    Target::start(command)
}

fn probe(name: &str) -> String {
    format!("usdt:{PYTHON}:python:{name}")
}

each_mode! { running_process_fires_probes_once_attached command_fires_probes_from_its_start }

fn running_process_fires_probes_once_attached(mode: AttachMode) {
    if !has_probes(&["audit", "gc__start", "gc__done"]) {
        return;
    }
    let (mut traced, mut other) = (python(), python());
    let specs = ["audit", "gc__*"].map(probe);
    let specs = specs.each_ref().map(String::as_str);
    // The semaphore is in a file that both map, so the other process may fire its probes too. It must not be counted.
    other.tell("audit 20011");
    let orders = ["audit 1009", "collect 13", "audit 211"];
    let run = trace_orders("funccount", mode, &specs, &mut traced, &orders);
    let found = ["python:audit", "python:gc__start", "python:gc__done"].map(|name| calls(&run, name));
    assert_eq!(found, [1220, 13, 13], "{:?}", run.rows);
    other.answer();
}

/// The start of Python fires probes too, the same number each time.
fn command_fires_probes_from_its_start(mode: AttachMode) {
    if !has_probes(&["function__entry", "function__return", "line"]) {
        return;
    }
    // Since 3.11, calls from Python to Python fire probes only if `line` is traced as well.
    let specs = ["function__entry", "function__return", "line"].map(probe);
    let specs = specs.each_ref().map(String::as_str);
    let run = |times: u32| -> Run {
        let script = format!("def called(): pass\nfor _ in range({times}): called()");
        count_in_command(mode, &specs, [PYTHON, "-S", "-c", &script])
    };
    let (few, many) = (run(2), run(1011));
    let more = |name: &str| calls(&many, name) - calls(&few, name);
    assert!(calls(&few, "python:function__entry") > 2);
    let found = ["python:function__entry", "python:function__return"].map(more);
    assert_eq!(found, [1009; 2], "{:?}", many.rows);
}

best_mode! {
    short_name_may_be_a_symbolic_link script_is_refused_as_a_target missing_probe_is_reported_with_similar_names
}

/// On Debian /usr/bin/python3 is a symbolic link, and processes map its target.
fn short_name_may_be_a_symbolic_link(mode: AttachMode) {
    if !has_probes(&["audit"]) {
        return;
    }
    let mut traced = python();
    let pid = traced.pid().to_string();
    let mut command = tool_command("funccount", mode, ["usdt:python3:audit", "-p", &pid]);
    command.env("PATH", "/usr/bin");
    let tool = Tool::start_as(command);
    traced.ask("audit 503");
    let run = tool.stop();
    assert_eq!(calls(run.assert_clean(), "python:audit"), 503);
}

fn missing_probe_is_reported_with_similar_names(mode: AttachMode) {
    if !has_probes(&["gc__start"]) {
        return;
    }
    let ended = run_to_end(&mut tool_command("funccount", mode, [probe("gc__strt")]));
    let explained = ended
        .stderr
        .contains("failed to find USDT probe python:gc__strt in")
        && ended.stderr.contains("hint: similar names there: gc__start");
    assert!(explained && ended.status.code() == Some(1), "{ended:?}");
}

/// pyenv, for example, puts such scripts in front of the programs that it manages.
fn script_is_refused_as_a_target(mode: AttachMode) {
    let folder = Folder::new();
    let script = folder.path.join("pythonic");
    fs::write(&script, "#!/bin/sh\nexec true\n").expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
    let mut funclist = Command::new(&*TOOLS);
    funclist.args(["funclist", "pythonic:main"]);
    for mut command in [funclist, tool_command("funccount", mode, ["pythonic:main"])] {
        let ended = run_to_end(command.env("PATH", &folder.path));
        let message = format!("failed to read {}: a script ", script.display());
        let explained = ended.stderr.contains(&message) && ended.stderr.contains("\nhint: ");
        assert!(explained && ended.status.code() == Some(1), "{ended:?}");
    }
}
