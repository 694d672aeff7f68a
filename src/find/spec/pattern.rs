// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names, and patterns for names.
//!
//! Characters of patterns occur in names too: `main.(*Conn).Read`, `A::operator*`, `f(char*)`, `main.Map[int]`,
//! `f()::{lambda(int, int)#1}`. So a glob that can be a name is looked up as one first.

use std::fmt;

use anyhow::{Result, ensure};
use regex_lite::Regex;

/// Most alternatives that the braces of one pattern can stand for.
const MAX_ALTERNATIVES: usize = 256;

/// A name, or a pattern for names.
#[derive(Clone, Debug)]
pub enum NamePattern {
    Exact(String),
    Glob(Glob),
    /// Matches anywhere in the name.
    Regex(Regex),
}

/// A pattern as in a shell: `*` matches any text, `?` one character, `[a-c]` one of these and `[!a-c]` any other, and
/// `{malloc,free}` either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    /// What the braces stand for; a name has to match one of them.
    alternatives: Vec<Vec<GlobPart>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum GlobPart {
    Char(char),
    AnyText,
    AnyChar,
    /// Ranges of characters.
    Set {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
}

impl NamePattern {
    /// A name, or a glob if it has wildcards. A backslash takes the meaning from the character after it.
    ///
    /// # Errors
    /// Its braces stand for too many alternatives.
    pub fn parse(text: &str) -> Result<NamePattern> {
        let alternatives: Vec<Vec<GlobPart>> = expanded(text)?.iter().map(|text| parts(text)).collect();
        let name = match &alternatives[..] {
            [only] => only.iter().map(GlobPart::char).collect::<Option<String>>(),
            _ => None,
        };
        Ok(match name {
            Some(name) => NamePattern::Exact(name),
            None => NamePattern::Glob(Glob {
                text: text.to_owned(),
                alternatives,
            }),
        })
    }

    /// Matches every name.
    pub fn any() -> NamePattern {
        NamePattern::Glob(Glob {
            text: "*".to_owned(),
            alternatives: vec![vec![GlobPart::AnyText]],
        })
    }

    /// Whether `name` matches. Takes at most time proportional to the product of the lengths.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(text) => text == name,
            NamePattern::Glob(glob) => glob.matches(name),
            NamePattern::Regex(regex) => regex.is_match(name),
        }
    }

    /// The pattern without wildcards and anchors, to search for similar names. Of alternatives, the first.
    pub fn letters(&self) -> String {
        match self {
            NamePattern::Exact(text) => text.clone(),
            NamePattern::Glob(Glob { alternatives, .. }) => {
                let first = alternatives.first().into_iter().flatten();
                first.filter_map(GlobPart::char).collect()
            }
            NamePattern::Regex(regex) => regex.as_str().replace(['*', '?', '/', '^', '$', '.'], ""),
        }
    }

    /// The alternatives in the braces, each as a pattern. Empty if there are no braces.
    pub fn alternatives(&self) -> Vec<NamePattern> {
        let NamePattern::Glob(glob) = self else {
            return Vec::new();
        };
        let mut texts = expanded(&glob.text).unwrap_or_default();
        texts.sort_unstable();
        texts.dedup();
        let pattern = |text: String| {
            let alternatives = vec![parts(&text)];
            NamePattern::Glob(Glob { text, alternatives })
        };
        match glob.alternatives.len() {
            0 | 1 => Vec::new(),
            _ => texts.into_iter().map(pattern).collect(),
        }
    }

    /// The name, unless this is a glob or a regular expression.
    pub fn exact(&self) -> Option<&str> {
        match self {
            NamePattern::Exact(text) => Some(text),
            _ => None,
        }
    }

    /// The name that this is, or that this can be besides a pattern: names have parameters, template arguments,
    /// receivers or operators where they have such characters.
    pub fn as_name(&self) -> Option<&str> {
        match self {
            NamePattern::Exact(text) => Some(text),
            NamePattern::Glob(Glob { text, .. }) => {
                let can_be =
                    text.contains(['(', '<', '[']) || text.contains("operator") || text.contains("{{");
                can_be.then_some(text.as_str())
            }
            NamePattern::Regex(_) => None,
        }
    }

    /// Text that is part of every name that matches, in pieces between spaces. None if there is no such text.
    pub fn literal_text(&self) -> Option<String> {
        match self {
            NamePattern::Exact(text) => Some(text.clone()),
            NamePattern::Glob(Glob { alternatives, .. }) => match &alternatives[..] {
                [only] => Some(only.iter().map(|part| part.char().unwrap_or(' ')).collect()),
                _ => None,
            },
            NamePattern::Regex(_) => None,
        }
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &NamePattern) -> bool {
        use NamePattern::{Exact, Glob, Regex};
        match (self, other) {
            (Exact(a), Exact(b)) => a == b,
            (Glob(a), Glob(b)) => a == b,
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// In [`super::PatternSyntax::Glob`].
impl fmt::Display for NamePattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            NamePattern::Exact(text) => out.write_str(text),
            NamePattern::Glob(glob) => out.write_str(&glob.text),
            NamePattern::Regex(regex) => write!(out, "/{regex}/"),
        }
    }
}

