// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which instruction of a function to put a probe on.
//!
//! A breakpoint costs little where the kernel itself carries out the instruction under it ("emulates" it), and up to nine
//! times as much where it has to let the program step over a copy. Few functions begin with an instruction of the first
//! kind, but most have one near. Between the first instruction and that one nothing may happen that anybody could see:
//!
//! * every call that gets to the first instruction gets to the later one, once: nothing leaves the stretch, nothing jumps
//!   into it, and nothing in it can end the program;
//! * what the probe reads (its [`Needs`]) is there what it was at the beginning.
//!
//! Where the code of the whole function and what lies around it leave a doubt, the probe stays where it is.

use std::fmt;
use std::ops::Range;

use super::instructions::is_mistaken;
use crate::find::elf::ElfFile;

#[cfg(any(test, target_arch = "aarch64"))]
mod arm64;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use arm64 as machine;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

/// How far a probe may move, in instructions and bytes. The survey behind the rules found a median of 4 to 6 bytes.
const MOST_STEPS: usize = 16;
const MOST_BYTES: u64 = 64;
/// Bytes of the longest instruction.
const LONGEST: u64 = 16;
/// Functions that are longer are not looked through.
const MOST_CODE: u64 = 1 << 20;
/// How far from a function jumps to it are looked for, in bytes: what can jump into the middle of another function is
/// hand-written and in the same piece of code, or a part of the function that the compiler put elsewhere.
const REACH: u64 = 1 << 20;

/// What a probe reads where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// General registers, a bit for each by its DWARF number.
    pub registers: u32,
    /// Memory of the process, through pointers.
    pub memory: bool,
}

impl Needs {
    /// Nothing but that the call happens.
    pub const NOTHING: Needs = Needs {
        registers: 0,
        memory: false,
    };

    /// The stack as the caller left it: return probes, stack arguments, the walk through the frames.
    pub const STACK: Needs = Needs {
        registers: machine::STACK,
        memory: false,
    };

    /// The first `count` integer arguments, as far as they are in registers.
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

    /// These and others.
    pub fn and(self, other: Needs) -> Needs {
        Needs {
            registers: self.registers | other.registers,
            memory: self.memory || other.memory,
        }
    }

    /// What tells a goroutine from others, and how large its stack is.
    pub fn goroutine() -> Needs {
        Needs::register(machine::GOROUTINE).and(Needs::STACK)
    }

    fn stack(self) -> bool {
        self.registers & machine::STACK != 0
    }
}

/// What an instruction is called: a number of the machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&machine::name(*self))
    }
}

/// Where the probe of a function goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Bytes from the function's first instruction.
    pub ahead: u64,
    /// The function's first instruction.
    pub first: Name,
    pub why: Why,
    /// The kernel would take the first instruction for another one.
    mistaken: bool,
}

/// Why a probe is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel emulates the first instruction.
    Emulated,
    /// It emulates a later one.
    Moved,
    /// It has to step over the first one.
    Stays(Reason),
}

/// Why a probe cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This instruction changes what the probe reads.
    Changes(Name),
    /// Behind this instruction the function does not simply go on.
    Leaves(Name),
    /// The program can end at this instruction.
    MayFault(Name),
    /// A jump leads in between.
    JumpedInto,
    /// A jump leads to where a register says.
    JumpsAnywhere,
    /// Another function begins in between.
    OtherFunction,
    /// Nothing near is emulated.
    NoneNear,
    /// A person wants it there.
    Asked,
    /// Where the function ends, or what its code means, is not known.
    Unknown,
}

impl Placement {
    /// Does the kernel have to step over the instruction?
    pub fn is_stepped(&self) -> bool {
        matches!(self.why, Why::Stays(_))
    }

    /// Would the program crash, as the kernel takes the instruction for another one?
    pub fn is_mistaken(&self) -> bool {
        self.mistaken && self.ahead == 0
    }

