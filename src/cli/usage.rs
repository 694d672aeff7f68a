// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Usage errors: what clap found, in the words of this suite, with hints for the habits of other tools.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::find::similar::similar;

const HELP_HINT: &str = "--help lists the options, with examples";
/// Examples that are printed when nothing to trace was given.
const EXAMPLES: usize = 3;

/// A usage error, as it is printed.
pub struct UsageError {
    pub message: String,
    pub hint: String,
    /// Command lines that work, if nothing to trace was given.
    pub examples: Vec<String>,
}

/// Options that users of bcc, bpftrace, perf, strace, ltrace and uftrace type: the option, one that a tool must have
/// for the hint, and the hint. The first match counts.
const HABITS: &[(&str, Option<&str>, &str)] = &[
    ("-t", Some("timestamp"), "-T prints the time of each interval"),
    ("-t", Some("max-rows"), "each row has its time already"),
    (
        "-n",
        Some("comm"),
        "--comm NAME selects threads by name, -M N ends after N rows",
    ),
    ("--name", Some("comm"), "--comm NAME selects threads by name"),
    ("-U", Some("stack"), "--stack adds the user stack"),
    (
        "-K",
        Some("stack"),
        "kernel stacks are not recorded; --stack adds the user stack",
    ),
    (
        "-k",
        Some("stack"),
        "kernel stacks are not recorded; --stack adds the user stack",
    ),
    ("-g", Some("stack"), "--stack adds the user stack"),
    (
        "-e",
        Some("where"),
        "--where CONDITION selects calls, --args EXPRESSION,... chooses what is shown",
    ),
    ("-e", None, "functrace --where CONDITION selects calls"),
    (
        "-l",
        Some("usdt"),
        "functions are listed by TARGET:PATTERN, such as 'libc:mem*'",
    ),
    ("-l", None, "funclist TARGET:PATTERN lists functions"),
    (
        "-c",
        Some("cgroup"),
        "write a command to trace after --; --cgroup PATH selects a cgroup",
    ),
    (
        "-a",
        Some("args"),
        "arguments are shown without an option; --args chooses them",
    ),
    ("-a", None, "functrace shows arguments"),
    (
        "-f",
        Some("follow"),
        "--follow traces child processes of a command, too",
    ),
    ("-x", Some("regex"), "write TARGET:FUNCTION without an option"),
    ("-L", Some("comm"), "--comm NAME selects threads by name"),
    ("--count", Some("max-rows"), "-M N ends after N rows"),
    (
        "--folded",
        Some("stack"),
        "stacks are in the rows of --stack; -j prints them as JSON",
    ),
    ("--time", Some("duration"), "-d TIME ends the run after a while"),
    (
        "--timeout",
        Some("duration"),
        "-d TIME ends the run after a while",
    ),
];

impl UsageError {
    /// `command` is the suite, or the tool that was chosen.
    pub fn new(error: &clap::Error, command: &Command) -> UsageError {
        let (message, advice) = rendered(error);
        let usage = |message: String, hint: String| UsageError {
            message,
            hint,
            examples: Vec::new(),
        };
        let argument = context(error, ContextKind::InvalidArg);
        match error.kind() {
            ErrorKind::InvalidSubcommand => {
                let name = context(error, ContextKind::InvalidSubcommand).unwrap_or_default();
                usage(format!("error: unknown tool `{name}`"), tool_hint(&name, command))
            }
            ErrorKind::UnknownArgument => {
                let argument = argument.unwrap_or_default();
                let habit = habit(&argument, command).map(str::to_owned);
                let what = match argument.starts_with('-') {
                    true => "option",
                    false => "argument",
                };
                usage(
                    format!("error: unknown {what} `{argument}`"),
                    habit
                        .or_else(|| similar_option(&argument, command))
                        .unwrap_or_else(|| HELP_HINT.to_owned()),
                )
            }
            ErrorKind::InvalidValue | ErrorKind::ValueValidation if is_pid(argument.as_deref()) => {
                let value = context(error, ContextKind::InvalidValue).unwrap_or_default();
                if value.is_empty() || value.bytes().all(|byte| byte.is_ascii_digit()) {
                    return usage(message, HELP_HINT.to_owned());
                }
                let hint = match has_option(command, "comm") {
                    true => "--comm NAME selects threads by name; pgrep NAME prints PIDs",
                    false => "pgrep NAME prints PIDs",
                };
                usage(format!("error: `{value}` is not a PID"), hint.to_owned())
            }
            ErrorKind::MissingRequiredArgument => UsageError {
                examples: examples(command),
                ..usage(
                    format!("error: {} is missing", missing(error)),
                    HELP_HINT.to_owned(),
                )
            },
            _ => usage(message, advice.unwrap_or_else(|| HELP_HINT.to_owned())),
        }
    }
}

/// The message of clap in one line, and its advice.
fn rendered(error: &clap::Error) -> (String, Option<String>) {
    let text = error.render().to_string();
    let (message, advice) = text.split_once("\n\n").unwrap_or((&text, ""));
    let words: Vec<&str> = message.split_whitespace().collect();
    let mut tips = advice
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "));
    // What follows `--` is a command to run, not a value.
    let tip = tips.find(|tip| !tip.contains("'-- ")).map(str::to_owned);
    (words.join(" "), tip)
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

/// The names of required arguments: `TARGET:FUNCTION`.
fn missing(error: &clap::Error) -> String {
    let names = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(names)) => names.as_slice(),
        _ => &[],
    };
    let plain = |name: &String| name.trim_matches(['<', '>', '.', '[', ']']).to_owned();
    names.iter().map(plain).collect::<Vec<_>>().join(" or ")
}

fn tool_hint(name: &str, suite: &Command) -> String {
    let tools: Vec<&str> = suite.get_subcommands().map(Command::get_name).collect();
    match similar(name, &tools, 1).first() {
        Some(tool) => format!("did you mean `{tool}`?"),
        None => format!("the tools are {}", tools.join(", ")),
    }
}

fn habit(argument: &str, command: &Command) -> Option<&'static str> {
    // `-Ufoo` is `-U` with a value.
    let name = match argument.starts_with("--") {
        true => argument.split('=').next()?,
        false => argument.get(..2)?,
    };
    let is_tool = command.get_subcommands().next().is_none();
    let found = HABITS
        .iter()
        .find(|(option, needs, _)| *option == name && needs.is_none_or(|long| has_option(command, long)));
    found.filter(|_| is_tool).map(|(.., hint)| *hint)
}

fn similar_option(argument: &str, command: &Command) -> Option<String> {
    let name = argument.strip_prefix("--")?.split('=').next()?;
    let options = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| argument.get_long());
    let found = similar(name, options, 1);
    found.first().map(|option| format!("did you mean `--{option}`?"))
}

fn has_option(command: &Command, long: &str) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_long() == Some(long))
}

fn is_pid(argument: Option<&str>) -> bool {
    argument.is_some_and(|argument| argument.starts_with("--pid"))
}

/// The first examples of a tool's help.
fn examples(command: &Command) -> Vec<String> {
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let lines = help.lines().skip_while(|line| *line != "EXAMPLES:").skip(1);
    lines.take(EXAMPLES).map(str::to_owned).collect()
}
