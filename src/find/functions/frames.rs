// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Start and size of functions by the unwind tables (`.eh_frame`). Programs need them at run time, so they
//! survive stripping.

use std::collections::HashMap;

use gimli::{
    BaseAddresses, CallFrameInstruction, CieOrFde, CommonInformationEntry, EhFrame, EhFrameHdr,
    EhFrameOffset, EndianSlice, LittleEndian, Pointer,
};
use gimli::{FrameDescriptionEntry, Section, UnwindSection};

use crate::find::elf::{ElfBlock, ElfFile};

/// Prefixes of sections whose code is not functions: PLT stubs, and code that BOLT has replaced.
const NOT_CALLED: [&str; 2] = [".plt", ".bolt.org"];

/// Most common rules of unwind table entries that are looked at. Many entries may share them; real tables have a few.
const MOST_RULES: usize = 256;

/// Bytes that a call pushes on the stack.
#[cfg(target_arch = "x86_64")]
const CALLED_FRAME: u64 = 8;
#[cfg(target_arch = "aarch64")]
const CALLED_FRAME: u64 = 0;

/// Longest common entry that is read, in bytes. Real ones have some thirty.
const MOST_COMMON_BYTES: u32 = 1024;

pub type UnwindBytes<'b> = EndianSlice<'b, LittleEndian>;
type Entry<'b> = FrameDescriptionEntry<UnwindBytes<'b>>;

/// The code range of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameExtent {
    /// Virtual address of the first instruction.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
}

/// Length in bytes of the functions in the unwind tables, by virtual address. They are certain to be called, except the
/// entry point of a program: cold parts and labels inside functions are not among them.
pub fn sizes(elf: &ElfFile) -> HashMap<u64, u64> {
    let sizes = functions(elf)
        .into_iter()
        .map(|extent| (extent.addr, extent.size));
    sizes.collect()
}

/// All code in the unwind tables, by address, each once: functions, parts of them, and stubs.
pub fn described(elf: &ElfFile) -> Vec<FrameExtent> {
    let Some((addr, block)) = unwind_table(elf) else {
        return Vec::new();
    };
    // The description of a signal trampoline starts one byte early, since unwinders look before the return address.
    let mut found = read_if(addr, block.bytes(), |entry, _, _| !entry.is_signal_trampoline());
    found.sort_unstable();
    found.dedup_by_key(|extent| extent.addr);
    found
}

/// The functions in the unwind tables, by address, each once. Damaged entries are skipped.
pub fn functions(elf: &ElfFile) -> Vec<FrameExtent> {
    let Some((addr, block)) = unwind_table(elf) else {
        return Vec::new();
    };
    without_stubs(elf, read(addr, block.bytes()))
}

/// Parts that compilers have moved out of functions, by address.
pub fn moved_parts(elf: &ElfFile) -> Vec<FrameExtent> {
    let Some((addr, block)) = unwind_table(elf) else {
        return Vec::new();
    };
    let found = read_if(addr, block.bytes(), |entry, table, bases| {
        !entry.is_signal_trampoline() && !is_function(entry, table, bases)
    });
    without_stubs(elf, found)
}

/// Sorts code by address, each once. Without stubs.
fn without_stubs(elf: &ElfFile, mut found: Vec<FrameExtent>) -> Vec<FrameExtent> {
    let not_called: Vec<_> = NOT_CALLED
        .iter()
        .flat_map(|name| elf.sections_starting(name))
        .collect();
    found.retain(|extent| !not_called.iter().any(|range| range.contains(&extent.addr)));
    found.sort_unstable();
    found.dedup_by_key(|extent| extent.addr);
    found
}

/// Virtual address and content of `.eh_frame`. Without section headers, the content may extend past its end.
pub fn unwind_table(elf: &ElfFile) -> Option<(u64, ElfBlock)> {
    elf.section_named(".eh_frame").or_else(|| {
        let addr = elf.frame_index()?;
        let index = elf.content_from(addr)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(addr);
        let index = EhFrameHdr::new(index.bytes(), LittleEndian)
            .parse(&bases, 8)
            .ok()?;
        let Pointer::Direct(addr) = index.eh_frame_ptr() else {
            return None;
        };
        Some((addr, elf.content_from(addr)?))
    })
}

/// The functions in an unwind table at a virtual address.
pub fn read(addr: u64, bytes: &[u8]) -> Vec<FrameExtent> {
    read_if(addr, bytes, is_function)
}

fn read_if(
    addr: u64,
    bytes: &[u8],
    is_wanted: impl Fn(&Entry<'_>, &EhFrame<UnwindBytes>, &BaseAddresses) -> bool,
) -> Vec<FrameExtent> {
    let table = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(addr);
    let mut entries = table.entries(&bases);
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else {
            continue;
        };
        let entry = entry.parse(common_entry);
        if let Ok(entry) = entry
            && is_wanted(&entry, &table, &bases)
        {
            found.push(FrameExtent {
                addr: entry.initial_address(),
                size: entry.len(),
            });
        }
    }
    found
}

/// The common entry at an offset, unless it is long: functions share common entries, and each reads it again.
pub fn common_entry<'b>(
    table: &EhFrame<UnwindBytes<'b>>,
    bases: &BaseAddresses,
    offset: EhFrameOffset,
) -> gimli::Result<CommonInformationEntry<UnwindBytes<'b>>> {
    let bytes: &[u8] = table.reader().slice();
    let length = bytes.get(offset.0..).and_then(|entry| entry.first_chunk());
    match length {
        Some(length) if u32::from_le_bytes(*length) <= MOST_COMMON_BYTES => {
            table.cie_from_offset(bases, offset)
        }
        _ => Err(gimli::Error::NotCieId(offset.0 as u64)),
    }
}

/// Whether the entry describes a function from its start. Code that starts with a complete frame is the cold
/// part of another function, or `.plt`. Signal trampolines are not called.
fn is_function(entry: &Entry<'_>, table: &EhFrame<UnwindBytes>, bases: &BaseAddresses) -> bool {
    use CallFrameInstruction::{
        AdvanceLoc, DefCfa, DefCfaExpression, DefCfaOffset, DefCfaRegister, SetLoc, Undefined,
    };
    if entry.is_signal_trampoline() || entry.len() == 0 {
        return false;
    }
    // The common initial rules: in functions, the frame has only the return address.
    let mut common = entry.cie().instructions(table, bases);
    for _ in 0..MOST_RULES {
        let Ok(Some(instruction)) = common.next() else {
            break;
        };
        if matches!(instruction, DefCfa { offset, .. } | DefCfaOffset { offset } if offset != CALLED_FRAME) {
            return false;
        }
    }
    let return_address = entry.cie().return_address_register();
    let mut instructions = entry.instructions(table, bases);
    while let Ok(Some(instruction)) = instructions.next() {
        match instruction {
            AdvanceLoc { .. } | SetLoc { .. } => return true,
            DefCfa { .. } | DefCfaOffset { .. } | DefCfaRegister { .. } | DefCfaExpression { .. } => {
                return false;
            }
            // Entry points of programs and threads have no caller.
            Undefined { register } if register == return_address => return false,
            _ => {}
        }
    }
    true
}