    /// The same at the first instruction, whatever else there is.
    pub fn at_entry(self) -> Placement {
        match self.why {
            Why::Moved => self.stays(Reason::Asked),
            _ => self,
        }
    }

    fn stays(self, reason: Reason) -> Placement {
        Placement {
            ahead: 0,
            why: Why::Stays(reason),
            ..self
        }
    }
}

impl fmt::Display for Placement {
    /// What comes behind the function's name: `+3 (test is single-stepped)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first;
        match self.why {
            Why::Emulated => write!(f, " ({first} is emulated)"),
            Why::Moved => write!(f, "+{} ({first} is single-stepped)", self.ahead),
            Why::Stays(reason) => write!(f, " ({first} is single-stepped; {reason})"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Changes(name) => write!(f, "{name} changes what is read"),
            Reason::Leaves(name) => write!(f, "{name} comes first"),
            Reason::MayFault(name) => write!(f, "{name} may fault"),
            Reason::JumpedInto => f.write_str("a jump leads in between"),
            Reason::JumpsAnywhere => f.write_str("it has a jump to where a register says"),
            Reason::OtherFunction => f.write_str("another function begins in between"),
            Reason::Asked => f.write_str("left there as asked for"),
            Reason::NoneNear => f.write_str("nothing near is emulated"),
            Reason::Unknown => f.write_str("its code is not known whole"),
        }
    }
}

/// An instruction, as far as the rules go.
struct Step {
    /// Bytes from the start of the function to the next one.
    end: u64,
    name: Name,
    /// The kernel carries it out itself when there is a probe on it.
    emulated: bool,
    /// Control may go elsewhere than to the next one, or it is none to run ahead of a probe.
    leaves: bool,
    /// Registers that it writes, by their DWARF numbers.
    writes: u32,
    stores: Stores,
    /// It reads or writes through an address that a caller can have got wrong.
    may_fault: bool,
}

/// What an instruction writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stores {
    Nothing,
    /// What lies below the stack pointer, where nothing of the caller's is.
    BelowStack,
    /// What lies at or above it: the function's own frame or its stack arguments.
    Stack,
    Anything,
}

/// A function whose probe may move.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Virtual address of its first instruction.
    pub addr: u64,
    /// Bytes; 0 when that is not known.
    pub size: u64,
    /// What its probe reads.
    pub needs: Needs,
}

/// Where the probes of these functions of a file go; None for those whose code cannot be read.
pub fn place(elf: &ElfFile, subjects: &[Subject]) -> Vec<Option<Placement>> {
    let mut placements: Vec<Option<Placement>> =
        subjects.iter().map(|subject| first_look(elf, *subject)).collect();
    let moved =
        |placement: &Option<Placement>| placement.is_some_and(|placement| placement.why == Why::Moved);
    if !placements.iter().any(moved) {
        return placements;
    }
    let symbols = elf.symbol_addresses();
    for (subject, placement) in subjects.iter().zip(&mut placements) {
        if let Some(found) = placement
            && found.why == Why::Moved
            && let Err(reason) = check_function(elf, *subject, found.ahead, &symbols)
        {
            *found = found.stays(reason);
        }
    }
    check_jumps(elf, subjects, &mut placements);
    placements
}

/// Does the kernel have to step over the instruction at virtual address `addr`? Yes where it cannot be read.
pub fn is_stepped(elf: &ElfFile, addr: u64) -> bool {
    let code = (1..=LONGEST).rev().find_map(|size| elf.code(addr, size).ok());
    code.is_none_or(|code| !is_emulated(&code))
}

/// Does the kernel carry out the instruction at the beginning of `code` itself?
pub fn is_emulated(code: &[u8]) -> bool {
    machine::steps(code).next().is_some_and(|step| step.emulated)
}

/// By the beginning of the function alone.
fn first_look(elf: &ElfFile, subject: Subject) -> Option<Placement> {
    let near = match subject.size {
        // Enough to tell what the first instruction is.
        0 => LONGEST,
        size => size.min(MOST_BYTES + LONGEST),
    };
    nearest(&elf.code(subject.addr, near).ok()?, subject.size, subject.needs)
}

