// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which instruction of a function to put a probe on.
//!
//! A breakpoint is cheap if the kernel emulates the instruction under it, and up to nine times as expensive
//! if it has to single-step a copy out of line. Few functions begin with an instruction that is emulated, but
//! most have one nearby. A probe may move to it if the difference cannot be observed:
//!
//! * every call that reaches the first instruction reaches the later one exactly once: control does not leave
//!   in between, no jump targets the code in between, and nothing there can end the program;
//! * what the probe reads (its [`Needs`]) is unchanged.
//!
//! In case of doubt about the code of the function or around it, the probe stays at the first instruction.

use std::fmt;
use std::ops::Range;

use super::instructions::is_misdecoded;
use crate::find::elf::ElfFile;

#[cfg(any(test, target_arch = "aarch64"))]
mod arm64;
mod effects;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use arm64 as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

use effects::{InstructionEffects, StoreTarget};
pub use effects::{InstructionName, StayReason};

/// How far a probe may move, in instructions and in bytes. In a survey of real programs the median was 4 to 6 bytes.
const MOST_STEPS: usize = 16;
const MOST_BYTES: u64 = 64;
/// Bytes of the longest instruction.
const LONGEST: u64 = 16;
/// Longer functions are not examined.
const MOST_CODE: u64 = 1 << 20;
/// How far from a function jumps into it are looked for, in bytes. Code that jumps into the middle of another
/// function is hand-written assembly nearby, or a part of the function that the compiler moved away.
const REACH: u64 = 1 << 20;
/// How much code is read at a time to look for jumps, in bytes: programs have hundreds of megabytes.
const PART: u64 = 512 << 10;

/// What a probe reads of the traced process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// General registers: bit N is the one with DWARF number N.
    pub registers: u32,
    /// Memory through pointers.
    pub memory: bool,
}

impl Needs {
    /// Only that the call happens.
    pub const NOTHING: Needs = Needs {
        registers: 0,
        memory: false,
    };

    /// The stack as the caller left it, for return probes, stack arguments and stack walks.
    pub const STACK: Needs = Needs {
        registers: machine::STACK,
        memory: false,
    };

    /// Those of the first `count` integer arguments that are in registers.
    pub fn arguments(count: usize) -> Needs {
        let numbers = machine::ARGUMENTS.iter().take(count);
        Needs {
            registers: numbers.fold(0, |all, number| all | 1 << number),
            memory: false,
        }
    }

    /// The register with this DWARF number.
    pub fn register(number: u8) -> Needs {
        Needs {
            registers: 1_u32.checked_shl(number.into()).unwrap_or(u32::MAX),
            memory: false,
        }
    }

    /// The union of both.
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            registers: self.registers | other.registers,
            memory: self.memory || other.memory,
        }
    }

    /// What identifies a goroutine and the size of its stack.
    pub fn goroutine() -> Needs {
        Needs::register(machine::GOROUTINE).and(Needs::STACK)
    }

    fn stack(self) -> bool {
        self.registers & machine::STACK != 0
    }
}

/// Where the probe of a function goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePlacement {
    /// Bytes from the function's first instruction.
    pub distance: u64,
    /// The function's first instruction.
    pub first: InstructionName,
    pub outcome: PlacementOutcome,
    /// The kernel would take the first instruction for another one.
    misdecoded: bool,
}

/// Whether a probe moves, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacementOutcome {
    /// The kernel emulates the first instruction.
    Emulated,
    /// It emulates a later one, which gets the probe.
    Moved,
    /// It takes the first instruction for another one. A later one gets the probe, which it has to single-step.
    Evaded,
    /// It has to single-step the first one.
    Stays(StayReason),
}

impl ProbePlacement {
    /// Whether the kernel has to single-step the instruction.
    pub fn is_stepped(&self) -> bool {
        matches!(
            self.outcome,
            PlacementOutcome::Stays(_) | PlacementOutcome::Evaded
        )
    }

    fn is_moved(&self) -> bool {
        matches!(self.outcome, PlacementOutcome::Moved | PlacementOutcome::Evaded)
    }

    /// Whether the program would crash because the kernel takes the instruction for another one.
    pub fn is_misdecoded(&self) -> bool {
        self.misdecoded && self.distance == 0
    }

    /// The placement at the first instruction.
    pub fn at_entry(self) -> ProbePlacement {
        match self.is_moved() {
            true => self.stays(StayReason::Requested),
            false => self,
        }
    }

    fn stays(self, reason: StayReason) -> ProbePlacement {
        ProbePlacement {
            distance: 0,
            outcome: PlacementOutcome::Stays(reason),
            ..self
        }
    }
}

