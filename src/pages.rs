// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Generates man pages and shell completions for `make pages`, from the definitions of the command line and from the
//! documents that describe fields, overhead and exit status.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::DateTime;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::tools::{TOOLS, Tool};

const README: &str = include_str!("../README.md");
const JSON: &str = include_str!("../docs/json.md");
const OVERHEAD: &str = include_str!("../docs/overhead.md");

const SUITE: &str = "ubpf-tools";
/// The section of docs/json.md about the records of all tools.
const COMMON: &str = "Every tool";
/// The section of a tool's page about its own records.
const RECORDS: &str = "Records";

/// Writes `man1`, `bash`, `zsh` and `fish` below a directory: one file for the suite and one per tool.
pub fn main(directory: &Path, suite: &Command) -> ExitCode {
    match write_all(directory, suite) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &Path, suite: &Command) -> Result<()> {
    write_page(directory, SUITE, &suite_page(suite)?)?;
    write_completions(directory, SUITE, suite)?;
    for tool in TOOLS {
        let command = (tool.command)();
        write_page(directory, tool.name, &tool_page(tool, &command)?)?;
        write_completions(directory, tool.name, &command)?;
    }
    Ok(())
}

fn write_page(directory: &Path, name: &str, page: &[u8]) -> Result<()> {
    write(&directory.join("man1").join(format!("{name}.1")), page)
}

/// Each file has the name that its shell looks for.
fn write_completions(directory: &Path, name: &str, command: &Command) -> Result<()> {
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), name, &mut script);
        write(&directory.join(file), &script)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, content))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn tool_page(tool: &Tool, command: &Command) -> Result<Vec<u8>> {
    let name = tool.name;
    let help = long_help_end(command);
    let (notes, examples) = help
        .split_once("EXAMPLES:\n")
        .with_context(|| format!("the help of {name} has no EXAMPLES"))?;
    let mut rest = Roff::new();
    if !notes.trim().is_empty() {
        rest.control("SH", ["NOTES"]);
        help_text(&mut rest, notes);
    }
    rest.control("SH", ["EXAMPLES"]);
    for example in examples.lines() {
        show_example(&mut rest, example);
    }
    rest.control("SH", ["FIELDS"]);
    rest.text([
        roman("Keys of the records that "),
        bold("-j"),
        roman(" writes, one JSON object per line. Text columns have the same names in capitals. For the records of all tools, see "),
        bold(SUITE),
        roman("(1)."),
    ]);
    markdown(&mut rest, section(tool.page, RECORDS)?);
    closing(&mut rest, name)?;
    page(command, name, &rest)
}

/// What follows the options in `--help`.
fn long_help_end(command: &Command) -> String {
    let text = command.get_after_long_help().or(command.get_after_help());
    text.map(ToString::to_string).unwrap_or_default()
}

fn suite_page(suite: &Command) -> Result<Vec<u8>> {
    let mut rest = Roff::new();
    rest.control("SH", ["TOOLS"]);
    for tool in TOOLS {
        let about = (tool.command)().get_about().map(ToString::to_string);
        rest.control("TP", []);
        rest.text([bold(tool.name), roman("(1)")]);
        rest.text([roman(about.unwrap_or_default())]);
    }
    rest.control("SH", ["EXAMPLES"]);
    for tool in TOOLS {
        let help = long_help_end(&(tool.command)());
        let examples = help.split("EXAMPLES:\n").nth(1).unwrap_or_default();
        let first = examples.lines().next().unwrap_or_default();
        show_example(&mut rest, &format!("{SUITE} {}", first.trim()));
    }
    rest.control("SH", ["FIELDS"]);
    rest.text([
        roman("Records that every tool writes with "),
        bold("-j"),
        roman(", in addition to its own."),
    ]);
    markdown(&mut rest, section(JSON, COMMON)?);
    closing(&mut rest, SUITE)?;
    page(suite, SUITE, &rest)
}

