// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! USDT probes: static tracepoints in programs, described by the notes in `.note.stapsdt`.
//!
//! A probe is one `nop` in a function. Its note has the location of each argument at that point in assembler
//! syntax, such as `-4@%edi 8@-16(%rbp)`. Programs can skip the preparation of expensive arguments while a
//! semaphore, a counter in their data, is zero; the kernel increments it while a probe is attached.

use std::borrow::Cow;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::similar::similar;
use crate::find::elf::ElfFile;

#[cfg(any(test, target_arch = "aarch64"))]
mod arm64;
pub mod operands;
#[cfg(test)]
mod tests;
mod variables;
#[cfg(any(test, target_arch = "x86_64"))]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use arm64::{named_variable, operand, variable_operand};
#[cfg(target_arch = "x86_64")]
use x86_64::{named_variable, operand, variable_operand};

#[cfg(target_arch = "aarch64")]
pub use arm64::INSTRUCTION_POINTER;
pub use operands::UsdtOperand;
#[cfg(target_arch = "x86_64")]
pub use x86_64::INSTRUCTION_POINTER;

use variables::VariableAddresses;

/// Most bytes of notes that are read: hundreds of times what real programs have.
const MAX_NOTES: usize = 4 << 20;
/// Most arguments of a probe that are read; the macros that define probes support no more.
const MAX_ARGUMENTS: usize = 12;
const NT_STAPSDT: u32 = 3;
const OWNER: &[u8] = b"stapsdt\0";

/// One location of a probe. A probe can have several, each with its arguments in different registers or
/// memory.
#[derive(Clone, Debug, PartialEq)]
pub struct UsdtProbe {
    pub provider: String,
    /// As in the file: `query__start`, where PostgreSQL's documentation says `query-start`.
    pub name: String,
    /// File offset of its instruction.
    pub offset: u64,
    /// Virtual address of its instruction, before relocation.
    pub addr: u64,
    /// File offset of its semaphore, if any: the kernel's `ref_ctr_offset`.
    pub semaphore: Option<u64>,
    pub arguments: Vec<UsdtArgument>,
}

/// An argument of a probe.
#[derive(Clone, Debug, PartialEq)]
pub struct UsdtArgument {
    /// Size: 1, 2, 4 or 8, unless the operand is unknown.
    pub bytes: u8,
    pub number: NumberKind,
    pub operand: UsdtOperand,
    /// As in the file, such as `-4@%edi`. Untrusted.
    pub text: Rc<str>,
}

/// How the bytes of an argument are interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberKind {
    Signed,
    Unsigned,
    Float,
}

/// At most `n` names of probes that are similar to `name`, best first. Empty if the probes cannot be read.
pub fn nearest(elf: &ElfFile, name: &str, n: usize) -> Vec<String> {
    let probes = probes(elf).unwrap_or_default();
    similar(name, probes.iter().map(|probe| &*probe.name), n)
}

/// All probes of a file, in the order of its notes. Skips probes outside of the code and names that are not
/// UTF-8.
///
/// # Errors
/// The notes cannot be read, or are damaged.
pub fn probes(elf: &ElfFile) -> Result<Vec<UsdtProbe>> {
    let Some((_, notes)) = elf.section_named(".note.stapsdt") else {
        return Ok(Vec::new());
    };
    let base = elf.section_named(".stapsdt.base").map(|(addr, _)| addr);
    let mut rest = notes.bytes();
    ensure!(
        rest.len() <= MAX_NOTES,
        "failed to read USDT probes: {} bytes are too many",
        rest.len()
    );
    let mut found = Vec::new();
    while !rest.is_empty() {
        let note = ProbeNote::take(&mut rest).context("failed to read USDT probes: truncated note")?;
        found.extend(note);
    }
    let places = found
        .iter()
        .flat_map(|note| words(&note.arguments).map(|word| split(word).1));
    let variables =
        VariableAddresses::find(elf, places.filter_map(|place| place.get(named_variable(place)?)));
    let probes = found.iter().filter_map(|note| note.probe(elf, base, &variables));
    Ok(probes.collect())
}

/// The content of a note. Addresses are those at link time.
struct ProbeNote<'a> {
    addr: u64,
    /// Address of `.stapsdt.base`.
    base: u64,
    /// 0 for none.
    semaphore: u64,
    provider: &'a [u8],
    name: &'a [u8],
    arguments: Cow<'a, str>,
}

impl UsdtProbe {
    /// Probes the instruction at `addr` instead, from which operands are then read.
    pub fn move_to(&mut self, addr: u64) {
        let distance = addr.wrapping_sub(self.addr);
        self.offset = self.offset.wrapping_add(distance);
        self.addr = addr;
        for argument in &mut self.arguments {
            let (base, offset) = match &mut argument.operand {
                UsdtOperand::Memory { base, offset, .. } => (*base, offset),
                UsdtOperand::Address { base, offset } => (Some(*base), offset),
                _ => continue,
            };
            if base.is_some() && base == INSTRUCTION_POINTER {
                *offset = offset.wrapping_sub(distance as i64);
            }
        }
    }
}

