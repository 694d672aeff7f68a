// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The list of tools. Help, links, man pages, completions and tests are derived from it.

use anyhow::Result;
use clap::{ArgMatches, Command};

use crate::run::Run;

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
    ($($kind:ident $name:ident)*) => {
        $(mod $name;)*

        pub const TOOLS: &[Tool] = &[$(Tool {
            name: stringify!($name),
            command: || {
                let command = <$name::Args as clap::CommandFactory>::command();
                command.name(stringify!($name)).version(env!("CARGO_PKG_VERSION"))
            },
            run: |matches| {
                let args = <$name::Args as clap::FromArgMatches>::from_arg_matches(matches)?;
                run_tool!($kind $name args)
            },
            #[cfg(feature = "pages")]
            page: include_str!(concat!("../docs/tools/", stringify!($name), ".md")),
        }),*];
    };
}

macro_rules! run_tool {
    (traces $name:ident $args:ident) => {
        $name::run(Run::begin(&$args.common, &$args.command)?, $args)
    };
    (shows $name:ident $args:ident) => {
        $name::run($args)
    };
}

// A tool that traces gets a run that has begun.
tools! {
    traces bashreadline
    shows doctor
    traces funccount
    traces funclatency
    shows funclist
    traces functrace
    traces mallocsnoop
}
