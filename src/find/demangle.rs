// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names of C++ and Rust functions as their authors wrote them.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp::{CppForm, CppName};

mod cpp;

/// Most bytes of a demangled name. A mangled name of a few hundred bytes can expand to gigabytes: each part may repeat
/// the ones before it.
const MAX_BYTES: usize = 4096;

/// The readable form of a function's name, without the hash that Rust adds. A name that is not mangled, or not validly,
/// is returned unchanged. A result of more than 4096 bytes is truncated and ends in `...`.
pub fn demangle(name: &str) -> Cow<'_, str> {
    if !is_mangled(name) {
        return Cow::Borrowed(name);
    }
    rust(name)
        .or_else(|| cpp(name))
        .map_or(Cow::Borrowed(name), Cow::Owned)
}

/// As [`demangle`], but with the same limit for names that are not mangled.
pub fn demangle_bounded(name: &str) -> Cow<'_, str> {
    match demangle(name) {
        Cow::Borrowed(name) if name.len() > MAX_BYTES => {
            BoundedText::collect(|text| text.write_str(name)).map_or(Cow::Borrowed(name), Cow::Owned)
        }
        name => name,
    }
}

/// The number of parameters that the mangled name of a C++ function has, without `this`.
pub fn parameter_count(name: &str) -> Option<usize> {
    CppName::parse(name)?.parameters()
}

/// A mangled name in readable form.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadableName {
    /// As [`demangle`] gives it.
    pub full: String,
    /// As people write it: without parameters and return type, and `Type::method` for Rust's `<Type>::method`.
    pub short: String,
}

impl ReadableName {
    /// `None` for a name that is not mangled, or not validly.
    pub fn new(name: &str) -> Option<ReadableName> {
        if !is_mangled(name) {
            return None;
        }
        if let Some(full) = rust(name) {
            let short = plain_method(&full).unwrap_or_else(|| full.clone());
            return Some(ReadableName { full, short });
        }
        let parsed = CppName::parse(name)?;
        Some(ReadableName {
            full: written(&parsed, CppForm::Full)?,
            short: written(&parsed, CppForm::Short)?,
        })
    }

    /// [`ReadableName::full`] without the return type of a template: `max<int>(int, int)`.
    pub fn without_return_type(&self) -> &str {
        let start = self.full.find(&self.short).unwrap_or(0);
        &self.full[start..]
    }

    /// [`ReadableName::short`] without the arguments of a template or a generic function: `max` for `max<int>`.
    pub fn bare(&self) -> &str {
        without_arguments(&self.short).unwrap_or(&self.short)
    }
}

/// `app::Type::method` for `<app::Type>::method`; `<Type as Trait>::method` has no such form.
fn plain_method(name: &str) -> Option<String> {
    let rest = name.strip_prefix('<')?;
    let mut depth = 1_usize;
    let end = rest.char_indices().find_map(|(at, char)| {
        match char {
            '<' => depth += 1,
            '>' if !rest[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })?;
    let (path, method) = (&rest[..end], &rest[end + 1..]);
    let is_path =
        path.starts_with(|char: char| char.is_alphabetic() || char == '_') && !path.contains(" as ");
    (is_path && method.starts_with("::")).then(|| format!("{path}{method}"))
}

/// Removes `<...>` or `::<...>` from the end of a name. The `>` of an operator does not count.
fn without_arguments(name: &str) -> Option<&str> {
    let inside = name.strip_suffix('>').filter(|inside| !inside.ends_with('-'))?;
    let mut depth = 1_usize;
    let start = inside.char_indices().rev().find_map(|(at, char)| {
        match char {
            '>' if !inside[..at].ends_with('-') => depth += 1,
            '<' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })?;
    let bare = inside[..start].trim_end_matches("::").trim_end();
    (!bare.is_empty() && !bare.ends_with("operator")).then_some(bare)
}

/// Without this, C functions would demangle as types, such as `f` as `float`.
fn is_mangled(name: &str) -> bool {
    name.starts_with("_Z") || name.starts_with("_R")
}

fn rust(name: &str) -> Option<String> {
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    BoundedText::collect(|text| write!(text, "{demangled:#}"))
}

fn cpp(name: &str) -> Option<String> {
    written(&CppName::parse(name)?, CppForm::Full)
}

fn written(name: &CppName, form: CppForm) -> Option<String> {
    BoundedText::collect(|text| name.write(text, form))
}

/// A string of at most `MAX_BYTES`, which makes writers stop when it is full.
#[derive(Default)]
struct BoundedText {
    text: String,
    is_full: bool,
}

impl BoundedText {
    /// `None` if the writer fails for another reason than the limit.
    fn collect(write: impl FnOnce(&mut BoundedText) -> fmt::Result) -> Option<String> {
        let mut bounded = BoundedText::default();
        let result = write(&mut bounded);
        if bounded.is_full {
            bounded.text.push_str("...");
            return Some(bounded.text);
        }
        result.ok().map(|()| bounded.text)
    }
}

impl Write for BoundedText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = MAX_BYTES.saturating_sub(self.text.len());
        self.is_full |= part.len() > room;
        let kept = (0..=room.min(part.len()))
            .rev()
            .find(|&end| part.is_char_boundary(end))
            .unwrap_or(0);
        self.text.push_str(&part[..kept]);
        if self.is_full { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
