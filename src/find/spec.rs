// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The syntax of probe specs: `[PREFIX:]TARGET:FUNCTION`.
//!
//! This only parses. Whether the target and the function exist is found out later.
//!
//! | spec | meaning |
//! |---|---|
//! | `libc:malloc` `bash:readline` `/usr/bin/app:main` | the entry of a function |
//! | `p:` `uprobe:` `r:` `uretprobe:` as prefix | its entry, or its return |
//! | `malloc` `:malloc` | in any file of the process |
//! | `libc:mem*` `libc:mem[a-c]*` `libc:{malloc,free}` `libc:/^mem/` | every function whose name matches |
//! | `app:main.(*Conn).Read` `app:A::operator*` `app:f(char\\*)` | a name that has characters of patterns |
//! | `libc:memcpy@GLIBC_2.2.5` | one version of a symbol |
//! | `app:net::Proxy::read(int)` `app:net::Proxy::*` | demangled C++ and Rust names |
//! | `libc:malloc+0x10` `app:0x1234` | an instruction: an offset in a function, or a virtual address of the file |
//! | `usdt:python3:function__entry` `u:python3:python:gc__*` | USDT probes, with or without their provider |
//!
//! The target ends at the first single colon outside of brackets: two colons in a row belong to a name. A path with a
//! colon is written as it is if there is such a file, else in quotes or with `\:`.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
use regex_lite::Regex;

pub use pattern::NamePattern;

mod pattern;
#[cfg(test)]
mod tests;

/// A parsed spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSpec {
    /// As the user wrote it.
    pub text: String,
    pub moment: ProbeMoment,
    /// A short library name, a program or a path. `None` stands for every file of the selected processes.
    pub target: Option<String>,
    pub subject: ProbeSubject,
}

/// The end of a call at which the probe fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMoment {
    /// Not specified.
    Any,
    Entry,
    Return,
}

/// What to probe in each file.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeSubject {
    /// The instruction `offset` bytes after the start of each matching function.
    Function { name: NamePattern, offset: u64 },
    /// The instruction at this virtual address, as in symbol tables and disassemblies.
    Address(u64),
    /// USDT probes.
    Usdt {
        provider: NamePattern,
        name: NamePattern,
    },
}

/// How names in a spec are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternSyntax {
    /// An exact name, a glob, or `/REGEX/`.
    Glob,
    /// What follows the target is a regular expression, without slashes around it. It is never an address,
    /// and has no offset.
    Regex,
}

/// Parses `[PREFIX:]TARGET:FUNCTION` with names in [`PatternSyntax::Glob`].
///
/// # Errors
/// One line that says what is wrong and what to write instead. Columns count characters from 1.
pub fn parse(text: &str) -> Result<ProbeSpec> {
    parse_as(text, PatternSyntax::Glob)
}

/// Parses `[PREFIX:]TARGET:FUNCTION`.
///
/// # Errors
/// As for [`parse`].
pub fn parse_as(text: &str, syntax: PatternSyntax) -> Result<ProbeSpec> {
    let spec = SpecText { text, syntax };
    let (prefix, rest) = prefix(text);
    let (target, name) = match prefix {
        SpecPrefix::Usdt => split_target(rest, |colons| colons > 0),
        SpecPrefix::Moment(_) => split_target(rest, |colons| colons == 1),
    };
    // Without a colon it is a function, unless it can only be a path.
    let (target, name) = match (target, name) {
        (target, Some(name)) => (unescaped(target), name),
        (path, None) if is_path(path) => {
            bail!("{spec}: {path:?} is a path and needs a function; write {path}:FUNCTION")
        }
        (name, None) => (None, name),
    };
    Ok(ProbeSpec {
        text: text.to_owned(),
        moment: prefix.moment(),
        target,
        subject: spec.subject(prefix, name)?,
    })
}

/// Parses `[PREFIX:]TARGET[:FUNCTION]` for a listing: without a colon it stands for all functions of the
/// target.
///
/// # Errors
/// As for [`parse`].
pub fn parse_list(text: &str) -> Result<ProbeSpec> {
    let (prefix, rest) = prefix(text);
    let is_file = rest.contains('/') && Path::new(rest).is_file();
    if rest.is_empty() || (!is_file && split(rest, |_| true).1.is_some()) {
        return parse(text);
    }
    let any = NamePattern::any;
    Ok(ProbeSpec {
        text: text.to_owned(),
        moment: prefix.moment(),
        target: unescaped(rest),
        subject: match prefix {
            SpecPrefix::Usdt => ProbeSubject::Usdt {
                provider: any(),
                name: any(),
            },
            SpecPrefix::Moment(_) => ProbeSubject::Function {
                name: any(),
                offset: 0,
            },
        },
    })
}

