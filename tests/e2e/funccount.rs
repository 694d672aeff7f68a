// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! funccount: exact numbers of calls, of real functions, by every kind of name.

use std::process::Command;

use serde_json::Value;

use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, each_mode, program, run_to_end, tool_command,
};

fn flow() -> Target {
    Target::start(Command::new(program("flow")))
}

/// `flow:FUNCTION` by the path of the program, which other tests trace as well.
fn of_flow(function: &str) -> String {
    format!("{}:{function}", program("flow").display())
}

/// What was counted of a function, over all rows.
fn calls(run: &Run, function: &str) -> u64 {
    run.with("function", function)
        .iter()
        .filter_map(|row| row["count"].as_u64())
        .sum()
}

/// Counts in one process while it follows orders.
fn count_orders(mode: AttachMode, functions: &[&str], orders: &[&str]) -> Run {
    let mut target = flow();
    let pid = target.pid().to_string();
    let specs: Vec<String> = functions.iter().map(|function| of_flow(function)).collect();
    let mut args: Vec<&str> = specs.iter().map(String::as_str).collect();
    args.extend(["-p", &pid]);
    let tool = Tool::start("funccount", mode, args);
    for order in orders {
        target.ask(order);
    }
    tool.stop()
}

each_mode! { counts_are_exact returns_are_counted_too threads_lose_nothing a_command_is_counted_from_its_first_call }

fn counts_are_exact(mode: AttachMode) {
    let mut other = flow();
    // What is named twice is counted once.
    let run = count_orders(
        mode,
        &["counted", "count?d", "nested_*", "/^tail_/"],
        &["count 10007", "nest 101", "tail 13"],
    );
    other.ask("count 5");
    run.assert_clean();
    let expected = [
        ("counted", 10007),
        ("nested_outer", 101),
        ("nested_inner", 303),
        ("tail_first", 13),
        ("tail_second", 13),
    ];
    for (function, count) in expected {
        assert_eq!(calls(&run, function), count, "{function}: {:?}", run.rows);
    }
    let counts: Vec<u64> = run.rows.iter().filter_map(|row| row["count"].as_u64()).collect();
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
}

fn returns_are_counted_too(mode: AttachMode) {
    let throws = program("flow-throws");
    let mut target = Target::start(Command::new(&throws));
    let pid = target.pid().to_string();
    let [entry, exit, caught] = [("", "throwing"), ("r:", "throwing"), ("r:", "catching")]
        .map(|(prefix, name)| format!("{prefix}{}:{name}", throws.display()));
    let tool = Tool::start("funccount", mode, [&entry, &exit, &caught, "-p", &pid]);
    assert_eq!(tool.attached["probes"], 3);
    target.ask("throw 17");
    let run = tool.stop();
    assert_eq!(
        [
            calls(&run, "throwing"),
            calls(&run, "r:throwing"),
            calls(&run, "r:catching")
        ],
        [17, 0, 17]
    );
}

fn threads_lose_nothing(mode: AttachMode) {
    let run = count_orders(mode, &["counted"], &["threads 8 count 5003"]);
    assert_eq!(calls(&run, "counted"), 8 * 5003);
}

fn a_command_is_counted_from_its_first_call(mode: AttachMode) {
    let bump = program("libbump.so");
    let mut command = tool_command(
        "funccount",
        mode,
        [
            &format!("{}:malloc", bump.display()),
            &format!("{}:free", bump.display()),
        ],
    );
    command
        .arg("--")
        .arg(program("calls"))
        .args(["malloc 4999 100", "total"])
        .env("LD_PRELOAD", &bump);
    let ended = run_to_end(&mut command);
    let own: u64 = ended
        .stderr
        .lines()
        .find_map(|line| line.strip_suffix(" calls")?.parse().ok())
        .expect("its own count");
    let counted = row_of(&ended.stdout, "malloc") + row_of(&ended.stdout, "free");
    assert_eq!(counted, own, "{}\n{}", ended.stdout, ended.stderr);
}

fn row_of(stdout: &str, function: &str) -> u64 {
    let rows = stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter(|row| row["type"] == "count" && row["function"] == function)
        .filter_map(|row| row["count"].as_u64())
        .sum()
}