/// The sections that clap generates, followed by the others.
fn page(command: &Command, name: &str, rest: &Roff) -> Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .date(date()?)
        .source(format!("{SUITE} {}", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// The date of SOURCE_DATE_EPOCH, so that pages are reproducible; empty if it is not set.
fn date() -> Result<String> {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").unwrap_or_default();
    if seconds.is_empty() {
        return Ok(String::new());
    }
    seconds
        .parse()
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .map(|time| time.format("%Y-%m-%d").to_string())
        .with_context(|| format!("SOURCE_DATE_EPOCH is not a number of seconds: {seconds:?}"))
}

fn closing(roff: &mut Roff, name: &str) -> Result<()> {
    roff.control("SH", ["OVERHEAD"]);
    let (_, overhead) = OVERHEAD
        .split_once("\n\n")
        .context("docs/overhead.md has no text below its title")?;
    markdown(roff, overhead);
    roff.control("SH", ["EXIT STATUS"]);
    let statuses = README
        .split("\n\n")
        .find_map(|paragraph| paragraph.strip_prefix("Exit status: "))
        .context("README.md has no paragraph that begins with `Exit status: `")?;
    for status in statuses.split(';') {
        let status = status.trim().trim_end_matches('.').replace('\n', " ");
        let (code, meaning) = match status.split_once(' ') {
            Some((number, meaning)) if number.parse::<u8>().is_ok() => (number, meaning),
            _ => ("other", status.as_str()),
        };
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text(inline(meaning));
    }
    roff.control("SH", ["SEE ALSO"]);
    let others: Vec<&str> = [SUITE]
        .into_iter()
        .chain(TOOLS.iter().map(|tool| tool.name))
        .filter(|other| *other != name)
        .collect();
    let mut line = Vec::new();
    for (index, other) in others.iter().enumerate() {
        let comma = if index + 1 < others.len() { "(1), " } else { "(1)" };
        line.extend([bold(*other), roman(comma)]);
    }
    roff.text(line);
    Ok(())
}

/// The text below `## TITLE`, up to the next one.
fn section<'a>(document: &'a str, title: &str) -> Result<&'a str> {
    document
        .split("\n## ")
        .find_map(|section| section.strip_prefix(title)?.strip_prefix('\n'))
        .with_context(|| format!("no section `## {title}` in the document"))
}

/// A line of the form `COMMAND    # what it does`.
fn show_example(roff: &mut Roff, line: &str) {
    match line.trim().split_once("  # ") {
        Some((command, comment)) => {
            roff.control("TP", []);
            roff.text([bold(command.trim_end())]);
            roff.text([roman(comment.trim())]);
        }
        None => {
            roff.control("PP", []);
            roff.text([bold(line.trim())]);
        }
    }
}

/// Help text: paragraphs whose last lines may be indented, which are shown verbatim.
fn help_text(roff: &mut Roff, text: &str) {
    for (index, block) in text.trim().split("\n\n").enumerate() {
        begin_paragraph(roff, index == 0);
        let mut lines = block.lines().peekable();
        while let Some(line) = lines.next_if(|line| !line.starts_with(' ')) {
            roff.text([roman(line)]);
        }
        let indented: Vec<&str> = lines.collect();
        if !indented.is_empty() {
            verbatim(roff, &indented);
        }
    }
}

fn verbatim(roff: &mut Roff, lines: &[&str]) {
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(line.trim())]);
    }
    roff.control("fi", []);
    roff.control("RE", []);
}

/// The subset of Markdown that the documents use.
fn markdown(roff: &mut Roff, text: &str) {
    let mut after_heading = true;
    for block in text.trim().split("\n\n") {
        let is_heading = block.starts_with("### ");
        if let Some(title) = block.strip_prefix("### ") {
            let (title, below) = title.split_once('\n').unwrap_or((title, ""));
            roff.control("SS", [plain(title).as_str()]);
            if !below.is_empty() {
                roff.text(inline(&joined(below)));
            }
        } else if block.starts_with('|') {
            // Skip the header row and the separator.
            block.lines().skip(2).for_each(|row| table_row(roff, row));
        } else if let Some(list) = block.strip_prefix("- ") {
            for item in list.split("\n- ") {
                roff.control("IP", ["-", "2"]);
                roff.text(inline(&joined(item)));
            }
        } else {
            begin_paragraph(roff, after_heading);
            roff.text(inline(&joined(block)));
        }
        after_heading = is_heading;
    }
}

