// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Operands as the GNU assembler writes them on x86-64.

use std::ops::Range;

use super::operands::{UsdtIndex, UsdtOperand, integer, register_number};

/// The legacy registers, by DWARF register number: 64, 32, 16 and 8 bits.
const NAMED: [[&str; 4]; 8] = [
    ["rax", "eax", "ax", "al"],
    ["rdx", "edx", "dx", "dl"],
    ["rcx", "ecx", "cx", "cl"],
    ["rbx", "ebx", "bx", "bl"],
    ["rsi", "esi", "si", "sil"],
    ["rdi", "edi", "di", "dil"],
    ["rbp", "ebp", "bp", "bpl"],
    ["rsp", "esp", "sp", "spl"],
];
/// The high bytes of the first four.
const HIGH: [&str; 4] = ["ah", "dh", "ch", "bh"];

/// The number of `%rip`, DWARF's return address column.
const RIP: u16 = 16;
/// The base of operands that are relative to the probe's instruction.
pub const INSTRUCTION_POINTER: Option<u16> = Some(RIP);

/// The variable of the table of addresses.
const GOT: &str = "@GOTPCREL";

/// Where the variable is in an operand such as `counter(%rip)`, `4+counter(%rip)`, `table(,%rax,8)` or `$counter`.
pub fn named_variable(text: &str) -> Option<Range<usize>> {
    let is_constant = text.starts_with('$');
    let sum = text.split_once('(').map_or(text, |(sum, _)| sum);
    let sum = sum.strip_suffix(GOT).unwrap_or(sum);
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte);
    let mut start = usize::from(is_constant);
    for term in sum.get(start..)?.split(['+', '-']) {
        let range = start..start + term.len();
        let is_name = term
            .bytes()
            .next()
            .is_some_and(|first| is_part(first) && !first.is_ascii_digit());
        if is_name {
            let is_added = !sum.get(..start)?.ends_with('-');
            return (is_added && term.bytes().all(is_part)).then_some(range);
        }
        start = range.end + 1;
    }
    None
}

/// The operand with its variable at `name`. Absolute addresses become relative to the probe at `probe`, as both are
/// moved alike.
pub fn variable_operand(text: &str, name: Range<usize>, variable: u64, probe: u64) -> Option<UsdtOperand> {
    let distance = variable.wrapping_sub(probe).cast_signed().to_string();
    let mut place = text.to_owned();
    place.replace_range(name, &distance);
    let is_address = place.contains(GOT);
    let address = |offset| UsdtOperand::Address { base: RIP, offset };
    Some(match operand(&place.replacen(GOT, "", 1))? {
        UsdtOperand::Constant(offset) => address(offset),
        UsdtOperand::Memory {
            base: INSTRUCTION_POINTER,
            index: None,
            offset,
        } if is_address => address(offset),
        _ if is_address => return None,
        found @ UsdtOperand::Memory {
            base: INSTRUCTION_POINTER,
            ..
        } => found,
        UsdtOperand::Memory {
            base: None,
            index,
            offset,
        } => UsdtOperand::Memory {
            base: INSTRUCTION_POINTER,
            index,
            offset,
        },
        UsdtOperand::Memory {
            base: Some(base),
            index: None,
            offset,
        } => UsdtOperand::Memory {
            base: INSTRUCTION_POINTER,
            index: Some(UsdtIndex::whole(base, 1)),
            offset,
        },
        _ => return None,
    })
}

/// `None` if the operand is not supported.
pub fn operand(text: &str) -> Option<UsdtOperand> {
    if let Some(constant) = text.strip_prefix('$') {
        return integer(constant).map(UsdtOperand::Constant);
    }
    if text.starts_with('%') {
        return register(text);
    }
    let Some((offset, rest)) = text.split_once('(') else {
        return memory(text, [None; 3]);
    };
    let mut parts = rest.strip_suffix(')')?.split(',');
    let parts = [parts.next(), parts.next(), parts.next()];
    memory(if offset.is_empty() { "0" } else { offset }, parts)
}

/// Parses `offset(base,index,scale)`, where parts may be missing.
fn memory(offset: &str, [base, index, scale]: [Option<&str>; 3]) -> Option<UsdtOperand> {
    let base = base.filter(|name| !name.is_empty());
    if base == Some("%rip") && index.is_none() {
        return Some(UsdtOperand::Memory {
            base: INSTRUCTION_POINTER,
            index: None,
            offset: integer(offset)?,
        });
    }
    let index = match index {
        Some(name) => Some(UsdtIndex::whole(address_register(name)?, scale_of(scale)?)),
        None => None,
    };
    Some(UsdtOperand::Memory {
        base: match base {
            Some(name) => Some(address_register(name)?),
            None => None,
        },
        index,
        offset: integer(offset)?,
    })
}

fn scale_of(text: Option<&str>) -> Option<u8> {
    match text.unwrap_or("1") {
        "1" => Some(1),
        "2" => Some(2),
        "4" => Some(4),
        "8" => Some(8),
        _ => None,
    }
}

fn register(text: &str) -> Option<UsdtOperand> {
    let name = text.strip_prefix('%')?;
    if let Some(number) = HIGH.iter().position(|&high| high == name) {
        return Some(UsdtOperand::Register {
            register: number as u16,
            shift: 8,
        });
    }
    let register = named(|names| names.contains(&name))
        .or_else(|| numbered(name.strip_suffix(['d', 'w', 'b']).unwrap_or(name)))?;
    Some(UsdtOperand::Register { register, shift: 0 })
}

/// A 64-bit register, as used in addresses.
fn address_register(text: &str) -> Option<u16> {
    let name = text.strip_prefix('%')?;
    named(|[whole, ..]| *whole == name).or_else(|| numbered(name))
}

fn named(is_it: impl Fn(&[&str; 4]) -> bool) -> Option<u16> {
    NAMED.iter().position(is_it).map(|number| number as u16)
}

/// `r8` to `r15`.
fn numbered(name: &str) -> Option<u16> {
    register_number(name.strip_prefix('r')?).filter(|number| (8..16).contains(number))
}
