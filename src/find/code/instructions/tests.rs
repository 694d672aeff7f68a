// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

#[test]
fn instructions_that_the_kernel_changes_are_recognized() {
    // vpbroadcastb %esi,%zmm16; vpbroadcastd %esi,%ymm17; vpcmpeqb %ymm0,%ymm1,%ymm2
    // xchg %rax,%r8; xchg %ax,%r8w; rep xchg %eax,%r8d; xchg %rax,%r16 (REX2); pushf; pushfw; rep movsb; repne scasq
    let misdecoded: [&[u8]; 13] = [
        &[0xf3, 0xa4],
        &[0xf2, 0x48, 0xaf],
        &[0x9c],
        &[0x66, 0x41, 0x9c],
        &[0x49, 0x90],
        &[0x66, 0x41, 0x90],
        &[0xf3, 0x4f, 0x90],
        &[0xd5, 0x18, 0x90],
        &[0x62, 0xe2, 0x7d, 0x48, 0x7a, 0xc6],
        &[0x62, 0xe2, 0x7d, 0x28, 0x7c, 0xce],
        &[0xc5, 0xf5, 0x74, 0xd0],
        &[0xf2, 0x0f, 0x41, 0x15, 0, 0, 0, 0],
        &[0xf3, 0x4f, 0x0f, 0x98, 0x15, 0, 0, 0, 0],
    ];
    // vmovd %esi,%xmm0; a real jump; a real push; nothing
    // movsb; popf; nop; pause; rex.w nop; xchg %eax,%eax with a size prefix; cmov with a prefix or rip-relative
    let others: [&[u8]; 12] = [
        &[0xa4],
        &[0x9d],
        &[0x90],
        &[0xf3, 0x90],
        &[0x48, 0x90],
        &[0x66, 0x90],
        &[0xf2, 0x0f, 0x41, 0xd1],
        &[0x0f, 0x41, 0x15, 0, 0, 0, 0],
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

    /// A function of which the whole code is given. The array at 0x1000 has pointers into it, the one at 0x2000 to
    /// another function.
    struct Alone(i64);

    impl FunctionContext for Alone {
        fn is_own(&self, at: i64) -> bool {
            (0..self.0).contains(&at)
        }

        fn array_is_own(&self, array: ArrayAddress) -> Option<bool> {
            match array {
                ArrayAddress::Relative(0x1000) | ArrayAddress::Absolute(0x1000) => Some(true),
                ArrayAddress::Relative(0x2000) | ArrayAddress::Absolute(0x2000) => Some(false),
                _ => None,
            }
        }
    }

    fn exits_alone(code: &[u8]) -> Result<Vec<FunctionExit>, UnknownExit> {
        exits(code, &Alone(code.len() as i64))
    }

    #[test]
    fn returns_with_and_without_prefix() {
        let returns = exits_alone;
        let at = |at| FunctionExit {
            at,
            kind: ExitKind::Return,
            target: None,
            followed: false,
        };
        assert_eq!(returns(FUNCTION), Ok(vec![at(12), at(18)]));
        // ret $16; far return and interrupt return are not those of functions
        assert_eq!(returns(&[0xc2, 16, 0, 0xcb, 0x48, 0xcf]), Ok(vec![at(0)]));
    }

    #[test]
    fn jumps_out_of_the_function_end_it() {
        // je +2; jmp +0; jmp -7, before the first byte; jle +100
        let code = [0x74, 2, 0xeb, 0, 0xeb, 0xf1, 0x7e, 100];
        let exit = |at, kind, target| FunctionExit {
            at,
            kind,
            target: Some(target),
            followed: false,
        };
        let back = exit(4, ExitKind::Jump, -9);
        let left = vec![back, exit(6, ExitKind::JumpIf(14), 108)];
        assert_eq!(exits_alone(&code), Ok(left));
        assert_eq!(exits(&code, &Alone(1000)), Ok(vec![back]));
        // jrcxz +100
        assert_eq!(exits_alone(&[0xe3, 100]), Err(UnknownExit::Jump(0)));
    }

    #[test]
    fn indirect_jumps_leave_or_stay() {
        let leaves: [&[u8]; 8] = [
            // jmp *%rdi; mov 8(%rdi),%rax, jmp *%rax; jmp *0x18(%rax); jmp *0x100(%rip)
            &[0xff, 0xe7],
            &[0x48, 0x8b, 0x47, 8, 0xff, 0xe0],
            &[0xff, 0x60, 0x18],
            &[0xff, 0x25, 0, 1, 0, 0],
            // mov (%rdi),%rax, mov %rax,%rcx, jmp *%rcx
            &[0x48, 0x8b, 0x07, 0x48, 0x89, 0xc1, 0xff, 0xe1],
            // jmp *0x2000(,%rax,8); lea 0x1ff9(%rip),%rdx, jmp *(%rdx,%rax,8)
            &[0xff, 0x24, 0xc5, 0, 0x20, 0, 0],
            &[0x48, 0x8d, 0x15, 0xf9, 0x1f, 0, 0, 0xff, 0x24, 0xc2],
            // the same, by mov (%rdx,%rax,8),%rax, jmp *%rax
            &[
                0x48, 0x8d, 0x15, 0xf9, 0x1f, 0, 0, 0x48, 0x8b, 0x04, 0xc2, 0xff, 0xe0,
            ],
        ];
        for code in leaves {
            let found = exits_alone(code).expect("it is known");
            assert!(
                matches!(
                    found[..],
                    [FunctionExit {
                        kind: ExitKind::Jump,
                        ..
                    }]
                ),
                "{code:x?}"
            );
        }
        let stays: [&[u8]; 4] = [
            // notrack jmp *%rax
            &[0x3e, 0xff, 0xe0],
            // movslq (%rdx,%rax,4),%rax, add %rdx,%rax, jmp *%rax
            &[0x48, 0x63, 0x04, 0x82, 0x48, 0x01, 0xd0, 0xff, 0xe0],
            // jmp *0x1000(,%rax,8); lea 0xff9(%rip),%rdx, jmp *(%rdx,%rax,8)
            &[0xff, 0x24, 0xc5, 0, 0x10, 0, 0],
            &[0x48, 0x8d, 0x15, 0xf9, 0x0f, 0, 0, 0xff, 0x24, 0xc2],
        ];
        for code in stays {
            assert_eq!(exits_alone(code), Ok(vec![]), "{code:x?}");
        }
        let unknown: [&[u8]; 3] = [
            // xor %eax,%eax, jmp *%rax; mov (%rdi),%rax, pop %rax, jmp *%rax; jmp *(%rdi,%rax,8)
            &[0x31, 0xc0, 0xff, 0xe0],
            &[0x48, 0x8b, 0x07, 0x58, 0xff, 0xe0],
            &[0xff, 0x24, 0xc7],
        ];
        for code in unknown {
            assert!(
                matches!(exits_alone(code), Err(UnknownExit::Jump(_))),
                "{code:x?}"
            );
        }
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
        assert_eq!(exits_alone(&code), Err(UnknownExit::Undecodable(error)));
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
    let branch = |word, start| match arm64::flow(word, start) {
        ControlFlow::Branch(target, condition) => Some((target, condition)),
        _ => None,
    };
    // b.ne .+8; b.ge .-8; cbz x0, .+8; tbnz w3, #5, .-4; add
    let (flags, other) = (BranchCondition::Flags, BranchCondition::Other);
    assert_eq!(branch(0x5400_0041, 16), Some((24, flags(1))));
    assert_eq!(branch(0x54ff_ffca, 16), Some((8, flags(10))));
    assert_eq!(branch(0xb400_0040, 16), Some((24, other)));
    assert_eq!(branch(0x372f_ffe3, 16), Some((12, other)));
    assert_eq!(branch(0x9100_0000, 16), None);
}

#[test]
fn arm64_indirect_jumps_leave_or_stay() {
    let last = |words: &[u32]| {
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let last = arm64::decode(&code).last();
        match last.expect("the code is not empty").expect("it is valid").flow {
            ControlFlow::Indirect(jump) => Some(jump),
            _ => None,
        }
    };
    // br x1; ldr x1, [x0, #8] before it; add x1, x0, w1, sxtb #2; braaz x1; movz x1, #0; ret
    assert_eq!(last(&[0xd61f_0020]), Some(IndirectJump::Pointer));
    assert_eq!(last(&[0xf940_0401, 0xd61f_0020]), Some(IndirectJump::Pointer));
    assert_eq!(last(&[0x8b21_8801, 0xd61f_0020]), Some(IndirectJump::JumpTable));
    assert_eq!(last(&[0xd61f_083f]), Some(IndirectJump::Pointer));
    assert_eq!(last(&[0xd280_0001, 0xd61f_0020]), Some(IndirectJump::Unknown));
    assert_eq!(last(&[0xd65f_03c0]), None);
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

struct Nothing;

impl FunctionContext for Nothing {
    fn is_own(&self, _: i64) -> bool {
        false
    }

    fn array_is_own(&self, _: ArrayAddress) -> Option<bool> {
        None
    }
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
        let _ = exits(&code, &Nothing);
        let instructions: Vec<_> = decode(&code).collect();
        assert!(!instructions.is_empty() && instructions.len() <= code.len());
        let bounds: Vec<(u64, u64)> = instructions.iter().flatten().map(|i| (i.start, i.end)).collect();
        assert!(bounds.iter().all(|&(start, end)| start < end && end <= 64));
        assert!(bounds.windows(2).all(|pair| pair[0].1 == pair[1].0));
    }
}
