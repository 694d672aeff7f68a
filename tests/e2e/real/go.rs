//! A Go program, with symbols and without: tests/targets/hello.go. Go moves stacks and reads return addresses off them,
//! so that a return probe ends the program.

use std::path::PathBuf;

use super::{beside, calls, spec, start};
use crate::funclist::rows;
use crate::harness::{Run, Way, each_way, each_way_of_calls, program_if_built, skip};

fn hello(name: &str) -> Option<PathBuf> {
    let program = program_if_built(name);
    if program.is_none() {
        skip("there was no go to build with");
    }
    program
}

fn run(tool: &str, way: Way, name: &str, functions: &[&str], orders: &[&str]) -> Option<Run> {
    let hello = hello(name)?;
    let specs: Vec<String> = functions.iter().map(|function| spec(&hello, function)).collect();
    let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
    Some(beside(tool, way, &specs, &mut start(&hello), orders))
}

each_way! { entries_are_counted returns_are_seen_at_their_instructions }

each_way_of_calls! { stacks_may_move_and_panics_pass }

fn entries_are_counted(way: Way) {
    for name in ["hello-go", "hello-go-stripped"] {
        let orders = ["count 1009", "threads 8 count 503"];
        let Some(run) = run("funccount", way, name, &["main.counted"], &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.counted"), 1009 + 8 * 503, "{name}");
    }
}

fn returns_are_seen_at_their_instructions(way: Way) {
    for name in ["hello-go", "hello-go-stripped"] {
        let functions = ["main.counted", "main.recovering"];
        let orders = ["count 1009", "threads 8 count 503"];
        let Some(run) = run("funclatency", way, name, &functions, &orders) else {
            return;
        };
        assert_eq!(calls(&run, "main.counted"), 1009 + 8 * 503, "{name}");
        assert_eq!(run.summary["unmatched"], 0, "{name}");
    }
}

fn stacks_may_move_and_panics_pass(way: Way) {
    // A function whose stack has to grow begins anew: its entry is seen again, and is one call all the same.
    let functions = ["main.filling", "main.recovering"];
    let orders = ["threads 8 fill 7 50", "threads 8 fill 101 5"];
    let Some(run) = run("funclatency", way, "hello-go", &functions, &orders) else {
        return;
    };
    assert_eq!(
        calls(&run, "main.filling"),
        8 * (7 * 50 + 101 * 5),
        "{:?}",
        run.rows
    );
    assert_eq!(run.summary["unmatched"], 0);
    let all = ["panic 211", "threads 4 panic 13", "fill 3 5000"];
    let Some(run) = self::run("funclatency", way, "hello-go", &["main.*"], &all) else {
        return;
    };
    assert!(calls(&run, "main.recovering") >= 211, "{:?}", run.rows);
    assert_eq!(calls(&run, "main.panicking"), 0);
}

#[test]
fn a_stripped_program_still_has_its_names() {
    let (Some(whole), Some(stripped)) = (hello("hello-go"), hello("hello-go-stripped")) else {
        return;
    };
    let names = |program| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let rows = rows(&[&spec(program, "main.*")]);
        rows.iter()
            .map(|row| (text(&row["function"]), text(&row["addr"])))
            .collect()
    };
    assert!(names(&whole).len() > 6);
    assert_eq!(names(&whole), names(&stripped));
}
