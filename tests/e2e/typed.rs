// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions with parameters and results of many types: functrace shows what the program passes and returns, as gdb and
//! bpftrace do, and funccount counts the calls. tests/targets/typed/ writes the programs and tables of what they do.

mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use self::values::{contradiction, difference};
use crate::bpftrace::Bpftrace;
use crate::harness::{AttachMode, Folder, Run, Target, Tool, best_mode, program_if_built, run_to_end, skip};

const TOO_MANY: &str = "without multi-uprobe links, so many probes take minutes to remove";

/// The programs, and why gdb cannot be asked about one.
const PROGRAMS: [(&str, &str); 10] = [
    ("typed-c-O0", ""),
    ("typed-c-O2", ""),
    ("typed-c-clang-O0", ""),
    ("typed-c-clang-O2", ""),
    ("typed-cc-O0", ""),
    ("typed-cc-O2", ""),
    ("typed-cc-clang-O0", ""),
    ("typed-cc-clang-O2", STALE),
    ("typed-rust-O0", ""),
    ("typed-rust-O2", STALE),
];
/// Why gdb is wrong.
const STALE: &str = "the optimizer's descriptions name registers that the code has overwritten";
/// Functions of C, C++ and Rust together.
const FUNCTIONS: usize = 200;

/// A program and its table of functions.
struct Typed {
    name: &'static str,
    path: PathBuf,
    gdb_errs: &'static str,
    rows: Vec<Value>,
}

impl Typed {
    /// Functions, and those of classes.
    fn specs(&self) -> [String; 2] {
        let module = if self.is_rust() { "typed::" } else { "" };
        let functions = format!("{}:{module}t_*", self.path.display());
        let members = match self.name.contains("-cc-") {
            true => format!("{}:*::t_*", self.path.display()),
            false => functions.clone(),
        };
        [functions, members]
    }

    fn is_rust(&self) -> bool {
        self.name.contains("rust")
    }

    /// The functions whose arguments are compared. Clang before 18 splits and misplaces integers of 128 bits that do
    /// not fit in the registers.
    fn compared(&self) -> impl Iterator<Item = &Value> {
        let is_clang = self.name.contains("clang");
        self.rows
            .iter()
            .filter(move |row| !is_clang || row["wide"] == false)
    }

    fn start(&self) -> Target {
        Target::start(Command::new(&self.path))
    }

    /// Runs a tool on one process of the program while it carries out an order.
    fn run(&self, tool: &str, mode: AttachMode, options: &[&str], order: &str) -> Run {
        let mut target = self.start();
        let ([functions, members], pid) = (self.specs(), target.pid().to_string());
        let specs = [&*functions, &members, "-p", &pid];
        let tool = Tool::start(tool, mode, [&specs, options].concat());
        target.ask(order);
        let run = tool.stop();
        run.assert_clean();
        run
    }
}

fn programs() -> Vec<Typed> {
    let built = PROGRAMS.iter().map(|(name, gdb_errs)| typed(name, gdb_errs));
    built.flatten().collect()
}