#[derive(Clone, Copy)]
enum SpecPrefix {
    Moment(ProbeMoment),
    Usdt,
}

impl SpecPrefix {
    fn moment(self) -> ProbeMoment {
        match self {
            SpecPrefix::Moment(moment) => moment,
            SpecPrefix::Usdt => ProbeMoment::Any,
        }
    }
}

fn prefix(text: &str) -> (SpecPrefix, &str) {
    let known = text.split_once(':').and_then(|(word, rest)| {
        let prefix = match word {
            "p" | "uprobe" => SpecPrefix::Moment(ProbeMoment::Entry),
            "r" | "uretprobe" => SpecPrefix::Moment(ProbeMoment::Return),
            "u" | "usdt" => SpecPrefix::Usdt,
            _ => return None,
        };
        Some((prefix, rest))
    });
    known.unwrap_or((SpecPrefix::Moment(ProbeMoment::Any), text))
}

/// Splits a spec after its target, as [`split`] does. The path of an existing file may contain colons.
fn split_target(text: &str, is_separator: impl Fn(usize) -> bool) -> (&str, Option<&str>) {
    let (target, name) = split(text, &is_separator);
    let is_file = |path: &str| Path::new(path).is_file();
    if !target.contains('/') || is_file(target) {
        return (target, name);
    }
    let mut rest = name;
    while let Some(next) = rest.and_then(|rest| split(rest, &is_separator).1) {
        let path = &text[..text.len() - next.len() - 1];
        if is_file(path) {
            return (path, Some(next));
        }
        rest = Some(next);
    }
    (target, name)
}

/// Splits at the first run of colons whose length `is_separator` accepts, and that is neither escaped nor in brackets
/// or in quotes at the start, nor in the `(?:` of a regular expression.
fn split(text: &str, is_separator: impl Fn(usize) -> bool) -> (&str, Option<&str>) {
    let bytes = text.as_bytes();
    let mut at = quoted(text).map_or(0, |path| path.len() + 2);
    while let Some(&byte) = bytes.get(at) {
        let colons = bytes[at..].iter().take_while(|&&byte| byte == b':').count();
        match byte {
            b':' if bytes[..at].ends_with(b"(?") => at += colons,
            // A leading colon means no target.
            b':' if at == 0 || is_separator(colons) => return (&text[..at], Some(&text[at + 1..])),
            b':' => at += colons,
            b'\\' => at += 2,
            b'[' => at += bytes[at..].iter().position(|&byte| byte == b']').unwrap_or(1),
            _ => at += 1,
        }
    }
    (text, None)
}

/// The path in quotes at the start of a spec.
fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|char| matches!(char, '"' | '\''))?;
    let (path, rest) = text[1..].split_once(quote)?;
    (rest.is_empty() || rest.starts_with(':')).then_some(path)
}

/// A target without its quotes, or without the backslashes before colons and backslashes. `None` if it is empty, or
/// `*`, which is any file of the chosen processes, too.
fn unescaped(target: &str) -> Option<String> {
    if let Some(path) = quoted(target) {
        return (!path.is_empty()).then(|| path.to_owned());
    }
    let mut plain = String::with_capacity(target.len());
    let mut rest = target.chars().peekable();
    while let Some(char) = rest.next() {
        let escaped = (char == '\\').then(|| rest.next_if(|&next| matches!(next, ':' | '\\')));
        plain.push(escaped.flatten().unwrap_or(char));
    }
    (!plain.is_empty() && plain != "*").then_some(plain)
}

/// Whether a text without a colon is a path rather than a function or `/REGEX/`.
fn is_path(text: &str) -> bool {
    let rooted = text.starts_with('/') && (text.len() == 1 || !text.ends_with('/'));
    rooted || ["./", "../", "~/"].iter().any(|start| text.starts_with(start))
}

/// The whole text of a spec, for messages with columns. Displays the start of a message.
struct SpecText<'a> {
    text: &'a str,
    syntax: PatternSyntax,
}

impl fmt::Display for SpecText<'_> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "failed to parse {:?}", self.text)
    }
}

