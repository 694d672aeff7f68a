// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Options of the output.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::output::messages::Messages;
use crate::output::{Destination, Format, Output};
use crate::probe::signals::SignalHandlers;

/// What is printed, and where.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Format of the rows [default: text]
    #[arg(
        long,
        value_name = "text|json|csv",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub format: Format,
    /// Same as --format json
    #[arg(short, long, conflicts_with = "format")]
    pub json: bool,
    /// Write rows to FILE
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Suppress the header and status messages
    #[arg(short, long)]
    pub quiet: bool,
    /// Also report traced files, and new ones as they appear
    #[arg(short, long)]
    pub verbose: bool,
}

impl OutputArgs {
    /// How much to print on stderr.
    pub fn messages(&self) -> Messages {
        Messages::new(self.quiet, self.verbose)
    }

    /// Opens the destination of rows.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(&self) -> Result<Output> {
        let format = if self.json { Format::Json } else { self.format };
        let destination = match &self.output {
            Some(path) => {
                // Rows may hold passwords, and other users are not to read them.
                let file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(path);
                Destination::File(file.with_context(|| format!("failed to create {}", path.display()))?)
            }
            None => Destination::Stdout,
        };
        Ok(Output::new(
            format,
            destination,
            self.quiet,
            SignalHandlers::ending(),
        ))
    }
}
