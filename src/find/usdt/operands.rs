// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Locations of arguments, and the numbers in their text that all machines write alike.

/// The location of an argument. Registers are DWARF register numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsdtOperand {
    /// The low bytes of a register, after a right shift by `shift` bits: 8 for `%ah`, otherwise 0.
    Register {
        register: u16,
        shift: u8,
    },
    /// Memory at `base + index * scale + offset`.
    Memory {
        base: Option<u16>,
        index: Option<UsdtIndex>,
        offset: i64,
    },
    /// The address `base + offset` itself.
    Address {
        base: u16,
        offset: i64,
    },
    Constant(i64),
    /// A variable that is not in the symbol tables, or several of that name are.
    UnknownVariable,
    /// Not supported: relative to a segment, or in a vector register.
    Unknown,
}

/// A register that is multiplied and added to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsdtIndex {
    pub register: u16,
    pub scale: u8,
    /// The low bytes of the register that count.
    pub bytes: u8,
    pub signed: bool,
}

impl UsdtIndex {
    /// All bytes of a register.
    pub const fn whole(register: u16, scale: u8) -> UsdtIndex {
        UsdtIndex {
            register,
            scale,
            bytes: 8,
            signed: false,
        }
    }
}

/// Parses a number in assembler syntax, or a sum of numbers: `-16`, `0x10`, `40+8`, `8+-16`.
pub fn integer(text: &str) -> Option<i64> {
    let mut sum = 0_i64;
    let mut rest = text;
    loop {
        let signed = rest.strip_prefix('+').unwrap_or(rest);
        let (negative, unsigned) = match signed.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, signed),
        };
        let end = unsigned.find(['+', '-']).unwrap_or(unsigned.len());
        let (term, after) = unsigned.split_at(end);
        let (digits, radix) = match term.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (term, 10),
        };
        // Unsigned constants use all 64 bits.
        let value = u64::from_str_radix(digits, radix).ok()? as i64;
        sum = sum.wrapping_add(if negative { value.wrapping_neg() } else { value });
        if after.is_empty() {
            return Some(sum);
        }
        rest = after;
    }
}

/// Parses the number in the name of a register, such as `r8` or `x29`.
pub fn register_number(digits: &str) -> Option<u16> {
    let plain = !digits.starts_with('+') && (digits.len() == 1 || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}
