// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The list of tools. Help, links, man pages, completions and tests are derived from it.

use anyhow::Result;
use clap::{ArgMatches, Command};

/// A tool, for `main`.
pub struct Tool {
    pub name: &'static str,
    pub command: fn() -> Command,
    /// Returns the exit status.
    pub run: fn(&ArgMatches) -> Result<u8>,
    /// `docs/tools/NAME.md`.
    #[cfg(feature = "pages")]
    pub page: &'static str,
}

macro_rules! tools {
    ($($name:ident)*) => {
        $(mod $name;)*

        pub const TOOLS: &[Tool] = &[$(Tool {
            name: stringify!($name),
            command: || {
                let command = <$name::Args as clap::CommandFactory>::command();
                command.name(stringify!($name)).version(env!("CARGO_PKG_VERSION"))
            },
            run: |matches| $name::run(<$name::Args as clap::FromArgMatches>::from_arg_matches(matches)?),
            #[cfg(feature = "pages")]
            page: include_str!(concat!("../docs/tools/", stringify!($name), ".md")),
        }),*];
    };
}

tools! {
    bashreadline
    doctor
    funccount
    funclatency
    funclist
    functrace
    mallocsnoop
}
