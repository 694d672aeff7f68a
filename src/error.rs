//! Errors as a user sees them: one line, an exit status, and a hint where there is something to do.

use std::fmt;
use std::io;

use nix::unistd::geteuid;

/// Exit statuses, the same for every tool.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
/// Not permitted, or the kernel lacks what is needed.
pub const DENIED: u8 = 3;

/// A failure that knows its exit status and what a person can do about it.
#[derive(Debug)]
pub struct Failure {
    pub status: u8,
    message: String,
    /// Lines that show what it is about.
    pub shown: Vec<String>,
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

    /// Adds lines that show what it is about, such as a text and a caret below it.
    pub fn show(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.shown.extend(lines);
        self
    }

    /// Adds what a person can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What is told of an error.
pub struct Explained {
    pub status: u8,
    /// One line.
    pub message: String,
    /// Lines below it.
    pub shown: Vec<String>,
    pub hint: Option<String>,
}

/// Exit status, line and hint of an error. The hint is that of a [`Failure`], or the second line of an error of
/// `find`, which knows no exit status.
pub fn explain(error: &anyhow::Error) -> Explained {
    let text = format!("{error:#}");
    let (message, hint) = match text.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text, None),
    };
    if let Some(failure) = error.chain().find_map(|cause| cause.downcast_ref::<Failure>()) {
        return Explained {
            status: failure.status,
            message,
            shown: failure.shown.clone(),
            hint: failure.hint.clone().or(hint),
        };
    }
    match is_refused(error) {
        true => Explained {
            status: DENIED,
            message,
            shown: Vec::new(),
            hint: Some(permission_hint()),
        },
        false => Explained {
            status: FAILED,
            message,
            shown: Vec::new(),
            hint,
        },
    }
}

/// Was it refused for want of rights?
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

/// Did the reader of our output go away? That is success: `| head -3` has seen enough.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
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
