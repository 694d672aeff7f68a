// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions are found by each way to write their names, and no others with them. tests/targets/names.cc calls each a
//! known number of times.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::funclist::{funclist, rows};
use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, is_in_state, program, run_to_end, skip, tool_command, wait_until,
};

/// Runs the program under a tool.
fn traced(tool: &str, program: &Path, specs: &[&str], options: &[&str]) -> Run {
    let path = program.to_str().expect("UTF-8");
    let specs = specs.iter().map(|spec| format!("{path}:{spec}"));
    let options = options.iter().map(|option| option.to_string());
    let args: Vec<String> = specs.chain(options).chain(["--".into(), path.into()]).collect();
    let run = Tool::start(tool, AttachMode::best(), &args).finish();
    assert!(run.status.success(), "{}", run.stderr);
    run
}

/// The calls of all functions that a spec finds.
fn calls(spec: &str) -> u64 {
    let run = traced("funccount", &program("names"), &[spec], &[]);
    run.rows.iter().filter_map(|row| row["count"].as_u64()).sum()
}

#[test]
fn names_mean_their_function_and_no_other() {
    for (spec, expected) in [
        ("app::greet", 97),
        ("app::greet(int)", 97),
        ("app::greet[abi:cxx11]", 97),
        ("len(std::string)", 97),
        ("len(std::*)", 97),
        ("A::operator*", 89),
        (r"A::operator\*", 89),
        ("A::operator*=", 7),
        ("A::operator+", 3),
        ("A::operator*?", 89 + 7 + 3),
        ("f", 11 + 13),
        ("f(char*)", 11),
        ("f(const char *, int)", 13),
        ("scale", 83),
        ("scale(int, int, int)", 83),
        ("untyped", 79),
        ("unsized", 79),
        ("un{typed,sized}", 2 * 79),
        ("uns[h-j]zed", 79),
        ("own", 67),
        ("thrice", 61),
        ("thrice<long>(long)", 61),
        ("twice", 59),
        ("twice<long>", 59),
        ("long twice<long>(long)", 59),
        ("pack", 53 + 47),
        ("pack<int, long>(int, long)", 53),
        ("pack<>()", 47),
        ("loops", 73),
        ("chosen", 71),
    ] {
        assert_eq!(calls(spec), expected, "{spec}");
    }
    let ended = funclist([format!("{}:inside", program("names").display())]);
    assert!(!ended.status.success(), "a label of a loop: {ended:?}");
}

#[test]
fn functions_without_a_size_return() {
    for name in ["untyped", "unsized"] {
        let run = traced("functrace", &program("names"), &[name], &["--ret"]);
        assert_eq!(
            (run.rows.len(), &run.summary["unmatched"]),
            (79, &Value::from(0)),
            "{name}"
        );
    }
}

#[test]
fn specs_of_returns_show_results() {
    for prefix in ["r:", "uretprobe:"] {
        let path = program("names");
        let path = path.to_str().expect("UTF-8");
        let spec = format!("{prefix}{path}:untyped");
        let run = Tool::start("functrace", AttachMode::best(), [&spec, "--", path]).finish();
        assert_eq!(run.rows.len(), 79);
        assert!(
            run.rows.iter().all(|row| row.get("retval").is_some()),
            "{:?}",
            run.rows[0]
        );
    }
}

#[test]
fn paths_may_have_colons() {
    let folder = Folder::new();
    let copy: PathBuf = folder.copy_of(program("names"), "a b:c+d");
    let run = traced("funccount", &copy, &["loops"], &[]);
    assert_eq!(run.rows[0]["count"], 73);
    let quoted = format!("\"{}\":loops", copy.display());
    assert_eq!(rows(&[&quoted]).len(), 1);
}

#[test]
fn rows_have_the_names_that_were_asked_for() {
    for (specs, name) in [
        (&["untyped"][..], "untyped"),
        (&["same"], "same"),
        (&["same", "untyped", "same"], "same/untyped"),
    ] {
        let run = traced("funccount", &program("names"), specs, &[]);
        let rows: Vec<_> = run
            .rows
            .iter()
            .map(|row| (&row["function"], &row["count"]))
            .collect();
        assert_eq!(rows, [(&Value::from(name), &Value::from(79))]);
    }
}

