// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions that get no probe, because it is not shown that one is harmless there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use anyhow::Result;

use super::FileSearch;
use crate::error::Failure;
use crate::find::elf::ElfFile;
use crate::find::host::object_file::ObjectFile;
use crate::find::starts::{InstructionStarts, UnknownStart};
use crate::probe::point::{Cookie, ProbePoint};
use crate::probe::search::copies::copying_program;
use crate::probe::search::errors::{mistaken, unknown_start};
use crate::probe::search::finder::{Finder, SearchPlace};
use crate::wording::FunctionNames;

impl<F: Finder> FileSearch<F> {
    /// A warning if a process that starts to run this program may copy its code.
    pub(super) fn copying_program(&self, object: &ObjectFile, elf: &ElfFile) -> Option<String> {
        match &self.place {
            SearchPlace::Processes(_) if self.examined.only_running => None,
            SearchPlace::Command(argv, _) => copying_program(elf, &object.path, argv),
            _ => copying_program(elf, &object.path, &[]),
        }
    }

    /// Drops functions and USDT probes of which it is not shown that an instruction starts where a probe is wanted. An
    /// error if these are all.
    pub(super) fn drop_unknown_starts(
        &mut self,
        object: &ObjectFile,
        elf: &ElfFile,
        points: &mut Vec<ProbePoint>,
    ) -> Result<()> {
        let starts = InstructionStarts::of(elf);
        let mut refused = BTreeMap::new();
        points.retain(|point| {
            let addr = elf.address_of(point.offset);
            let checked = addr.map_or(Err(UnknownStart::NoInstruction), |addr| starts.check(addr));
            let Err(reason) = checked else {
                return true;
            };
            if !point.cookie.is_jumped() {
                refused
                    .entry(point.cookie.function())
                    .or_insert((addr.unwrap_or(0), reason));
            }
            false
        });
        self.drop_functions(points, refused.keys().copied().collect(), |finder, function| {
            let (addr, reason) = refused[&function];
            unknown_start(
                &finder.name(Cookie::of_function(function)),
                &object.path,
                addr,
                reason,
            )
        })
    }

    /// Places the points of a file. Returns the functions whose first instruction the kernel would mistake for another
    /// and whose probe cannot be moved.
    pub(super) fn place(&mut self, elf: &ElfFile, points: &mut [ProbePoint]) -> BTreeSet<u32> {
        let mut mistaken = BTreeSet::new();
        self.placing.place(elf, points, |cookie, placement| {
            if placement.is_misdecoded() {
                mistaken.insert(cookie.function());
            } else if let Some(details) = &mut self.details {
                details.push(format!("probe at {}{placement}", self.finder.name(cookie)));
            }
        });
        mistaken
    }

    /// Drops the functions that [`FileSearch::place`] returned. An error if these are all.
    pub(super) fn drop_mistaken(
        &mut self,
        object: &ObjectFile,
        refused: BTreeSet<u32>,
        points: &mut Vec<ProbePoint>,
    ) -> Result<()> {
        self.drop_functions(points, refused, |finder, function| {
            mistaken(&finder.name(Cookie::of_function(function)), &object.path)
        })
    }

    /// Drops functions, with a warning that names them and says why the first one cannot be traced, or an error if
    /// these are all.
    fn drop_functions(
        &mut self,
        points: &mut Vec<ProbePoint>,
        refused: BTreeSet<u32>,
        reason: impl Fn(&F, u32) -> Failure,
    ) -> Result<()> {
        let Some(&first) = refused.first() else {
            return Ok(());
        };
        points.retain(|point| !refused.contains(&point.cookie.function()));
        let failure = reason(&self.finder, first);
        if points.is_empty() {
            return Err(failure.into());
        }
        let names = refused
            .iter()
            .map(|&function| self.finder.name(Cookie::of_function(function)));
        let names: Vec<Rc<str>> = names.collect();
        let names: FunctionNames = names.iter().map(Rc::as_ref).collect();
        self.warnings.push(names.skipped(&failure));
        Ok(())
    }
}
