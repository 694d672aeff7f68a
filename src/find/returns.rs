// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How the returns of a function are observed without harm to the program.
//!
//! The kernel's return probe replaces the return address, which kills programs that unwind, switch stacks or look at
//! return addresses. It is used where the code shows that only a signal handler can (`find::code::closed`). Elsewhere,
//! probes are put on the instructions that end a call: they change nothing, but the kernel single-steps `ret`, which
//! costs several times as much.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::functions;
use crate::error::Failure;
use crate::find::code::closed::{ClosedFunctions, OpenReason};
use crate::find::code::instructions::{
    self, ArrayAddress, ExitKind, FunctionContext, FunctionExit, UnknownExit,
};
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::functions::FrameExtent;
use crate::find::host::object_file::ObjectFile;

/// How to choose between the kernel's return probes and return instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReturnPolicy {
    /// Return probes where only a signal handler could be hurt
    #[default]
    Safe,
    /// Return probes unless the file itself unwinds or moves stacks
    Kernel,
    /// Return instructions only
    Instructions,
}

/// Whether returns are matched with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMatching {
    Matched,
    /// As above, to know which calls are nested: a function whose returns cannot be observed is traced at its entry.
    Nesting,
    ReturnsAlone,
}

/// How the returns of a function are observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReturnMethod {
    /// Not observed.
    Unwatched,
    /// By return probes: the kernel replaces the return address with the address of a trampoline.
    ReturnProbe,
    /// By probes on the instructions that end calls.
    Instructions(Vec<FunctionExit>, NoReturnProbe),
}

/// Why a function gets no return probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoReturnProbe {
    /// `--returns instructions`.
    NotWanted,
    /// All functions of the file.
    File,
    /// Its returns cannot be observed, and need not be.
    Unseen,
    /// The kernel has a limited number of pending return probes. Without a program at the entry, nothing tells how many
    /// returns are missing.
    Recursive,
    /// Only a program that also runs at entries can refuse return probes in signal handlers.
    ReturnsAlone,
    Function(OpenReason),
}

impl fmt::Display for NoReturnProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoReturnProbe::NotWanted => f.write_str("as asked"),
            NoReturnProbe::File => f.write_str("the file may unwind or switch stacks"),
            NoReturnProbe::Recursive => {
                f.write_str("it calls itself, perhaps deeper than return probes can follow")
            }
            NoReturnProbe::Unseen => f.write_str("not observed"),
            NoReturnProbe::ReturnsAlone => f.write_str("its entry is not traced"),
            NoReturnProbe::Function(reason) => reason.fmt(f),
        }
    }
}

impl ReturnMethod {
    /// Whether the result of every call is known when its return is observed.
    pub fn has_results(&self) -> bool {
        match self {
            ReturnMethod::Unwatched | ReturnMethod::ReturnProbe => true,
            ReturnMethod::Instructions(exits, _) => exits
                .iter()
                .all(|exit| matches!(exit.kind, ExitKind::Return | ExitKind::FollowedJump)),
        }
    }
}

/// Exits of a function, with those of functions that it jumps to.
const MOST_EXITS: usize = 64;

/// Functions that return a second time, to the caller of their first call.
const RETURN_TWICE: [&str; 10] = [
    "setjmp",
    "_setjmp",
    "__setjmp",
    "sigsetjmp",
    "__sigsetjmp",
    "getcontext",
    "__getcontext",
    "swapcontext",
    "__swapcontext",
    "savectx",
];

/// Chooses how returns are observed, for the functions of one file.
pub struct ReturnWatcher<'e> {
    object: &'e ObjectFile,
    elf: &'e ElfFile,
    policy: ReturnPolicy,
    /// Why no function gets a return probe. Go moves stacks, exceptions and panics unwind them: return probes would
    /// crash the program.
    no_return_probes: Option<NoReturnProbe>,
    /// The functions that are certain to be called: the return address is on top of the stack, or on arm64 in the link
    /// register.
    closed: OnceCell<ClosedFunctions<'e>>,
    cold: OnceCell<HashMap<String, Vec<FunctionSymbol>>>,
    /// Parts of functions by the unwind tables: those that have no symbols.
    moved: OnceCell<Vec<FrameExtent>>,
    /// The exits of functions that others jump to, by address. None if they are not known.
    followed: RefCell<HashMap<u64, Option<Rc<[FunctionExit]>>>>,
}

