//! Any text as the name of a function: no panic, and what is understood can be matched. `cargo +nightly fuzz run spec`.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// This module alone, as the package is a program and no library.
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
