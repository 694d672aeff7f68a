// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Where the instructions of a function begin. The kernel puts a breakpoint wherever it is told to: in the middle of
//! an instruction that changes the program, so every offset that a person gives is checked here.
//!
//! Instructions are found from the first byte of a function on, one after the other. Compilers put nothing else into
//! functions on x86-64; a byte that is no instruction ends the walk, as what follows cannot be trusted.

use std::fmt;

use anyhow::{Context, Result, ensure};

use crate::find::elf::{ElfFile, FunctionSymbol};

/// Whether an instruction begins `offset` bytes after the start of a function of `elf`.
///
/// # Errors
/// None does, or it cannot be known.
pub fn check_function(elf: &ElfFile, function: &FunctionSymbol, offset: u64) -> Result<()> {
    let what = || format!("failed to put a probe at {}+{offset:#x}", function.demangled());
    ensure!(
        function.size > 0,
        "{}: nothing tells how long the function is",
        what()
    );
    let code = elf.code(function.addr, function.size).with_context(what)?;
    check(&code, offset).with_context(what)
}

/// Whether the kernel can run the instruction at `addr` with a probe on it.
///
/// # Errors
/// It would run another one in its place.
pub fn check_kernel_runs(elf: &ElfFile, addr: u64) -> Result<()> {
    // What is too short to be read is too short to be one of them.
    let is_mistaken = elf.code(addr, 5).is_ok_and(|code| is_mistaken(&code));
    ensure!(!is_mistaken, "{MISTAKEN}");
    Ok(())
}

/// What is wrong with a function that begins so.
pub const MISTAKEN: &str =
    "the kernel would mistake its first instruction, a vector one, for another, and the program would crash";

/// Whether this is an instruction of AVX whose opcode x86's kernel takes for that of a push, jump, call, return or popf:
/// it looks at the byte and not at the VEX or EVEX prefix (seen on Linux 6.18 with memset for AVX-512).
pub fn is_mistaken(code: &[u8]) -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        return false;
    }
    let ([0xc5, _, opcode, ..] | [0xc4, _, _, opcode, ..] | [0x62, _, _, _, opcode, ..]) = code else {
        return false;
    };
    matches!(
        opcode,
        0x50..=0x57 | 0x70..=0x7f | 0x90 | 0x9a | 0x9d | 0xc2 | 0xc3 | 0xca | 0xcb | 0xe8..=0xeb | 0xff
    )
}

/// Why no probe can be at an offset. All numbers are bytes from the function's first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// Within an instruction that begins at `start`; the next one begins at `next`, unless the function ends there.
    Inside { start: u64, next: Option<u64> },
    /// Not known: the bytes at `at`, before or at the offset, are no instruction.
    Undecodable { at: u64 },
    /// Behind the last byte of the function.
    Outside { size: u64 },
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Misplaced::Inside { start, next } => {
                write!(f, "not the start of an instruction: near it are +{start:#x}")?;
                match next {
                    Some(next) => write!(f, " and +{next:#x}"),
                    None => f.write_str(" and the end of the function"),
                }
            }
            Misplaced::Undecodable { at } => write!(f, "the bytes at +{at:#x} are no instruction"),
            Misplaced::Outside { size } => write!(f, "the function has only {size} bytes"),
        }
    }
}

impl std::error::Error for Misplaced {}

/// Whether an instruction begins `offset` bytes after the start of a function.
///
/// # Errors
/// None does, or it cannot be known.
fn check(function: &[u8], offset: u64) -> Result<(), Misplaced> {
    let size = function.len() as u64;
    if offset >= size {
        return Err(Misplaced::Outside { size });
    }
    for instruction in decode(function) {
        let Instruction { start, end, .. } = instruction?;
        if start == offset {
            return Ok(());
        }
        if offset < end {
            let next = Some(end).filter(|&end| end < size);
            return Err(Misplaced::Inside { start, next });
        }
    }
    Err(Misplaced::Outside { size })
}

/// Bytes of an instruction that [`may_be_refused`] wants to see.
pub const BEGINNING: usize = 8;

/// Is this the beginning of an instruction that the kernel may be unable to execute out of its place, and then refuses to
/// probe? Which ones those are differs between kernels. On x86-64 they are mostly instructions with a lock or segment
/// prefix, and those of AVX (`is_prefix_bad` and `good_insns_64` in arch/x86/kernel/uprobes.c); on arm64, loads relative
/// to themselves and exclusive ones (arch/arm64/kernel/probes/decode-insn.c).
pub fn may_be_refused(code: &[u8]) -> bool {
    refusal::is_likely(code)
}

