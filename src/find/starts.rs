// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Checks that an instruction starts where a probe is wanted.
//!
//! The kernel puts a breakpoint at any offset, and inside an instruction it changes the program. Where instructions
//! start is known from symbols, function tables and USDT notes, and any of them can be wrong: a tool that rewrites
//! programs may not update all of them, and a debug file may belong to a program that was relinked. So they must agree
//! with the unwind tables, without which the program would not work, or in code that these leave out, with the
//! instructions before it. A function that only the unwind tables know begins where they say.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use super::code::instructions::starts;
use super::elf::ElfFile;
use super::functions::{FrameExtent, described};

/// Bytes of the longest instruction.
const LONGEST: u64 = 16;
/// How much code is decoded at a time where the unwind tables have none, in bytes.
const STRETCH: u64 = 64 << 10;
/// How many bytes before a stretch decoding begins. Wherever it begins, it agrees with the real instructions after some
/// dozens of bytes.
const LEAD: u64 = 4 << 10;

/// Where the instructions of a file start.
pub struct InstructionStarts<'e> {
    elf: &'e ElfFile,
    /// What the unwind tables describe, by address.
    described: Vec<FrameExtent>,
    /// The code that was decoded last: addresses are asked for in their order.
    decoded: RefCell<Option<DecodedCode>>,
}

/// Why no probe can be at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownStart {
    /// Inside the instruction at this address.
    Inside { start: u64 },
    /// There is no code, or it is not a valid instruction.
    NoInstruction,
    /// In the same function, there is an invalid instruction at this address before it.
    Undecodable { at: u64 },
}

impl fmt::Display for UnknownStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnknownStart::Inside { start } => write!(f, "inside the instruction at {start:#x}"),
            UnknownStart::NoInstruction => f.write_str("not a valid instruction"),
            UnknownStart::Undecodable { at } => write!(f, "behind an invalid instruction at {at:#x}"),
        }
    }
}

impl std::error::Error for UnknownStart {}