best_mode! {
    threads_processes_and_users_are_told_apart intervals_add_up_to_the_whole the_busiest_come_first
    a_file_alone_is_counted a_stripped_program_has_functions_without_names instructions_are_counted
    a_regex_matches_qualified_names more_probes_than_files_are_refused mistakes_are_explained
}

fn threads_processes_and_users_are_told_apart(mode: AttachMode) {
    let (mut first, mut second) = (flow(), flow());
    let pids = format!("{},{}", first.pid(), second.pid());
    let by = |whom: &str| {
        Tool::start(
            "funccount",
            mode,
            [&of_flow("counted"), "-p", &pids, "--by", whom],
        )
    };
    let (processes, threads, users) = (by("process"), by("thread"), by("user"));
    first.ask("count 101");
    let workers = second.ask("threads 3 count 211");
    let run = processes.stop();
    let count_of = |pid: u32| {
        run.with("pid", pid)
            .iter()
            .filter_map(|row| row["count"].as_u64())
            .sum::<u64>()
    };
    assert_eq!(
        [count_of(first.pid()), count_of(second.pid())],
        [101, 633],
        "{:?}",
        run.rows
    );
    assert!(run.rows.iter().all(|row| row["comm"] == "flow"));
    let run = threads.stop();
    for worker in workers {
        let rows = run.with("tid", worker.tid);
        assert_eq!(
            rows.iter().map(|row| &row["count"]).collect::<Vec<_>>(),
            [&Value::from(211)]
        );
        assert_eq!(rows[0]["pid"], second.pid());
    }
    let run = users.stop();
    assert_eq!(
        (&run.rows[0]["user"], &run.rows[0]["count"]),
        (&"root".into(), &734.into())
    );
}

fn intervals_add_up_to_the_whole(mode: AttachMode) {
    let mut target = flow();
    let pid = target.pid().to_string();
    let mut tool = Tool::start("funccount", mode, [&of_flow("counted"), "-p", &pid, "-i", "0.1"]);
    target.ask("count 1009");
    tool.wait_rows(1);
    target.ask("count 503");
    let run = tool.stop();
    let counts: Vec<u64> = run.rows.iter().filter_map(|row| row["count"].as_u64()).collect();
    assert!(
        counts.len() >= 2 && counts.iter().sum::<u64>() == 1512,
        "{counts:?}"
    );
}

fn the_busiest_come_first(mode: AttachMode) {
    let mut target = flow();
    let pid = target.pid().to_string();
    let tool = Tool::start(
        "funccount",
        mode,
        [&of_flow("/^(counted|nested_)/"), "-p", &pid, "--top", "2"],
    );
    target.ask("nest 7");
    target.ask("count 1009");
    let run = tool.stop();
    let named: Vec<_> = run
        .rows
        .iter()
        .map(|row| (row["function"].as_str(), row["count"].as_u64()))
        .collect();
    assert_eq!(named[0], (Some("counted"), Some(1009)), "{named:?}");
    assert_eq!(named.len(), 2, "{named:?}");
}

fn a_stripped_program_has_functions_without_names(mode: AttachMode) {
    let mut target = Target::start(Command::new(program("flow-stripped")));
    let spec = format!("{}:fn_*", program("flow-stripped").display());
    let pid = target.pid().to_string();
    let tool = Tool::start("funccount", mode, [spec.as_str(), "-p", &pid]);
    target.ask("count 1009");
    let run = tool.stop();
    assert_eq!(
        run.with("count", 1009).len(),
        2,
        "counted() and what calls it: {:?}",
        run.rows
    );
}

fn a_regex_matches_qualified_names(mode: AttachMode) {
    let strings = program("strings");
    let mut target = Target::start(Command::new(&strings));
    let pid = target.pid().to_string();
    let spec = format!("{}:^shop::(half|greet)", strings.display());
    let tool = Tool::start("funccount", mode, ["-r", &spec, "-p", &pid]);
    target.ask("half 1009");
    let run = tool.stop();
    let rows = run.assert_clean().with("count", 1009);
    let names: Vec<_> = rows.iter().map(|row| row["function"].as_str()).collect();
    assert!(
        matches!(names[..], [Some(name)] if name.starts_with("shop::half(")),
        "{names:?}"
    );
}

