// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! `ubpf-tools TOOL`, or a link named after a tool: parse, run, exit status.

mod allocator;
mod bpf;
mod cli;
mod error;
mod find;
mod output;
#[cfg(feature = "pages")]
mod pages;
mod privileges;
mod probe;
mod run;
mod tools;
mod wording;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command};

use crate::cli::UsageError;
use crate::error::Failure;
use crate::output::{messages, require_stdout};
use crate::tools::{TOOLS, Tool};

const EXAMPLES: &str = "\
EXAMPLES:
    ubpf-tools doctor                           # what works on this machine
    ubpf-tools funclist 'libc:mem*'             # functions of a library
    ubpf-tools functrace libc:getaddrinfo --ret # lookups of every process

A link named after a tool runs that tool. See `ubpf-tools TOOL --help` for more examples.";

fn main() -> ExitCode {
    if let Err(error) = privileges::refuse_setuid() {
        return ExitCode::from(report(&error));
    }
    privileges::ignore_file_size_signal();
    allocator::map_large_blocks();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "pages")]
    if let [_, option, folder] = &arguments[..]
        && option == "--pages"
    {
        return pages::main(Path::new(folder), &all_tools());
    }
    let called_as = arguments.first().map(Path::new).and_then(Path::file_name);
    let named = TOOLS
        .iter()
        .find(|tool| called_as.is_some_and(|name| name == tool.name));
    let status = match named {
        Some(tool) => parse((tool.command)(), arguments).and_then(|matches| run(tool, &matches)),
        None => parse(all_tools(), without_help_command(arguments)).and_then(|matches| run_chosen(&matches)),
    };
    ExitCode::from(status.unwrap_or_else(|status| status))
}

fn all_tools() -> Command {
    Command::new("ubpf-tools")
        .about("Trace the functions of running programs with eBPF uprobes")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_value_name("TOOL")
        .subcommand_help_heading("Tools")
        .disable_help_subcommand(true)
        .arg(clap::arg!(--list "Print the names of the tools"))
        .arg_required_else_help(true)
        .after_help(EXAMPLES)
        .subcommands(TOOLS.iter().map(|tool| (tool.command)()))
}

/// Err holds the exit status after help, the version or a usage error was printed.
fn parse(mut command: Command, arguments: Vec<OsString>) -> Result<ArgMatches, u8> {
    let result = command.try_get_matches_from_mut(&arguments);
    result.map_err(|error| {
        if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let printed = require_stdout().and_then(|()| error.print());
            return match error.use_stderr() {
                true => error::USAGE,
                false => print_status(printed),
            };
        }
        let chosen = arguments
            .get(1)
            .and_then(|name| command.find_subcommand(name))
            .unwrap_or(&command);
        let UsageError {
            message,
            hint,
            examples,
        } = UsageError::new(&error, chosen);
        messages::usage_error(&message, &hint, &examples);
        error::USAGE
    })
}

/// `help` and `help TOOL` as `--help` and `TOOL --help`: clap's own command for that is listed among the tools.
fn without_help_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|argument| argument == "help") {
        arguments.remove(1);
        arguments.truncate(2);
        arguments.push("--help".into());
    }
    arguments
}

/// The exit status after text was printed. A closed pipe is success.
fn print_status(printed: io::Result<()>) -> u8 {
    let error = printed.and_then(|()| io::stdout().flush()).err();
    let error = error.filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
    error.map_or(0, |error| {
        report(&anyhow::Error::new(error).context("failed to write to standard output"))
    })
}

fn run_chosen(matches: &ArgMatches) -> Result<u8, u8> {
    if matches.get_flag("list") {
        let names: String = TOOLS.iter().map(|tool| format!("{}\n", tool.name)).collect();
        return Ok(print_status(
            require_stdout().and_then(|()| io::stdout().write_all(names.as_bytes())),
        ));
    }
    let Some((name, matches)) = matches.subcommand() else {
        return Err(error::USAGE);
    };
    let tool = TOOLS.iter().find(|tool| tool.name == name).ok_or(error::USAGE)?;
    run(tool, matches)
}

fn run(tool: &Tool, matches: &ArgMatches) -> Result<u8, u8> {
    if !matches.get_flag("verbose") {
        libbpf_rs::set_print(None); // errors are one line
    }
    (tool.run)(matches).or_else(|error| {
        if error::is_broken_pipe(&error) || error::is_ended_by_signal(&error) {
            return Ok(0);
        }
        Err(report(&error))
    })
}

/// Prints an error. Returns its exit status.
fn report(error: &anyhow::Error) -> u8 {
    let Failure {
        status,
        message,
        shown,
        hint,
    } = Failure::of(error);
    messages::error(&message, &shown, hint.as_deref());
    status
}
