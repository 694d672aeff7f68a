// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where functions have set up a frame pointer, by the unwind tables.
//!
//! A stack is walked from one frame pointer to the next. In a function that does not set it up, the register has
//! something else, often the frame pointer of a caller: the walk then skips that caller, or leads anywhere.

use gimli::{
    BaseAddresses, CieOrFde, EhFrame, EhFrameOffset, FrameDescriptionEntry, LittleEndian, Register,
    RegisterRule, UnwindContext, UnwindSection, UnwindTableRow,
};

use super::frames::{UnwindBytes, common_entry, unwind_table};
use crate::find::elf::{ElfBlock, ElfFile};

/// Most rules of an entry that are evaluated. The longest functions have some thousand.
const MOST_RULES: usize = 1 << 14;

/// The unwind tables of a file.
pub struct FramePointers {
    table: Option<(u64, ElfBlock)>,
    /// The code that the table describes, by address.
    entries: Vec<DescribedCode>,
    /// All code of Go that makes calls has frame pointers, and is not in the tables.
    is_go: bool,
}

struct DescribedCode {
    start: u64,
    end: u64,
    /// Where its entry is in the table.
    entry: usize,
}

impl FramePointers {
    pub fn read(elf: &ElfFile) -> FramePointers {
        let table = unwind_table(elf);
        let mut entries = table.as_ref().map(described).unwrap_or_default();
        entries.sort_by_key(|code| code.start);
        FramePointers {
            table,
            entries,
            is_go: elf.is_go(),
        }
    }

    /// Whether the frame pointer is that of the function at the instruction that contains virtual address `addr`. False
    /// if it is not known.
    pub fn is_set(&self, addr: u64) -> bool {
        let after = self.entries.partition_point(|code| code.start <= addr);
        let before = after.checked_sub(1).and_then(|index| self.entries.get(index));
        match before.filter(|code| addr < code.end) {
            Some(code) => self.rules_set(code, addr).unwrap_or(false),
            None => self.is_go,
        }
    }

    fn rules_set(&self, code: &DescribedCode, addr: u64) -> Option<bool> {
        let (table_addr, block) = self.table.as_ref()?;
        let table = EhFrame::new(block.bytes(), LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(*table_addr);
        let entry = table
            .fde_from_offset(&bases, EhFrameOffset(code.entry), common_entry)
            .ok()?;
        if is_long(&entry, &table, &bases) {
            return None;
        }
        let mut context = UnwindContext::new();
        let row = entry.unwind_info_for_address(&table, &bases, &mut context, addr);
        row.ok().map(has_frame_record)
    }
}

fn described((addr, block): &(u64, ElfBlock)) -> Vec<DescribedCode> {
    let table = EhFrame::new(block.bytes(), LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(*addr);
    let mut entries = table.entries(&bases);
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else {
            continue;
        };
        if let Ok(entry) = entry.parse(common_entry) {
            found.push(DescribedCode {
                start: entry.initial_address(),
                end: entry.end_address(),
                entry: entry.offset(),
            });
        }
    }
    found
}

fn is_long(
    entry: &FrameDescriptionEntry<UnwindBytes<'_>>,
    table: &EhFrame<UnwindBytes<'_>>,
    bases: &BaseAddresses,
) -> bool {
    let count = |mut rules: gimli::CallFrameInstructionIter<'_, UnwindBytes<'_>>| {
        let mut left = MOST_RULES;
        while left > 0 && matches!(rules.next(), Ok(Some(_))) {
            left -= 1;
        }
        MOST_RULES - left
    };
    let common = count(entry.cie().instructions(table, bases));
    common + count(entry.instructions(table, bases)) >= MOST_RULES
}

/// Whether the frame pointer leads to that of the caller and to the return address.
#[cfg(target_arch = "x86_64")]
fn has_frame_record(row: &UnwindTableRow<usize>) -> bool {
    const RBP: Register = Register(6);
    let is_base = matches!(
        *row.cfa(),
        gimli::CfaRule::RegisterAndOffset {
            register: RBP,
            offset: 16
        }
    );
    is_base && row.register(RBP) == Some(RegisterRule::Offset(-16))
}

/// As above. Compilers rarely describe the frame by x29, but store it and the return address side by side only to use
/// it.
#[cfg(target_arch = "aarch64")]
fn has_frame_record(row: &UnwindTableRow<usize>) -> bool {
    const X29: Register = Register(29);
    const X30: Register = Register(30);
    match (row.register(X29), row.register(X30)) {
        (Some(RegisterRule::Offset(frame)), Some(RegisterRule::Offset(address))) => {
            frame.checked_add(8) == Some(address)
        }
        _ => false,
    }
}