impl fmt::Display for ProbePlacement {
    /// The text after the function's name: `+3 (test is single-stepped)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first;
        match self.outcome {
            PlacementOutcome::Emulated => write!(f, " ({first} is emulated)"),
            PlacementOutcome::Moved => write!(f, "+{} ({first} is single-stepped)", self.distance),
            PlacementOutcome::Evaded => write!(f, "+{} ({first} cannot be probed)", self.distance),
            PlacementOutcome::Stays(reason) => write!(f, " ({first} is single-stepped; {reason})"),
        }
    }
}

/// A function whose probe may move.
#[derive(Clone, Copy, Debug)]
pub struct ProbedFunction {
    /// Virtual address of its first instruction.
    pub addr: u64,
    /// In bytes; 0 if it is unknown.
    pub size: u64,
    /// What its probe reads.
    pub needs: Needs,
    /// It jumps to its first instruction.
    pub repeats: bool,
}

/// Where the probes of functions go; `None` for a function whose code cannot be read.
pub fn place_probes(elf: &ElfFile, functions: &[ProbedFunction]) -> Vec<Option<ProbePlacement>> {
    let mut placements: Vec<Option<ProbePlacement>> = functions
        .iter()
        .map(|function| tentative_placement(elf, *function))
        .collect();
    let moved = |placement: &Option<ProbePlacement>| placement.is_some_and(|placement| placement.is_moved());
    if !placements.iter().any(moved) {
        return placements;
    }
    let symbols = elf.symbol_addresses();
    for (function, placement) in functions.iter().zip(&mut placements) {
        if let Some(found) = placement
            && found.is_moved()
            && let Err(reason) = check_function(elf, *function, found.distance, &symbols)
        {
            *found = found.stays(reason);
        }
    }
    check_jumps(elf, functions, &mut placements);
    placements
}

/// Whether the kernel has to single-step the instruction at virtual address `addr`; true if it cannot be read.
pub fn is_stepped(elf: &ElfFile, addr: u64) -> bool {
    let code = (1..=LONGEST).rev().find_map(|size| elf.code(addr, size).ok());
    code.is_none_or(|code| !is_emulated(&code))
}

/// Whether code may have a direct jump to its byte `at`. Few functions have one, and this is much faster than decoding.
pub fn may_jump_to(code: &[u8], at: i64) -> bool {
    let mut found = false;
    machine::jumps(code, &(at..at + 1), |_| found = true);
    found
}

/// Whether the kernel emulates the instruction at the start of `code`.
pub fn is_emulated(code: &[u8]) -> bool {
    machine::effects(code)
        .next()
        .is_some_and(|instruction| instruction.emulated)
}

/// The placement by the start of the function only.
fn tentative_placement(elf: &ElfFile, function: ProbedFunction) -> Option<ProbePlacement> {
    let near = match function.size {
        // Enough for the first instruction.
        0 => LONGEST,
        size => size.min(MOST_BYTES + LONGEST),
    };
    let placement = nearest_emulated(
        &elf.code(function.addr, near).ok()?,
        function.size,
        function.needs,
    )?;
    match function.repeats && placement.is_moved() {
        true => Some(placement.stays(StayReason::Repeated)),
        false => Some(placement),
    }
}

/// Checks that nothing else reaches the code up to `distance` bytes from the start of the function, as far as
/// its symbols and its own code show.
fn check_function(
    elf: &ElfFile,
    function: ProbedFunction,
    distance: u64,
    symbols: &[u64],
) -> Result<(), StayReason> {
    let next = symbols.partition_point(|&symbol| symbol <= function.addr);
    if symbols
        .get(next)
        .is_some_and(|&symbol| symbol <= function.addr + distance)
    {
        return Err(StayReason::OtherFunction);
    }
    if function.size > MOST_CODE {
        return Err(StayReason::Unknown);
    }
    let code = elf
        .code(function.addr, function.size)
        .map_err(|_| StayReason::Unknown)?;
    machine::check_whole(&code)
}

/// Undoes the moves over code that a direct jump targets, from the function itself or from another one: glibc's mempcpy
/// jumps to the second instruction of memcpy.
fn check_jumps(elf: &ElfFile, functions: &[ProbedFunction], placements: &mut [Option<ProbePlacement>]) {
    let mut stretches: Vec<(u64, u64, &mut ProbePlacement)> = functions
        .iter()
        .zip(placements)
        .filter_map(|(function, placement)| placement.as_mut().map(|placement| (function.addr, placement)))
        .filter(|(_, placement)| placement.is_moved())
        .map(|(addr, placement)| (addr, addr + placement.distance, placement))
        .collect();
    stretches.sort_unstable_by_key(|&(start, ..)| start);
    let last = stretches.iter().map(|&(_, last, _)| last).max().unwrap_or(0);
    let windows = windows(elf, stretches.iter().map(|&(start, ..)| start));
    for window in windows.into_iter().flat_map(parts) {
        let Some(code) = elf.content_of(&window) else {
            stretches
                .iter_mut()
                .for_each(|(.., placement)| **placement = placement.stays(StayReason::Unknown));
            return;
        };
        let from_window = |addr: u64| addr.wrapping_sub(window.start) as i64;
        let first = stretches.first().map_or(0, |&(start, ..)| start);
        let into = from_window(first)..from_window(last).saturating_add(1);
        machine::jumps(code.bytes(), &into, |target| {
            let addr = window.start.wrapping_add_signed(target);
            let after = stretches.partition_point(|&(start, ..)| start < addr);
            if let Some((_, last, placement)) =
                after.checked_sub(1).and_then(|index| stretches.get_mut(index))
                && addr <= *last
            {
                **placement = placement.stays(StayReason::JumpedInto);
            }
        });
    }
}