impl<'e> InstructionStarts<'e> {
    pub fn of(elf: &'e ElfFile) -> InstructionStarts<'e> {
        InstructionStarts {
            elf,
            described: described(elf),
            decoded: RefCell::new(None),
        }
    }

    /// Checks that an instruction starts at this virtual address.
    ///
    /// # Errors
    /// None does, or it is not known.
    pub fn check(&self, addr: u64) -> Result<(), UnknownStart> {
        let code = self.code_around(addr).ok_or(UnknownStart::NoInstruction)?;
        if !(code.is_described && code.range.start == addr) {
            let mut last = self.decoded.borrow_mut();
            let decoded = match last.take().filter(|decoded| decoded.range == code.range) {
                Some(decoded) => decoded,
                None => code.decode(self.elf)?,
            };
            last.insert(decoded).check(addr)?;
        }
        let first = (1..=LONGEST)
            .rev()
            .find_map(|size| self.elf.code(addr, size).ok());
        let first = first.and_then(|code| starts(&code).next());
        matches!(first, Some(Ok(_)))
            .then_some(())
            .ok_or(UnknownStart::NoInstruction)
    }

    /// The code in the unwind tables that contains an address, or a stretch of code between them. `None` if there is no
    /// code.
    fn code_around(&self, addr: u64) -> Option<CodeExtent> {
        let around = self.elf.code_around(addr)?;
        let end = |extent: &FrameExtent| extent.addr.saturating_add(extent.size);
        let after = self.described.partition_point(|extent| extent.addr <= addr);
        let before = after.checked_sub(1).and_then(|index| self.described.get(index));
        if let Some(extent) = before
            && addr < end(extent)
        {
            return Some(CodeExtent {
                range: extent.addr..end(extent),
                from: extent.addr,
                is_described: true,
            });
        }
        let first = before.map_or(0, end).max(around.start);
        let last = self.described.get(after).map_or(u64::MAX, |next| next.addr);
        let start = first + (addr - first) / STRETCH * STRETCH;
        Some(CodeExtent {
            range: start..start.saturating_add(STRETCH).min(last).min(around.end),
            from: start.saturating_sub(LEAD).max(first),
            is_described: false,
        })
    }
}

/// Code to decode.
struct CodeExtent {
    range: Range<u64>,
    /// Where decoding begins.
    from: u64,
    /// The unwind tables say that it starts with an instruction, and it has nothing but instructions.
    is_described: bool,
}

impl CodeExtent {
    fn decode(self, elf: &ElfFile) -> Result<DecodedCode, UnknownStart> {
        let end = self.range.end;
        // The last instruction of a stretch may end after it.
        let code = [LONGEST, 0].into_iter().find_map(|more| {
            let size = end.checked_add(more)?.checked_sub(self.from)?;
            elf.code(self.from, size).ok()
        });
        let code = code.ok_or(UnknownStart::NoInstruction)?;
        let mut found = Vec::new();
        for start in starts(&code) {
            found.push(start.map(|start| self.from + start).map_err(|at| self.from + at));
            if start.is_err() && self.is_described {
                break;
            }
        }
        Ok(DecodedCode {
            range: self.range,
            starts: found,
        })
    }
}

/// Decoded code.
struct DecodedCode {
    range: Range<u64>,
    /// Virtual addresses of instructions and, as errors, of bytes that are none, in order.
    starts: Vec<Result<u64, u64>>,
}

impl DecodedCode {
    fn check(&self, addr: u64) -> Result<(), UnknownStart> {
        let is_before = |start: &Result<u64, u64>| start.unwrap_or_else(|at| at) <= addr;
        let after = self.starts.partition_point(is_before);
        match after.checked_sub(1).and_then(|index| self.starts.get(index)) {
            Some(&Ok(start)) if start == addr => Ok(()),
            Some(&Ok(start)) => Err(UnknownStart::Inside { start }),
            Some(&Err(at)) if at < addr => Err(UnknownStart::Undecodable { at }),
            Some(&Err(_)) | None => Err(UnknownStart::NoInstruction),
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::find::elf::image::{BASE, CODE_AT, file_with, image_with_functions};

    /// `sub $8, %rsp; ret`
    const FUNCTION: [u8; 5] = [0x48, 0x83, 0xec, 0x08, 0xc3];
    /// No instruction begins with it.
    const INVALID: u8 = 0x06;
    const NOP: u8 = 0x90;

    /// Checks these addresses, in bytes from the start of the code, in a file without unwind tables.
    fn check<const N: usize>(code: &[u8], at: [u64; N]) -> [Result<(), UnknownStart>; N] {
        let elf = ElfFile::open(
            file_with(&image_with_functions(code, 0, 0, 0)),
            "made-up".as_ref(),
        )
        .unwrap();
        let starts = InstructionStarts::of(&elf);
        at.map(|at| starts.check(BASE + CODE_AT + at))
    }

    fn inside(start: u64) -> Result<(), UnknownStart> {
        let start = BASE + CODE_AT + start;
        Err(UnknownStart::Inside { start })
    }

    #[test]
    fn undescribed_code_is_decoded_from_before() {
        let code = [&[NOP; 64][..], &FUNCTION, &[NOP; 3], &FUNCTION].concat();
        let found = check(&code, [64, 65, 67, 68, 69, 72, 73]);
        assert_eq!(
            found,
            [Ok(()), inside(64), inside(64), Ok(()), Ok(()), Ok(()), inside(72)]
        );
    }

    #[test]
    fn decoding_goes_on_after_data() {
        let code = [&[NOP; 64][..], &[INVALID; 3], &FUNCTION].concat();
        let found = check(&code, [65, 66, 67, 68]);
        assert_eq!(
            found,
            [
                Err(UnknownStart::NoInstruction),
                Err(UnknownStart::NoInstruction),
                Ok(()),
                inside(67)
            ]
        );
    }

    #[test]
    fn long_code_is_decoded_in_stretches() {
        // Their borders are inside instructions.
        let count = 3 * STRETCH / FUNCTION.len() as u64;
        let code = [&[NOP; 64][..], &FUNCTION.repeat(count as usize)].concat();
        for index in (0..count).step_by(101).chain([count - 1, 0]) {
            let start = 64 + index * FUNCTION.len() as u64;
            assert_eq!(check(&code, [start, start + 2]), [Ok(()), inside(start)]);
        }
    }

    #[test]
    fn addresses_outside_of_code_are_refused() {
        let found = check(&FUNCTION, [1 << 30, 1 << 40]);
        assert_eq!(found, [Err(UnknownStart::NoInstruction); 2]);
    }
}