#[cfg(target_arch = "x86_64")]
mod refusal {
    pub fn is_likely(code: &[u8]) -> bool {
        let is_harmless = |byte: &&u8| matches!(byte, 0x66 | 0x67 | 0xf2 | 0xf3 | 0x40..=0x4f);
        // lock, the segments es, cs, ss and ds, VEX and EVEX
        let first = code.iter().find(|byte| !is_harmless(byte));
        matches!(first, Some(0xf0 | 0x26 | 0x2e | 0x36 | 0x3e | 0xc4 | 0xc5 | 0x62))
    }
}

#[cfg(target_arch = "aarch64")]
mod refusal {
    pub fn is_likely(code: &[u8]) -> bool {
        let word = code.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let is_literal_load = word & 0x3b00_0000 == 0x1800_0000;
        let is_exclusive = word & 0x3f00_0000 == 0x0800_0000;
        is_literal_load || is_exclusive
    }
}

/// Does a function look at its return address, as setjmp and getcontext do, which keep it to return a second time? Under a
/// return probe that is the kernel's own, and nothing is there for the second time. Not seen on arm64, where every
/// function that calls others keeps it.
pub fn reads_return_address(function: &[u8]) -> bool {
    on_return_address::is_read(function)
}

#[cfg(target_arch = "x86_64")]
mod on_return_address {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};

    /// As long as the stack pointer is as it was, the return address is where it points to.
    pub fn is_read(function: &[u8]) -> bool {
        let mut decoder = Decoder::new(64, function, DecoderOptions::NONE);
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let moves_stack = matches!(
                instruction.mnemonic(),
                Mnemonic::Push
                    | Mnemonic::Pop
                    | Mnemonic::Call
                    | Mnemonic::Ret
                    | Mnemonic::Enter
                    | Mnemonic::Leave
            );
            let sets_stack =
                instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
            if moves_stack || sets_stack || instruction.is_invalid() {
                return false;
            }
            let from_top = instruction.op1_kind() == OpKind::Memory
                && (instruction.memory_base(), instruction.memory_index()) == (Register::RSP, Register::None)
                && instruction.memory_displacement64() == 0;
            if from_top && instruction.mnemonic() != Mnemonic::Lea {
                return true;
            }
        }
        false
    }
}

#[cfg(target_arch = "aarch64")]
mod on_return_address {
    pub fn is_read(_: &[u8]) -> bool {
        false
    }
}

/// An instruction that ends a call of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Bytes from the function's first one.
    pub at: u64,
    /// It does not return, but jumps to another function, which returns in the place of this one.
    pub jumps: bool,
}

/// Where calls of a function end: a probe there sees it without the return address on the stack being touched. `is_own`
/// tells of an address, counted in bytes from the function's first one, whether it belongs to the function. Jumps on a
/// condition, and those to an address in a register, are none: they mostly stay inside.
///
/// # Errors
/// Part of the function cannot be decoded.
pub fn exits(function: &[u8], is_own: impl Fn(i64) -> bool) -> Result<Vec<Exit>, Misplaced> {
    let mut exits = Vec::new();
    for instruction in decode(function) {
        let Instruction { start, leads, .. } = instruction?;
        match leads {
            Leads::Back => exits.push(Exit {
                at: start,
                jumps: false,
            }),
            Leads::To(target) if !is_own(target) => exits.push(Exit {
                at: start,
                jumps: true,
            }),
            Leads::To(_) | Leads::On => {}
        }
    }
    Ok(exits)
}

/// Where an instruction leads.
enum Leads {
    /// To the next one, or nobody knows where.
    On,
    /// To the caller.
    Back,
    /// Always to this one, in bytes from the start of the function.
    To(i64),
}

/// An instruction: its first byte, the first one behind it, both counted from the start of the function.
struct Instruction {
    start: u64,
    end: u64,
    leads: Leads,
}

#[cfg(target_arch = "x86_64")]
use x86_64::decode;

#[cfg(target_arch = "aarch64")]
use arm64::decode;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

    use super::{Instruction, Leads, Misplaced};

    /// The instructions in order. An error is the last item.
    pub fn decode(function: &[u8]) -> impl Iterator<Item = Result<Instruction, Misplaced>> {
        let mut decoder = Decoder::new(64, function, DecoderOptions::NONE);
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || !decoder.can_decode() {
                return None;
            }
            let instruction = decoder.decode();
            let start = instruction.ip();
            failed = instruction.is_invalid();
            Some(match failed {
                true => Err(Misplaced::Undecodable { at: start }),
                false => Ok(Instruction {
                    start,
                    end: instruction.next_ip(),
                    leads: match (instruction.mnemonic(), instruction.op0_kind()) {
                        (Mnemonic::Ret, _) => Leads::Back,
                        (Mnemonic::Jmp, OpKind::NearBranch64) => {
                            Leads::To(instruction.near_branch64() as i64)
                        }
                        _ => Leads::On,
                    },
                }),
            })
        })
    }
}

