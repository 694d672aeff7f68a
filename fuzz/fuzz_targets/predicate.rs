// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Parses any text as `--where` and `--args`: no panic, no excessive time, and errors point into the text.
//! `cargo +nightly fuzz run predicate`.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// Only the parser, since the package is a binary without a library.
#[allow(dead_code)]
#[path = "../../src/probe/expr"]
mod expr {
    mod error;
    mod parse;
    mod tree;

    pub use error::ExprError;
    pub use parse::{parse, parse_list};
}

fuzz_target!(|text: &str| {
    let errors = [expr::parse(text).err(), expr::parse_list(text).err()];
    for error in errors.into_iter().flatten() {
        assert!(error.column(text) <= text.chars().count() + 1, "{error}");
        error.excerpt(text);
    }
});