impl<'a> ProbeNote<'a> {
    /// Takes the next note. `None` if it is truncated; `Some(None)` if it does not describe a probe.
    fn take(rest: &mut &'a [u8]) -> Option<Option<ProbeNote<'a>>> {
        let name_size = take_u32(rest)?;
        let size = take_u32(rest)?;
        let kind = take_u32(rest)?;
        let owner = take_padded(rest, name_size)?;
        let description = take_padded(rest, size)?;
        Some(match owner == OWNER && kind == NT_STAPSDT {
            true => ProbeNote::read(description),
            false => None,
        })
    }

    fn read(mut rest: &'a [u8]) -> Option<ProbeNote<'a>> {
        let [addr, base, semaphore] = [take_u64(&mut rest)?, take_u64(&mut rest)?, take_u64(&mut rest)?];
        Some(ProbeNote {
            addr,
            base,
            semaphore,
            provider: take_string(&mut rest)?,
            name: take_string(&mut rest)?,
            arguments: String::from_utf8_lossy(take_string(&mut rest)?),
        })
    }

    /// `base` is the current address of `.stapsdt.base`. It differs from that at link time if a tool such as
    /// prelink moved the file without updating the notes.
    fn probe(
        &self,
        elf: &ElfFile,
        base: Option<u64>,
        variables: &VariableAddresses<'_>,
    ) -> Option<UsdtProbe> {
        let moved = base.map_or(0, |base| base.wrapping_sub(self.base));
        let addr = self.addr.wrapping_add(moved);
        let semaphore = match self.semaphore {
            0 => None,
            semaphore => Some(elf.data_offset_of(semaphore.wrapping_add(moved))?),
        };
        Some(UsdtProbe {
            provider: text(self.provider)?,
            name: text(self.name)?,
            offset: elf.offset_of(addr)?,
            addr,
            semaphore,
            arguments: arguments(&self.arguments, addr, variables),
        })
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(size)?;
    *rest = after;
    Some(taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest, 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// Takes `size` bytes and the padding to a multiple of 4, which may be missing at the end of the notes.
fn take_padded<'a>(rest: &mut &'a [u8], size: u32) -> Option<&'a [u8]> {
    let taken = take(rest, size as usize)?;
    let padding = taken.len().next_multiple_of(4) - taken.len();
    take(rest, padding.min(rest.len()))?;
    Some(taken)
}

/// Takes the bytes up to the next NUL, and the NUL.
fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = rest.iter().position(|&byte| byte == 0)?;
    let taken = take(rest, size)?;
    take(rest, 1)?;
    Some(taken)
}

/// The arguments of the probe at a virtual address.
fn arguments(text: &str, addr: u64, variables: &VariableAddresses<'_>) -> Vec<UsdtArgument> {
    words(text).map(|word| argument(word, addr, variables)).collect()
}

/// The text of each argument. Splits at white space, except in brackets: arm64 writes `[sp, 8]`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c: char| {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && c.is_ascii_whitespace()
    })
    .filter(|word| !word.is_empty())
    .take(MAX_ARGUMENTS)
}

/// Splits at the first `@`: `SIZE@OPERAND`. Without a size it is 8 bytes.
fn split(text: &str) -> (&str, &str) {
    text.split_once('@').unwrap_or(("8", text))
}

/// The operand of the probe at a virtual address.
fn operand_at(place: &str, addr: u64, variables: &VariableAddresses<'_>) -> UsdtOperand {
    let known = match named_variable(place) {
        None => operand(place),
        Some(name) => match variables.get(&place[name.clone()]) {
            None => return UsdtOperand::UnknownVariable,
            Some(variable) => variable_operand(place, name, variable, addr),
        },
    };
    known.unwrap_or(UsdtOperand::Unknown)
}

/// Parses `SIZE@OPERAND`: `-` before the size means signed, `f` after it floating-point.
fn argument(text: &str, addr: u64, variables: &VariableAddresses<'_>) -> UsdtArgument {
    let (format, place) = split(text);
    let (format, negative) = match format.strip_prefix('-') {
        Some(format) => (format, true),
        None => (format, false),
    };
    let (size, number) = match format.strip_suffix('f') {
        Some(size) => (size, NumberKind::Float),
        None if negative => (format, NumberKind::Signed),
        None => (format, NumberKind::Unsigned),
    };
    let bytes = match size {
        "1" => 1,
        "2" => 2,
        "4" => 4,
        "8" => 8,
        _ => 0,
    };
    let operand = match bytes {
        0 => UsdtOperand::Unknown,
        _ => operand_at(place, addr, variables),
    };
    UsdtArgument {
        bytes,
        number,
        operand,
        text: text.into(),
    }
}
