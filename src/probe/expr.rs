//! The language of `--where` and `--args`: what a person may ask of a call, decided and fetched in the kernel.
//!
//! ```text
//! arg0 > 1M && comm == "python3"
//! arg0, str(arg1), buf(arg2, arg3), *(u32*)(arg0+8), retval
//! ```
//!
//! [`parse`] makes a tree of the text, once. For each function, whose parameters have names and types of their own,
//! [`lower`] finds out what the names mean and [`code`] makes operations of it, for the interpreter of
//! `src/bpf/expr.bpf.h`. Nothing is compiled to BPF at run time: one program that was verified at build time's shape
//! reads operations from a map.
//!
//! What does not mention the result of the call is evaluated when the call begins, as its callee may change or free what
//! it was given; the rest when it returns.

mod code;
mod lower;
mod parse;
mod show;

use std::fmt;

pub use code::{LITERAL_BYTES, MOST_SLOTS, Op, Plan, PlanError, Request};
pub use lower::{Literal, Scope};
pub use parse::{Expr, parse, parse_list};
pub use show::{Record, Values};

/// A mistake in a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub message: String,
    /// What a person can do.
    pub hint: Option<String>,
    /// Where in the text, bytes.
    at: usize,
}

impl Mistake {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            at,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The text, and below it a caret under the place.
    pub fn picture(&self, text: &str) -> [String; 2] {
        // One column a character, whatever it is.
        let shown = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        [shown, format!("{:>1$}", '^', self.column(text))]
    }

    /// Counted from 1, in characters.
    pub fn column(&self, text: &str) -> usize {
        text.char_indices()
            .take_while(|(index, _)| *index < self.at)
            .count()
            + 1
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

#[cfg(test)]
mod tests;
