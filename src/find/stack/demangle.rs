// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Names of C++ and Rust functions as their authors wrote them.

use std::borrow::Cow;
use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, Symbol};

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
        let symbol = Symbol::new(name.as_bytes()).ok()?;
        Some(ReadableName {
            full: cpp_full(name, &symbol)?,
            short: unqualified(cpp_short(name, &symbol)?),
        })
    }

    /// [`ReadableName::short`] without the arguments of a template or a generic function: `max` for `max<int>`.
    pub fn bare(&self) -> &str {
        without_arguments(&self.short).unwrap_or(&self.short)
    }
}

/// `A::take` for `A::take &&`, a method with a ref-qualifier.
fn unqualified(mut name: String) -> String {
    let kept = [" &&", " &"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .map(str::len);
    // `A::operator B &` is a conversion.
    if let Some(kept) = kept.filter(|_| !name.contains("operator ")) {
        name.truncate(kept);
    }
    name
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

type CppSymbol<'n> = Symbol<&'n [u8]>;

fn cpp(name: &str) -> Option<String> {
    cpp_full(name, &Symbol::new(name.as_bytes()).ok()?)
}

fn cpp_full(name: &str, symbol: &CppSymbol<'_>) -> Option<String> {
    let full = match template_constructor(name, symbol) {
        Some(typed) => {
            let symbol = Symbol::new(typed.as_bytes()).ok()?;
            written(&symbol, DemangleOptions::new().no_return_type())?
        }
        None => written(symbol, DemangleOptions::new())?,
    };
    Some(thunk(name, &full).unwrap_or(full))
}

/// Without parameters and return type.
fn cpp_short(name: &str, symbol: &CppSymbol<'_>) -> Option<String> {
    let short = written(symbol, DemangleOptions::new().no_params().no_return_type())?;
    Some(thunk(name, &short).unwrap_or(short))
}

fn written(symbol: &CppSymbol<'_>, options: DemangleOptions) -> Option<String> {
    BoundedText::collect(|text| symbol.structured_demangle(text, &options))
}

/// The mangled name of a template constructor with a return type, `void`. cpp_demangle takes the first parameter for
/// one, as other templates have it, and drops it.
fn template_constructor(name: &str, symbol: &CppSymbol<'_>) -> Option<String> {
    const MARKS: [&str; 3] = ["C1I", "C2I", "C3I"];
    /// Places to try for the end of the name. Real names have a few.
    const MOST: usize = 64;
    let mark = MARKS.iter().filter_map(|mark| name.find(mark)).min()?;
    let short = cpp_short(name, symbol)?;
    let (class, function) = without_arguments(&short)?.rsplit_once("::")?;
    let class = without_arguments(class).unwrap_or(class);
    if class.rsplit("::").next() != Some(function) {
        return None;
    }
    // Only the end of the name can be followed by a type. The first place is it: later ones are between parameters.
    let ends = name.match_indices('E').map(|(at, _)| at + 1);
    let ends = ends.skip_while(|&end| end < mark).take(MOST);
    let mut typed = ends.map(|end| format!("{}v{}", &name[..end], &name[end..]));
    typed.find(|typed| {
        let symbol = Symbol::new(typed.as_bytes()).ok();
        symbol.and_then(|symbol| cpp_short(typed, &symbol)).as_ref() == Some(&short)
    })
}

/// The name of a thunk as compilers and debuggers write it. `demangled` is what cpp_demangle makes of `name`:
/// `{virtual override thunk({offset(-16)}, C::g(int))}`.
fn thunk(name: &str, demangled: &str) -> Option<String> {
    let kind = match name.get(..4)? {
        "_ZTh" => "non-virtual thunk to",
        "_ZTv" => "virtual thunk to",
        "_ZTc" => "covariant return thunk to",
        _ => return None,
    };
    let mut function = demangled.split_once("thunk(")?.1;
    while function.starts_with("{offset(") || function.starts_with("{virtual offset(") {
        function = function.split_once("}, ")?.1;
    }
    Some(format!(
        "{kind} {}",
        function.strip_suffix(")}").unwrap_or(function)
    ))
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
