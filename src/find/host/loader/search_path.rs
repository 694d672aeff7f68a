// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Lists of directories and libraries that the loader reads: environment, configuration files, run paths.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::arch;

const PRELOAD_FILE: &str = "/etc/ld.so.preload";
const MUSL_DIRS: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];

pub fn variable<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    env.iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_os_str())
}

/// The directories of musl's loader: its configuration file replaces the built-in list.
pub fn musl_dirs() -> Vec<PathBuf> {
    let configured = std::fs::read(format!("/etc/ld-musl-{}.path", arch::NAME)).unwrap_or_default();
    let dirs: Vec<PathBuf> = split(OsStr::from_bytes(&configured), b":\n")
        .map(PathBuf::from)
        .collect();
    if dirs.is_empty() {
        MUSL_DIRS.map(PathBuf::from).to_vec()
    } else {
        dirs
    }
}

/// Libraries to load before all others: those of the environment and, with glibc, those of the whole machine.
pub fn preloads(env: &[(OsString, OsString)], is_musl: bool) -> Vec<String> {
    let mut lists = vec![variable(env, "LD_PRELOAD").unwrap_or_default().to_owned()];
    if !is_musl {
        lists.push(OsString::from_vec(
            std::fs::read(PRELOAD_FILE).unwrap_or_default(),
        ));
    }
    let words = lists.iter().flat_map(|list| split(list, b": \t\n"));
    words
        .filter(|word| !word.is_empty())
        .filter_map(|word| word.to_str().map(str::to_owned))
        .collect()
}

/// The parts between `separators`; none for an empty list. An empty part of a longer list stands for the
/// working directory.
pub fn split<'a>(list: &'a OsStr, separators: &'a [u8]) -> impl Iterator<Item = &'a OsStr> {
    let parts = list.as_bytes().split(|byte| separators.contains(byte));
    parts.filter(|_| !list.is_empty()).map(OsStr::from_bytes)
}

/// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`, with or without braces. Several results, because `$LIB`
/// differs between distributions.
pub fn expand(text: &str, origin: &Path) -> Vec<PathBuf> {
    if !text.contains('$') {
        return vec![PathBuf::from(text)];
    }
    let mut results: Vec<PathBuf> = arch::LIB
        .iter()
        .map(|lib| expand_with(text, origin, lib))
        .collect();
    results.dedup();
    results
}

fn expand_with(text: &str, origin: &Path, lib: &str) -> PathBuf {
    let mut result = OsString::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push(before);
        let (name, behind) = token(after);
        match name {
            "ORIGIN" => result.push(origin),
            "LIB" => result.push(lib),
            "PLATFORM" => result.push(arch::NAME),
            _ => {
                result.push("$");
                rest = after;
                continue;
            }
        }
        rest = behind;
    }
    result.push(rest);
    PathBuf::from(result)
}

/// Splits what follows a dollar sign into a name and the rest.
fn token(text: &str) -> (&str, &str) {
    if let Some((name, behind)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, behind);
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollar_names_are_expanded() {
        let origin = Path::new("/o");
        let expanded = |text: &str| expand(text, origin);
        assert_eq!(expanded("/plain"), [Path::new("/plain")]);
        assert_eq!(expanded("$ORIGIN/../lib"), [Path::new("/o/../lib")]);
        assert_eq!(expanded("${ORIGIN}x"), [Path::new("/ox")]);
        assert_eq!(expanded("/a/$PLATFORM"), [PathBuf::from("/a").join(arch::NAME)]);
        assert_eq!(
            expanded("/a/$LIB"),
            arch::LIB.map(|lib| PathBuf::from("/a").join(lib))
        );
        for text in ["$ORIGINAL/x", "$", "${ORIGIN", "/a$$/b"] {
            assert_eq!(expanded(text), [Path::new(text)], "{text}");
        }
    }
}