/// Where to put a probe that is wanted at `addr`, inside a function. Kernels from 6.18 to 7.1 replace a five-byte `nop`
/// by a call, which overwrites what the function keeps below its stack pointer; the instruction after it sees the same.
/// None if that one may be reached without the `nop`.
pub fn inner_address(elf: &ElfFile, addr: u64) -> Option<u64> {
    let nop = machine::REWRITTEN_NOP;
    let size = nop.len() as u64;
    if nop.is_empty() || elf.code(addr, size).is_ok_and(|code| code != nop) {
        return Some(addr);
    }
    let next = addr + size;
    let window = windows(elf, std::iter::once(next)).pop()?;
    let code = elf.content_of(&window)?;
    let next_in_window = (next - window.start) as i64;
    let mut is_target = false;
    machine::jumps(code.bytes(), &(next_in_window..next_in_window + 1), |_| {
        is_target = true
    });
    (!is_target).then_some(next)
}

/// The address ranges in which jumps to `addrs` are looked for, each inside one segment. `addrs` is sorted.
fn windows(elf: &ElfFile, addrs: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut windows: Vec<Range<u64>> = Vec::new();
    for addr in addrs {
        let Some(segment) = elf.code_segment(addr) else {
            continue;
        };
        let start = addr.saturating_sub(REACH).max(segment.start);
        let end = addr.saturating_add(REACH).min(segment.end);
        match windows.last_mut() {
            Some(last) if start < last.end => last.end = end,
            _ => windows.push(start..end),
        }
    }
    windows
}

/// The parts of a window. They overlap, so that each jump is complete in one of them.
fn parts(window: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let starts = window.clone().step_by(PART as usize);
    starts.map(move |start| start..start.saturating_add(PART + LONGEST).min(window.end))
}

/// The first instruction that the kernel emulates, if the code before it can run before the probe. Jumps into
/// that code are not checked here. `None` without a valid first instruction.
fn nearest_emulated(code: &[u8], size: u64, needs: Needs) -> Option<ProbePlacement> {
    let mut instructions = machine::effects(code);
    let mut last = instructions.next()?;
    let first = last.name;
    let misdecoded = is_misdecoded(code);
    let placement = |distance, outcome| {
        Some(ProbePlacement {
            distance,
            first,
            outcome,
            misdecoded,
        })
    };
    if last.emulated {
        return placement(0, PlacementOutcome::Emulated);
    }
    if size == 0 {
        return placement(0, PlacementOutcome::Stays(StayReason::Unknown));
    }
    let mut evaded = None;
    for instruction in instructions.take(MOST_STEPS) {
        if last.end > MOST_BYTES || check_movable(&last, needs).is_err() {
            break;
        }
        if instruction.emulated {
            return placement(last.end, PlacementOutcome::Moved);
        }
        if evaded.is_none() && !code.get(last.end as usize..).is_none_or(is_misdecoded) {
            evaded = Some(last.end);
        }
        last = instruction;
    }
    if let Some(distance) = evaded.filter(|_| misdecoded) {
        return placement(distance, PlacementOutcome::Evaded);
    }
    let reason = check_movable(&last, needs).err().unwrap_or(StayReason::NoneNear);
    placement(0, PlacementOutcome::Stays(reason))
}

/// Checks that the program may run this instruction before the probe.
fn check_movable(instruction: &InstructionEffects, needs: Needs) -> Result<(), StayReason> {
    let stores = match (needs.memory, needs.stack()) {
        (_, true) => StoreTarget::BelowStack,
        (true, false) => StoreTarget::Stack,
        (false, false) => StoreTarget::Anything,
    };
    match () {
        () if instruction.leaves => Err(StayReason::Leaves(instruction.name)),
        () if instruction.writes & needs.registers != 0 || instruction.stores > stores => {
            Err(StayReason::Changes(instruction.name))
        }
        () if instruction.may_fault => Err(StayReason::MayFault(instruction.name)),
        () => Ok(()),
    }
}
