// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

#[test]
fn avx_instructions_with_opcodes_of_jumps_are_recognized() {
    // vpbroadcastb %esi,%zmm16; vpbroadcastd %esi,%ymm17; vpcmpeqb %ymm0,%ymm1,%ymm2
    let misdecoded: [&[u8]; 3] = [
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
    assert!(misdecoded.iter().all(|code| is_misdecoded(code)));
    assert!(!others.iter().any(|code| is_misdecoded(code)));
}

#[cfg(target_arch = "x86_64")]
mod on_x86_64 {
    use super::*;

    /// endbr64; push %rbp; mov %rsp,%rbp; test %edi,%edi; je +1; ret; vzeroupper; xor %eax,%eax; bnd ret
    const FUNCTION: &[u8] = &[
        0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xc5, 0xf8, 0x77, 0x31,
        0xc0, 0xf2, 0xc3,
    ];
    const STARTS: [u64; 9] = [0, 4, 5, 8, 10, 12, 13, 16, 18];

    #[test]
    fn every_offset_is_a_boundary_or_has_neighbours() {
        for offset in 0..FUNCTION.len() as u64 {
            let after = STARTS.partition_point(|&start| start <= offset);
            let expected = match STARTS.contains(&offset) {
                true => Ok(()),
                false => Err(BadOffset::Inside {
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
        let at = |at| FunctionExit { at, jumps: false };
        assert_eq!(returns(FUNCTION), Ok(vec![at(12), at(18)]));
        // ret $16; far return and interrupt return are not those of functions
        assert_eq!(returns(&[0xc2, 16, 0, 0xcb, 0x48, 0xcf]), Ok(vec![at(0)]));
    }

    #[test]
    fn jumps_out_of_the_function_end_it() {
        // je +2; jmp +0; jmp *%rax; jmp -7, before the first byte
        let code = [0x74, 2, 0xeb, 0, 0xff, 0xe0, 0xeb, 0xf1];
        let own = |target: i64| (0..code.len() as i64).contains(&target);
        assert_eq!(exits(&code, own), Ok(vec![FunctionExit { at: 6, jumps: true }]));
        assert_eq!(exits(&code, |_| true), Ok(vec![]));
    }

    #[test]
    fn read_of_the_return_address_is_recognized() {
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
    fn instructions_that_the_kernel_may_reject() {
        // lock xadd; cs je; vmovd; vpxor with a three-byte VEX prefix
        for code in [
            [0xf0, 0x0f, 0xc1],
            [0x2e, 0x74, 0x00],
            [0xc5, 0xf9, 0x6e],
            [0xc4, 0xe2, 0x7d],
        ] {
            assert!(may_be_rejected(&code), "{code:x?}");
        }
        // endbr64; push; rep stos; nothing
        for code in [&[0xf3, 0x0f, 0x1e, 0xfa][..], &[0x55], &[0xf3, 0x48, 0xab], &[]] {
            assert!(!may_be_rejected(code), "{code:x?}");
        }
    }

    #[test]
    fn invalid_instruction_ends_decoding() {
        let code = [0x90, 0x06, 0x90, 0xc3];
        let error = BadOffset::Undecodable { at: 1 };
        assert_eq!(check(&code, 0), Ok(()));
        assert_eq!(check(&code, 2), Err(error));
        assert_eq!(exits(&code, |_| true), Err(error));
        // truncated instruction
        assert_eq!(check(&FUNCTION[..7], 6), Err(BadOffset::Undecodable { at: 5 }));
    }
}

#[test]
fn arm64_branches_have_their_targets() {
    let to = |word, start| match arm64::flow(word, start) {
        ControlFlow::Jump(target) => Some(target),
        _ => None,
    };
    // b .+8; b .-4; bl .+8; b.ne .+8
    assert_eq!([to(0x1400_0002, 16), to(0x17ff_ffff, 16)], [Some(24), Some(12)]);
    assert_eq!([to(0x9400_0002, 16), to(0x5400_0041, 16)], [None, None]);
}

#[test]
fn offset_outside_the_function_is_rejected() {
    assert_eq!(check(&[], 0), Err(BadOffset::Outside { size: 0 }));
    let text = check(&[0x90; 4], 4).unwrap_err().to_string();
    assert_eq!(text, "the function has only 4 bytes");
}

#[test]
fn message_has_the_nearest_boundaries() {
    let inside = |next| BadOffset::Inside { start: 16, next }.to_string();
    assert_eq!(
        inside(Some(20)),
        "not the start of an instruction: the nearest are +0x10 and +0x14"
    );
    assert_eq!(
        inside(None),
        "not the start of an instruction: the nearest are +0x10 and the end of the function"
    );
}

#[test]
fn arm64_instructions_have_four_bytes() {
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
        .map(|instruction| (instruction.start, matches!(instruction.flow, ControlFlow::Return)))
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
    assert!(matches!(cut, Some(Err(BadOffset::Undecodable { at: 4 }))));
}

#[test]
fn decoding_of_random_bytes_ends() {
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
