// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The command line without root: output on stdout and stderr, and exit status.
//!
//! The expected output is in `tests/cli/*.txt` and the README's table of tools; `make bless` rewrites both.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_ubpf-tools");

/// The width at which clap wraps without a terminal; examples are written by hand to fit.
const MAX_WIDTH: usize = 100;

#[test]
fn suite_prints_help_and_the_list_of_tools() {
    assert_snapshot(
        "ubpf-tools",
        &[&["--help"], &["-h"], &["--list"], &["--version"], &[]],
    );
}

#[test]
fn each_tool_has_help() {
    for tool in tools() {
        assert_snapshot(
            &tool,
            &[&[&tool, "-h"], &[&tool, "--help"], &[&tool, "--version"]],
        );
    }
}

#[test]
fn readme_lists_each_tool() {
    const HEAD: &str = "| tool | purpose |\n|---|---|\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).expect("a README");
    let (before, rest) = readme.split_once(HEAD).expect("a table of tools");
    let (_, after) = rest.split_once("\n\n").expect("text after the table");
    let rows: Vec<String> = tools().iter().map(|tool| readme_row(tool)).collect();
    compare(
        &path,
        &readme,
        [before, HEAD, &rows.join("\n"), "\n\n", after].concat(),
    );
}

fn readme_row(tool: &str) -> String {
    let help = text(&run(&[tool, "-h"]).stdout);
    let purpose = help.lines().next().unwrap_or_default();
    format!("| [`{tool}`](docs/tools/{tool}.md) | {purpose} |")
}

#[test]
fn mistakes_get_one_line_and_a_hint() {
    assert_snapshot(
        "mistakes",
        &[
            &["mallocsnop"],
            &["--frobnicate"],
            &["bashreadline", "--frobnicate"],
            &["bashreadline", "--commm", "bash"],
            &["bashreadline", "stray"],
            &["bashreadline", "--buffer-size", "1Q"],
            &["bashreadline", "--buffer-size", ""],
            &["bashreadline", "-p", "0"],
            &["bashreadline", "-p", "1,x"],
            &["bashreadline", "-p"],
            &["bashreadline", "-M", "0"],
            &["bashreadline", "-d", "1y"],
            &["bashreadline", "--max-overhead", "5"],
            &["bashreadline", "--max-overhead", "0%"],
            &["bashreadline", "--max-overhead", "abc"],
            &["bashreadline", "--comm", "*sh"],
            &["bashreadline", "--format", "xml"],
            &["bashreadline", "-j", "--format", "csv"],
            &["bashreadline", "-s", "libreadline", "-s", "libedit"],
            &["bashreadline", "\x1b[2J\u{202e}"],
            &["mallocsnoop", "--min-size", "1Q"],
            &["mallocsnoop", "--calls", "malok"],
            &["funclist"],
            &["funclist", ":malloc"],
            &["funclist", "libc:/("],
            &["funclist", "--usdt", "python3:a:b:c"],
            &["funclist", "-p", "1", "--container", "web"],
            &["help", "nosuch"],
            &["nonsense"],
            &["funccount"],
            &["functrace", "-p", "bash", "libc:malloc"],
            &["funclist", "-p", "bash"],
            &["functrace", "--min-latency", "5", "libc:malloc"],
            &["functrace", "--minlatency=5ms", "libc:malloc"],
            &["functrace", "-t", "libc:malloc"],
            &["functrace", "-U", "libc:malloc"],
            &["functrace", "-K", "libc:malloc"],
            &["functrace", "-e", "libc:malloc"],
            &["funccount", "-t", "libc:malloc"],
            &["funccount", "-n", "bash"],
            &["funccount", "-l"],
            &["funccount", "-c", "ls"],
            &["funccount", "-x", "malloc"],
            &["funccount", "-a", "libc:malloc"],
            &["bashreadline", "-d", "1m30"],
        ],
    );
}

#[test]
fn usage_error_is_one_line_and_a_hint_with_status_2() {
    for tool in tools() {
        let output = run(&[&tool, "--no-such-option"]);
        let errors = text(&output.stderr);
        let lines: Vec<&str> = errors.lines().collect();
        let as_expected =
            matches!(lines[..], [error, hint] if error.starts_with("error: ") && hint.starts_with("hint: "));
        assert!(as_expected, "{errors}");
        assert_eq!(
            (output.status.code(), text(&output.stdout)),
            (Some(2), String::new()),
            "{tool}"
        );
    }
}

#[test]
fn help_has_examples_and_fits_the_width() {
    for tool in tools() {
        let help = text(&run(&[&tool, "--help"]).stdout);
        let examples = help
            .split("EXAMPLES:\n")
            .nth(1)
            .unwrap_or_else(|| panic!("no EXAMPLES in:\n{help}"));
        assert!(
            examples.lines().all(|line| line.contains(&tool)),
            "an example without {tool}:\n{examples}"
        );
        let widest = help
            .lines()
            .max_by_key(|line| line.chars().count())
            .unwrap_or_default();
        assert!(widest.chars().count() <= MAX_WIDTH, "too wide: {widest}");
    }
}

