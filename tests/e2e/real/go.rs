// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A Go program, with and without symbols: tests/targets/hello.go. The Go runtime moves stacks and reads return
//! addresses from them, so a return probe would crash the program.

use std::fs;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};
use serde_json::{Value, json};

use super::{calls, spec, start, trace_orders};
use crate::funclist::rows;
use crate::harness::{
    AttachMode, Folder, Run, Tool, best_mode, each_mode, each_mode_with_session, program_if_built,
    run_to_end, skip, tool_command,
};

fn hello(name: &str) -> Option<PathBuf> {
    let program = program_if_built(name);
    if program.is_none() {
        skip("go is not installed");
    }
    program
}

/// Traces the program while it carries out orders. `args` are functions and options.
pub fn run(tool: &str, mode: AttachMode, name: &str, args: &[&str], orders: &[&str]) -> Option<Run> {
    let hello = hello(name)?;
    let is_function = |text: &str| text.starts_with("main.");
    let specs: Vec<String> = args
        .iter()
        .map(|text| {
            if is_function(text) {
                spec(&hello, text)
            } else {
                (*text).to_owned()
            }
        })
        .collect();
    let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
    Some(trace_orders(tool, mode, &specs, &mut start(&hello), orders))
}

each_mode! {
    entries_are_counted
    returns_are_traced_at_ret_instructions
    arguments_and_results_follow_the_go_abi
}

best_mode! { goroutines_free_their_slots }

each_mode_with_session! { growing_stacks_and_panics_are_survived }

fn entries_are_counted(mode: AttachMode) {
    for name in ["hello-go", "hello-go-stripped"] {
        let orders = ["count 1009", "threads 8 count 503"];
        let Some(run) = run("funccount", mode, name, &["main.counted"], &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.counted"), 1009 + 8 * 503, "{name}");
    }
}

/// There is room for 8192 goroutines, here of programs that have exited.
fn goroutines_free_their_slots(mode: AttachMode) {
    let Some(hello) = hello("hello-go") else {
        return;
    };
    // Other tests run the original.
    let folder = Folder::new();
    let hello = folder.copy_of(hello, "hello");
    let tool = Tool::start("funclatency", mode, [spec(&hello, "main.counted")]);
    for _ in 0..11 {
        start(&hello).ask("threads 1009 count 7");
    }
    let run = tool.stop();
    assert_eq!(calls(&run, "main.counted"), 11 * 1009 * 7, "{:?}", run.rows);
    assert_eq!(run.summary["unmatched"], 0);
}

fn returns_are_traced_at_ret_instructions(mode: AttachMode) {
    for name in ["hello-go", "hello-go-stripped"] {
        let functions = ["main.counted", "main.recovering"];
        let orders = ["count 1009", "threads 8 count 503"];
        let Some(run) = run("funclatency", mode, name, &functions, &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.counted"), 1009 + 8 * 503, "{name}");
        assert_eq!(run.summary["unmatched"], 0, "{name}");
    }
}

fn growing_stacks_and_panics_are_survived(mode: AttachMode) {
    // A function whose stack has to grow is restarted: its entry probe fires twice, for one call.
    let functions = ["main.filling", "main.recovering"];
    let orders = ["threads 8 fill 7 50", "threads 8 fill 101 5"];
    let Some(run) = run("funclatency", mode, "hello-go", &functions, &orders) else {
        return;
    };
    assert_eq!(
        calls(&run, "main.filling"),
        8 * (7 * 50 + 101 * 5),
        "{:?}",
        run.rows
    );
    assert_eq!(run.summary["unmatched"], 0);
    let orders = ["panic 211", "threads 4 panic 13", "fill 3 5000"];
    let Some(run) = self::run("funclatency", mode, "hello-go", &["main.*"], &orders) else {
        return;
    };
    assert!(calls(&run, "main.recovering") >= 211, "{:?}", run.rows);
    assert_eq!(calls(&run, "main.panicking"), 0);
}

/// Arguments and results are not where the C calling convention places them.
fn arguments_and_results_follow_the_go_abi(mode: AttachMode) {
    let Some(run) = run(
        "functrace",
        mode,
        "hello-go",
        &["main.joined", "--ret"],
        &["join 7"],
    ) else {
        return;
    };
    assert_eq!(run.rows.len(), 7);
    for (number, row) in run.rows.iter().enumerate() {
        let args = &row["args"];
        let found = (
            &args["text"],
            &args["number"],
            &args["all"]["len"],
            &row["retval"],
        );
        let result = format!("join{}", number + 3);
        assert_eq!(
            found,
            (&json!("join"), &json!(number), &json!(3), &json!(result)),
            "{row}"
        );
    }
    let specs = [
        "main.joined",
        "--args",
        "arg1",
        "--where",
        "arg0 == \"join\" && arg1 >= 5",
    ];
    let Some(run) = self::run("functrace", mode, "hello-go", &specs, &["join 7"]) else {
        return;
    };
    let found: Vec<&Value> = run.rows.iter().map(|row| &row["args"]["arg1"]).collect();
    assert_eq!(found, [5, 6]);
}

#[test]
fn arguments_of_a_stripped_program_are_refused() {
    let Some(stripped) = hello("hello-go-stripped") else {
        return;
    };
    let joined = spec(&stripped, "main.joined");
    let ended = run_to_end(&mut tool_command(
        "functrace",
        AttachMode::best(),
        [&joined, "--args", "arg0"],
    ));
    let explained = ended
        .stderr
        .starts_with("error: --args, column 1: the location of arg0 of main.joined is unknown\n");
    assert!(explained && ended.status.code() == Some(2), "{ended:?}");
}

/// Names and addresses of functions.
fn names(program: &Path) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let rows = rows(&[&spec(program, "main.*")]);
    rows.iter()
        .map(|row| (text(&row["function"]), text(&row["addr"])))
        .collect()
}

#[test]
fn stripped_program_has_the_same_names() {
    for (whole, stripped) in [
        ("hello-go", "hello-go-stripped"),
        ("hello-go-external", "hello-go-external-stripped"),
    ] {
        let (Some(whole), Some(stripped)) = (hello(whole), hello(stripped)) else {
            return;
        };
        assert!(names(&whole).len() > 6);
        assert_eq!(names(&whole), names(&stripped));
    }
}

/// Since Go 1.26, the function table does not say where the Go code starts. Before, its fourth word did.
#[test]
fn names_are_right_without_the_start_of_the_code_in_the_table() {
    let (Some(whole), Some(stripped)) = (hello("hello-go-external"), hello("hello-go-external-stripped"))
    else {
        return;
    };
    let mut bytes = fs::read(&stripped).expect("the program");
    let file = object::File::parse(&bytes[..]).expect("ELF");
    let text = file.section_by_name(".text").expect("code").address();
    let table = file.section_by_name(".gopclntab").expect("a table");
    let (at, _) = table.file_range().expect("content");
    let start = at as usize + 24..at as usize + 32;
    let word = u64::from_ne_bytes(bytes[start.clone()].try_into().expect("8 bytes"));
    assert_ne!(word, text, "the C code comes first");
    bytes[start].fill(0);
    let patched = stripped.with_extension(format!("{}", std::process::id()));
    fs::write(&patched, bytes).expect("a file");
    let found = names(&patched);
    fs::remove_file(&patched).expect("removed");
    assert_eq!(found, names(&whole));
}
