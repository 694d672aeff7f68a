// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Addresses in code for arm64. Also built for the tests on other machines.

use super::LoadedAddress;

/// What the code at virtual address `addr` loads, in its order: `adr`, and `adrp` with `add` or `ldr`.
pub fn loads(code: &[u8], addr: u64) -> Vec<LoadedAddress> {
    let mut pages = [None; 32];
    let words = code.chunks_exact(4).zip((addr..).step_by(4));
    let loaded = words.filter_map(|(bytes, at)| {
        let word = bytes.try_into().map(u32::from_le_bytes).ok()?;
        let (to, from) = ((word & 31) as usize, (word >> 5 & 31) as usize);
        let immediate = u64::from(word >> 10 & 0xfff);
        let page: Option<u64> = pages[from];
        pages[to] = None;
        match word {
            _ if word & 0x9f00_0000 == 0x9000_0000 => {
                pages[to] = Some((at & !0xfff).wrapping_add_signed(distance(word) << 12));
                None
            }
            _ if word & 0x9f00_0000 == 0x1000_0000 => {
                Some(LoadedAddress::Value(at.wrapping_add_signed(distance(word))))
            }
            // add of 64 bits, without a shift
            _ if word & 0xffc0_0000 == 0x9100_0000 => {
                Some(LoadedAddress::Value(page?.wrapping_add(immediate)))
            }
            // ldr of 64 bits
            _ if word & 0xffc0_0000 == 0xf940_0000 => {
                Some(LoadedAddress::PointerAt(page?.wrapping_add(immediate * 8)))
            }
            _ => None,
        }
    });
    loaded.collect()
}

/// The addresses that the code at virtual address `addr` calls directly: `bl`.
pub fn calls(code: &[u8], addr: u64) -> Vec<u64> {
    let words = code.chunks_exact(4).zip((addr..).step_by(4));
    let called = words.filter_map(|(bytes, at)| {
        let word = bytes.try_into().map(u32::from_le_bytes).ok()?;
        let distance = i64::from((word << 6).cast_signed() >> 4);
        (word >> 26 == 0b10_0101).then(|| at.wrapping_add_signed(distance))
    });
    called.collect()
}

/// The signed 21 bits of `adr` and `adrp`.
fn distance(word: u32) -> i64 {
    let bits = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
    i64::from((bits << 11).cast_signed() >> 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_each_form() {
        let code = [
            // adrp x0, +0x1000; add x0, x0, #0x10; adrp x1, -0x1000; ldr x1, [x1, #0x18]; adr x2, +8; ret
            0xb000_0000_u32,
            0x9100_4000,
            0xf0ff_ffe1,
            0xf940_0c21,
            0x1000_0042,
            0xd65f_03c0,
        ];
        let code: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected = [
            LoadedAddress::Value(0x1_1010),
            LoadedAddress::PointerAt(0xf018),
            LoadedAddress::Value(0x1_0018),
        ];
        assert_eq!(loads(&code, 0x1_0000), expected);
        // bl +0x10; b +0x10; bl -4
        let code = [0x9400_0004_u32, 0x1400_0004, 0x97ff_ffff];
        let code: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(calls(&code, 0x1000), [0x1010, 0x1004]);
    }
}
