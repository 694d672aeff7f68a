// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! How deep the frame of a function is at each of its instructions, by the unwind tables.

use std::cell::{Cell, RefCell};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameOffset, LittleEndian, Register, UnwindContext, UnwindSection,
};

use super::frames::{CALLED_FRAME, FrameExtent, read_with_offsets, unwind_table};
use crate::find::elf::{ElfBlock, ElfFile};

#[cfg(target_arch = "x86_64")]
const STACK_POINTER: Register = gimli::X86_64::RSP;
#[cfg(target_arch = "aarch64")]
const STACK_POINTER: Register = gimli::AArch64::SP;

/// Rows of unwind tables that are read for one file: a table can have many for each function, and many functions can
/// share one.
const MOST_ROWS: usize = 1 << 24;

/// The frame depths of a file.
pub struct FrameDepths {
    /// Virtual address and content of `.eh_frame`.
    table: Option<(u64, ElfBlock)>,
    /// What its entries describe, by address, and their offsets.
    entries: Vec<(FrameExtent, usize)>,
    rows_left: Cell<usize>,
    context: RefCell<UnwindContext<usize>>,
}

impl FrameDepths {
    pub fn of(elf: &ElfFile) -> FrameDepths {
        let table = unwind_table(elf);
        let mut entries = table
            .as_ref()
            .map_or_else(Vec::new, |(addr, block)| read_with_offsets(*addr, block.bytes()));
        entries.sort_unstable();
        FrameDepths {
            table,
            entries,
            rows_left: Cell::new(MOST_ROWS),
            context: RefCell::default(),
        }
    }

    /// Whether the stack pointer is where it was when the function was called, before the instruction at this virtual
    /// address. `None` if the tables do not say.
    pub fn is_at_entry_depth(&self, addr: u64) -> Option<bool> {
        let (base, block) = self.table.as_ref()?;
        let after = self.entries.partition_point(|(extent, _)| extent.addr <= addr);
        let (_, offset) = self.entries[..after].last()?;
        let table = EhFrame::new(block.bytes(), LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(*base);
        let entry = table.fde_from_offset(&bases, EhFrameOffset(*offset), EhFrame::cie_from_offset);
        let entry = entry.ok().filter(|entry| entry.contains(addr))?;
        let mut context = self.context.borrow_mut();
        let mut rows = entry.rows(&table, &bases, &mut context).ok()?;
        loop {
            self.rows_left.set(self.rows_left.get().checked_sub(1)?);
            let row = rows.next_row().ok().flatten()?;
            if row.contains(addr) {
                return match *row.cfa() {
                    CfaRule::RegisterAndOffset { register, offset } => {
                        Some(register == STACK_POINTER && offset == CALLED_FRAME as i64)
                    }
                    CfaRule::Expression(_) => None,
                };
            }
        }
    }
}
