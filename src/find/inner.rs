// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Calls of some functions of a file by one another, as those of an allocator make: realloc calls malloc.
//!
//! Such a call is known by its return address, which is in *inner code*: in one of these functions, or in a function
//! that only they call. A function that ends with a jump to another one leaves no return address, so these jumps are
//! listed.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::ops::Range;

use crate::find::code::closed::ClosedFunctions;
use crate::find::code::instructions::{
    BranchCondition, ControlFlow, ExitKind, FunctionExit, IndirectJump, branches, decode, references,
};
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::functions;

/// Functions that only the given ones call, at most.
const MOST_HELPERS: usize = 256;
/// Longer functions are not examined, bytes.
const MOST_CODE: u64 = 64 << 10;
/// In files with more code, functions that only the given ones call are not looked for, bytes: all code is read.
const MOST_SEARCHED: u64 = 16 << 20;
/// How much code is read at a time, bytes.
const PART: u64 = 512 << 10;
/// Alignment between functions belongs to the one before it, bytes.
const MOST_PADDING: u64 = 16;

/// The inner code of some functions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InnerCode {
    /// Virtual addresses, in order.
    pub ranges: Vec<Range<u64>>,
    pub jumps: Vec<InnerJump>,
}

/// A jump in inner code that leads to one of the functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerJump {
    /// Its file offset, and whether it is taken always or on a condition.
    pub exit: FunctionExit,
    /// The virtual address of the function.
    pub to: u64,
}

impl InnerCode {
    /// The inner code of these functions of a file.
    pub fn of(elf: &ElfFile, functions: &[FunctionSymbol]) -> InnerCode {
        let mut known = functions::sizes(elf);
        let own: BTreeMap<u64, u64> = functions
            .iter()
            .map(|function| {
                let size = known.entry(function.addr).or_default();
                *size = function.size.max(*size);
                (function.addr, *size)
            })
            .collect();
        let search = InnerSearch {
            elf,
            own: &own,
            closed: ClosedFunctions::new(elf, known),
            exported: elf.exported_addresses(),
            sizes: functions::described(elf)
                .into_iter()
                .map(|extent| (extent.addr, extent.size))
                .collect(),
        };
        let helpers = search.helpers();
        let parts: Vec<Range<u64>> = own
            .iter()
            .chain(&helpers)
            .map(|(&addr, &size)| addr..addr.saturating_add(size))
            .collect();
        InnerCode {
            jumps: parts.iter().flat_map(|part| search.jumps(part)).collect(),
            ranges: merged(parts),
        }
    }
}

struct InnerSearch<'e, 's> {
    elf: &'e ElfFile,
    /// The size of each function by its address.
    own: &'s BTreeMap<u64, u64>,
    closed: ClosedFunctions<'e>,
    exported: HashSet<u64>,
    /// The sizes of all functions of the file and of parts of them, by their addresses.
    sizes: BTreeMap<u64, u64>,
}

impl InnerSearch<'_, '_> {
    fn code(&self, addr: u64, size: u64) -> Option<Vec<u8>> {
        self.elf.code(addr, size.min(MOST_CODE)).ok()
    }

    /// Functions without exported names that the given ones call, and no others do; their sizes by their address.
    fn helpers(&self) -> BTreeMap<u64, u64> {
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        let own = self.own.iter().map(|(&addr, &size)| (addr, size));
        // Those that are called directly come first.
        let mut waiting: VecDeque<(u64, u64)> = own.collect();
        let mut leads_back = false;
        while let Some((addr, size)) = waiting.pop_front() {
            let is_own = self.own.contains_key(&addr);
            let code = self.code(addr, size).unwrap_or_default();
            for target in branches(&code, addr) {
                leads_back |= !is_own && self.function_at(target).is_some();
                let Some(&size) = self.sizes.get(&target).filter(|&&size| size <= MOST_CODE) else {
                    continue;
                };
                let is_new = !self.own.contains_key(&target) && !found.contains_key(&target);
                if is_new && !self.exported.contains(&target) && found.len() < MOST_HELPERS {
                    found.insert(target, size);
                    waiting.push_back((target, size));
                }
            }
        }
        if leads_back {
            self.drop_shared(&mut found);
        } else {
            found.clear();
        }
        found
    }

