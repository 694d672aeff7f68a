//! What is wrong with a text, and where.

use std::fmt;

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
    /// `at` is where in the text, bytes.
    pub fn new(at: usize, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            at,
        }
    }

    /// Adds what a person can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
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