/// A program, or `None` with a report of a skipped test.
fn typed(name: &'static str, gdb_errs: &'static str) -> Option<Typed> {
    let Some(path) = program_if_built(name) else {
        skip(&format!("{name}: a compiler or python3 is missing"));
        return None;
    };
    let table = run_to_end(Command::new(&path).arg("table"));
    let rows = table.stdout.lines().map(serde_json::from_str);
    Some(Typed {
        name,
        path,
        gdb_errs,
        rows: rows.collect::<Result<_, _>>().expect("a table in JSON"),
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `t_one7` of `typed::t_one7` and `t_one7[abi:cxx11](int)`, and `t_template3` of `int t_template3<long>(long)`.
fn short(function: &Value) -> String {
    let is_part = |char: char| !(char.is_alphanumeric() || char == '_');
    let mut words = text(function)
        .split(is_part)
        .filter(|word| word.starts_with("t_"));
    words.next_back().unwrap_or_default().to_owned()
}

/// The rows of a run by function.
fn by_function(run: &Run) -> BTreeMap<String, &Value> {
    run.rows
        .iter()
        .map(|row| (short(&row["function"]), row))
        .collect()
}

/// Arguments and the result, under their names.
fn values(row: &Value) -> impl Iterator<Item = (String, &Value)> {
    let args = row["args"].as_object().into_iter().flatten();
    let args = args.map(|(name, value)| (name.clone(), value));
    args.chain([("retval".to_owned(), &row["retval"])])
}

fn value<'a>(row: &'a Value, name: &str) -> Option<&'a Value> {
    match name {
        "retval" => row.get(name),
        name => row["args"].get(name),
    }
}

best_mode! { values_are_those_of_the_program_and_of_gdb calls_are_counted registers_are_those_of_bpftrace }

fn values_are_those_of_the_program_and_of_gdb(mode: AttachMode) {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("the table does not say which results have no address at the return on this machine");
    }
    if !mode.has_multi_links() {
        return skip(TOO_MANY);
    }
    let has_gdb = has("gdb");
    if !has_gdb {
        skip("gdb is not installed: only the programs say what is right");
    }
    let mut deviations = Vec::new();
    for program in programs() {
        let run = program.run("functrace", mode, &["--ret"], "once 1");
        assert_eq!(run.rows.len(), program.rows.len(), "{}", program.name);
        let shown = by_function(&run);
        let gdb = (has_gdb && program.gdb_errs.is_empty()).then(|| gdb(&program));
        for row in program.compared() {
            let function = text(&row["function"]);
            let Some(shown) = shown.get(function) else {
                panic!("{}: {function} is not shown", program.name);
            };
            let mut found = deviations_from_program(&program, row, shown);
            // At optimized templates, the values that gdb prints are those of other functions.
            let gdb = gdb.as_ref().filter(|_| !function.starts_with("t_template"));
            if let Some(gdb) = gdb {
                found.extend(deviations_from_gdb(row, shown, &gdb[function]));
            }
            let named = |deviation| format!("{} {function} {deviation}", program.name);
            deviations.extend(found.into_iter().map(named));
        }
    }
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
}

/// Values that functrace shows otherwise than the table.
fn deviations_from_program(program: &Typed, row: &Value, shown: &Value) -> Vec<String> {
    // Clang's optimizer does not describe every parameter, and functrace may trust none of the others then.
    let may_be_unseen = |name: &str| row["unseen"].get(name).is_some() || program.name.contains("clang-O2");
    let mut found = Vec::new();
    for (name, truth) in values(row) {
        let shown = value(shown, &name).unwrap_or(&Value::Null);
        if !(shown.is_null() && may_be_unseen(&name)) {
            found.extend(difference(&name, truth, shown));
        }
    }
    found
}

/// Values that gdb shows otherwise than the table, and those that are not in the table and that functrace shows
/// otherwise.
fn deviations_from_gdb(row: &Value, shown: &Value, gdb: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (name, truth) in values(row) {
        // Optimized out.
        let Some(theirs) = value(gdb, &name).and_then(|value| value.get(0)) else {
            continue;
        };
        match truth.as_str() {
            Some("*") => {
                let shown = value(shown, &name).unwrap_or(&Value::Null);
                found.extend(contradiction(&name, theirs, shown));
            }
            _ => found.extend(difference(&name, truth, theirs)),
        }
    }
    found
        .into_iter()
        .map(|deviation| format!("{deviation} (gdb)"))
        .collect()
}

fn has(command: &str) -> bool {
    let found = run_to_end(Command::new("sh").args(["-c", &format!("command -v {command}")]));
    !found.stdout.is_empty()
}

