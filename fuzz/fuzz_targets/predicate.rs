//! Any text as `--where` and `--args`: no panic, no long thought, and mistakes lie within the text.
//! `cargo +nightly fuzz run predicate`.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// These modules alone, as the package is a program and no library.
#[allow(dead_code)]
#[path = "../../src/probe/expr"]
mod expr {
    mod mistake;
    mod parse;

    pub use mistake::Mistake;
    pub use parse::{parse, parse_list};
}

fuzz_target!(|text: &str| {
    let mistakes = [expr::parse(text).err(), expr::parse_list(text).err()];
    for mistake in mistakes.into_iter().flatten() {
        assert!(mistake.column(text) <= text.chars().count() + 1, "{mistake}");
        mistake.picture(text);
    }
});
