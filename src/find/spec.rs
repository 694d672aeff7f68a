//! What a person writes to name a place in a program: `[PREFIX:]TARGET:FUNCTION`.
//!
//! This only reads the text: whether the target and the function exist is for others to find out.
//!
//! | written | means |
//! |---|---|
//! | `libc:malloc` `bash:readline` `/usr/bin/app:main` | the entry of a function |
//! | `p:` `uprobe:` `r:` `uretprobe:` in front | its entry, or its return |
//! | `malloc` `:malloc` | in any file of the process |
//! | `libc:mem*` `libc:/^mem/` | every function whose name fits |
//! | `app:net::Proxy::read(int)` `app:net::Proxy::*` | C++ and Rust functions as their authors wrote them |
//! | `libc:malloc+0x10` `app:0x1234` | an instruction: bytes after a function's start, or an address of the file |
//! | `usdt:python3:function__entry` `u:python3:python:gc__*` | markers that the authors put in |
//!
//! A colon in a path is written `\:`; two colons side by side belong to a name.

use std::fmt;

use anyhow::{Result, bail};
use regex_lite::Regex;

#[cfg(test)]
mod tests;

/// What a person asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSpec {
    /// As it was written.
    pub text: String,
    pub moment: ProbeMoment,
    /// A short library name, a program or a path; `None` is every file of the processes that were chosen otherwise.
    pub target: Option<String>,
    pub subject: ProbeSubject,
}

/// Which moment of a call is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeMoment {
    /// Nothing was said.
    Any,
    Entry,
    Return,
}

/// What is meant in each file.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeSubject {
    /// The instruction `offset` bytes after the start of each function of such a name.
    Function { name: NamePattern, offset: u64 },
    /// The instruction at this virtual address, as symbol tables and disassemblers give it.
    Address(u64),
    /// Markers in the program's text.
    Usdt {
        provider: NamePattern,
        name: NamePattern,
    },
}

/// A name, or what names have to look like.
#[derive(Clone, Debug)]
pub enum NamePattern {
    Exact(String),
    /// `*` stands for any text and `?` for one character.
    Glob(String),
    /// Fits if it is found anywhere in the name.
    Regex(Regex),
}

impl NamePattern {
    /// Fits every name.
    pub fn any() -> NamePattern {
        NamePattern::Glob("*".to_owned())
    }

    /// Whether `name` fits. The time it takes does not explode with either length.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(text) => text == name,
            NamePattern::Glob(glob) => glob_matches(glob, name),
            NamePattern::Regex(regex) => regex.is_match(name),
        }
    }

    /// The text of a pattern without what makes it one, to look for similar names.
    pub fn letters(&self) -> String {
        match self {
            NamePattern::Exact(text) => text.clone(),
            pattern => pattern.to_string().replace(['*', '?', '/', '^', '$', '.'], ""),
        }
    }

    /// The one name that fits, if it is no pattern.
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

/// As it is written in a spec.
impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NamePattern::Exact(text) | NamePattern::Glob(text) => out.write_str(text),
            NamePattern::Regex(regex) => write!(out, "/{regex}/"),
        }
    }
}

/// Reads `[PREFIX:]TARGET:FUNCTION`.
///
/// # Errors
/// What is wrong and what would be right, in one line; columns count characters from 1.
pub fn parse(text: &str) -> Result<ProbeSpec> {
    let input = SpecText { text };
    let (prefix, rest) = prefix(text);
    let (target, name) = match prefix {
        SpecPrefix::Usdt => split(rest, |colons| colons > 0),
        SpecPrefix::Moment(_) => split(rest, |colons| colons == 1),
    };
    // Without a colon it is a function, unless it looks like nothing but a path.
    let (target, name) = match (target, name) {
        (target, Some(name)) => (unescaped(target), name),
        (path, None) if is_path(path) => {
            bail!("{input}: {path:?} names no function; write {path}:FUNCTION")
        }
        (name, None) => (None, name),
    };
    Ok(ProbeSpec {
        text: text.to_owned(),
        moment: prefix.moment(),
        target,
        subject: input.what(prefix, name)?,
    })
}

/// Reads `[PREFIX:]TARGET[:FUNCTION]`, as for a list of what there is: without a colon all functions of the target are
/// meant.
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
            SpecPrefix::Moment(at) => at,
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

/// Splits at the first colon that is not escaped and stands in a row of colons of the right length.
fn split(text: &str, right: impl Fn(usize) -> bool) -> (&str, Option<&str>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let row = bytes[at..].iter().take_while(|&&byte| byte == b':').count();
        match byte {
            // In front of the first colon of all there is no target.
            b':' if at == 0 || right(row) => return (&text[..at], Some(&text[at + 1..])),
            b':' => at += row,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (text, None)
}

/// A target without the backslashes in front of colons and backslashes; `None` if it is empty.
fn unescaped(target: &str) -> Option<String> {
    let mut plain = String::with_capacity(target.len());
    let mut rest = target.chars().peekable();
    while let Some(char) = rest.next() {
        let escaped = (char == '\\').then(|| rest.next_if(|&next| matches!(next, ':' | '\\')));
        plain.push(escaped.flatten().unwrap_or(char));
    }
    (!plain.is_empty()).then_some(plain)
}

/// Whether a text without a colon is meant for a file, and not for a function or `/REGEX/`.
fn is_path(text: &str) -> bool {
    let rooted = text.starts_with('/') && (text.len() == 1 || !text.ends_with('/'));
    rooted || ["./", "../", "~/"].iter().any(|start| text.starts_with(start))
}

/// The whole text, for messages that point into it.
struct SpecText<'a> {
    text: &'a str,
}

