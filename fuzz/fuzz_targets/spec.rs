// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Parses any text as a function spec and matches names with the result: no panic. `cargo +nightly fuzz run
//! spec`.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// Only this module, since the package is a binary without a library.
#[allow(dead_code)]
#[path = "../../src/find"]
mod find {
    pub mod spec;
}

use find::spec::{ProbeSubject, parse};

fuzz_target!(|text: &str| {
    let Ok(spec) = parse(text) else { return };
    match &spec.subject {
        ProbeSubject::Function { name, .. } => _ = name.matches(text),
        ProbeSubject::Usdt { provider, name } => _ = (provider.matches(text), name.matches(text)),
        ProbeSubject::Address(_) => {}
    }
});
