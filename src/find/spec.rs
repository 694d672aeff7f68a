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
//! | `libc:mem*` `libc:/^mem/` | every function whose name matches |
//! | `app:net::Proxy::read(int)` `app:net::Proxy::*` | demangled C++ and Rust names |
//! | `libc:malloc+0x10` `app:0x1234` | an instruction: an offset in a function, or a virtual address of the file |
//! | `usdt:python3:function__entry` `u:python3:python:gc__*` | USDT probes, with or without their provider |
//!
//! The target ends at the first single colon: two colons in a row belong to a name. A colon in a path is
//! written `\:`.

use std::fmt;

use anyhow::{Result, bail};
use regex_lite::Regex;

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
    /// An exact name, a glob with `*` and `?`, or `/REGEX/`.
    Glob,
    /// What follows the target is a regular expression, without slashes around it. It is never an address,
    /// and has no offset.
    Regex,
}

/// A name, or a pattern for names.
#[derive(Clone, Debug)]
pub enum NamePattern {
    Exact(String),
    /// `*` matches any text and `?` one character.
    Glob(String),
    /// Matches anywhere in the name.
    Regex(Regex),
}

impl NamePattern {
    /// Matches every name.
    pub fn any() -> NamePattern {
        NamePattern::Glob("*".to_owned())
    }

    /// Whether `name` matches. Takes at most time proportional to the product of the lengths.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(text) => text == name,
            NamePattern::Glob(glob) => glob_matches(glob, name),
            NamePattern::Regex(regex) => regex.is_match(name),
        }
    }

    /// The pattern without wildcards and anchors, to search for similar names.
    pub fn letters(&self) -> String {
        match self {
            NamePattern::Exact(text) => text.clone(),
            pattern => pattern.to_string().replace(['*', '?', '/', '^', '$', '.'], ""),
        }
    }

    /// The name, unless this is a glob or a regular expression.
    pub fn exact(&self) -> Option<&str> {
        match self {
            NamePattern::Exact(text) => Some(text),
            _ => None,
        }
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &NamePattern) -> bool {
        use NamePattern::{Exact, Glob, Regex};
        match (self, other) {
            (Exact(a), Exact(b)) | (Glob(a), Glob(b)) => a == b,
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// In [`PatternSyntax::Glob`].
impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NamePattern::Exact(text) | NamePattern::Glob(text) => out.write_str(text),
            NamePattern::Regex(regex) => write!(out, "/{regex}/"),
        }
    }
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
        SpecPrefix::Usdt => split(rest, |colons| colons > 0),
        SpecPrefix::Moment(_) => split(rest, |colons| colons == 1),
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
    if rest.is_empty() || split(rest, |_| true).1.is_some() {
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

/// Splits at the first unescaped run of colons whose length `is_separator` accepts.
fn split(text: &str, is_separator: impl Fn(usize) -> bool) -> (&str, Option<&str>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let colons = bytes[at..].iter().take_while(|&&byte| byte == b':').count();
        match byte {
            // A leading colon means no target.
            b':' if at == 0 || is_separator(colons) => return (&text[..at], Some(&text[at + 1..])),
            b':' => at += colons,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (text, None)
}

/// A target without the backslashes before colons and backslashes; `None` if it is empty.
fn unescaped(target: &str) -> Option<String> {
    let mut plain = String::with_capacity(target.len());
    let mut rest = target.chars().peekable();
    while let Some(char) = rest.next() {
        let escaped = (char == '\\').then(|| rest.next_if(|&next| matches!(next, ':' | '\\')));
        plain.push(escaped.flatten().unwrap_or(char));
    }
    (!plain.is_empty()).then_some(plain)
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
        if offset != 0 && name.exact().is_none() {
            bail!("{self}: an offset needs an exact name, and {name} is a pattern");
        }
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
        Ok(match text.contains(['*', '?']) {
            true => NamePattern::Glob(text.to_owned()),
            false => NamePattern::Exact(text.to_owned()),
        })
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

/// Backtracks to the last `*` only: whatever an earlier one could match, the last one can match as well. That
/// bounds the time by the product of the lengths.
fn glob_matches(glob: &str, name: &str) -> bool {
    let (mut pattern, mut text) = (glob.chars(), name.chars());
    // The pattern after the last star, and the text that the star has not consumed yet.
    let mut star = None;
    loop {
        let before = (pattern.clone(), text.clone());
        match (pattern.next(), text.next()) {
            (Some('*'), _) => {
                star = Some((pattern.clone(), before.1.clone()));
                text = before.1;
                continue;
            }
            (None, None) => return true,
            (Some('?'), Some(_)) => continue,
            (Some(wanted), Some(char)) if wanted == char => continue,
            _ => {}
        }
        let Some((after, mut unmatched)) = star.take() else {
            return false;
        };
        if unmatched.next().is_none() {
            return false;
        }
        (pattern, text) = (after.clone(), unmatched.clone());
        star = Some((after, unmatched));
    }
}