/// Built for the tests of other machines as well.
#[cfg(any(test, target_arch = "aarch64"))]
mod arm64 {
    use super::{Instruction, Leads, Misplaced};

    /// Bytes of every instruction.
    const SIZE: usize = 4;

    /// The instructions in order. An error is the last item.
    pub fn decode(function: &[u8]) -> impl Iterator<Item = Result<Instruction, Misplaced>> {
        function
            .chunks(SIZE)
            .zip((0..).step_by(SIZE))
            .map(|(bytes, start)| {
                let word = bytes.try_into().map(u32::from_le_bytes);
                let word = word.map_err(|_| Misplaced::Undecodable { at: start })?;
                Ok(Instruction {
                    start,
                    end: start + SIZE as u64,
                    leads: leads(word, start),
                })
            })
    }

    /// `ret` to the address in any register, and its two forms that check the address first; `b`.
    pub fn leads(word: u32, start: u64) -> Leads {
        const REGISTER: u32 = 31 << 5;
        if word & !REGISTER == 0xd65f_0000 || matches!(word, 0xd65f_0bff | 0xd65f_0fff) {
            return Leads::Back;
        }
        if word >> 26 == 0b00_0101 {
            // 26 bits, signed, in instructions.
            let distance = i64::from((word << 6) as i32 >> 6) * SIZE as i64;
            return Leads::To(start as i64 + distance);
        }
        Leads::On
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_instructions_with_the_opcodes_of_jumps_are_known() {
        // vpbroadcastb %esi,%zmm16; vpbroadcastd %esi,%ymm17; vpcmpeqb %ymm0,%ymm1,%ymm2
        let mistaken: [&[u8]; 3] = [
            &[0x62, 0xe2, 0x7d, 0x48, 0x7a, 0xc6],
            &[0x62, 0xe2, 0x7d, 0x28, 0x7c, 0xce],
            &[0xc5, 0xf5, 0x74, 0xd0],
        ];
        // vmovd %esi,%xmm0; a real jump; a real push; nothing
        let others: [&[u8]; 4] = [
            &[0xc5, 0xf9, 0x6e, 0xc6],
            &[0x7c, 0xce, 0, 0, 0],
            &[0x55, 0x48, 0x89, 0xe5],
            &[],
        ];
        assert!(mistaken.iter().all(|code| is_mistaken(code)));
        assert!(!others.iter().any(|code| is_mistaken(code)));
    }

    #[cfg(target_arch = "x86_64")]
    mod on_x86_64 {
        use super::*;

        /// endbr64; push %rbp; mov %rsp,%rbp; test %edi,%edi; je +1; ret; vzeroupper; xor %eax,%eax; bnd ret
        const FUNCTION: &[u8] = &[
            0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xc5, 0xf8, 0x77,
            0x31, 0xc0, 0xf2, 0xc3,
        ];
        const STARTS: [u64; 9] = [0, 4, 5, 8, 10, 12, 13, 16, 18];

        #[test]
        fn every_offset_is_a_start_or_has_neighbours() {
            for offset in 0..FUNCTION.len() as u64 {
                let after = STARTS.partition_point(|&start| start <= offset);
                let expected = match STARTS.contains(&offset) {
                    true => Ok(()),
                    false => Err(Misplaced::Inside {
                        start: STARTS[after - 1],
                        next: STARTS.get(after).copied(),
                    }),
                };
                assert_eq!(check(FUNCTION, offset), expected, "{offset}");
            }
        }

        #[test]
        fn returns_with_and_without_prefix() {
            let returns = |code: &[u8]| exits(code, |_| true);
            let at = |at| Exit { at, jumps: false };
            assert_eq!(returns(FUNCTION), Ok(vec![at(12), at(18)]));
            // ret $16; far return and interrupt return are not those of functions
            assert_eq!(returns(&[0xc2, 16, 0, 0xcb, 0x48, 0xcf]), Ok(vec![at(0)]));
        }

        #[test]
        fn jumps_out_of_the_function_end_it() {
            // je +2; jmp +0; jmp *%rax; jmp -7, before the first byte
            let code = [0x74, 2, 0xeb, 0, 0xff, 0xe0, 0xeb, 0xf1];
            let own = |target: i64| (0..code.len() as i64).contains(&target);
            assert_eq!(exits(&code, own), Ok(vec![Exit { at: 6, jumps: true }]));
            assert_eq!(exits(&code, |_| true), Ok(vec![]));
        }

        #[test]
        fn who_looks_at_its_return_address() {
            // lea 8(%rsp),%rdx; mov (%rsp),%rax; ret
            let keeps = [0x48, 0x8d, 0x54, 0x24, 8, 0x48, 0x8b, 0x04, 0x24, 0xc3];
            assert!(reads_return_address(&keeps));
            // lea (%rsp),%rax; mov 8(%rsp),%rax; push %rbx; mov (%rsp),%rax
            let others = [
                0x48, 0x8d, 0x04, 0x24, 0x48, 0x8b, 0x44, 0x24, 8, 0x53, 0x48, 0x8b, 0x04, 0x24,
            ];
            assert!(!reads_return_address(&others));
        }

        #[test]
        fn what_the_kernel_may_refuse() {
            // lock xadd; cs je; vmovd; vpxor with 64-bit prefix-less VEX
            for code in [
                [0xf0, 0x0f, 0xc1],
                [0x2e, 0x74, 0x00],
                [0xc5, 0xf9, 0x6e],
                [0xc4, 0xe2, 0x7d],
            ] {
                assert!(may_be_refused(&code), "{code:x?}");
            }
            // endbr64; push; rep stos; nothing
            for code in [&[0xf3, 0x0f, 0x1e, 0xfa][..], &[0x55], &[0xf3, 0x48, 0xab], &[]] {
                assert!(!may_be_refused(code), "{code:x?}");
            }
        }

        #[test]
        fn nothing_is_known_behind_a_byte_that_is_no_instruction() {
            let code = [0x90, 0x06, 0x90, 0xc3];
            let error = Misplaced::Undecodable { at: 1 };
            assert_eq!(check(&code, 0), Ok(()));
            assert_eq!(check(&code, 2), Err(error));
            assert_eq!(exits(&code, |_| true), Err(error));
            // cut in the middle
            assert_eq!(check(&FUNCTION[..7], 6), Err(Misplaced::Undecodable { at: 5 }));
        }
    }

    #[test]
    fn branches_of_arm64_lead_where_they_say() {
        let to = |word, start| match arm64::leads(word, start) {
            Leads::To(target) => Some(target),
            _ => None,
        };
        // b .+8; b .-4; bl .+8; b.ne .+8
        assert_eq!([to(0x1400_0002, 16), to(0x17ff_ffff, 16)], [Some(24), Some(12)]);
        assert_eq!([to(0x9400_0002, 16), to(0x5400_0041, 16)], [None, None]);
    }

    #[test]
    fn an_offset_behind_the_function_is_refused() {
        assert_eq!(check(&[], 0), Err(Misplaced::Outside { size: 0 }));
        let text = check(&[0x90; 4], 4).unwrap_err().to_string();
        assert_eq!(text, "the function has only 4 bytes");
    }

    #[test]
    fn neighbours_are_named() {
        let inside = |next| Misplaced::Inside { start: 16, next }.to_string();
        assert_eq!(
            inside(Some(20)),
            "not the start of an instruction: near it are +0x10 and +0x14"
        );
        assert_eq!(
            inside(None),
            "not the start of an instruction: near it are +0x10 and the end of the function"
        );
    }

    #[test]
    fn arm64_has_instructions_of_four_bytes() {
        // paciasp; ret; retaa; retab; ret x3; br x30
        let words: [u32; 6] = [
            0xd503_233f,
            0xd65f_03c0,
            0xd65f_0bff,
            0xd65f_0fff,
            0xd65f_0060,
            0xd61f_03c0,
        ];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let found: Vec<(u64, bool)> = arm64::decode(&code)
            .flatten()
            .map(|instruction| (instruction.start, matches!(instruction.leads, Leads::Back)))
            .collect();
        assert_eq!(
            found,
            [
                (0, false),
                (4, true),
                (8, true),
                (12, true),
                (16, true),
                (20, false)
            ]
        );
        let cut = arm64::decode(&code[..6]).last();
        assert!(matches!(cut, Some(Err(Misplaced::Undecodable { at: 4 }))));
    }

    #[test]
    fn any_bytes_come_to_an_end() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        for _ in 0..2000 {
            let code: Vec<u8> = (0..64).map(|_| random()).collect();
            let _ = exits(&code, |_| false);
            let instructions: Vec<_> = decode(&code).collect();
            assert!(!instructions.is_empty() && instructions.len() <= code.len());
            let bounds: Vec<(u64, u64)> = instructions.iter().flatten().map(|i| (i.start, i.end)).collect();
            assert!(bounds.iter().all(|&(start, end)| start < end && end <= 64));
            assert!(bounds.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }
}