impl fmt::Display for SpecText<'_> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "failed to understand {:?}", self.text)
    }
}

impl SpecText<'_> {
    fn what(&self, prefix: SpecPrefix, name: &str) -> Result<ProbeSubject> {
        match prefix {
            SpecPrefix::Usdt => self.usdt(name),
            SpecPrefix::Moment(_) => self.function(name),
        }
    }

    fn usdt(&self, text: &str) -> Result<ProbeSubject> {
        const RIGHT: &str = "write usdt:TARGET:PROVIDER:NAME or usdt:TARGET:NAME";
        let (provider, name) = match split(text, |_| true) {
            (name, None) => ("", name),
            (provider, Some(name)) => (provider, name),
        };
        if let Some(colon) = name.find(':') {
            bail!(
                "{self}: one part too many {}; {RIGHT}",
                self.column(&name[colon..])
            );
        }
        if name.is_empty() {
            bail!("{self}: no name {}; {RIGHT}", self.column(name));
        }
        let provider = match provider {
            "" => NamePattern::any(),
            provider => self.pattern(provider)?,
        };
        Ok(ProbeSubject::Usdt {
            provider,
            name: self.pattern(name)?,
        })
    }

    fn function(&self, text: &str) -> Result<ProbeSubject> {
        if text.starts_with("0x") {
            return match number(text) {
                Some(address) => Ok(ProbeSubject::Address(address)),
                None => bail!(
                    "{self}: {text:?} {} is no address; write it as 0x1234",
                    self.column(text)
                ),
            };
        }
        let (name, offset) = self.offset(text)?;
        if name.is_empty() || name.ends_with("::") {
            let end = self.column(&name[name.len()..]);
            bail!("{self}: no function {end}; write TARGET:FUNCTION");
        }
        if name.starts_with(':') {
            let start = self.column(name);
            bail!("{self}: one colon too many {start}; write TARGET:FUNCTION");
        }
        let name = self.pattern(name)?;
        if offset != 0 && name.exact().is_none() {
            bail!("{self}: bytes can only be added to one exact name; {name} is a pattern");
        }
        Ok(ProbeSubject::Function { name, offset })
    }

    /// Takes `+NUMBER` off the end of a name.
    fn offset<'t>(&self, text: &'t str) -> Result<(&'t str, u64)> {
        let Some((name, added)) = split_offset(text) else {
            return Ok((text, 0));
        };
        let Some(offset) = number(added).filter(|_| split_offset(name).is_none()) else {
            bail!(
                "{self}: {added:?} {} is no number of bytes; write NAME+0x10 or NAME+16",
                self.column(added)
            );
        };
        Ok((name, offset))
    }

    fn pattern(&self, text: &str) -> Result<NamePattern> {
        if let Some(rest) = text.strip_prefix('/') {
            let Some(pattern) = rest.strip_suffix('/').filter(|pattern| !pattern.is_empty()) else {
                bail!(
                    "{self}: the regular expression {} has no end; write it between slashes: /^mem/",
                    self.column(text)
                );
            };
            return match Regex::new(pattern) {
                Ok(regex) => Ok(NamePattern::Regex(regex)),
                Err(error) => bail!("{self}: bad regular expression {}: {error}", self.column(pattern)),
            };
        }
        Ok(match text.contains(['*', '?']) {
            true => NamePattern::Glob(text.to_owned()),
            false => NamePattern::Exact(text.to_owned()),
        })
    }

    /// Where `part` begins, which has to be a slice of the whole text.
    fn column(&self, part: &str) -> TextColumn {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let before = self.text.char_indices().take_while(|&(at, _)| at < start).count();
        TextColumn(before + 1)
    }
}

/// A place in the text, counted in characters from 1.
struct TextColumn(usize);

impl fmt::Display for TextColumn {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "at column {}", self.0)
    }
}

/// Splits at the last `+`, unless it belongs to an operator's name or a regular expression.
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

/// A number in decimal or, after `0x`, hexadecimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // Else a sign would do.
    let plain = digits.starts_with(|char: char| char.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// Only the last `*` is ever tried again: whatever an earlier one could take, the last one can take as well. So the time
/// is at most the product of the lengths.
fn glob_matches(glob: &str, name: &str) -> bool {
    let (mut pattern, mut text) = (glob.chars(), name.chars());
    // What follows the last star, and the text that it has not yet taken.
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
        let Some((after, mut untaken)) = star.take() else {
            return false;
        };
        if untaken.next().is_none() {
            return false;
        }
        (pattern, text) = (after.clone(), untaken.clone());
        star = Some((after, untaken));
    }
}
