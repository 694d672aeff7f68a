// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! funccount: exact counts of calls, for each kind of function pattern.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, each_mode, program, run_to_end, tool_command,
};

pub fn flow() -> Target {
    Target::start(Command::new(program("flow")))
}

/// The spec of a function of tests/targets/flow.cc, by path.
pub fn of_flow(function: &str) -> String {
    format!("{}:{function}", program("flow").display())
}

/// The count of a function, summed over all rows.
pub fn calls(run: &Run, function: &str) -> u64 {
    run.with("function", function)
        .iter()
        .filter_map(|row| row["count"].as_u64())
        .sum()
}

/// Counts calls in one process while it carries out orders.
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

each_mode! {
    uncalled_functions_are_named
    counts_are_exact
    r_prefix_counts_returns
    calls_of_concurrent_threads_are_all_counted
    command_is_counted_from_its_first_call
}

/// By every tool whose functions the user names, for every end of calls.
fn uncalled_functions_are_named(mode: AttachMode) {
    let [mut target, mut other] = [flow(), flow()];
    let pid = target.pid().to_string();
    let called = [of_flow("counted"), format!("r:{}", of_flow("counted"))];
    let list = of_flow("{counted,nested_outer}");
    let uncalled = [of_flow("tail_*"), format!("r:{}", of_flow("nested_inner"))];
    for (tool, options) in [
        ("funccount", &[][..]),
        ("funccount", &["--by", "process"]),
        ("funclatency", &[]),
        ("functrace", &[]),
        ("functrace", &["--ret"]),
        ("functrace", &["--where", "pid == 0"]),
    ] {
        let specs = called.iter().chain([&list]).chain(&uncalled);
        let args = specs.map(String::as_str).chain(["-p", &pid]);
        let run = Tool::start(tool, mode, args.chain(options.iter().copied()));
        other.ask("nest 7");
        target.ask("count 7");
        let run = run.stop();
        let names = ["nested_outer", &uncalled[0], &uncalled[1]];
        assert_eq!(
            run.summary["not_called"],
            json!(names),
            "{tool} {options:?}: {}",
            run.stderr
        );
        let message = format!("no calls of {}\n", names.join(", "));
        assert!(
            run.stderr.contains(&message),
            "{tool} {options:?}: {}",
            run.stderr
        );
    }
}

/// Where nothing was called, another message says so.
fn message_about_uncalled_functions_needs_called_ones(mode: AttachMode) {
    let mut target = flow();
    let pid = target.pid().to_string();
    let specs = [of_flow("counted"), of_flow("nested_outer")];
    let mut run = |options: &[&str], order: &str| {
        let args = specs.iter().map(String::as_str).chain(["-p", &pid]);
        let run = Tool::start("funccount", mode, args.chain(options.iter().copied()));
        target.ask(order);
        run.stop()
    };
    let nothing = run(&[], "tail 7");
    assert_eq!(nothing.summary["not_called"], json!(specs), "{}", nothing.stderr);
    let all = run(&[], "nest 7");
    assert_eq!(all.summary["not_called"], json!([specs[0]]), "{}", all.stderr);
    let quiet = run(&["--quiet"], "nest 7");
    assert_eq!(quiet.summary["not_called"], json!([specs[0]]), "{}", quiet.stderr);
    assert!(all.stderr.contains("no calls of"), "{}", all.stderr);
    for run in [nothing, quiet] {
        assert!(!run.stderr.contains("no calls of"), "{}", run.stderr);
    }
}

