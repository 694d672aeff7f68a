// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Programs that every system has, most of them stripped, and the C library.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{calls, count_in_command, spec, start, trace_orders};
use crate::funclist::rows;
use crate::harness::{AttachMode, Tool, best_mode, each_mode, program, skip, tool_command};

each_mode! {
    static_program_is_counted
    stripped_shell_is_counted
    children_are_counted_only_with_follow
}

fn static_program_is_counted(mode: AttachMode) {
    let target = program("calls-static");
    let specs = ["calloc", "posix_memalign"].map(|name| spec(&target, name));
    let specs = specs.each_ref().map(String::as_str);
    let orders = ["calloc 1009 7 9", "posix_memalign 211 64 64"];
    let run = trace_orders("funccount", mode, &specs, &mut start(&target), &orders);
    let found = ["calloc", "posix_memalign"].map(|name| calls(&run, name));
    assert_eq!(found, [1009, 211], "{:?}", run.rows);
}

fn stripped_shell_is_counted(mode: AttachMode) {
    let script = "for ((i = 0; i < 1009; i++)); do :; done; for i in 1 2 3 4 5; do ulimit >/dev/null; done";
    let specs = ["colon_builtin", "ulimit_builtin", "times_builtin"].map(|name| spec(&bash(), name));
    let specs = specs.each_ref().map(String::as_str);
    let run = count_in_command(mode, &specs, [bash().to_str().expect("UTF-8"), "-c", script]);
    let found = ["colon_builtin", "ulimit_builtin", "times_builtin"].map(|name| calls(&run, name));
    assert_eq!(found, [1009, 5, 0], "{:?}", run.rows);
}

fn children_are_counted_only_with_follow(mode: AttachMode) {
    let plt = program("plt");
    let plt = plt.display();
    let script =
        format!("{plt} 'getpgid 101' & for i in 1 2 3; do sh -c \"{plt} 'getpgid 211'; :\"; done; wait");
    // Not a child of the command.
    let mut other = start(&program("plt"));
    let run = count_in_command(mode, &["--follow", "libc:getpgid"], ["sh", "-c", &script]);
    other.ask("getpgid 7");
    assert_eq!(calls(&run, "getpgid"), 101 + 3 * 211);
    let run = count_in_command(mode, &["libc:getpgid"], ["sh", "-c", &script]);
    assert_eq!(run.rows.len(), 0, "{:?}", run.rows);
}

fn bash() -> PathBuf {
    Path::new("/bin/bash").canonicalize().expect("bash")
}

best_mode! {
    programs_survive_probes_on_all_functions
    functions_without_names_are_found_and_traced
    curl_transfers_are_counted
}

/// Some functions of the C library start with instructions that the kernel cannot probe.
fn programs_survive_probes_on_all_functions(mode: AttachMode) {
    // Attaching them one by one would take minutes.
    if !mode.has_multi_links() {
        return skip("this kernel has no multi-uprobes");
    }
    let mut command = tool_command("funccount", mode, [":*"]);
    command.args(["--", "bash", "-c", "echo alive | cat"]);
    let mut tool = Tool::start_as(command);
    tool.wait_for(|record| record == "alive");
    let run = tool.finish();
    assert!(run.status.success(), "{:?}: {}", run.status, run.stderr);
    assert!(calls(&run, "pipe") >= 1, "{:?}", run.rows);
}

fn functions_without_names_are_found_and_traced(mode: AttachMode) {
    let all = rows(&[bash().to_str().expect("UTF-8")]);
    let is_nameless = |row: &&serde_json::Value| {
        row["function"]
            .as_str()
            .is_some_and(|name| name.starts_with("fn_"))
    };
    let addrs = |want: bool| -> Vec<&str> {
        all.iter()
            .filter(|row| is_nameless(row) == want)
            .filter_map(|row| row["addr"].as_str())
            .collect()
    };
    let (nameless, named) = (addrs(true), addrs(false));
    assert!(nameless.len() > 100 && named.len() > 500);
    assert!(nameless.iter().all(|addr| !named.contains(addr)));
    // The functions that execute a loop are not among those that bash exports to loadable builtins.
    let loops = "for ((i = 0; i < 1009; i++)); do :; done";
    let command = [bash().into_os_string(), "-c".into(), loops.into()];
    let run = count_in_command(mode, &[&spec(&bash(), "fn_*")], command);
    let looped = run.rows.iter().filter(|row| row["count"].as_u64() >= Some(1009));
    assert!(looped.count() > 1, "{:?}", run.rows);
}

fn curl_transfers_are_counted(mode: AttachMode) {
    const FILES: usize = 13;
    if Command::new("curl").arg("-V").output().is_err() {
        return skip("curl is not installed");
    }
    let mut command = vec!["curl", "-s"];
    command.extend(["file:///etc/passwd", "-o", "/dev/null"].repeat(FILES));
    let run = count_in_command(mode, &["libcurl:curl_easy_perform"], &command);
    assert_eq!(calls(&run, "curl_easy_perform"), FILES as u64);
    let mut tool = tool_command("funclatency", mode, ["-F", "libcurl:curl_easy_perform"]);
    tool.arg("--").args(&command);
    let run = Tool::start_as(tool).finish();
    run.assert_clean();
    assert_eq!(calls(&run, "curl_easy_perform"), FILES as u64, "{:?}", run.rows);
    assert_eq!(run.summary["unmatched"], 0);
}