/// Does control stay within what is known of the function, up to the instruction `ahead` bytes from its start?
fn check_function(elf: &ElfFile, subject: Subject, ahead: u64, symbols: &[u64]) -> Result<(), Reason> {
    let next = symbols.partition_point(|&symbol| symbol <= subject.addr);
    if symbols
        .get(next)
        .is_some_and(|&symbol| symbol <= subject.addr + ahead)
    {
        return Err(Reason::OtherFunction);
    }
    if subject.size > MOST_CODE {
        return Err(Reason::Unknown);
    }
    let code = elf
        .code(subject.addr, subject.size)
        .map_err(|_| Reason::Unknown)?;
    machine::check_whole(&code)
}

/// Takes back what a direct jump leads into, be it from the function itself or from another one: glibc's mempcpy jumps to
/// behind the first instruction of memcpy.
fn check_jumps(elf: &ElfFile, subjects: &[Subject], placements: &mut [Option<Placement>]) {
    let mut stretches: Vec<(u64, u64, &mut Placement)> = subjects
        .iter()
        .zip(placements)
        .filter_map(|(subject, placement)| placement.as_mut().map(|placement| (subject.addr, placement)))
        .filter(|(_, placement)| placement.why == Why::Moved)
        .map(|(addr, placement)| (addr, addr + placement.ahead, placement))
        .collect();
    stretches.sort_unstable_by_key(|&(start, ..)| start);
    for window in windows(elf, stretches.iter().map(|&(start, ..)| start)) {
        let Some(code) = elf.content_of(&window) else {
            stretches
                .iter_mut()
                .for_each(|(.., placement)| **placement = placement.stays(Reason::Unknown));
            return;
        };
        machine::jumps(code.bytes(), |target| {
            let addr = window.start.wrapping_add_signed(target);
            let after = stretches.partition_point(|&(start, ..)| start < addr);
            if let Some((_, last, placement)) =
                after.checked_sub(1).and_then(|index| stretches.get_mut(index))
                && addr <= *last
            {
                **placement = placement.stays(Reason::JumpedInto);
            }
        });
    }
}

/// Ranges of addresses around these, which are in order, in which jumps to them are looked for. None goes beyond a segment.
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

/// The first instruction that the kernel emulates and before which nothing happens that the probe would miss. Whether
/// anything jumps in between is still to be looked at. None without a first instruction.
fn nearest(code: &[u8], size: u64, needs: Needs) -> Option<Placement> {
    let mut steps = machine::steps(code);
    let mut last = steps.next()?;
    let first = last.name;
    let mistaken = is_mistaken(code);
    let place = |ahead, why| {
        Some(Placement {
            ahead,
            first,
            why,
            mistaken,
        })
    };
    if last.emulated {
        return place(0, Why::Emulated);
    }
    if size == 0 {
        return place(0, Why::Stays(Reason::Unknown));
    }
    for step in steps.take(MOST_STEPS) {
        if let Err(reason) = passable(&last, needs) {
            return place(0, Why::Stays(reason));
        }
        if last.end > MOST_BYTES {
            break;
        }
        if step.emulated {
            return place(last.end, Why::Moved);
        }
        last = step;
    }
    let reason = passable(&last, needs).err().unwrap_or(Reason::NoneNear);
    place(0, Why::Stays(reason))
}

/// May the program run this instruction before it gets to the probe?
fn passable(step: &Step, needs: Needs) -> Result<(), Reason> {
    let stores = match (needs.memory, needs.stack()) {
        (_, true) => Stores::BelowStack,
        (true, false) => Stores::Stack,
        (false, false) => Stores::Anything,
    };
    match () {
        () if step.leaves => Err(Reason::Leaves(step.name)),
        () if step.writes & needs.registers != 0 || step.stores > stores => Err(Reason::Changes(step.name)),
        () if step.may_fault => Err(Reason::MayFault(step.name)),
        () => Ok(()),
    }
}