impl GlobPart {
    /// The character, unless this is a wildcard.
    fn char(&self) -> Option<char> {
        match self {
            GlobPart::Char(char) => Some(*char),
            _ => None,
        }
    }

    /// Whether this matches one character.
    fn accepts(&self, char: char) -> bool {
        match self {
            GlobPart::Char(wanted) => *wanted == char,
            GlobPart::AnyText => false,
            GlobPart::AnyChar => true,
            GlobPart::Set { ranges, negated } => {
                ranges.iter().any(|&(first, last)| (first..=last).contains(&char)) != *negated
            }
        }
    }
}

impl Glob {
    fn matches(&self, name: &str) -> bool {
        self.alternatives.iter().any(|parts| matches_parts(parts, name))
    }
}

/// Backtracks to the last `*` only: whatever an earlier one could match, the last one can match as well. That
/// bounds the time by the product of the lengths.
fn matches_parts(parts: &[GlobPart], name: &str) -> bool {
    let (mut pattern, mut text) = (parts.iter(), name.chars());
    // The pattern after the last star, and the text that the star has not consumed yet.
    let mut star = None;
    loop {
        let before = text.clone();
        match (pattern.next(), text.next()) {
            (Some(GlobPart::AnyText), _) => {
                star = Some((pattern.clone(), before.clone()));
                text = before;
                continue;
            }
            (None, None) => return true,
            (Some(part), Some(char)) if part.accepts(char) => continue,
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

/// The parts of a pattern without alternatives.
fn parts(text: &str) -> Vec<GlobPart> {
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(&char) = chars.get(at) {
        let (before, after) = (&chars[..at], &chars[at + 1..]);
        let (part, len) = match char {
            '\\' if after.first().is_some_and(|next| !next.is_alphanumeric()) => {
                (GlobPart::Char(after[0]), 2)
            }
            '*' => (GlobPart::AnyText, 1),
            '?' => (GlobPart::AnyChar, 1),
            '[' => set(before, after).unwrap_or((GlobPart::Char('['), 1)),
            char => (GlobPart::Char(char), 1),
        };
        parts.push(part);
        at += len;
    }
    parts
}

/// A set of characters whose `[` is between `before` and `after`, and its length. None if the bracket is part of a
/// name: an ABI tag, an array, a subscript operator, or type arguments that Go does not list.
fn set(before: &[char], after: &[char]) -> Option<(GlobPart, usize)> {
    let negated = matches!(after.first(), Some('!' | '^'));
    let start = usize::from(negated);
    let end = start + after.get(start..)?.iter().position(|&char| char == ']')?;
    let mut rest = &after[start..end];
    let is_begun = |word: &str| after.starts_with(&word.chars().collect::<Vec<char>>());
    let is_after = |word: &str| before.ends_with(&word.chars().collect::<Vec<char>>());
    if rest.is_empty()
        || ["abi:", "...", "go.shape"].into_iter().any(is_begun)
        || is_after(" ")
        || is_after("operator")
    {
        return None;
    }
    let mut ranges = Vec::new();
    while let [first, others @ ..] = rest {
        let (last, others) = match others {
            ['-', last, others @ ..] => (last, others),
            others => (first, others),
        };
        ranges.push((*first, *last));
        rest = others;
    }
    Some((GlobPart::Set { ranges, negated }, end + 2))
}

/// What the braces of a pattern stand for.
fn expanded(text: &str) -> Result<Vec<String>> {
    let mut waiting = vec![text.to_owned()];
    let mut done = Vec::new();
    while let Some(text) = waiting.pop() {
        let Some(group) = group(&text) else {
            done.push(text);
            continue;
        };
        let (before, after) = (&text[..group.start], &text[group.end..]);
        let alternatives = group.alternatives.iter().rev();
        waiting.extend(alternatives.map(|alternative| format!("{before}{alternative}{after}")));
        ensure!(
            waiting.len() + done.len() <= MAX_ALTERNATIVES,
            "braces stand for more than {MAX_ALTERNATIVES} names"
        );
    }
    Ok(done)
}

/// Alternatives in braces.
struct BraceGroup<'t> {
    /// The first byte of `{`, and the byte after `}`.
    start: usize,
    end: usize,
    alternatives: Vec<&'t str>,
}

/// The first braces that contain a comma, but not in parentheses or angle brackets: `{lambda(int, int)#1}` is a name.
fn group(text: &str) -> Option<BraceGroup<'_>> {
    let opened = text.match_indices('{').map(|(at, _)| at);
    let mut opened = opened.filter(|&at| !text[..at].ends_with('\\'));
    opened.find_map(|start| {
        let mut depth = 0_usize;
        let mut commas = vec![start];
        let mut escaped = false;
        for (at, char) in text.char_indices().skip_while(|&(at, _)| at <= start) {
            match char {
                _ if std::mem::take(&mut escaped) => {}
                '\\' => escaped = true,
                '{' | '(' | '<' => depth += 1,
                '}' if depth == 0 => {
                    commas.push(at);
                    let alternatives = commas.windows(2).map(|pair| &text[pair[0] + 1..pair[1]]);
                    return (commas.len() > 2).then(|| BraceGroup {
                        start,
                        end: at + 1,
                        alternatives: alternatives.collect(),
                    });
                }
                '}' | ')' | '>' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => commas.push(at),
                _ => {}
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching<'n>(pattern: &str, names: &[&'n str]) -> Vec<&'n str> {
        let pattern = NamePattern::parse(pattern).unwrap();
        names
            .iter()
            .copied()
            .filter(|name| pattern.matches(name))
            .collect()
    }

    #[test]
    fn sets_match_one_character() {
        let names = ["mema", "memc", "memd", "mem-", "mem]", "mem"];
        assert_eq!(matching("mem[a-c]", &names), ["mema", "memc"]);
        assert_eq!(matching("mem[!a-c]", &names), ["memd", "mem-", "mem]"]);
        assert_eq!(matching("mem[^a-c]", &names), ["memd", "mem-", "mem]"]);
        assert_eq!(matching("mem[d-]", &names), ["memd", "mem-"]);
        assert_eq!(matching("[a-m]em[cd]", &names), ["memc", "memd"]);
    }

    #[test]
    fn braces_are_alternatives() {
        let names = ["malloc", "free", "calloc", "cfree", "mallopt"];
        assert_eq!(matching("{malloc,free}", &names), ["malloc", "free"]);
        assert_eq!(
            matching("{m,c}allo{c,p*}", &names),
            ["malloc", "calloc", "mallopt"]
        );
        assert_eq!(matching("{,c}free", &names), ["free", "cfree"]);
        assert_eq!(
            matching("{m{alloc,allopt},free}", &names),
            ["malloc", "free", "mallopt"]
        );
        assert!(NamePattern::parse(&"{a,b}".repeat(8)).is_ok());
        assert!(NamePattern::parse(&"{a,b}".repeat(9)).is_err());
    }

    #[test]
    fn alternatives_are_patterns() {
        let texts = |text| {
            let alternatives = NamePattern::parse(text).unwrap().alternatives();
            let texts: Vec<String> = alternatives.iter().map(ToString::to_string).collect();
            texts
        };
        assert_eq!(
            texts("{m,c}allo{c,p*}"),
            ["calloc", "callop*", "malloc", "mallop*"]
        );
        assert_eq!(texts("{free,free}"), ["free"]);
        assert_eq!(texts("mem*"), [""; 0]);
        assert_eq!(texts("malloc"), [""; 0]);
    }

    #[test]
    fn letters_are_those_of_names() {
        let letters = |text| NamePattern::parse(text).unwrap().letters();
        assert_eq!(letters("mem*[a-c]"), "mem");
        assert_eq!(letters("m{alloc,free}?"), "malloc");
        assert_eq!(letters(r"A::operator\*"), "A::operator*");
    }

    #[test]
    fn backslashes_escape() {
        for (text, name) in [
            (r"A::operator\*", "A::operator*"),
            (r"f(char\*)", "f(char*)"),
            (r"a\{b,c\}", "a{b,c}"),
            (r"a\[b\]", "a[b]"),
            (r"a\\b", r"a\b"),
        ] {
            assert_eq!(NamePattern::parse(text).unwrap().exact(), Some(name), "{text}");
        }
        assert_eq!(
            matching(r"f(char\*)*", &["f(char*)", "f(char*) const", "f(chars)"]).len(),
            2
        );
    }

    #[test]
    fn brackets_and_braces_of_names_are_not_patterns() {
        for name in [
            "greet[abi:cxx11]",
            "A::operator[]",
            "A::operator[](int)",
            "f(int (&) [3])",
            "main.Map[...]",
            "main::{closure#0}",
            "main::{{closure}}",
            "f()::{lambda(int, int)#1}::operator()",
            "f<std::pair<int, long> >",
        ] {
            assert_eq!(NamePattern::parse(name).unwrap().exact(), Some(name));
        }
    }

    #[test]
    fn globs_that_can_be_names() {
        let can_be = |text| NamePattern::parse(text).unwrap().as_name().is_some();
        for text in [
            "main.(*Conn).Read",
            "A::operator*",
            "f(char*)",
            "max<char*>",
            "main.Map[int]",
            "malloc",
        ] {
            assert!(can_be(text), "{text}");
        }
        for text in ["mem*", "net::*", "?alloc", "{a,b}"] {
            assert!(!can_be(text), "{text}");
        }
    }
}