#[test]
fn link_named_after_a_tool_runs_that_tool() {
    for tool in tools() {
        let link = Link::new(&tool);
        let through_link = Command::new(&link.path)
            .arg("--help")
            .stdin(Stdio::null())
            .output()
            .expect("runs");
        assert_eq!(through_link.status.code(), Some(0), "{tool}");
        let help = text(&run(&[&tool, "--help"]).stdout);
        assert_eq!(
            text(&through_link.stdout),
            help.replace(&format!("ubpf-tools {tool}"), &tool)
        );
    }
}

#[test]
fn link_with_another_name_runs_the_suite() {
    let link = Link::new("tracing");
    let output = Command::new(&link.path)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(
        (output.status.code(), output.stdout),
        (Some(0), run(&["--list"]).stdout)
    );
}

#[test]
fn empty_program_name_runs_the_suite() {
    let output = Command::new(BINARY)
        .arg0("")
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(
        (output.status.code(), output.stdout),
        (Some(0), run(&["--list"]).stdout)
    );
}

#[test]
fn closed_pipe_is_not_an_error() {
    for arguments in [
        &["--help"][..],
        &["--list"],
        &["--version"],
        &["bashreadline", "--help"],
    ] {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let output = command(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("runs");
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
}

#[test]
fn funclist_works_without_root() {
    let output = run(&["funclist", "libc:malloc"]);
    let lines = text(&output.stdout);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(
        matches!(lines[..], [header, malloc] if header.ends_with(" FUNCTION") && malloc.contains(" malloc")),
        "{output:?}"
    );
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    // Independent of the caller's terminal, so that lines wrap the same everywhere.
    command
        .args(arguments)
        .env_remove("COLUMNS")
        .env_remove("CLICOLOR_FORCE")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary runs")
}

fn tools() -> Vec<String> {
    let tools: Vec<String> = text(&run(&["--list"]).stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(!tools.is_empty(), "--list names no tool");
    tools
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Compares the transcripts of the calls with `tests/cli/<name>.txt`, or writes that file.
fn assert_snapshot(name: &str, calls: &[&[&str]]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cli")
        .join(name)
        .with_extension("txt");
    let actual: Vec<String> = calls.iter().map(|arguments| transcript(arguments)).collect();
    let expected = fs::read_to_string(&path).unwrap_or_default();
    compare(&path, &expected, actual.join("\n"));
}

/// Fails unless a file has the actual text, or with `UBPF_TOOLS_BLESS` writes it there.
fn compare(path: &Path, expected: &str, actual: String) {
    if std::env::var_os("UBPF_TOOLS_BLESS").is_some_and(|bless| !bless.is_empty() && bless != "0") {
        fs::write(path, actual).expect("the file can be written");
        return;
    }
    assert!(
        actual == expected,
        "{} differs:\n{}\nrun `make bless` to accept the new output",
        path.display(),
        differences(expected, &actual),
    );
}

/// The command line, its stdout, its stderr with each line marked by `2> `, and the exit status.
fn transcript(arguments: &[&str]) -> String {
    let output = run(arguments);
    let mut transcript = String::from("$ ubpf-tools");
    for argument in arguments {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_,./".contains(&byte);
        let bare = !argument.is_empty() && argument.bytes().all(is_plain);
        transcript += &if bare {
            format!(" {argument}")
        } else {
            format!(" {argument:?}")
        };
    }
    transcript.push('\n');
    let stdout = text(&output.stdout).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let lines = stdout.lines().map(str::to_owned);
    for line in lines.chain(text(&output.stderr).lines().map(|line| format!("2> {line}"))) {
        // clap pads empty lines with blanks.
        transcript += line.trim_end();
        transcript.push('\n');
    }
    transcript
        + &format!(
            "[{}]\n",
            output
                .status
                .code()
                .map_or("killed".to_owned(), |code| code.to_string())
        )
}

/// The lines that are only in one of the texts.
fn differences(expected: &str, actual: &str) -> String {
    let only = |mark: &str, these: &str, others: &str| -> String {
        let lines = these
            .lines()
            .filter(|line| !others.lines().any(|other| other == *line));
        lines.map(|line| format!("{mark} {line}\n")).collect()
    };
    let lines = only("-", expected, actual) + &only("+", actual, expected);
    if lines.is_empty() {
        "the same lines, in another order or repeated".to_owned()
    } else {
        lines
    }
}

/// A symbolic link to the binary in a temporary folder, removed on drop.
struct Link {
    folder: PathBuf,
    path: PathBuf,
}

impl Link {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ubpf-tools-cli-{}-{name}", std::process::id()));
        let path = folder.join(OsStr::new(name));
        fs::create_dir(&folder).expect("a new folder");
        std::os::unix::fs::symlink(BINARY, &path).expect("a link");
        Self { folder, path }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
