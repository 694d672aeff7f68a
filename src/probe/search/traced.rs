// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The functions that a run traces, by cookie. There can be hundreds of thousands, so what only the search of their
//! file needs is not kept.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::Result;

use crate::error::Failure;
use crate::find::code::call_start::CallStart;
use crate::find::code::placement::Needs;
use crate::find::demangle::demangle_bounded;
use crate::find::elf::ElfFile;
use crate::find::functions::without_copy;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::resolve::ResolvedProbe;
use crate::find::returns::ReturnMethod;
use crate::find::spec::NamePattern;
use crate::probe::point::{Ends, ProbePoint};
use crate::wording::counted;

/// A function or USDT probe that is traced. Its index is the cookie.
#[derive(Clone, Debug)]
pub struct TracedFunction {
    /// The name to show: `r:NAME` if only the return is traced. Untrusted.
    pub name: Rc<str>,
    /// The file name, without its directory.
    pub file_name: Rc<str>,
    pub ends: Ends,
    /// The probe is not at the start of a function: it is a USDT probe, or was given as an address or `NAME+0x10`.
    pub is_inside: bool,
    /// Its returns are observed at the instructions that end calls.
    pub at_instructions: bool,
    /// Jumps to its first instruction are probed.
    pub repeats: bool,
    /// What its probe reads.
    pub needs: Needs,
    /// It has a probe: where the start of an instruction is uncertain, it gets none.
    pub is_probed: bool,
}

impl TracedFunction {
    /// Adds another name of the function, such as `memmove`, which has the same code as `memcpy`.
    fn add_name(&mut self, name: &str) {
        /// Bytes of all names. A file can have any number of names for one address.
        const MOST: usize = 128;
        let is_new = !self
            .name
            .trim_start_matches("r:")
            .split('/')
            .any(|known| known == name);
        if is_new && *self.name != *name && self.name.len() + name.len() < MOST {
            self.name = format!("{}/{name}", self.name).into();
        }
    }
}

/// What a tool does with each function when it is found. [`Needs`] serve a tool that reads the
/// same of every function.
pub trait OnFound {
    /// A function of this name is about to be looked for in a file.
    fn on_search(&mut self, _name: &NamePattern, _object: &ObjectFile, _elf: &ElfFile) {}

    /// Returns what the probe reads at the start of the function.
    fn on_found(&mut self, probe: &ResolvedProbe, ends: Ends, object: &ObjectFile, elf: &ElfFile) -> Needs;
}

impl OnFound for Needs {
    fn on_found(&mut self, _: &ResolvedProbe, _: Ends, _: &ObjectFile, _: &ElfFile) -> Needs {
        *self
    }
}

/// The functions of a run.
pub struct TracedFunctions<O> {
    all: Vec<TracedFunction>,
    /// The cookies of a file's functions, by file offset.
    cookies: HashMap<FileId, HashMap<(u64, Ends), u32>>,
    /// How many functions there may be; None until the first search is over.
    capacity: Option<usize>,
    /// Text for `--verbose`, if it is wanted.
    details: Option<Vec<String>>,
    pub on_found: O,
}

impl<O: OnFound> TracedFunctions<O> {
    pub fn new(on_found: O) -> Self {
        TracedFunctions {
            all: Vec::new(),
            cookies: HashMap::new(),
            capacity: None,
            details: None,
            on_found,
        }
    }

    /// All of them; the index is the cookie.
    pub fn all(&self) -> &[TracedFunction] {
        &self.all
    }

    /// These are the points of a file that get probes.
    pub fn set_probed(&mut self, points: &[ProbePoint]) {
        for point in points {
            if let Some(function) = self.all.get_mut(point.cookie.function() as usize) {
                function.is_probed = true;
            }
        }
    }

    /// How many functions there may be.
    pub fn capacity(&self) -> usize {
        self.capacity.unwrap_or(self.all.len())
    }

    /// From now on, only so many more are accepted.
    pub fn limit(&mut self, spare: usize) {
        self.capacity = Some(self.all.len() + spare);
    }

    /// Keeps details of functions that are added from now on.
    pub fn keep_details(&mut self) {
        self.details.get_or_insert_default();
    }

    /// Details since the last call.
    pub fn take_details(&mut self) -> Vec<String> {
        self.details.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The cookie of a function in a file, which is added unless it is known. `file_name` is shown.
    ///
    /// # Errors
    /// There are too many.
    pub fn add(
        &mut self,
        probe: &ResolvedProbe,
        ends: Ends,
        file_name: &Rc<str>,
        object: &ObjectFile,
        elf: &ElfFile,
    ) -> Result<u32> {
        let of_file = self.cookies.entry(object.id).or_default();
        if let Some(&cookie) = of_file.get(&(probe.offset, ends)) {
            self.all[cookie as usize].add_name(&probe.name);
            return Ok(cookie);
        }
        let cookie = self.all.len();
        if self.capacity.is_some_and(|capacity| cookie >= capacity) {
            let message = "too many functions in files that appeared later: some are not traced";
            return Err(Failure::failed(message).into());
        }
        of_file.insert((probe.offset, ends), cookie as u32);
        let mut function = TracedFunction {
            name: match ends {
                Ends::Return => format!("r:{}", probe.name).into(),
                _ => Rc::clone(&probe.name),
            },
            file_name: Rc::clone(file_name),
            ends,
            is_inside: probe.symbol.is_none(),
            at_instructions: matches!(probe.returns, ReturnMethod::Instructions(..)),
            repeats: matches!(probe.call_start, CallStart::Repeated(_)),
            needs: self.on_found.on_found(probe, ends, object, elf),
            is_probed: false,
        };
        for alias in &probe.aliases {
            function.add_name(alias);
        }
        if let Some(details) = &mut self.details {
            details.extend(describe_start(&function.name, &probe.call_start));
            details.extend(describe_returns(&function.name, &probe.returns));
            details.extend(probe.symbol.as_deref().and_then(describe_copy));
        }
        self.all.push(function);
        Ok(cookie as u32)
    }
}

fn describe_start(name: &str, call_start: &CallStart) -> Option<String> {
    match call_start {
        CallStart::Check { at, .. } => Some(format!("probe at {name}+{at} (it may start again before)")),
        CallStart::Once | CallStart::Repeated(_) | CallStart::Unknown => None,
    }
}

fn describe_copy(symbol: &str) -> Option<String> {
    let original = demangle_bounded(without_copy(symbol));
    (without_copy(symbol) != symbol)
        .then(|| format!("{symbol} is a copy of {original} that the compiler specialized"))
}

fn describe_returns(name: &str, returns: &ReturnMethod) -> Option<String> {
    match returns {
        ReturnMethod::Unwatched => None,
        ReturnMethod::ReturnProbe => Some(format!("returns of {name}: return probe")),
        ReturnMethod::Instructions(exits, reason) => {
            let exits = counted(exits.len() as u64, "return instruction");
            Some(format!("returns of {name}: {exits} ({reason})"))
        }
    }
}