impl<'e> ReturnWatcher<'e> {
    pub fn new(object: &'e ObjectFile, elf: &'e ElfFile, policy: ReturnPolicy) -> Self {
        let moves_stacks = || elf.is_go() || elf.may_unwind();
        let no_return_probes = match policy {
            ReturnPolicy::Instructions => Some(NoReturnProbe::NotWanted),
            ReturnPolicy::Kernel => moves_stacks().then_some(NoReturnProbe::File),
            ReturnPolicy::Safe => (moves_stacks() || elf.may_switch_stacks()).then_some(NoReturnProbe::File),
        };
        ReturnWatcher {
            object,
            elf,
            policy,
            no_return_probes,
            closed: OnceCell::new(),
            cold: OnceCell::new(),
            moved: OnceCell::new(),
            followed: RefCell::default(),
        }
    }

    /// How to observe the returns of a function.
    ///
    /// # Errors
    /// Its returns cannot be observed without harm.
    pub fn method(&mut self, function: &FunctionSymbol, matches: EntryMatching) -> Result<ReturnMethod> {
        let mut reason = self.no_return_probes.clone();
        if matches == EntryMatching::ReturnsAlone && self.policy == ReturnPolicy::Safe {
            reason.get_or_insert(NoReturnProbe::ReturnsAlone);
        }
        if reason.is_none() {
            reason = self
                .check_return_probe(function)
                .err()
                .map(NoReturnProbe::Function);
        }
        let Some(reason) = reason else {
            let is_deep = matches == EntryMatching::ReturnsAlone && self.calls_itself(function);
            let exits = is_deep.then(|| self.instructions(function, matches, NoReturnProbe::Recursive));
            return Ok(exits.and_then(Result::ok).unwrap_or(ReturnMethod::ReturnProbe));
        };
        match self.instructions(function, matches, reason) {
            Err(_) if matches == EntryMatching::Nesting => {
                Ok(ReturnMethod::Instructions(Vec::new(), NoReturnProbe::Unseen))
            }
            method => method,
        }
    }

    fn calls_itself(&self, function: &FunctionSymbol) -> bool {
        let closed = self.closed.get();
        closed.is_some_and(|closed| closed.calls_itself(function.addr))
    }

    /// Checks that a return probe cannot hurt, as far as the policy wants to know.
    fn check_return_probe(&mut self, function: &FunctionSymbol) -> Result<(), OpenReason> {
        self.closed.get_or_init(|| self.closed_functions());
        let closed = self.closed.get_mut().ok_or(OpenReason::Unknown)?;
        if !closed.is_function(function.addr) || function.addr == self.elf.entry() {
            return Err(OpenReason::Unknown);
        }
        if self.policy == ReturnPolicy::Safe {
            return closed.check(function.addr);
        }
        match keeps_return_address(self.elf, function) {
            true => Err(OpenReason::ReadsReturnAddress),
            false => Ok(()),
        }
    }

