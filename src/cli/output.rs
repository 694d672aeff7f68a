// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Options of the output.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use clap::Args;

use crate::error::EndedBySignal;
use crate::output::messages::Messages;
use crate::output::{self, Destination, Format, Output, require_stdout};
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

    /// Opens the destination of rows. If it is a FIFO, waits for a reader, at most for `patience`.
    ///
    /// # Errors
    /// The file cannot be created, or standard output is closed.
    pub fn open(&self, patience: Option<Duration>) -> Result<Output> {
        let format = if self.json { Format::Json } else { self.format };
        let destination = match &self.output {
            Some(path) => Destination::File(create(path, patience)?),
            None => {
                require_stdout().context("failed to write to standard output")?;
                Destination::Stdout
            }
        };
        Ok(Output::new(
            format,
            destination,
            self.quiet,
            SignalHandlers::counter(),
        ))
    }
}

fn create(path: &Path, patience: Option<Duration>) -> Result<File> {
    output::create(path, patience).map_err(|error| match error.kind() {
        ErrorKind::Interrupted => Error::new(EndedBySignal),
        _ => Error::new(error).context(format!("failed to create {}", path.display())),
    })
}