/// The values of each function in gdb. An optimized-out value is missing.
fn gdb(program: &Typed) -> BTreeMap<String, Value> {
    const SCRIPT: &str = include_str!("typed/gdb.py");
    let folder = Folder::new();
    let (script, file) = (folder.path.join("gdb.py"), folder.path.join("values"));
    std::fs::write(&script, SCRIPT).expect("a file");
    let places = program
        .rows
        .iter()
        .map(|row| (text(&row["function"]).to_owned(), row["line"].clone()));
    let wanted = json!({
        "lines": places.collect::<serde_json::Map<_, _>>(), "with_results": !program.is_rust(),
    });
    let ended = run_to_end(
        Command::new("gdb")
            .env("WANTED", wanted.to_string())
            .env("VALUES", &file)
            .args(["-q", "-nx", "-batch", "-x"])
            .arg(&script)
            // Without the probes of other tests.
            .arg(folder.copy_of(&program.path, program.name)),
    );
    let lines = std::fs::read_to_string(&file).unwrap_or_default();
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON from gdb");
        let row = all
            .entry(text(&value["function"]).to_owned())
            .or_insert(json!({}));
        for key in ["args", "retval"] {
            if !value[key].is_null() {
                row[key] = value[key].clone();
            }
        }
    }
    for row in &program.rows {
        let function = text(&row["function"]);
        let is_there = all.get(function).is_some_and(|values| !values["args"].is_null());
        assert!(
            is_there,
            "{} {function}: {}\n{}",
            program.name, ended.stdout, ended.stderr
        );
    }
    all
}

fn calls_are_counted(mode: AttachMode) {
    if !mode.has_multi_links() {
        return skip(TOO_MANY);
    }
    let programs = programs();
    for program in &programs {
        let run = program.run("funccount", mode, &[], "primes 1");
        let counted = by_function(&run);
        assert_eq!(counted.len(), program.rows.len(), "{}", program.name);
        for row in &program.rows {
            let function = text(&row["function"]);
            assert_eq!(
                counted[function]["count"], row["times"],
                "{} {function}",
                program.name
            );
        }
    }
    let functions: usize = programs.iter().map(|program| program.rows.len()).sum();
    // Each program is compiled at two levels.
    assert!(programs.is_empty() || functions >= 2 * FUNCTIONS, "{functions}");
}

/// Each call in one process: the function, six registers and two words of the stack.
fn registers_are_those_of_bpftrace(mode: AttachMode) {
    let Some(program) = typed("typed-c-bare", "") else {
        return;
    };
    if cfg!(not(target_arch = "x86_64")) {
        return skip("other machines have more argument registers");
    }
    let (mut target, mut marker) = (program.start(), program.start());
    let (path, pid, ready) = (program.path.display(), target.pid(), marker.pid());
    let numbers = ["%lx"; 8].join(" ");
    let script = format!(
        r#"uprobe:{path}:t_* /pid == {pid}/ {{
               printf("%s {numbers}\n", probe, arg0, arg1, arg2, arg3, arg4, arg5, sarg0, sarg1); }}
           uprobe:{path}:t_one0 /pid == {ready}/ {{ printf("ready\n"); }}"#
    );
    let Some(other) = Bpftrace::start(&script) else {
        return;
    };
    let names: Vec<String> = (0..8).map(|number| format!("arg{number}")).collect();
    let options = ["--args", &names.join(","), "-p", &pid.to_string()];
    let [functions, _] = program.specs();
    let tool = Tool::start("functrace", mode, [&[&*functions], &options[..]].concat());
    other.until_ready(|| _ = marker.ask("once 1"), |line| line == "ready");
    target.ask("primes 1");
    let run = tool.stop();
    run.assert_clean();
    let theirs = bpftrace_calls(&other, run.rows.len());
    let ours = run.rows.iter().map(|row| {
        let numbers = names.iter().map(|name| row["args"][name].as_u64());
        (short(&row["function"]), numbers.collect::<Option<Vec<u64>>>())
    });
    let mut ours: Vec<_> = ours.collect();
    ours.sort();
    assert_eq!(ours, theirs);
    for row in &program.rows {
        let calls = theirs
            .iter()
            .filter(|(function, _)| *function == text(&row["function"]));
        assert_eq!(row["times"], calls.count(), "{row}");
    }
}

/// The calls that bpftrace has printed, sorted: it may read the buffers of two CPUs out of order.
fn bpftrace_calls(other: &Bpftrace, count: usize) -> Vec<(String, Option<Vec<u64>>)> {
    let mut calls = Vec::new();
    while calls.len() < count {
        let line = other.line();
        let Some((probe, numbers)) = line.split_once(' ') else {
            continue;
        };
        let function = probe.rsplit(':').next().unwrap_or_default().to_owned();
        let numbers = numbers
            .split(' ')
            .map(|number| u64::from_str_radix(number, 16).ok());
        calls.push((function, numbers.collect()));
    }
    calls.sort();
    calls
}
