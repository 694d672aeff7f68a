// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Operands as the GNU assembler writes them on arm64.

use std::ops::Range;

use super::operands::{UsdtIndex, UsdtOperand, integer, register_number};

/// No operand is relative to the instruction.
pub const INSTRUCTION_POINTER: Option<u16> = None;
/// The DWARF number of the stack pointer.
const SP: u16 = 31;

/// Before the part of the address of a variable that is not in the register.
const LOW: &str = "#:lo12:";

/// Where the variable is in an operand such as `[x0, #:lo12:counter]`.
pub fn named_variable(text: &str) -> Option<Range<usize>> {
    let start = text.find(LOW)? + LOW.len();
    let end = start + text.get(start..)?.find(['+', ']'])?;
    (start < end).then_some(start..end)
}

/// The operand with its variable at `name`: its address is in a register, but for the low 12 bits.
pub fn variable_operand(text: &str, name: Range<usize>, variable: u64, _: u64) -> Option<UsdtOperand> {
    let (register, sum) = (text.get(..name.start)?.strip_suffix(LOW)?, text.get(name.end..)?);
    let added = match sum.strip_suffix(']')? {
        "" => 0,
        added => integer(added)?,
    };
    let low = variable.wrapping_add_signed(added) & 0xfff;
    operand(&format!("{register}{low}]"))
}

/// `None` if the operand is not supported.
pub fn operand(text: &str) -> Option<UsdtOperand> {
    if let Some(address) = text.strip_prefix('[') {
        return memory(address.strip_suffix(']')?);
    }
    // The zero register.
    if matches!(text, "xzr" | "wzr") {
        return Some(UsdtOperand::Constant(0));
    }
    match register(text) {
        Some(register) => Some(UsdtOperand::Register { register, shift: 0 }),
        None => immediate(text).map(UsdtOperand::Constant),
    }
}

/// Parses the text between the brackets: `base`, `base, offset`, `base, index`, `base, index, lsl #shift`,
/// `base, half of a register, sxtw #shift`.
fn memory(address: &str) -> Option<UsdtOperand> {
    let mut parts = address.split(',').map(str::trim);
    let base = Some(whole_register(parts.next()?)?);
    let (second, third) = (parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    if let Some(name) = second
        && let Some(register) = register(name)
    {
        let is_whole = whole_register(name).is_some();
        return Some(UsdtOperand::Memory {
            base,
            index: Some(index(register, is_whole, third)?),
            offset: 0,
        });
    }
    if third.is_some() {
        return None;
    }
    Some(UsdtOperand::Memory {
        base,
        index: None,
        offset: second.map_or(Some(0), immediate)?,
    })
}

/// An index with the `change` that is written behind it: `lsl #3`, or for the lower half of a register `uxtw` or
/// `sxtw 2`.
fn index(register: u16, is_whole: bool, change: Option<&str>) -> Option<UsdtIndex> {
    let Some(change) = change else {
        return is_whole.then_some(UsdtIndex::whole(register, 1));
    };
    if is_whole {
        return Some(UsdtIndex::whole(register, scale(change.strip_prefix("lsl")?)?));
    }
    let signed = change.starts_with("sxtw");
    let shift = change.strip_prefix(if signed { "sxtw" } else { "uxtw" })?;
    Some(UsdtIndex {
        register,
        scale: if shift.is_empty() { 1 } else { scale(shift)? },
        bytes: 4,
        signed,
    })
}

fn scale(shift: &str) -> Option<u8> {
    match immediate(shift.trim_start())? {
        bits @ 0..=4 => Some(1 << bits),
        _ => None,
    }
}

fn immediate(text: &str) -> Option<i64> {
    integer(text.strip_prefix('#').unwrap_or(text))
}

/// A register or its lower half.
fn register(name: &str) -> Option<u16> {
    match name.strip_prefix('w') {
        Some("sp") => Some(SP),
        Some(digits) => numbered(digits),
        None => whole_register(name),
    }
}

fn whole_register(name: &str) -> Option<u16> {
    match name {
        "sp" => Some(SP),
        "fp" => Some(29),
        "lr" => Some(30),
        _ => numbered(name.strip_prefix('x')?),
    }
}

fn numbered(digits: &str) -> Option<u16> {
    register_number(digits).filter(|&number| number <= 30)
}
