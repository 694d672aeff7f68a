// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The result of a check.

use anyhow::{Error, Result};

use crate::error::{self, Failure, MissingFeature};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    /// Works in part.
    Limit,
    No,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Limit => "limit",
            Verdict::No => "no",
        }
    }
}

/// A row of the output: something that was checked, or a tool.
#[derive(Debug)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    pub hint: Option<String>,
}

impl Check {
    pub fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            hint: None,
        }
    }

    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail)
    }

    pub fn limit(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Limit, detail)
    }

    pub fn no(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::No, detail)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed check, with the message and hint of its error.
    pub fn failed(name: &'static str, error: &Error) -> Self {
        if error::is_refused(error) {
            return Self::no(name, "not permitted").hint(error::permission_hint());
        }
        let failure = Failure::of(error);
        let detail = match error.downcast_ref::<MissingFeature>() {
            // Without the kernel's version, which is a check itself.
            Some(MissingFeature { feature, since }) => format!("no {feature} (since {since})"),
            None => failure.message,
        };
        Self {
            hint: failure.hint,
            ..Self::no(name, detail)
        }
    }

    /// `detail` describes what was found.
    pub fn from_result<T>(name: &'static str, result: Result<T>, detail: impl FnOnce(T) -> String) -> Self {
        match result {
            Ok(found) => Self::ok(name, detail(found)),
            Err(error) => Self::failed(name, &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn refused_check_has_the_permission_hint() {
        let error = Error::new(io::Error::from(io::ErrorKind::PermissionDenied)).context("failed to load");
        let check = Check::failed("BPF programs", &error);
        assert_eq!((check.verdict, &check.detail[..]), (Verdict::No, "not permitted"));
        assert_eq!(check.hint, Some(error::permission_hint()));
    }

    #[test]
    fn missing_feature_is_shown_without_the_kernel_version() {
        let missing = MissingFeature {
            feature: "session links",
            since: "6.13",
        };
        let check = Check::failed("session links", &missing.into());
        assert_eq!(check.detail, "no session links (since 6.13)");
    }

    #[test]
    fn failed_check_has_message_and_hint_of_its_error() {
        let error = Failure::denied("no uprobes").hint("build the kernel with them");
        let check = Check::failed("uprobes", &error.into());
        assert_eq!(check.detail, "no uprobes");
        assert_eq!(check.hint.as_deref(), Some("build the kernel with them"));
    }
}
