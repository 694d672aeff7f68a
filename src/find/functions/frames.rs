//! Where functions start and end by the tables that unwind the stack. A program needs them to run, so they stay when its
//! symbols are stripped.

use std::collections::{HashMap, HashSet};

use gimli::{
    BaseAddresses, CallFrameInstruction, CieOrFde, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Pointer,
};
use gimli::{FrameDescriptionEntry, UnwindSection};

use crate::find::elf::{Block, ElfFile};

/// What the sections begin with whose code is no function's: stubs for calls into libraries, and what BOLT has replaced.
const NOT_CALLED: [&str; 2] = [".plt", ".bolt.org"];

/// Bytes that a call puts on the stack.
#[cfg(target_arch = "x86_64")]
const CALLED_FRAME: u64 = 8;
#[cfg(target_arch = "aarch64")]
const CALLED_FRAME: u64 = 0;

type Bytes<'b> = EndianSlice<'b, LittleEndian>;

/// The code of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameExtent {
    /// Virtual address of the first instruction.
    pub addr: u64,
    /// In bytes.
    pub size: u64,
}

/// Where calls are sure to begin, with a return address on top of the stack, or on arm64 in its register. That is not
/// so where programs start, in cold parts of functions, and at labels inside of functions.
pub fn called_starts(elf: &ElfFile) -> HashSet<u64> {
    let starts = functions(elf).into_iter().map(|extent| extent.addr);
    starts.filter(|&addr| addr != elf.entry()).collect()
}

/// How many bytes the functions in the unwind tables have, by their addresses.
pub fn sizes(elf: &ElfFile) -> HashMap<u64, u64> {
    let sizes = functions(elf)
        .into_iter()
        .map(|extent| (extent.addr, extent.size));
    sizes.collect()
}

/// The functions in the unwind tables, by address, each once. What cannot be read is left out.
pub fn functions(elf: &ElfFile) -> Vec<FrameExtent> {
    let Some((addr, block)) = unwind_table(elf) else {
        return Vec::new();
    };
    let not_called: Vec<_> = NOT_CALLED
        .iter()
        .flat_map(|name| elf.sections_starting(name))
        .collect();
    let mut found = read(addr, block.bytes());
    found.retain(|extent| !not_called.iter().any(|range| range.contains(&extent.addr)));
    found.sort_unstable();
    found.dedup_by_key(|extent| extent.addr);
    found
}

/// The virtual address and the content of `.eh_frame`, and maybe something after it.
fn unwind_table(elf: &ElfFile) -> Option<(u64, Block)> {
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

pub fn read(addr: u64, bytes: &[u8]) -> Vec<FrameExtent> {
    let table = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(addr);
    let mut entries = table.entries(&bases);
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else {
            continue;
        };
        let entry = entry.parse(EhFrame::cie_from_offset);
        if let Ok(entry) = entry
            && is_function(&entry, &table, &bases)
        {
            found.push(FrameExtent {
                addr: entry.initial_address(),
                size: entry.len(),
            });
        }
    }
    found
}

/// Whether the entry is about a function from its start: what begins with a frame that is built already is the cold part
/// of another function, or the stubs of `.plt`. The code that signal handlers return to is called by nobody.
fn is_function(entry: &FrameDescriptionEntry<Bytes>, table: &EhFrame<Bytes>, bases: &BaseAddresses) -> bool {
    use CallFrameInstruction::{
        AdvanceLoc, DefCfa, DefCfaExpression, DefCfaOffset, DefCfaRegister, SetLoc, Undefined,
    };
    if entry.is_signal_trampoline() || entry.len() == 0 {
        return false;
    }
    // The rules that several entries begin with: those of functions have nothing but the return address in the frame.
    let mut common = entry.cie().instructions(table, bases);
    while let Ok(Some(instruction)) = common.next() {
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
            // Where a program or a thread begins, nobody has called.
            Undefined { register } if register == return_address => return false,
            _ => {}
        }
    }
    true
}