    /// Drops functions that others refer to than the given ones and those that remain. Some distances in an instruction
    /// that are not references look like one: then a function is dropped that need not be.
    fn drop_shared(&self, found: &mut BTreeMap<u64, u64>) {
        let (Some((&first, _)), Some((&last, _))) = (found.first_key_value(), found.last_key_value()) else {
            return;
        };
        let Some(segment) = self.elf.code_segment(first) else {
            return found.clear();
        };
        if segment.end - segment.start > MOST_SEARCHED || !segment.contains(&last) {
            return found.clear();
        }
        let mut callers: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut shared: Vec<u64> = Vec::new();
        let mut start = segment.start;
        while start < segment.end {
            // The next part begins before the end of this one, as references are not aligned.
            let end = segment.end.min(start + PART + 8);
            let Some(code) = self.elf.content_of(&(start..end)) else {
                return found.clear();
            };
            let into = references(code.bytes(), start).filter(|(_, to)| (first..=last).contains(to));
            for (at, to) in into.filter(|(_, to)| found.contains_key(to)) {
                match (part_at(self.own, at), part_at(found, at)) {
                    (Some(_), _) => {}
                    (None, Some(caller)) => _ = callers.insert((caller, to)),
                    (None, None) if self.is_in_instruction(at) => shared.push(to),
                    (None, None) => {}
                }
            }
            start += PART;
        }
        while let Some(addr) = shared.pop() {
            if found.remove(&addr).is_some() {
                let called = callers.range((addr, 0)..=(addr, u64::MAX));
                shared.extend(called.map(|&(_, to)| to));
            }
        }
    }

    /// Whether the four bytes at an address may belong to one instruction.
    fn is_in_instruction(&self, addr: u64) -> bool {
        let Some(function) = part_at(&self.sizes, addr) else {
            return true;
        };
        let size = self.sizes.get(&function).copied().unwrap_or(0);
        let code = self.code(function, size).unwrap_or_default();
        let ends = decode(&code).map_while(Result::ok).skip(1);
        let end = ends.map(|next| next.start).find(|end| function + end > addr);
        end.is_none_or(|end| function + end >= addr.saturating_add(4))
    }

    /// The jumps of a function, or part of one, to the given functions other than itself.
    fn jumps(&self, part: &Range<u64>) -> Vec<InnerJump> {
        let code = self.code(part.start, part.end - part.start).unwrap_or_default();
        let jumps = decode(&code).map_while(Result::ok).filter_map(|instruction| {
            let start = instruction.start as i64;
            let (target, kind) = match instruction.flow {
                ControlFlow::Jump(target) => (target, ExitKind::Jump),
                ControlFlow::Branch(target, BranchCondition::Flags(code)) => (target, ExitKind::JumpIf(code)),
                // Without a PLT (-fno-plt), the jump itself is what a stub would have.
                ControlFlow::Indirect(IndirectJump::Pointer) => (start, ExitKind::Jump),
                _ => return None,
            };
            let to = part.start.checked_add_signed(target)?;
            let is_own = target != start && part.contains(&to);
            let to = (!is_own).then(|| self.function_at(to))??;
            let exit = FunctionExit {
                at: self.elf.offset_of(part.start + instruction.start)?,
                kind,
                target: Some(target),
                followed: false,
            };
            (to != part.start).then_some(InnerJump { exit, to })
        });
        jumps.collect()
    }

    /// The given function that a call or jump to this address leads to.
    fn function_at(&self, target: u64) -> Option<u64> {
        if self.own.contains_key(&target) {
            return Some(target);
        }
        if self.sizes.contains_key(&target) {
            return None;
        }
        let body = self.closed.body_at(target)?;
        self.own.contains_key(&body.start).then_some(body.start)
    }
}

/// The function whose code has this address.
fn part_at(sizes: &BTreeMap<u64, u64>, at: u64) -> Option<u64> {
    let (&addr, &size) = sizes.range(..=at).next_back()?;
    (at - addr < size).then_some(addr)
}

/// The ranges in order, those as one that only padding separates.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(MOST_PADDING - 1) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(
            merged(vec![64..70, 0..9, 16..31, 40..40, 90..99]),
            [0..31, 64..70, 90..99]
        );
    }

    #[test]
    fn address_belongs_to_the_function_around_it() {
        let sizes = BTreeMap::from([(16, 8), (32, 0)]);
        assert_eq!(
            [15, 16, 23, 24, 32].map(|at| part_at(&sizes, at)),
            [None, Some(16), Some(16), None, None]
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_and_jumps_are_branches_and_padding_is_no_reference() {
        // jmp 0x2000; je 0x2000; lea 0x2000(%rip),%rax; call 0x2000
        let code = [
            [0xe9, 0xfb, 0x0f, 0, 0].as_slice(),
            &[0x0f, 0x84, 0xf5, 0x0f, 0, 0],
            &[0x48, 0x8d, 0x05, 0xee, 0x0f, 0, 0],
            &[0xe8, 0xe9, 0x0f, 0, 0],
            // A nop of 9 bytes, as before functions.
            &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        ]
        .concat();
        let to = |target: u64| move |at: &u64| *at == target;
        assert_eq!(branches(&code, 0x1000).filter(to(0x2000)).count(), 3);
        let found: Vec<u64> = references(&code, 0x1000)
            .filter(|&(_, target)| target == 0x2000)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(found, [0x1001, 0x1007, 0x100e, 0x1013]);
        let end = 0x1000 + code.len() as u64;
        assert!(references(&code, 0x1000).all(|(_, target)| target != end));
    }
}
