// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Options that name functions.

use anyhow::Result;
use clap::Args;

use crate::error::Failure;
use crate::find::spec::{self, PatternSyntax, ProbeSpec};

/// Which functions to trace.
#[derive(Args, Debug)]
pub struct FunctionArgs {
    /// Functions to trace, such as libc:malloc
    ///
    /// TARGET is a library (libc, ssl), a program (bash) or a path. With -p, --container or a COMMAND it can be
    /// omitted: then all files of the process are searched. FUNCTION is a name, a pattern with *, ?, [a-c] and
    /// {malloc,free}, /REGEX/, NAME@VERSION, NAME+0x10 or 0xADDRESS. A name is tried before a pattern; \* is a star.
    /// `r:TARGET:FUNCTION` traces only the return, `usdt:TARGET:PROVIDER:NAME` a USDT probe.
    #[arg(required = true, value_name = "TARGET:FUNCTION")]
    pub functions: Vec<String>,
    /// Treat FUNCTION as a regular expression
    #[arg(short, long)]
    pub regex: bool,
}

impl FunctionArgs {
    /// The parsed specs.
    ///
    /// # Errors
    /// A spec is malformed.
    pub fn specs(&self) -> Result<Vec<ProbeSpec>> {
        let syntax = match self.regex {
            true => PatternSyntax::Regex,
            false => PatternSyntax::Glob,
        };
        let parse = |text: &String| {
            let spec = spec::parse_as(text, syntax);
            spec.map_err(|error| Failure::usage(format!("{error:#}")).into())
        };
        self.functions.iter().map(parse).collect()
    }
}
