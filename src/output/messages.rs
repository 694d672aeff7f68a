// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Messages on stderr. Nothing else in the program prints there, so this is where text from traced processes and ELF
//! files is escaped, and where `--quiet` holds.

use super::escape::printable;

/// Prints messages, each on one line.
#[derive(Clone, Copy, Debug)]
pub struct Messages {
    quiet: bool,
    verbose: bool,
}

impl Messages {
    pub fn new(quiet: bool, verbose: bool) -> Self {
        Self { quiet, verbose }
    }

    /// Something is missing from the output, or costs more than expected. Printed even with `--quiet`.
    pub fn warn(self, text: &str) {
        print("warning: ", text);
    }

    /// Output that an option requests. Printed even with `--quiet`.
    pub fn result(self, text: &str) {
        print("", text);
    }

    /// The state of the run. Not with `--quiet`.
    pub fn note(self, text: &str) {
        if !self.quiet {
            print("", text);
        }
    }

    /// Whether details are printed.
    pub fn shows_details(self) -> bool {
        self.verbose
    }

    /// Details for `--verbose`.
    pub fn detail(self, text: &str) {
        if self.verbose {
            self.note(text);
        }
    }
}

/// The error that ends the program, lines that show what it is about, and what to do about it.
pub fn error(message: &str, shown: &[String], hint: Option<&str>) {
    print("error: ", message);
    shown.iter().for_each(|line| print("    ", line));
    if let Some(hint) = hint {
        print("hint: ", hint);
    }
}

/// A usage error, prefix included, with command lines that work.
pub fn usage_error(message: &str, hint: &str, examples: &[String]) {
    print("", message);
    print("hint: ", hint);
    if !examples.is_empty() {
        print("", "examples:");
    }
    for example in examples {
        print("", example);
    }
}

/// What to do about the warning or error before it.
pub fn hint(text: &str) {
    print("hint: ", text);
}

fn print(prefix: &str, text: &str) {
    eprintln!("{prefix}{}", printable(text.as_bytes()));
}