fn instructions_are_counted(mode: AttachMode) {
    let flow = program("flow").display().to_string();
    let listed = crate::funclist::rows(&[&format!("{flow}:counted")]);
    let address = listed[0]["addr"].as_str().expect("an address").to_owned();
    let mut target = self::flow();
    let pid = target.pid().to_string();
    let regex = format!("{flow}:^count(ed|ing)$");
    let run = |args: &[&str], target: &mut Target| {
        let tool = Tool::start("funccount", mode, [args, &["-p", &pid]].concat());
        target.ask("count 1009");
        tool.stop()
    };
    assert_eq!(
        calls(&run(&[&format!("{flow}:{address}")], &mut target), "counted"),
        1009
    );
    assert_eq!(calls(&run(&["-r", &regex], &mut target), "counted"), 1009);
    // mov %rdi,%rax or lea 1(%rdi),%rax: the second instruction, wherever it begins.
    let second = (1..16).map(|offset| format!("{flow}:counted+{offset}"));
    let inside: Vec<String> = second
        .filter(|spec| crate::funclist::funclist([spec]).status.success())
        .collect();
    if let Some(spec) = inside.first() {
        let run = run(&[spec], &mut target);
        assert_eq!(run.rows[0]["count"], 1009, "{:?}", run.rows);
    }
}

/// Nothing is left to do but to read the counts, so nearly all privileges are dropped.
fn a_file_alone_is_counted(mode: AttachMode) {
    let folder = Folder::new();
    let program = folder.copy_of(program("flow"), "flow");
    for tool in ["funccount", "funclatency"] {
        let mut target = Target::start(Command::new(&program));
        let tool = Tool::start(tool, mode, [format!("{}:counted", program.display())]);
        target.ask("count 101");
        let run = tool.stop();
        let rows = run.assert_clean().with("function", "counted");
        assert_eq!(
            rows.first().map(|row| &row["count"]),
            Some(&101.into()),
            "{:?}",
            run.rows
        );
    }
}

fn more_probes_than_files_are_refused(_: AttachMode) {
    let script = "ulimit -n 256; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&*crate::harness::TOOLS);
    command.args(["funccount", "--attach", "plain", "libc:*", "-d", "1"]);
    let ended = run_to_end(&mut command);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    for part in ["without multi-uprobe links", "hint: trace fewer functions"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

fn mistakes_are_explained(mode: AttachMode) {
    let flow = program("flow");
    let expect = |spec: &str, status: i32, said: &[&str]| {
        let ended = run_to_end(&mut tool_command("funccount", mode, [spec, "-d", "1"]));
        assert_eq!(ended.status.code(), Some(status), "{spec}: {}", ended.stderr);
        for part in said {
            assert!(
                ended.stderr.contains(part),
                "{spec}: {part:?} is missing in {}",
                ended.stderr
            );
        }
    };
    expect(
        &of_flow("countid"),
        1,
        &[
            "failed to find function countid in",
            flow.to_str().expect("UTF-8"),
            "hint: ",
            "counted",
        ],
    );
    expect("counted", 2, &["names no program or library", "-p PID"]);
    expect(
        "libc",
        2,
        &["libc names a file but no function", "hint: write libc:NAME"],
    );
    expect(
        "usdt:counted",
        2,
        &["names no program or library", "hint: write usdt:TARGET:counted"],
    );
    expect("libnosuch:f", 1, &["failed to find libnosuch"]);
    expect(
        "libcc:malloc",
        1,
        &["failed to find libcc", "hint: similar names: libc, "],
    );
    expect(
        "libc:*mallok*",
        1,
        &[
            "failed to find function *mallok* in",
            "hint: similar names there: malloc",
        ],
    );
    let mut command = tool_command("funccount", mode, ["libcc:malloc", "--", "true"]);
    let ended = run_to_end(&mut command);
    let is_said =
        ended.stderr.contains("failed to find libcc: ") && ended.stderr.contains("similar names: libc");
    assert!(is_said && ended.status.code() == Some(1), "{ended:?}");
    expect("/no/such/file:f", 1, &["failed to open /no/such/file"]);
    expect(&of_flow("/(/"), 2, &["regular expression"]);
    expect(
        &of_flow("counted+1"),
        1,
        &["error: failed to put a probe at counted+0x1: not the start of an instruction"],
    );
    expect(&format!("r:{}", of_flow("counted+4")), 1, &["return"]);
    expect("/etc/passwd:f", 1, &["not an ELF file"]);
}