    /// The instructions of a function and of its cold parts that end calls.
    fn instructions(
        &self,
        function: &FunctionSymbol,
        matches: EntryMatching,
        reason: NoReturnProbe,
    ) -> Result<ReturnMethod> {
        let failed = |why: &dyn fmt::Display| cannot_trace(function, why, &reason);
        ensure!(function.size > 0, failed(&"its end is unknown"));
        let cold = self.cold.get_or_init(|| {
            let parts = functions::cold_parts(self.elf, &self.object.path);
            parts.unwrap_or_default()
        });
        let own = cold.get(&*function.name).map_or(&[][..], Vec::as_slice);
        let parts: Vec<&FunctionSymbol> = std::iter::once(function).chain(own).collect();
        let mut parts: Vec<Range<u64>> = parts
            .iter()
            .map(|part| part.addr..part.addr.saturating_add(part.size))
            .collect();
        let mut exits = Vec::new();
        for part in &parts {
            let found = self.exits_of(part, &parts).map_err(|error| failed(&error))?;
            exits.extend(found);
        }
        self.add_moved_parts(&mut exits, &mut parts);
        match matches {
            EntryMatching::Matched | EntryMatching::Nesting => self.follow_tail_jumps(&mut exits, &parts),
            EntryMatching::ReturnsAlone => exits.retain(|exit| self.is_certain(exit)),
        }
        let offset_of = |addr| {
            self.elf
                .offset_of(addr)
                .ok_or_else(|| failed(&UnknownExit::Jump(addr)))
        };
        let exits = exits.into_iter().map(|exit| {
            Ok(FunctionExit {
                at: offset_of(exit.at)?,
                ..exit
            })
        });
        let exits: Vec<FunctionExit> = exits.collect::<Result<_>>()?;
        // A function that is known never to return is traced at its entry.
        let may_be_endless = function.addr != self.elf.entry() && self.is_known(function);
        ensure!(
            may_be_endless || !exits.is_empty(),
            failed(&"it has no return instruction")
        );
        Ok(ReturnMethod::Instructions(exits, reason))
    }

    /// Follows jumps to parts of the function that have no symbols: the exits of these replace the jumps.
    fn add_moved_parts(&self, exits: &mut Vec<FunctionExit>, parts: &mut Vec<Range<u64>>) {
        let first = parts.len();
        let mut refused = HashSet::new();
        let mut next = 0;
        while let Some(exit) = exits.get(next) {
            let part = exit.target.and_then(|target| self.moved_part_at(target as u64));
            next += 1;
            let Some(part) = part.filter(|part| !parts.contains(part) && !refused.contains(&part.start))
            else {
                continue;
            };
            parts.push(part.clone());
            match self.exits_of(&part, parts) {
                Ok(found) if exits.len() + found.len() <= MOST_EXITS => exits.extend(found),
                _ => {
                    parts.pop();
                    refused.insert(part.start);
                }
            }
        }
        let is_inside = |target: i64| parts[first..].iter().any(|part| part.contains(&(target as u64)));
        exits.retain(|exit| !exit.target.is_some_and(is_inside));
    }

    /// The part of a function, without a symbol, that contains this address.
    fn moved_part_at(&self, addr: u64) -> Option<Range<u64>> {
        let moved = self.moved.get_or_init(|| functions::moved_parts(self.elf));
        let after = moved.partition_point(|extent| extent.addr <= addr);
        let extent = moved[..after].last()?;
        let range = extent.addr..extent.addr.checked_add(extent.size)?;
        range.contains(&addr).then_some(range)
    }

    /// The exits of one part of a function, with virtual addresses.
    fn exits_of(&self, part: &Range<u64>, parts: &[Range<u64>]) -> Result<Vec<FunctionExit>> {
        let code = self.elf.code(part.start, part.end - part.start)?;
        let context = PartContext {
            elf: self.elf,
            addr: part.start,
            parts,
        };
        let found = instructions::exits(&code, &context)?.into_iter();
        Ok(found
            .map(|exit| FunctionExit {
                at: part.start + exit.at,
                target: exit
                    .target
                    .map(|target| part.start.wrapping_add_signed(target) as i64),
                ..exit
            })
            .collect())
    }

    fn is_known(&self, function: &FunctionSymbol) -> bool {
        let closed = self.closed.get();
        closed.is_some_and(|closed| closed.is_function(function.addr))
    }

    /// Whether an exit ends the call if it is taken. Without the stack pointer at the entry, only the target tells a
    /// jump to another function from one to a part of this one.
    fn is_certain(&self, exit: &FunctionExit) -> bool {
        let functions = self.closed.get_or_init(|| self.closed_functions());
        let is_called = |target: i64| functions.is_called(target as u64);
        !matches!(exit.kind, ExitKind::JumpIf(_)) || exit.target.is_some_and(is_called)
    }