#[test]
fn rows_have_all_global_names_of_the_function() {
    for (spec, name) in [
        ("first_name", "first_name/second_name"),
        ("second_name", "second_name/first_name"),
        ("local_name", "local_name/first_name/second_name"),
        ("second_n*", "second_name/first_name"),
    ] {
        let options: [(&str, &[&str]); 3] = [
            ("funccount", &[]),
            ("funclatency", &["-F"]),
            ("functrace", &["--ret"]),
        ];
        for (tool, options) in options {
            let run = traced(tool, &program("names"), &[spec], options);
            let names: Vec<&Value> = run.rows.iter().map(|row| &row["function"]).collect();
            let count = match tool {
                "functrace" => run.rows.len() as u64,
                _ => run.rows[0]["count"].as_u64().expect("a count"),
            };
            assert!(
                names.iter().all(|&found| *found == name),
                "{tool} {spec}: {names:?}"
            );
            assert_eq!(count, 17 + 2 * 19, "{tool} {spec}");
        }
    }
}

/// As with `python3` of pyenv, which is a script that runs `python3.11`.
#[test]
fn a_script_is_not_the_program_that_it_runs() {
    let folder = Folder::new();
    let program = folder.copy_of(program("flow"), "wrapped1.5");
    let script = folder.path.join("wrapped");
    std::fs::write(&script, "#!/bin/sh\nexec wrapped1.5\n").expect("a script");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("a mode");
    let path = format!(
        "{}:{}",
        folder.path.display(),
        std::env::var("PATH").expect("PATH")
    );
    let command = |args: &[&str]| {
        let mut command = tool_command("funccount", AttachMode::best(), args);
        command.env("PATH", &path);
        command
    };
    let mut target = Target::start(Command::new(&program));
    let pid = target.pid().to_string();
    let tool = Tool::start_as(command(&["wrapped:counted", "-p", &pid]));
    target.ask("count 97");
    assert_eq!(tool.stop().rows[0]["count"], 97);
    let ended = run_to_end(&mut command(&["wrapped:counted"]));
    assert!(
        ended
            .stderr
            .contains("a script has no functions that can be traced\nhint: name the program"),
        "{ended:?}"
    );
}

#[test]
fn libraries_in_a_namespace_of_their_own_are_found() {
    let library = program("libinterrupted.so");
    let mut command = Command::new(program("caller"));
    command.arg("-n").arg(&library).arg("inner");
    let mut caller = Target::start(command);
    let pid = caller.pid().to_string();
    for spec in ["libinterrupted:inner", "interrupted:inner", ":inner", "*:inner"] {
        let tool = Tool::start("funccount", AttachMode::best(), [spec, "-p", &pid]);
        caller.ask("13 1");
        let run = tool.stop();
        assert_eq!(run.rows[0]["count"], 13, "{spec}: {:?}", run.rows);
        assert_eq!(rows(&[spec, "-p", &pid]).len(), 1, "{spec}");
    }
}

/// /proc shows nothing of a main thread that has exited, and the kernel does not find the process by it.
#[test]
fn processes_without_main_thread_are_traced() {
    let library = program("libinterrupted.so");
    let mut command = Command::new(program("caller"));
    command.arg("-e").arg(&library).arg("inner");
    let mut caller = Target::start(command);
    let pid = caller.pid().to_string();
    wait_until("the main thread to exit", || is_in_state(caller.pid(), 'Z'));
    let path = format!("{}:inner", library.display());
    for spec in ["interrupted:inner", &path, ":inner"] {
        let tool = Tool::start("funccount", AttachMode::best(), [spec, "-p", &pid]);
        caller.ask("13 1");
        let run = tool.stop();
        assert_eq!(run.rows[0]["count"], 13, "{spec}: {:?}", run.rows);
        assert!(run.stderr.contains("main thread of PID"), "{}", run.stderr);
        assert_eq!(rows(&[spec, "-p", &pid]).len(), 1, "{spec}");
    }
    let mut tool = Tool::start("functrace", AttachMode::best(), [":inner", "--stack", "-p", &pid]);
    caller.ask("1 1");
    tool.wait_rows(1);
    let run = tool.stop();
    let stack = run.rows[0]["stack"].to_string();
    assert!(stack.contains("[caller]"), "{stack}");
}

#[test]
fn the_vdso_is_not_taken_for_a_misspelled_name() {
    for name in ["vdso", "[vdso]", "linux-vdso.so.1"] {
        let ended = funclist([format!("{name}:__vdso_time")]);
        assert!(ended.stderr.contains("memory of the kernel"), "{}", ended.stderr);
    }
}

#[test]
fn libraries_that_moved_into_libc_are_found_there() {
    let ended = run_to_end(Command::new("ldd").arg("--version"));
    if !ended.stdout.contains("GLIBC") && !ended.stdout.contains("GNU libc") {
        skip("no glibc");
        return;
    }
    let ended = funclist(["-j", "libpthread:pthread_create"]);
    assert!(ended.status.success(), "{ended:?}");
    let moved = ended.stdout.contains("libc.so.6");
    assert_eq!(
        ended.stderr.matches("since glibc 2.34").count(),
        usize::from(moved),
        "{ended:?}"
    );
}
