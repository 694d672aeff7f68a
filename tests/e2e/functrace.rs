// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! functrace: each call is shown once, with the values that the target passed.

use std::process::Command;

use serde_json::{Value, json};

use crate::bpftrace::Bpftrace;
use crate::harness::{
    AttachMode, Folder, Run, Target, Tool, best_mode, build_dir, each_mode, each_mode_with_session,
    kernel_version, program, run_to_end, skip, tool_command,
};
use crate::pty::Shell;

/// Traces functions of tests/targets/values.c while it carries out orders. A second process does the same,
/// and must not be shown.
pub fn trace(mode: AttachMode, functions: &[&str], options: &[&str], orders: &[&str]) -> Run {
    let mut target = Target::start(Command::new(program("values")));
    let mut other = Target::start(Command::new(program("values")));
    let pid = target.pid().to_string();
    let file = program("values").display().to_string();
    let specs: Vec<String> = functions
        .iter()
        .map(|function| format!("{file}:{function}"))
        .collect();
    let mut args: Vec<&str> = specs.iter().map(String::as_str).collect();
    args.extend(["-p", &pid]);
    args.extend(options);
    let tool = Tool::start("functrace", mode, args);
    for order in orders {
        other.ask(order);
        target.ask(order);
    }
    let run = tool.stop();
    assert_eq!(
        run.with("pid", target.pid()).len(),
        run.with("type", "event").len(),
        "{:?}",
        run.rows
    );
    run
}

/// On x86-64 their addresses are relative to the probe, which may be moved behind a nop.
fn variables_are_arguments_of_usdt_probes(mode: AttachMode) {
    let program = program("probes").display().to_string();
    for probe in ["nop", "nop5"] {
        let spec = format!("usdt:{program}:counters:{probe}");
        let run = Tool::start("functrace", mode, [&spec, "--", &program]).finish();
        let expected =
            (0..13).map(|hit| json!({"arg0": 7 - hit, "arg1": (1_u64 << 40) + hit as u64, "arg2": 250}));
        let found = run.assert_clean().rows.iter().map(|row| row["args"].clone());
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{probe}");
    }
}

fn operands_of_usdt_probes_are_read(mode: AttachMode) {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("the operands are those of x86-64");
    }
    let program = program("probes").display().to_string();
    let spec = format!("usdt:{program}:counters:operands");
    let run = Tool::start("functrace", mode, [&spec, "--", &program]).finish();
    let rows = &run.assert_clean().rows;
    assert_eq!(rows.len(), 13);
    for (hit, row) in rows.iter().enumerate() {
        let args = &row["args"];
        let shown = (1_u64 << 40) + hit as u64;
        for arg in ["arg0", "arg1", "arg2"] {
            assert_eq!(args[arg], shown, "{arg}: {row}");
        }
        assert!(args["arg3"].as_u64().is_some_and(|address| address > 0), "{row}");
        assert_eq!(args["arg3"], args["arg4"], "{row}");
        let constants = ["arg5", "arg6", "arg7"].map(|arg| args[arg].clone());
        assert_eq!(constants, [json!(250), json!(-6), json!(u64::MAX)]);
    }
}

fn args(run: &Run) -> Vec<&Value> {
    run.rows.iter().map(|row| &row["args"]).collect()
}

each_mode! {
    variables_are_arguments_of_usdt_probes
    operands_of_usdt_probes_are_read
    arguments_are_shown_by_type
    structures_show_their_members
    parts_of_structures_are_shown
    where_selects_calls
    long_text_is_truncated_and_marked
    text_without_room_is_truncated_to_nothing
    unreadable_memory_is_a_fault
    where_on_unreadable_memory_is_undecided
}

each_mode_with_session! {
    results_and_durations_match_their_calls
    hidden_calls_do_not_affect_others
    indent_shows_nesting
}