    /// Replaces jumps to other functions of the file with the exits of those: they return to the caller of this one. A
    /// program tells by the stack pointer whether it was this function that jumped there. Of functions that jump to one
    /// another in turn, each call would count as one that did not return, so a cycle is not followed.
    fn follow_tail_jumps(&self, exits: &mut Vec<FunctionExit>, parts: &[Range<u64>]) {
        let functions = self.closed.get_or_init(|| self.closed_functions());
        let own: HashSet<u64> = parts.iter().map(|part| part.start).collect();
        let own_exits = exits.clone();
        let mut seen = HashSet::new();
        let mut next = 0;
        while let Some(&exit) = exits.get(next) {
            let body = exit.target.and_then(|target| functions.body_at(target as u64));
            next += 1;
            let Some(body) = body.filter(|_| exit.kind == ExitKind::Jump) else {
                continue;
            };
            if own.contains(&body.start) {
                *exits = own_exits;
                return;
            }
            if !seen.contains(&body.start) {
                match self.exits_of_followed(&body) {
                    Some(found) if exits.len() + found.len() <= MOST_EXITS => {
                        let followed = |exit: &FunctionExit| FunctionExit {
                            followed: true,
                            ..*exit
                        };
                        exits.extend(found.iter().map(followed));
                    }
                    _ => continue,
                }
                seen.insert(body.start);
            }
            exits[next - 1].kind = ExitKind::FollowedJump;
        }
        // In the other functions, the call has jumped already.
        let is_own = |at: u64| parts.iter().any(|part| part.contains(&at));
        exits.retain(|exit| exit.kind != ExitKind::FollowedJump || is_own(exit.at));
    }

    /// The exits of a function that others jump to, often many.
    fn exits_of_followed(&self, body: &Range<u64>) -> Option<Rc<[FunctionExit]>> {
        if let Some(known) = self.followed.borrow().get(&body.start) {
            return known.clone();
        }
        let found = self.exits_of(body, std::slice::from_ref(body)).ok();
        let found = found.map(Rc::from);
        self.followed.borrow_mut().insert(body.start, found.clone());
        found
    }

    fn closed_functions(&self) -> ClosedFunctions<'e> {
        ClosedFunctions::new(self.elf, functions::sizes(self.elf))
    }
}

fn cannot_trace(function: &FunctionSymbol, why: &dyn fmt::Display, reason: &NoReturnProbe) -> Failure {
    let name = function.demangled();
    match reason {
        NoReturnProbe::Function(reason) => Failure::failed(format!(
            "failed to trace returns of {name} safely: {why}, and {reason}"
        ))
        .hint("trace its entry only, or use --returns kernel if the program can be lost"),
        _ => Failure::failed(format!(
            "failed to trace returns of {name}: {why}, and a return probe would crash the program"
        ))
        .hint("trace its entry only"),
    }
}

/// Whether the function may return twice to the same return address. The kernel's return probe supports one
/// return only.
fn keeps_return_address(elf: &ElfFile, function: &FunctionSymbol) -> bool {
    /// Such functions are short.
    const MAX_SIZE: u64 = 512;
    RETURN_TWICE.contains(&&*function.name)
        || elf
            .code(function.addr, function.size.min(MAX_SIZE))
            .is_ok_and(|code| instructions::reads_return_address(&code))
}

/// One of the parts of a function.
struct PartContext<'a> {
    elf: &'a ElfFile,
    /// Where this part starts.
    addr: u64,
    parts: &'a [Range<u64>],
}

impl PartContext<'_> {
    fn has(&self, addr: u64) -> bool {
        self.parts.iter().any(|part| part.contains(&addr))
    }
}

impl FunctionContext for PartContext<'_> {
    fn is_own(&self, at: i64) -> bool {
        self.has(self.addr.wrapping_add_signed(at))
    }

    fn array_is_own(&self, array: ArrayAddress) -> Option<bool> {
        if self.elf.is_go() {
            // Go has no tail calls through pointers: such an array is a jump table.
            return Some(true);
        }
        let addr = match array {
            ArrayAddress::Relative(at) => self.addr.wrapping_add_signed(at),
            ArrayAddress::Absolute(addr) => addr,
            ArrayAddress::Unknown => return None,
        };
        let first = self
            .elf
            .pointer_at(addr)
            .filter(|&first| self.elf.code_segment(first).is_some())?;
        Some(self.has(first))
    }
}
