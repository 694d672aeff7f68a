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
