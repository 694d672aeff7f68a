// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Words in messages.

use std::fmt;
use std::rc::Rc;

/// A number with its noun: `1 function`, `2 functions`, `3 processes`.
pub fn counted(count: u64, noun: &str) -> String {
    match (count, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "process") => format!("{count} processes"),
        (_, "child") => format!("{count} children"),
        _ => format!("{count} {noun}s"),
    }
}

/// `malloc`, or `malloc and 2 other functions`: the first of `count` functions.
pub fn first_function(name: &str, count: usize) -> String {
    match count {
        0 | 1 => name.to_owned(),
        _ => format!("{name} and {}", counted(count as u64 - 1, "other function")),
    }
}

/// Names that fit in a message.
pub const MOST_NAMES: usize = 8;

/// The functions that a message is about. Displays as many as fit in it: `malloc, free and 2 others`.
#[derive(Debug, Default)]
pub struct FunctionNames {
    first: Vec<Rc<str>>,
    pub count: usize,
}

impl FunctionNames {
    pub fn add(&mut self, name: &str) {
        self.count += 1;
        if self.first.len() < MOST_NAMES && !self.first.iter().any(|known| **known == *name) {
            self.first.push(name.into());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A warning about functions that get no probe, with the reason for the first one.
    pub fn skipped(&self, reason: &dyn fmt::Display) -> String {
        match self.count {
            1 => format!("skipped 1 function: {reason}"),
            count => format!("skipped {count} functions ({self}): {reason}"),
        }
    }
}

impl fmt::Display for FunctionNames {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.first.join(", "))?;
        match self.count.saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(out, " and {}", counted(more as u64, "other")),
        }
    }
}

impl<'n> FromIterator<&'n str> for FunctionNames {
    fn from_iter<I: IntoIterator<Item = &'n str>>(names: I) -> FunctionNames {
        let mut all = FunctionNames::default();
        names.into_iter().for_each(|name| all.add(name));
        all
    }
}

/// The first names, as many as fit in a message.
pub fn first_names(names: &[Rc<str>]) -> String {
    let all: FunctionNames = names.iter().map(Rc::as_ref).collect();
    all.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<Rc<str>> = ('a'..='k').map(|name| name.to_string().into()).collect();
        assert_eq!(first_names(&names[..2]), "a, b");
        assert_eq!(first_names(&names[..8]), "a, b, c, d, e, f, g, h");
        assert_eq!(first_names(&names), "a, b, c, d, e, f, g, h and 3 others");
    }

    #[test]
    fn skipped_functions_are_named() {
        let skipped = |names: &[&str]| {
            let names: FunctionNames = names.iter().copied().collect();
            names.skipped(&"failed to trace f: why")
        };
        assert_eq!(skipped(&["f"]), "skipped 1 function: failed to trace f: why");
        // There can be local functions of one name.
        assert_eq!(
            skipped(&["f", "g", "f"]),
            "skipped 3 functions (f, g and 1 other): failed to trace f: why"
        );
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1, "process"), "1 process");
        let all = ["process", "child", "call"].map(|noun| counted(0, noun));
        assert_eq!(all, ["0 processes", "0 children", "0 calls"]);
    }
}