fn counts_are_exact(mode: AttachMode) {
    let mut other = flow();
    // A function that two patterns match is counted once.
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

fn r_prefix_counts_returns(mode: AttachMode) {
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

fn calls_of_concurrent_threads_are_all_counted(mode: AttachMode) {
    let run = count_orders(mode, &["counted"], &["threads 8 count 5003"]);
    assert_eq!(calls(&run, "counted"), 8 * 5003);
}

fn command_is_counted_from_its_first_call(mode: AttachMode) {
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
        .expect("the count that the target prints");
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
    message_about_uncalled_functions_needs_called_ones
    by_groups_by_process_thread_and_user
    interval_counts_add_up
    top_shows_the_most_called_functions
    file_is_counted_in_all_processes
    stripped_program_is_counted_by_placeholder_names
    addresses_and_offsets_are_counted
    regex_matches_qualified_names
    probes_beyond_the_limit_of_open_files_are_refused
    bad_patterns_are_explained
    empty_results_are_explained
}

fn empty_results_are_explained(mode: AttachMode) {
    let mut target = flow();
    let count =
        |options: &[&str]| Tool::start("funccount", mode, [&[&*of_flow("counted")], options].concat());
    let pid = target.pid().to_string();
    let tool = count(&["-p", &pid]);
    target.ask("nest 7");
    let run = tool.stop();
    assert!(
        run.stderr.ends_with("no calls: the probes were not hit\n"),
        "{}",
        run.stderr
    );
    let tool = count(&["-p", &pid, "--comm", "nobody"]);
    target.ask("count 7");
    let run = tool.stop();
    let expected = "no calls shown: the filter or options exclude all of 7 probe hits\n";
    assert!(run.stderr.ends_with(expected), "{}", run.stderr);
}

fn by_groups_by_process_thread_and_user(mode: AttachMode) {
    let (mut first, mut second) = (flow(), flow());
    let pids = format!("{},{}", first.pid(), second.pid());
    let by = |group: &str| {
        Tool::start(
            "funccount",
            mode,
            [&of_flow("counted"), "-p", &pids, "--by", group],
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

fn interval_counts_add_up(mode: AttachMode) {
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

fn top_shows_the_most_called_functions(mode: AttachMode) {
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

fn stripped_program_is_counted_by_placeholder_names(mode: AttachMode) {
    let mut target = Target::start(Command::new(program("flow-stripped")));
    let spec = format!("{}:fn_*", program("flow-stripped").display());
    let pid = target.pid().to_string();
    let tool = Tool::start("funccount", mode, [spec.as_str(), "-p", &pid]);
    target.ask("count 1009");
    let run = tool.stop();
    assert_eq!(
        run.with("count", 1009).len(),
        2,
        "counted() and its caller: {:?}",
        run.rows
    );
}

fn regex_matches_qualified_names(mode: AttachMode) {
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

fn addresses_and_offsets_are_counted(mode: AttachMode) {
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
    // The second instruction: which offset it has depends on the compiler.
    let offsets = (1..16).map(|offset| format!("{flow}:counted+{offset}"));
    let valid: Vec<String> = offsets
        .filter(|spec| crate::funclist::funclist([spec]).status.success())
        .collect();
    if let Some(spec) = valid.first() {
        let run = run(&[spec], &mut target);
        assert_eq!(run.rows[0]["count"], 1009, "{:?}", run.rows);
    }
}

/// Reads counts with nearly all privileges dropped, as the set of probes does not change.
fn file_is_counted_in_all_processes(mode: AttachMode) {
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

fn probes_beyond_the_limit_of_open_files_are_refused(_: AttachMode) {
    let script = "ulimit -n 128; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&*crate::harness::TOOLS);
    command.args(["funccount", "--attach", "plain", "libc:str*", "-d", "1"]);
    let ended = run_to_end(&mut command);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    for part in ["exceed the limit of open files", "hint: trace fewer functions"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

fn bad_patterns_are_explained(mode: AttachMode) {
    let flow = program("flow");
    let expect = |spec: &str, status: i32, messages: &[&str]| {
        let ended = run_to_end(&mut tool_command("funccount", mode, [spec, "-d", "1"]));
        assert_eq!(ended.status.code(), Some(status), "{spec}: {}", ended.stderr);
        for message in messages {
            assert!(
                ended.stderr.contains(message),
                "{spec}: {message:?} is missing in {}",
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
    let is_explained =
        ended.stderr.contains("failed to find libcc: ") && ended.stderr.contains("similar names: libc");
    assert!(is_explained && ended.status.code() == Some(1), "{ended:?}");
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