impl SpecText<'_> {
    fn subject(&self, prefix: SpecPrefix, name: &str) -> Result<ProbeSubject> {
        match prefix {
            SpecPrefix::Usdt => self.usdt(name),
            SpecPrefix::Moment(_) => self.function(name),
        }
    }

    fn usdt(&self, text: &str) -> Result<ProbeSubject> {
        const USAGE: &str = "write usdt:TARGET:PROVIDER:NAME or usdt:TARGET:NAME";
        let (provider, name) = match split(text, |_| true) {
            (name, None) => ("", name),
            (provider, Some(name)) => (provider, name),
        };
        if let Some(colon) = name.find(':').filter(|_| self.syntax == PatternSyntax::Glob) {
            bail!("{self}: too many parts {}; {USAGE}", self.column(&name[colon..]));
        }
        if name.is_empty() {
            bail!("{self}: missing name {}; {USAGE}", self.column(name));
        }
        let provider = match provider {
            "" => NamePattern::any(),
            provider => self.pattern(provider)?,
        };
        Ok(ProbeSubject::Usdt {
            provider,
            name: self.name(name)?,
        })
    }

    fn function(&self, text: &str) -> Result<ProbeSubject> {
        const USAGE: &str = "write TARGET:FUNCTION";
        if self.syntax == PatternSyntax::Regex && !text.is_empty() {
            let name = self.regex(text)?;
            return Ok(ProbeSubject::Function { name, offset: 0 });
        }
        if text.starts_with("0x") {
            return match number(text) {
                Some(address) => Ok(ProbeSubject::Address(address)),
                None => bail!(
                    "{self}: {text:?} {} is not an address; write it as 0x1234",
                    self.column(text)
                ),
            };
        }
        let (name, offset) = self.offset(text)?;
        if name.is_empty() || name.ends_with("::") {
            let end = self.column(&name[name.len()..]);
            bail!("{self}: missing function {end}; {USAGE}");
        }
        if name.starts_with(':') {
            bail!("{self}: unexpected colon {}; {USAGE}", self.column(name));
        }
        let name = self.pattern(name)?;
        if offset == 0 {
            return Ok(ProbeSubject::Function { name, offset });
        }
        let Some(exact) = name.as_name() else {
            bail!("{self}: an offset needs an exact name, and {name} is a pattern");
        };
        let name = NamePattern::Exact(exact.to_owned());
        Ok(ProbeSubject::Function { name, offset })
    }

    /// Splits `+NUMBER` off the end of a name.
    fn offset<'t>(&self, text: &'t str) -> Result<(&'t str, u64)> {
        let Some((name, added)) = split_offset(text) else {
            return Ok((text, 0));
        };
        let Some(offset) = number(added).filter(|_| split_offset(name).is_none()) else {
            bail!(
                "{self}: {added:?} {} is not a number of bytes; write NAME+0x10 or NAME+16",
                self.column(added)
            );
        };
        Ok((name, offset))
    }

    /// A name in the syntax of this spec.
    fn name(&self, text: &str) -> Result<NamePattern> {
        match self.syntax {
            PatternSyntax::Glob => self.pattern(text),
            PatternSyntax::Regex => self.regex(text),
        }
    }

    /// A name in [`PatternSyntax::Glob`].
    fn pattern(&self, text: &str) -> Result<NamePattern> {
        if let Some(rest) = text.strip_prefix('/') {
            let Some(pattern) = rest.strip_suffix('/').filter(|pattern| !pattern.is_empty()) else {
                bail!(
                    "{self}: unterminated regular expression {}; write it between slashes: /^mem/",
                    self.column(text)
                );
            };
            return self.regex(pattern);
        }
        match NamePattern::parse(text) {
            Ok(pattern) => Ok(pattern),
            Err(error) => bail!("{self}: {error} {}", self.column(text)),
        }
    }

    fn regex(&self, pattern: &str) -> Result<NamePattern> {
        match Regex::new(pattern) {
            Ok(regex) => Ok(NamePattern::Regex(regex)),
            Err(error) => bail!(
                "{self}: invalid regular expression {}: {error}",
                self.column(pattern)
            ),
        }
    }

    /// The column of `part`, which has to be a slice of the whole text.
    fn column(&self, part: &str) -> SpecColumn {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let before = self.text.char_indices().take_while(|&(at, _)| at < start).count();
        SpecColumn(before + 1)
    }
}

/// A column, counted in characters from 1.
struct SpecColumn(usize);

impl fmt::Display for SpecColumn {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "at column {}", self.0)
    }
}

/// Splits at the last `+`, unless it belongs to the name of an operator or to a regular expression.
fn split_offset(text: &str) -> Option<(&str, &str)> {
    let (name, added) = text.rsplit_once('+')?;
    let is_offset = !text.starts_with('/') && !is_operator(name) && added.chars().all(char::is_alphanumeric);
    is_offset.then_some((name, added))
}

/// Whether the `+` after `name` belongs to it: `operator+` and `operator++`.
fn is_operator(name: &str) -> bool {
    let before = name.trim_end_matches('+').strip_suffix("operator");
    before.is_some_and(|before| !before.ends_with(|char: char| char.is_alphanumeric() || char == '_'))
}

/// Parses decimal digits, or `0x` and hexadecimal digits.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // `from_str_radix` would accept a sign.
    let plain = digits.starts_with(|char: char| char.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}
