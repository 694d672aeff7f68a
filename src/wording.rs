// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Words in messages.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1, "process"), "1 process");
        let all = ["process", "child", "call"].map(|noun| counted(0, noun));
        assert_eq!(all, ["0 processes", "0 children", "0 calls"]);
    }
}
