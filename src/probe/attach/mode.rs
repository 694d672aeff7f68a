// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The ways to attach programs, and which of them the kernel supports.

use anyhow::Result;
use clap::ValueEnum;

use super::features;
use crate::error::MissingFeature;
use crate::privileges;

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AttachMode {
    /// Like `Multi`, but with one session link per file for both ends of calls (6.13). Its program decides at
    /// each entry whether the call gets a return probe, so that it sees both ends of a call or neither.
    Session,
    /// One multi-uprobe link per file and program (6.6; with a process filter that works: about 6.10).
    Multi,
    /// One perf event and link per point (5.15).
    Single,
    /// One perf event per point, and one copy of the program per cookie.
    Plain,
}

impl AttachMode {
    /// Returns `requested`, or the best mode that the kernel supports.
    ///
    /// # Errors
    /// The kernel does not support the requested mode, or has no uprobes.
    pub fn choose(requested: Option<AttachMode>) -> Result<AttachMode> {
        let mode = match requested {
            Some(AttachMode::Session) if !features::has_sessions() => {
                return Err(missing("session links of uprobes", "6.13"));
            }
            Some(AttachMode::Multi) if !features::has_multi() => {
                return Err(missing("multi-uprobe links with a filter by process", "6.10"));
            }
            Some(AttachMode::Single) if !features::has_cookies() => {
                return Err(missing("BPF cookies of perf events", "5.15"));
            }
            Some(mode) => mode,
            None if features::has_sessions() => AttachMode::Session,
            None if features::has_multi() => AttachMode::Multi,
            None if features::has_cookies() => AttachMode::Single,
            None => AttachMode::Plain,
        };
        if !mode.has_multi_links() {
            features::uprobe_pmu_type()?;
            privileges::raise_file_limit();
        }
        Ok(mode)
    }

    /// One link serves all points of a file.
    pub fn has_multi_links(self) -> bool {
        matches!(self, AttachMode::Session | AttachMode::Multi)
    }

    /// One program can run at both ends of calls.
    pub fn has_sessions(self) -> bool {
        self == AttachMode::Session
    }

    /// Programs can read the cookie of the probe that runs them.
    pub fn has_cookies(self) -> bool {
        self != AttachMode::Plain
    }

    /// Programs can wait for pages that are not in memory.
    pub fn can_sleep(self) -> bool {
        self != AttachMode::Plain && features::has_sleepable()
    }

    /// Sets the attach type of programs that run at one end of calls. To be called before they are loaded.
    pub fn prepare<const N: usize>(self, programs: [&mut libbpf_rs::OpenProgramMut<'_>; N]) {
        if self.has_multi_links() {
            for program in programs {
                program.set_attach_type(libbpf_rs::ProgramAttachType::TraceUprobeMulti);
            }
        }
    }
}

fn missing(feature: &'static str, since: &'static str) -> anyhow::Error {
    MissingFeature { feature, since }.into()
}
