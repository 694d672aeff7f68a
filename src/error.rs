// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The error that users see: one line, an exit status, and a hint if there is something they can do.

use std::fmt;
use std::io;

use nix::unistd::geteuid;

/// Exit statuses, the same for every tool.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
/// Not permitted, or not supported by the kernel.
pub const DENIED: u8 = 3;

/// A failure with its exit status and a hint. Use [`Failure::of`] to get one from any error.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// One line, without the leading `error: `.
    pub message: String,
    /// Lines that illustrate the message, such as an expression with a caret below it.
    pub shown: Vec<String>,
    /// What the user can do, without the leading `hint: `.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(status: u8, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            shown: Vec::new(),
            hint: None,
        }
    }

    /// Something went wrong: status 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    /// The command line is wrong: status 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Not permitted, or not supported by the kernel: status 3.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(DENIED, message)
    }

    /// Adds lines that illustrate the message.
    pub fn show(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.shown.extend(lines);
        self
    }

    /// Sets what the user can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure that an error amounts to. The message is the whole chain of causes; status and hint are
    /// those of the `Failure` in the chain, if there is one.
    pub fn of(error: &anyhow::Error) -> Self {
        let message = format!("{error:#}");
        if let Some(failure) = cause::<Failure>(error) {
            return Self {
                message,
                ..failure.clone()
            };
        }
        if is_refused(error) {
            return Self::denied(message).hint(permission_hint());
        }
        match cause::<MissingFeature>(error) {
            Some(_) => Self::denied(message),
            None => Self::failed(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The running kernel is too old for what was requested. Exits with [`DENIED`].
#[derive(Clone, Copy, Debug)]
pub struct MissingFeature {
    /// The feature as a plural noun, such as `session links of uprobes`.
    pub feature: &'static str,
    /// First kernel version that has it, such as `6.13`.
    pub since: &'static str,
}

impl fmt::Display for MissingFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::utsname::uname() {
            Ok(name) => write!(f, "kernel {}", name.release().to_string_lossy())?,
            Err(_) => f.write_str("this kernel")?,
        }
        write!(f, " has no {} (since {})", self.feature, self.since)
    }
}

impl std::error::Error for MissingFeature {}

/// A signal ended the run before it began.
#[derive(Clone, Copy, Debug)]
pub struct EndedBySignal;

impl fmt::Display for EndedBySignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a signal ended the run before it began")
    }
}

impl std::error::Error for EndedBySignal {}

/// True if the kernel refused something for lack of privileges.
pub fn is_refused(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
            || cause
                .downcast_ref::<libbpf_rs::Error>()
                .is_some_and(|e| e.kind() == libbpf_rs::ErrorKind::PermissionDenied)
    })
}

/// True if the reader of the output closed it. Callers treat that as success: `| head -3` has read what it
/// wants.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// True if a signal ended the run before it began. Callers treat that as success, as they do later.
pub fn is_ended_by_signal(error: &anyhow::Error) -> bool {
    cause::<EndedBySignal>(error).is_some()
}

pub fn permission_hint() -> String {
    if geteuid().is_root() {
        "root is not enough here: the kernel is locked down, or a container withholds CAP_BPF, CAP_PERFMON or \
         CAP_SYS_ADMIN"
            .to_owned()
    } else {
        "run it as root, for example with sudo".to_owned()
    }
}

fn cause<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, Error};

    use super::*;

    #[test]
    fn context_keeps_status_and_hint() {
        let error = Error::new(Failure::usage("bad spec").hint("write it"));
        let failure = Failure::of(&error.context("failed to trace"));
        assert_eq!(failure.message, "failed to trace: bad spec");
        assert_eq!(
            (failure.status, failure.hint.as_deref()),
            (USAGE, Some("write it"))
        );
    }

    #[test]
    fn permission_denied_maps_to_denied() {
        let refused =
            Err::<(), _>(io::Error::from(io::ErrorKind::PermissionDenied)).context("failed to open");
        let failure = Failure::of(&refused.unwrap_err());
        assert_eq!(failure.status, DENIED);
        assert!(failure.hint.is_some());
    }

    #[test]
    fn missing_feature_maps_to_denied() {
        let missing = MissingFeature {
            feature: "session links of uprobes",
            since: "6.13",
        };
        let failure = Failure::of(&Error::new(missing));
        assert_eq!(failure.status, DENIED);
        assert!(
            failure
                .message
                .ends_with(" has no session links of uprobes (since 6.13)")
        );
    }

    #[test]
    fn other_errors_fail_without_a_hint() {
        let failure = Failure::of(&anyhow::anyhow!("oops"));
        assert_eq!((failure.status, failure.hint), (FAILED, None));
    }
}
