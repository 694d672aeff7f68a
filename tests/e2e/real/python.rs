// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The USDT probes of python3. It looks at a counter, the semaphore, before it fires one, so they fire only where the
//! kernel counts that up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{beside, calls, count_in_command};
use crate::funclist::funclist;
use crate::harness::{
    Folder, Run, TOOLS, Target, Tool, Way, best_way, each_way, run_to_end, skip, tool_command,
};

const PYTHON: &str = "/usr/bin/python3";

/// Follows orders: `WHAT COUNT`. Reads them with nothing that is itself written in Python.
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

/// False, and the test skipped, where there is no python3 with these probes.
fn has_probes(names: &[&str]) -> bool {
    if !Path::new(PYTHON).exists() {
        skip("there is no /usr/bin/python3");
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

each_way! { a_process_fires_probes_once_they_are_counted a_command_fires_probes_from_its_start }

fn a_process_fires_probes_once_they_are_counted(way: Way) {
    if !has_probes(&["audit", "gc__start", "gc__done"]) {
        return;
    }
    let (mut traced, mut other) = (python(), python());
    let specs = ["audit", "gc__*"].map(probe);
    let specs = specs.each_ref().map(String::as_str);
    // The other one fires them as well, as their counters are in one file, and is not counted.
    other.tell("audit 20011");
    let orders = ["audit 1009", "collect 13", "audit 211"];
    let run = beside("funccount", way, &specs, &mut traced, &orders);
    let found = ["python:audit", "python:gc__start", "python:gc__done"].map(|name| calls(&run, name));
    assert_eq!(found, [1220, 13, 13], "{:?}", run.rows);
    other.answer();
}

/// Python's own start fires probes too, the same number each time.
fn a_command_fires_probes_from_its_start(way: Way) {
    if !has_probes(&["function__entry", "function__return", "line"]) {
        return;
    }
    // Since 3.11 calls from Python to Python fire probes only when lines do so, too.
    let specs = ["function__entry", "function__return", "line"].map(probe);
    let specs = specs.each_ref().map(String::as_str);
    let run = |times: u32| -> Run {
        let script = format!("def called(): pass\nfor _ in range({times}): called()");
        count_in_command(way, &specs, [PYTHON, "-S", "-c", &script])
    };
    let (few, many) = (run(2), run(1011));
    let more = |name: &str| calls(&many, name) - calls(&few, name);
    assert!(calls(&few, "python:function__entry") > 2);
    let found = ["python:function__entry", "python:function__return"].map(more);
    assert_eq!(found, [1009; 2], "{:?}", many.rows);
}

best_way! {
    the_name_of_a_link_will_do a_script_is_no_target a_probe_that_there_is_not_gets_names_of_others
}

/// /usr/bin/python3 is a link on Debian, and processes map what it leads to.
fn the_name_of_a_link_will_do(way: Way) {
    if !has_probes(&["audit"]) {
        return;
    }
    let mut traced = python();
    let pid = traced.pid().to_string();
    let mut command = tool_command("funccount", way, ["usdt:python3:audit", "-p", &pid]);
    command.env("PATH", "/usr/bin");
    let tool = Tool::start_as(command);
    traced.ask("audit 503");
    let run = tool.stop();
    assert_eq!(calls(run.assert_clean(), "python:audit"), 503);
}

fn a_probe_that_there_is_not_gets_names_of_others(way: Way) {
    if !has_probes(&["gc__start"]) {
        return;
    }
    let ended = run_to_end(&mut tool_command("funccount", way, [probe("gc__strt")]));
    let is_said = ended
        .stderr
        .contains("failed to find USDT probe python:gc__strt in")
        && ended.stderr.contains("hint: similar names there: gc__start");
    assert!(is_said && ended.status.code() == Some(1), "{ended:?}");
}

/// As pyenv puts before the programs that it manages.
fn a_script_is_no_target(way: Way) {
    let folder = Folder::new();
    let script = folder.path.join("pythonic");
    fs::write(&script, "#!/bin/sh\nexec true\n").expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
    let mut funclist = Command::new(&*TOOLS);
    funclist.args(["funclist", "pythonic:main"]);
    for mut command in [funclist, tool_command("funccount", way, ["pythonic:main"])] {
        let ended = run_to_end(command.env("PATH", &folder.path));
        let said = format!("failed to read {}: a script ", script.display());
        let is_explained = ended.stderr.contains(&said) && ended.stderr.contains("\nhint: ");
        assert!(is_explained && ended.status.code() == Some(1), "{ended:?}");
    }
}
