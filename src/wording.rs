// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Words in messages.

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

/// The first names, as many as fit in a message: `malloc, free and 2 others`.
pub fn first_names(names: &[Rc<str>]) -> String {
    let shown = names.get(..MOST_NAMES).unwrap_or(names).join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {}", counted(more as u64, "other")),
    }
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
    fn one_is_singular() {
        assert_eq!(counted(1, "process"), "1 process");
        let all = ["process", "child", "call"].map(|noun| counted(0, noun));
        assert_eq!(all, ["0 processes", "0 children", "0 calls"]);
    }
}