/// The first paragraph after a heading needs no request.
fn begin_paragraph(roff: &mut Roff, after_heading: bool) {
    if !after_heading {
        roff.control("PP", []);
    }
}

fn table_row(roff: &mut Roff, row: &str) {
    let mut cells = row.trim_matches('|').split('|').map(str::trim);
    roff.control("TP", []);
    roff.text(inline(cells.next().unwrap_or_default()));
    // Without text, the tag would take the next paragraph.
    let meaning = cells
        .next()
        .filter(|cell| !cell.is_empty())
        .unwrap_or("As above.");
    roff.text(inline(meaning));
}

/// The lines of a paragraph without indentation.
fn joined(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("\n")
}

/// Text in backquotes becomes bold. Emphasis and link targets are dropped.
fn inline(text: &str) -> Vec<Inline> {
    text.split('`')
        .enumerate()
        .filter(|(_, part)| !part.is_empty())
        .map(|(index, part)| match index % 2 {
            1 => bold(part),
            _ => roman(without_links(&part.replace("**", ""))),
        })
        .collect()
}

fn plain(text: &str) -> String {
    without_links(&text.replace(['`', '*'], ""))
}

/// `[text](address)` becomes its text.
fn without_links(text: &str) -> String {
    let mut parts = text.split("](");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(start) = out.rfind('[') {
            out.remove(start);
        }
        out += part.split_once(')').map_or(part, |(_, rest)| rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page with the roff escapes undone that the tests would trip over.
    fn text(page: Vec<u8>) -> String {
        String::from_utf8(page).expect("UTF-8").replace(r"\-", "-")
    }

    #[test]
    fn tool_pages_have_every_section() {
        for tool in TOOLS {
            let page = text(tool_page(tool, &(tool.command)()).expect("a page"));
            let mut at = 0;
            for title in [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "EXAMPLES",
                "FIELDS",
                "OVERHEAD",
                "\"EXIT STATUS\"",
                "\"SEE ALSO\"",
            ] {
                let heading = format!("\n.SH {title}\n");
                at += page[at..]
                    .find(&heading)
                    .unwrap_or_else(|| panic!("{}: no {title} after byte {at}:\n{page}", tool.name));
            }
        }
    }

    #[test]
    fn tool_pages_have_every_json_key() {
        for tool in TOOLS {
            let page = text(tool_page(tool, &(tool.command)()).expect("a page"));
            let keys = section(tool.page, RECORDS).expect("a section").lines();
            let mut count = 0;
            for key in keys.filter_map(|line| line.strip_prefix("| `")?.split('`').next()) {
                assert!(
                    page.contains(&format!("\n.TP\n\\fB{key}\\fR")),
                    "{}: no {key}",
                    tool.name
                );
                count += 1;
            }
            assert!(count > 0, "{} has no keys", tool.name);
        }
    }

    #[test]
    fn exit_statuses_match_the_readme() {
        let mut roff = Roff::new();
        closing(&mut roff, SUITE).expect("a paragraph");
        let page = roff.to_roff();
        for status in ["0", "1", "2", "3", "other"] {
            assert!(page.contains(&format!(".TP\n\\fB{status}\\fR\n")), "{page}");
        }
    }

    #[test]
    fn markdown_markup_is_removed() {
        assert_eq!(
            inline("a **b** `c` [d](e.md) f"),
            [roman("a b "), bold("c"), roman(" d f")]
        );
        assert_eq!(plain("`event`: a [call](x)."), "event: a call.");
    }
}