fn arguments_are_shown_by_type(mode: AttachMode) {
    let run = trace(mode, &["nine", "pass"], &[], &["nine 97", "text 89"]);
    run.assert_clean();
    let nine = run.with("function", "nine");
    assert_eq!((nine.len(), run.rows.len()), (97, 97 + 89));
    let expected =
        json!({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": -7, "h": "h", "i": 4_000_000_000_u32});
    assert!(nine.iter().all(|row| row["args"] == expected), "{}", nine[0]);
    for (number, row) in run.with("function", "pass").into_iter().enumerate() {
        assert_eq!(
            row["args"],
            json!({"text": format!("text {number}"), "number": number})
        );
    }
}

fn structures_show_their_members(mode: AttachMode) {
    let run = trace(mode, &["serve"], &[], &["struct 7"]);
    run.assert_clean();
    assert_eq!(run.rows.len(), 7);
    for (number, args) in args(&run).into_iter().enumerate() {
        assert_eq!(args["pair"], json!({"first": -(number as i64), "second": 200}));
        let request = &args["request"];
        match number % 2 {
            0 => assert!(request.is_null(), "{args}"),
            _ => assert_eq!(
                [&request["fd"], &request["length"], &request["mode"]],
                [&json!(number), &json!(-7), &json!("WRITING")]
            ),
        }
    }
}

fn parts_of_structures_are_shown(mode: AttachMode) {
    let run = trace(mode, &["part"], &[], &["parts 7"]);
    run.assert_clean();
    assert_eq!(run.rows.len(), 7);
    for (number, args) in (0_i64..).zip(args(&run)) {
        let expected = json!({
            "numbers": [number, -number, 7], "name": "part", "points": [{"x": 1, "y": -2}, {"x": number, "y": 4}],
            "low": 5, "middle": -number, "high": 0x98_7654_3210_u64, "rest": null,
        });
        assert_eq!(args["parts"], expected);
    }
    let values = "*number, parts->middle, str(parts->name, 2), parts->rest, str(parts->rest), (u64)(parts+8) - (u64)parts";
    let condition = "*number == 5 && parts->middle == -5 && parts->high == 0x9876543210 && parts->low > 4 \
                     && parts->name == \"part\" && str(parts->rest) ^= \"beh\" && *(i32*)(arg0+4) == -5";
    let run = trace(
        mode,
        &["part"],
        &["--args", values, "--where", condition],
        &["parts 7"],
    );
    run.assert_clean();
    let expected = json!({
        "*number": 5, "parts->middle": -5, "str(parts->name, 2)": "pa", "parts->rest": null,
        "str(parts->rest)": "behind", "(u64)(parts+8) - (u64)parts": 8,
    });
    assert_eq!(args(&run), [&expected]);
}

/// Every operator, on the arguments of `nine`.
const CALCULATIONS: &str = "a + b * c - d == 3 && e % c == 2 && f / b == 3 && (a | b) == 3 && (c & f) == 2 && (c ^ f) == 5 \
     && a << 4 == 16 && g >> 1 == -4 && i >> 4 == 250000000 && g / 2 == -3 && g % 2 == -1 && ~a == -2 && -a < 0 \
     && a <= 1 && b >= 2 && !(a > b) && (i8)i == 0 && (u16)g == 65529 && pid == tid && uid == 0 && cpu < 65536";

fn where_selects_calls(mode: AttachMode) {
    for (condition, orders, rows) in [
        ("number >= 89", ["text 97", "nine 3"], 8),
        (
            "(i32)arg1 % 7 == 3 && comm == \"values\"",
            ["text 97", "nine 3"],
            14,
        ),
        (
            "text == \"text 41\" || str(arg0) ^= \"text 9\"",
            ["text 97", "nine 3"],
            1 + 8,
        ),
        (
            "g < 0 && i > 3G && arg6 == -7 && (u8)arg7 == 'h'",
            ["nine 31", "text 3"],
            31,
        ),
        (
            "request != 0 && request->mode == WRITING && pair.second == 200",
            ["struct 7", "text 3"],
            3,
        ),
        (
            "retval == -5 && number == 5 && lat < 10s",
            ["text 97", "nine 3"],
            1,
        ),
        (CALCULATIONS, ["nine 31", "text 3"], 31),
        ("comm == \"value\"", ["text 97", "nine 3"], 0),
        ("arg0 == 0 && *(u8*)arg0 == 1", ["text 97", "nine 3"], 0),
    ] {
        let function = match orders[0].split(' ').next() {
            Some("nine") => "nine",
            Some("struct") => "serve",
            _ => "pass",
        };
        let run = trace(mode, &[function], &["--where", condition], &orders);
        run.assert_clean();
        assert_eq!(run.rows.len(), rows, "{condition}");
    }
}

fn long_text_is_truncated_and_marked(mode: AttachMode) {
    let run = trace(
        mode,
        &["pass"],
        &["--str-len", "64K"],
        &["edge 3", "long 65536 5", "long 65537 2", "long 0 1"],
    );
    run.assert_clean();
    let lengths: Vec<(usize, bool)> = run
        .rows
        .iter()
        .map(|row| {
            (
                row["args"]["text"].as_str().map_or(0, str::len),
                row["truncated"] == json!(["text"]),
            )
        })
        .collect();
    assert_eq!(
        lengths,
        [
            vec![(4, false); 3],
            vec![(65536, false); 5],
            vec![(65536, true); 2],
            vec![(0, false)]
        ]
        .concat()
    );
    assert!(run.rows.iter().all(|row| row["faults"] == json!([])));
    let run = trace(
        mode,
        &["pass"],
        &["--args", "str(text, 3), buf(arg0, number), number"],
        &["text 3"],
    );
    run.assert_clean();
    for (number, row) in run.rows.iter().enumerate() {
        let bytes = &"text"[..number];
        assert_eq!(
            row["args"],
            json!({"str(text, 3)": "tex", "buf(arg0, number)": bytes, "number": number})
        );
        assert_eq!(row["truncated"], json!(["str(text, 3)"]));
    }
}

/// A record has room for four texts of full length.
fn text_without_room_is_truncated_to_nothing(mode: AttachMode) {
    let run = trace(
        mode,
        &["pass"],
        &[
            "--str-len",
            "64K",
            "--args",
            "str(arg0), str(text), str(arg0, 65536), str(text, 65536), str(arg0, 99999), str(0), number",
        ],
        &["long 65536 3"],
    );
    run.assert_clean();
    assert_eq!(run.rows.len(), 3);
    for row in &run.rows {
        let args = &row["args"];
        for whole in ["str(arg0)", "str(text)", "str(arg0, 65536)", "str(text, 65536)"] {
            assert_eq!(args[whole].as_str().map(str::len), Some(65536), "{whole}");
        }
        assert_eq!(
            (&args["str(arg0, 99999)"], &args["str(0)"]),
            (&json!(""), &Value::Null)
        );
        assert_eq!(
            (&row["truncated"], &row["faults"]),
            (&json!(["str(arg0, 99999)"]), &json!([]))
        );
    }
}

fn unreadable_memory_is_a_fault(mode: AttachMode) {
    let run = trace(mode, &["pass"], &[], &["broken 7"]);
    run.assert_clean();
    assert_eq!(run.rows.len(), 21);
    for (index, row) in run.rows.iter().enumerate() {
        let fault = if index % 3 == 2 {
            json!([])
        } else {
            json!(["text"])
        };
        assert_eq!(
            (&row["args"]["text"], &row["faults"]),
            (&Value::Null, &fault),
            "{row}"
        );
    }
}

fn results_and_durations_match_their_calls(mode: AttachMode) {
    let run = trace(
        mode,
        &["pass", "recurse"],
        &["--ret"],
        &["text 31", "recurse 5 7"],
    );
    run.assert_clean();
    assert_eq!(run.summary["unmatched"], 0);
    let pass = run.with("function", "pass");
    assert!(
        pass.iter()
            .all(|row| row["args"]["number"].as_i64() == row["retval"].as_i64().map(|n| -n)),
        "{pass:?}"
    );
    let recursion = run.with("function", "recurse");
    assert_eq!((pass.len(), recursion.len()), (31, 35));
    assert!(
        recursion.iter().all(|row| row["args"]["depth"] == row["retval"]),
        "{recursion:?}"
    );
    for calls in recursion.chunks(5) {
        // Inner calls return first and take less time.
        let times: Vec<u64> = calls
            .iter()
            .map(|row| row["lat_ns"].as_u64().unwrap_or(0))
            .collect();
        assert!(times[0] > 0 && times.is_sorted(), "{times:?}");
    }
}

fn hidden_calls_do_not_affect_others(mode: AttachMode) {
    let condition = ["--ret", "--where", "depth % 3 == 1"];
    let run = trace(mode, &["recurse"], &condition, &["recurse 11 13"]);
    run.assert_clean();
    assert_eq!(run.summary["unmatched"], 0);
    let returned: Vec<_> = run.rows.iter().map(|row| &row["retval"]).collect();
    assert_eq!(returned, [1, 4, 7, 10].repeat(13));
}

fn indent_shows_nesting(mode: AttachMode) {
    for options in [&["--indent"][..], &["--indent", "--ret"]] {
        let run = trace(mode, &["recurse", "pass"], options, &["recurse 3 7", "text 5"]);
        run.assert_clean();
        let depths: Vec<_> = run.rows.iter().filter_map(|row| row["depth"].as_u64()).collect();
        let mut expected = [0, 1, 2].repeat(7);
        if options.len() > 1 {
            expected = [2, 1, 0].repeat(7);
        }
        expected.extend([0; 5]);
        assert_eq!(depths, expected);
    }
}

fn where_on_unreadable_memory_is_undecided(mode: AttachMode) {
    let run = trace(
        mode,
        &["pass"],
        &["--where", "*(u8*)text == 'x' || number == 1"],
        &["broken 7"],
    );
    let undecided = run.with("type", "undecided");
    assert_eq!(undecided.len(), 1, "{:?}", run.rows);
    // Two of three addresses are invalid.
    assert_eq!(
        (&undecided[0]["count"], run.with("type", "event").len()),
        (&json!(14), 7)
    );
    assert!(run.stderr.contains("14 calls are not shown"), "{}", run.stderr);
}

best_mode! {
    paged_out_text_is_read
    well_known_functions_have_the_names_of_their_library
    large_allocations_of_python_are_shown
    bash_lines_are_shown
}

/// Expressions can also use the names in debug information.
fn well_known_functions_have_the_names_of_their_library(mode: AttachMode) {
    let folder = Folder::new();
    let zlib = folder.copy_of(program("values"), "libz.so.1");
    let mut target = Target::start(Command::new(&zlib));
    let mut traced = |options: &[&str]| {
        let spec = format!("{}:compressBound", zlib.display());
        let pid = target.pid().to_string();
        let tool = Tool::start("functrace", mode, [&[&*spec, "-p", &pid], options].concat());
        target.ask("bound 7");
        let run = tool.stop();
        run.assert_clean();
        args(&run).into_iter().cloned().collect::<Vec<_>>()
    };
    let named = |name: &str| (0..7).map(|number| json!({name: number})).collect::<Vec<_>>();
    assert_eq!(traced(&[]), named("sourceLen"));
    assert_eq!(traced(&["--args", "bytes"]), named("bytes"));
    assert_eq!(traced(&["--where", "sourceLen == 3"]), [json!({"sourceLen": 3})]);
    assert_eq!(traced(&["--where", "bytes == 3"]), [json!({"bytes": 3})]);
}

fn paged_out_text_is_read(mode: AttachMode) {
    if kernel_version() < (6, 9) {
        return skip("sleepable programs with a stack map need 6.9");
    }
    let run = trace(mode, &["pass"], &[], &["paged 7"]);
    run.assert_clean();
    assert_eq!(run.rows.len(), 7);
    assert!(
        args(&run).iter().all(|args| args["text"] == "from a file"),
        "{:?}",
        run.rows
    );
}

/// `--where 'comm == "python3" && arg0 > 1048576'`.
fn large_allocations_of_python_are_shown(mode: AttachMode) {
    let python =
        run_to_end(Command::new("sh").args(["-c", "ls /usr/bin/python3 || command -v python3"])).stdout;
    let Some(path) = python.lines().next() else {
        return skip("there is no python3");
    };
    let name = format!("py{}", std::process::id());
    let link = build_dir().join(&name);
    std::os::unix::fs::symlink(path, &link).expect("a link");
    let condition = format!("comm == \"{name}\" && arg0 > 1048576");
    let tool = Tool::start(
        "functrace",
        mode,
        ["libc:malloc", "--args", "arg0", "--where", &condition],
    );
    // Python allocates a byte more, for a NUL.
    let script = "for i in range(97): bytearray(3000017)\nfor i in range(31): bytearray(1048575)";
    let ended = run_to_end(Command::new(&link).args(["-c", script]));
    std::fs::remove_file(&link).expect("the link");
    assert!(ended.status.success(), "{}", ended.stderr);
    let run = tool.stop();
    run.assert_clean();
    assert_eq!(run.rows.len(), 97);
    assert!(args(&run).iter().all(|args| **args == json!({"arg0": 3_000_018})));
}

/// `r:bash:readline --args 'str(retval)'`.
fn bash_lines_are_shown(mode: AttachMode) {
    let mut shell = Shell::bash();
    let condition = format!("pid == {}", shell.pid());
    let mut tool = Tool::start(
        "functrace",
        mode,
        ["r:bash:readline", "--args", "str(retval)", "--where", &condition],
    );
    // The first line returns from a call that began before the probes were attached. Return instructions show it too.
    for line in [":", "echo one", "# two \u{202e}"] {
        shell.enter(line);
    }
    tool.wait_rows(3);
    let run = tool.stop();
    run.assert_clean();
    let lines: Vec<&Value> = args(&run).iter().map(|args| &args["str(retval)"]).collect();
    assert_eq!(lines, [&json!(":"), &json!("echo one"), &json!("# two \u{202e}")]);
}

/// bpftrace shows the same lines.
#[test]
fn bash_lines_match_bpftrace() {
    let mut shell = Shell::bash();
    let pid = shell.pid();
    let script =
        format!(r#"uretprobe:/bin/bash:readline /pid == {pid}/ {{ printf("%d %s\n", pid, str(retval)); }}"#);
    let Some(other) = Bpftrace::start(&script) else {
        return;
    };
    let condition = format!("pid == {pid}");
    let mut tool = Tool::start(
        "functrace",
        AttachMode::best(),
        ["r:bash:readline", "--args", "str(retval)", "--where", &condition],
    );
    other.until_ready(|| shell.enter(": marker"), |line| line.ends_with(" : marker"));
    for line in [
        "echo one",
        ": \u{e9}\u{2603}",
        "",
        "for i in 1 2 3; do :; done",
        ": last",
    ] {
        shell.enter(line);
    }
    tool.wait_for(|row| row["args"]["str(retval)"] == ": last");
    let run = tool.stop();
    run.assert_clean();
    let shown = |row: &Value| {
        format!(
            "{} {}",
            row["pid"],
            row["args"]["str(retval)"].as_str().unwrap_or("?")
        )
    };
    let ours: Vec<String> = run.rows.iter().map(shown).collect();
    let theirs = other.lines_before(|line| line.ends_with(" : last"));
    let since_marker = |lines: &[String]| -> Vec<String> {
        let markers = lines.iter().rposition(|line| line.ends_with(" : marker"));
        lines[markers.map_or(0, |at| at + 1)..].to_vec()
    };
    assert_eq!(since_marker(&ours[..ours.len() - 1]), since_marker(&theirs));
    assert_eq!(since_marker(&theirs).len(), 4);
}

#[test]
fn expression_errors_point_at_the_column() {
    for (option, text, column, hint) in [
        ("--where", "arg0 > ", 8, ""),
        ("--where", "arg0 == 1 && nothing", 14, "arg0 to arg31"),
        ("--where", "arg99 == 1", 1, "up to arg31"),
        ("--args", "arg0, *(f32*)arg1", 9, "u8 u16"),
    ] {
        let ended = run_to_end(&mut tool_command(
            "functrace",
            AttachMode::best(),
            ["libc:malloc", option, text],
        ));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert!(
            lines[0].starts_with(&format!("error: {option}, column {column}: ")),
            "{lines:?}"
        );
        assert_eq!(
            (lines[1].trim_end(), lines[2]),
            (
                format!("    {}", text.trim_end()).as_str(),
                format!("{:>1$}", '^', column + 4).as_str()
            )
        );
        assert!(
            lines.get(3).map_or(hint.is_empty(), |line| line.contains(hint)),
            "{lines:?}"
        );
    }
}
