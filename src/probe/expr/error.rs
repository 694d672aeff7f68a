// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What is wrong with an expression, and where.

use std::fmt;

/// An error at a place in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Offset in the text, bytes.
    at: usize,
}

impl ExprError {
    /// `at` is an offset in the text, bytes.
    pub fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            at,
        }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The text, and a line with a caret under the place.
    pub fn excerpt(&self, text: &str) -> [String; 2] {
        // A control character would shift the columns.
        let shown = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        [shown, format!("{:>1$}", '^', self.column(text))]
    }

    /// The column in characters, from 1.
    pub fn column(&self, text: &str) -> usize {
        text.char_indices()
            .take_while(|(index, _)| *index < self.at)
            .count()
            + 1
    }
}

impl fmt::Display for ExprError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ExprError {}
