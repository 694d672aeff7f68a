// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
use super::*;

/// The placement in a function whose code is complete.
fn placed(code: &[u8], needs: Needs) -> ProbePlacement {
    let near = &code[..code.len().min((MOST_BYTES + LONGEST) as usize)];
    let placement = nearest_emulated(near, code.len() as u64, needs).expect("an instruction");
    if placement.outcome != PlacementOutcome::Moved {
        return placement;
    }
    let mut checked = machine::check_whole(code);
    machine::jumps(code, &(1..placement.distance as i64 + 1), |_| {
        checked = Err(StayReason::JumpedInto);
    });
    checked.map_or_else(|outcome| placement.stays(outcome), |()| placement)
}

#[cfg(target_arch = "x86_64")]
mod on_x86_64 {
    use super::*;

    #[test]
    fn jumps_are_found_by_their_targets() {
        let targets = |code: &[u8], into| {
            let mut targets = Vec::new();
            machine::jumps(code, &into, |target| targets.push(target));
            targets
        };
        // jmp +1; call -7; jne -13; xbegin -19; loop -21, twice the same with other bytes before
        let far = [
            &[0xe9, 1, 0, 0, 0][..],
            &[0xe8, 0xf9, 0xff, 0xff, 0xff],
            &[0x0f, 0x85, 0xf3, 0xff, 0xff, 0xff],
            &[0xc7, 0xf8, 0xed, 0xff, 0xff, 0xff],
            &[0xe2, 0xeb],
        ]
        .concat();
        assert_eq!(targets(&far, 0..7), [6, 3, 3, 3, 3]);
        assert_eq!(targets(&far, 4..7), [6]);
        assert!(targets(&far, 100..200).is_empty());
        // A short jump reaches 127 bytes forwards and 128 backwards.
        let mut short = vec![0x90; 400];
        short[100..102].copy_from_slice(&[0xeb, 127]);
        short[300..302].copy_from_slice(&[0x74, 0x80]);
        assert_eq!(targets(&short, 229..230), [229]);
        assert_eq!(targets(&short, 174..175), [174]);
    }

    const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    const PUSH_RBX: [u8; 1] = [0x53];
    const RET: [u8; 1] = [0xc3];
    const EVERYTHING: Needs = Needs {
        registers: u32::MAX,
        memory: true,
    };

    fn code(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[track_caller]
    fn moves(parts: &[&[u8]], needs: Needs, distance: u64) {
        let placement = placed(&code(parts), needs);
        assert_eq!(
            (placement.distance, placement.outcome),
            (distance, PlacementOutcome::Moved),
            "{placement}"
        );
        assert!(!placement.is_stepped() && placement.at_entry().is_stepped());
    }

    #[track_caller]
    fn stays(parts: &[&[u8]], needs: Needs, because: &str) {
        let placement = placed(&code(parts), needs);
        assert!(placement.is_stepped() && placement.distance == 0, "{placement}");
        let text = placement.to_string();
        assert!(text.ends_with(&format!("; {because})")), "{text}");
    }

    #[test]
    fn probe_stays_on_emulated_instruction() {
        let emulated: [&[u8]; 11] = [
            &[0x55],
            &[0x41, 0x57],
            &[0x90],
            &[0x66, 0x90],
            &[0x74, 2],
            &[0x0f, 0x85, 0, 0, 0, 0],
            &[0xeb, 2],
            &[0xe9, 0, 1, 0, 0],
            &[0xf2, 0xe9, 0, 1, 0, 0],
            &[0xe8, 0, 1, 0, 0],
            &[0xf2, 0x75, 2],
        ];
        for first in emulated {
            let placement = placed(&code(&[first, &RET]), EVERYTHING);
            assert_eq!(
                (placement.distance, placement.outcome),
                (0, PlacementOutcome::Emulated),
                "{first:x?}"
            );
        }
    }

    #[test]
    fn probe_moves_over_stepped_instructions() {
        moves(&[&ENDBR, &PUSH_RBX, &RET], EVERYTHING, 4);
        // test %rdi,%rdi; je
        moves(&[&[0x48, 0x85, 0xff], &[0x74, 1], &RET, &RET], EVERYTHING, 3);
        // cmpb $0,__libc_single_threaded(%rip); je
        moves(&[&[0x80, 0x3d, 0, 0, 0, 0, 0], &[0x74, 0], &RET], EVERYTHING, 7);
        // nopl 0(%rax,%rax,1) does not get the probe, because not every kernel emulates it; it reads nothing
        moves(
            &[&ENDBR, &[0x0f, 0x1f, 0x44, 0, 0], &PUSH_RBX, &RET],
            EVERYTHING,
            9,
        );
        // mov %fs:40,%rax; push
        moves(
            &[&[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], &PUSH_RBX, &RET],
            Needs::STACK,
            9,
        );
    }

    #[test]
    fn probe_does_not_move_over_changes_of_its_registers() {
        let first_two = Needs::arguments(2);
        // mov %rdi,%rsi; push: the second argument is lost
        let copies: [&[u8]; 3] = [&[0x48, 0x89, 0xfe], &PUSH_RBX, &RET];
        stays(&copies, first_two, "mov changes what the probe reads");
        moves(&copies, Needs::arguments(1), 3);
        moves(&copies, Needs::NOTHING, 3);
        // xor %edi,%edi writes the whole register
        stays(
            &[&[0x31, 0xff], &PUSH_RBX, &RET],
            first_two,
            "xor changes what the probe reads",
        );
        // sub $24,%rsp; push
        let frame: [&[u8]; 3] = [&[0x48, 0x83, 0xec, 0x18], &PUSH_RBX, &RET];
        stays(&frame, Needs::STACK, "sub changes what the probe reads");
        moves(&frame, first_two, 4);
        // xor %ebp,%ebp: the stack cannot be walked after it
        stays(
            &[&[0x31, 0xed], &PUSH_RBX, &RET],
            Needs::STACK,
            "xor changes what the probe reads",
        );
    }

    #[test]
    fn probe_does_not_move_over_stores_to_its_memory() {
        let memory = Needs {
            memory: true,
            ..Needs::NOTHING
        };
        // mov %rdi,-8(%rsp): only the function uses it
        let red_zone: [&[u8]; 3] = [&[0x48, 0x89, 0x7c, 0x24, 0xf8], &PUSH_RBX, &RET];
        moves(&red_zone, EVERYTHING, 5);
        // mov %rdi,8(%rsp): may be an argument
        let argument: [&[u8]; 3] = [&[0x48, 0x89, 0x7c, 0x24, 0x08], &PUSH_RBX, &RET];
        stays(&argument, Needs::STACK, "mov changes what the probe reads");
        moves(&argument, memory, 5);
        // mov %edi,global(%rip)
        let global: [&[u8]; 3] = [&[0x89, 0x3d, 0, 0, 0, 0], &PUSH_RBX, &RET];
        stays(&global, memory, "mov changes what the probe reads");
        moves(&global, Needs::NOTHING, 6);
    }

    #[test]
    fn probe_does_not_move_over_possible_faults() {
        // mov (%rdi),%rax; cmpb $0,(%rdi,%rsi); mov %rax,(%rbp)
        for load in [
            &[0x48, 0x8b, 0x07][..],
            &[0x80, 0x3c, 0x37, 0x00],
            &[0x48, 0x89, 0x45, 0],
        ] {
            let name = if load[0] == 0x80 { "cmp" } else { "mov" };
            stays(
                &[load, &PUSH_RBX, &RET],
                Needs::NOTHING,
                &format!("{name} may fault"),
            );
        }
        // lea (%rdi),%rax reads nothing; cmp 16(%r14),%rsp is Go's check of the stack size
        moves(&[&[0x48, 0x8d, 0x07], &PUSH_RBX, &RET], EVERYTHING.without(0), 3);
        moves(&[&[0x49, 0x3b, 0x66, 0x10], &[0x76, 0], &RET], Needs::STACK, 4);
        // mov 16(%r14),%rax is not that check
        stays(
            &[&[0x49, 0x8b, 0x46, 0x10], &PUSH_RBX, &RET],
            Needs::NOTHING,
            "mov may fault",
        );
    }

    #[test]
    fn probe_does_not_move_over_control_flow() {
        let leaders: [(&[u8], &str); 9] = [
            (&[0xc3], "ret"),
            (&[0x0f, 0x05], "syscall"),
            (&[0xff, 0xe0], "jmp"),
            (&[0xff, 0xd0], "call"),
            (&[0x5b], "pop"),
            (&[0xf0, 0xff, 0x00], "inc"),
            (&[0xf3, 0x48, 0xab], "stosq"),
            (&[0x0f, 0xae, 0xf0], "mfence"),
            (&[0x0f, 0x0b], "ud2"),
        ];
        for (leader, name) in leaders {
            stays(
                &[&ENDBR, leader, &PUSH_RBX, &RET],
                Needs::NOTHING,
                &format!("{name} comes first"),
            );
        }
    }

    #[test]
    fn probe_does_not_move_over_jump_targets() {
        // endbr64; push; jmp to the push, after the endbr64
        let back = |to: u8| code(&[&ENDBR, &PUSH_RBX, &[0xeb, to.wrapping_sub(7)], &RET]);
        stays(&[&back(4)], Needs::NOTHING, "a jump targets the code in between");
        // to the start: counted once in both cases
        moves(&[&back(0)], Needs::NOTHING, 4);
        // after the probe
        moves(&[&back(5)], Needs::NOTHING, 4);
        // je; call; loop
        for jump in [&[0x74, 0xfd][..], &[0xe8, 0xfa, 0xff, 0xff, 0xff], &[0xe2, 0xfd]] {
            stays(
                &[&ENDBR, &PUSH_RBX, jump, &RET],
                Needs::NOTHING,
                "a jump targets the code in between",
            );
        }
        // jmp *%rax; notrack jmp *%rax
        for jump in [&[0xff, 0xe0][..], &[0x3e, 0xff, 0xe0]] {
            stays(
                &[&ENDBR, &PUSH_RBX, jump],
                Needs::NOTHING,
                "the function has an indirect jump",
            );
        }
        stays(
            &[&ENDBR, &PUSH_RBX, &[0x06], &RET],
            Needs::NOTHING,
            "its code is not fully known",
        );
    }

    /// memset for AVX-512: vpbroadcastb %esi,%zmm16, whose opcode byte the kernel takes for that of a jump; cmp; jb.
    #[test]
    fn probe_moves_away_from_misdecoded_instruction() {
        const BROADCAST: [u8; 6] = [0x62, 0xe2, 0x7d, 0x48, 0x7a, 0xc6];
        let memset = code(&[&BROADCAST, &[0x48, 0x83, 0xfa, 0x40], &[0x72, 0], &RET]);
        let placement = placed(&memset, EVERYTHING);
        assert_eq!(
            (placement.distance, placement.is_misdecoded()),
            (10, false),
            "{placement}"
        );
        assert!(placement.at_entry().is_misdecoded());
        // There is only a ret to move to, which is single-stepped.
        let placement = placed(&code(&[&BROADCAST, &RET]), Needs::NOTHING);
        assert_eq!((placement.distance, placement.is_misdecoded()), (6, false));
        assert!(placement.is_stepped() && placement.at_entry().is_misdecoded());
        // xchg %rax,%r8; ret
        const EXCHANGE: [u8; 2] = [0x49, 0x90];
        assert_eq!(placed(&code(&[&EXCHANGE, &RET]), Needs::NOTHING).distance, 2);
        assert!(placed(&code(&[&EXCHANGE, &RET]), Needs::register(8)).is_misdecoded());
        assert!(placed(&code(&[&EXCHANGE, &EXCHANGE]), Needs::NOTHING).is_misdecoded());
        assert!(!placed(&code(&[&ENDBR, &RET]), Needs::NOTHING).is_misdecoded());
    }

    #[test]
    fn probe_moves_a_limited_distance() {
        let mov: [u8; 2] = [0x89, 0xc0];
        let many = mov.repeat(MOST_STEPS + 1);
        stays(
            &[&many, &PUSH_RBX, &RET],
            Needs::NOTHING,
            "no instruction nearby is emulated",
        );
        moves(&[&many[2..], &PUSH_RBX, &RET], Needs::NOTHING, 32);
        // movabs $0,%rax
        let long = [&[0x48, 0xb8][..], &[0; 8]].concat().repeat(7);
        stays(
            &[&long, &PUSH_RBX, &RET],
            Needs::NOTHING,
            "no instruction nearby is emulated",
        );
        stays(&[&ENDBR], Needs::NOTHING, "no instruction nearby is emulated");
    }

    #[test]
    fn probe_stays_in_function_of_unknown_size() {
        let code = code(&[&ENDBR, &PUSH_RBX, &RET]);
        let placement = nearest_emulated(&code, 0, Needs::NOTHING).expect("an instruction");
        assert_eq!(
            placement.to_string(),
            " (endbr64 is single-stepped; its code is not fully known)"
        );
        assert_eq!(nearest_emulated(&[], 8, Needs::NOTHING), None);
        assert_eq!(nearest_emulated(&[0x06], 8, Needs::NOTHING), None);
    }

    impl Needs {
        fn without(self, register: u8) -> Needs {
            Needs {
                registers: self.registers & !(1 << register),
                ..self
            }
        }
    }
}

/// The placement of a probe on `alpha`, which begins with `beginning`; the symbol `beta` is 16 bytes after it.
#[cfg(target_arch = "x86_64")]
fn place_alpha(beginning: &[u8], others: impl FnOnce(&mut [u8])) -> (u64, PlacementOutcome) {
    use crate::find::elf::image::{CODE_SIZE, ElfImage, file_with};
    let mut image = ElfImage::default().bytes();
    let nops = image.windows(64).position(|window| window == [0x90; 64]);
    let code = &mut image[nops.expect("the code")..][..CODE_SIZE as usize];
    code[..beginning.len()].copy_from_slice(beginning);
    others(code);
    let elf = ElfFile::open(file_with(&image), "image".as_ref()).expect("an ELF file");
    let alpha = elf.lookup(&["alpha"]).expect("symbols").remove(0).expect("alpha");
    let function = ProbedFunction {
        addr: alpha.addr,
        size: 64,
        needs: Needs::NOTHING,
        repeats: false,
    };
    let placement = place_probes(&elf, &[function]).remove(0).expect("a placement");
    (placement.distance, placement.outcome)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn probe_moves_behind_rewritten_nop_unless_it_is_jumped_over() {
    use crate::find::elf::image::{CODE_SIZE, ElfImage, file_with};
    let address = |jump: &[u8]| {
        let mut image = ElfImage::default().bytes();
        let nops = image.windows(64).position(|window| window == [0x90; 64]);
        let code = &mut image[nops.expect("the code")..][..CODE_SIZE as usize];
        code[..jump.len()].copy_from_slice(jump);
        code[4..9].copy_from_slice(machine::REWRITTEN_NOP);
        let elf = ElfFile::open(file_with(&image), "image".as_ref()).expect("an ELF file");
        let alpha = elf.lookup(&["alpha"]).expect("symbols").remove(0).expect("alpha");
        let moved = |addr| inner_address(&elf, alpha.addr + addr).map(|addr| addr - alpha.addr);
        (moved(4), moved(9))
    };
    assert_eq!(address(&[]), (Some(9), Some(9)));
    // je +7, behind the nop; je +8
    assert_eq!(address(&[0x74, 7]), (None, Some(9)));
    assert_eq!(address(&[0x74, 8]), (Some(9), Some(9)));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn probe_does_not_move_into_another_function() {
    // mov %eax,%eax; nops follow in the image
    let mov = [0x89, 0xc0];
    assert_eq!(place_alpha(&mov.repeat(7), |_| ()), (14, PlacementOutcome::Moved));
    assert_eq!(
        place_alpha(&mov.repeat(8), |_| ()),
        (0, PlacementOutcome::Stays(StayReason::OtherFunction))
    );
}

/// As in glibc, where mempcpy jumps into memcpy.
#[test]
#[cfg(target_arch = "x86_64")]
fn jumps_from_other_functions_are_found() {
    let beginning = [0x89, 0xc0, 0x89, 0xc0, 0x53];
    // jmp, je and call at 128, to the second instruction, to the probe, to the start, to after the probe
    for (target, expected) in [
        (2_i64, (0, PlacementOutcome::Stays(StayReason::JumpedInto))),
        (4, (0, PlacementOutcome::Stays(StayReason::JumpedInto))),
        (0, (4, PlacementOutcome::Moved)),
        (5, (4, PlacementOutcome::Moved)),
    ] {
        for opcode in [&[0xe9][..], &[0x0f, 0x84], &[0xe8]] {
            let distance = target - (128 + opcode.len() as i64 + 4);
            let jump = [opcode, &(distance as i32).to_le_bytes()].concat();
            let found = place_alpha(&beginning, |code| {
                code[128..128 + jump.len()].copy_from_slice(&jump)
            });
            assert_eq!(found, expected, "{target} {opcode:x?}");
        }
    }
    let short = place_alpha(&beginning, |code| {
        code[100..102].copy_from_slice(&[0xeb, 2_u8.wrapping_sub(102)])
    });
    assert_eq!(short, (0, PlacementOutcome::Stays(StayReason::JumpedInto)));
}

/// Code is read in parts, and a jump may begin in one and end in the next.
#[test]
#[cfg(target_arch = "x86_64")]
fn jumps_between_parts_are_found() {
    use crate::find::elf::image::{BASE, CODE_AT, file_with, image_with_functions};
    let beginning = [0x89, 0xc0, 0x89, 0xc0, 0x53];
    let outcome = |jump_at: u64| {
        let mut code = vec![0x90; PART as usize];
        code[..beginning.len()].copy_from_slice(&beginning);
        let jump = (jump_at - CODE_AT) as usize;
        code[jump] = 0xe9;
        code[jump + 1..jump + 5].copy_from_slice(&(2 - (jump as i32 + 5)).to_le_bytes());
        let image = file_with(&image_with_functions(&code, 1, 0, 64));
        let elf = ElfFile::open(image, "image".as_ref()).expect("an ELF file");
        let function = ProbedFunction {
            addr: BASE + CODE_AT,
            size: 64,
            needs: Needs::NOTHING,
            repeats: false,
        };
        place_probes(&elf, &[function])
            .remove(0)
            .map(|placement| placement.outcome)
    };
    for jump_at in PART - 7..PART + 3 {
        let expected = PlacementOutcome::Stays(StayReason::JumpedInto);
        assert_eq!(outcome(jump_at), Some(expected), "{jump_at:#x}");
    }
}

/// The rules for arm64, tested on all machines.
mod on_arm64 {
    use super::*;

    const BTI_C: u32 = 0xd503_245f;
    const CBZ_X0_NEXT: u32 = 0xb400_0020;
    const RET: u32 = 0xd65f_03c0;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The first instruction: emulated, movable over, and the registers that it writes.
    fn first(word: u32) -> (bool, bool, u32) {
        let instruction = arm64::effects(&bytes(&[word])).next().expect("an instruction");
        (instruction.emulated, !instruction.leaves, instruction.writes)
    }

    #[test]
    fn instructions_are_classified() {
        // b; bl; b.ne; cbz; cbnz; tbz; tbnz; adrp x3; adr x3; ret; br x1; blr x1
        for word in [
            0x1400_0001,
            0x9400_0001,
            0x5400_0021,
            CBZ_X0_NEXT,
            0x3500_0020,
            0x3600_0020,
            0x3708_0020,
            0x9000_0003,
            0x1000_0003,
            RET,
            0xd61f_0020,
            0xd63f_0020,
        ] {
            assert!(first(word).0, "{word:#x}");
        }
        // bti c, bti j; cmp x0, #0; cmp w1, w2; cmn x0, #1; tst x0, #1; tst x0, x1
        for word in [
            BTI_C,
            0xd503_249f,
            0xf100_001f,
            0x6b02_003f,
            0xb100_041f,
            0xf240_001f,
            0xea01_001f,
        ] {
            assert_eq!(first(word), (false, true, 0), "{word:#x}");
        }
        // mov x19, x0; mov w2, #5; mov x3, #-1
        for (word, register) in [(0xaa00_03f3, 19), (0x5280_00a2, 2), (0x9280_0003, 3)] {
            assert_eq!(first(word), (false, true, 1 << register), "{word:#x}");
        }
        // paciasp; stp x29, x30, [sp, #-32]!; sub sp, sp, #32; subs x0, x0, #1; add x0, x0, #1; and x0, x0, #1;
        // ldr x0, [x0]; svc #0; ldr x0, =...
        for word in [
            0xd503_233f,
            0xa9be_7bfd,
            0xd100_83ff,
            0xf100_0400,
            0x9100_0400,
            0x9240_0000,
            0xf940_0000,
            0xd400_0001,
            0x5800_0040,
        ] {
            assert_eq!(first(word), (false, false, 0), "{word:#x}");
        }
    }

    #[test]
    fn jumps_have_their_targets() {
        let targets = |words: &[u32]| {
            let mut targets = Vec::new();
            arm64::jumps(&bytes(words), &(i64::MIN..i64::MAX), |target| {
                targets.push(target)
            });
            targets
        };
        // bti c; cbz x0, +4; b -4; tbz w0, #5, -8; b.ne +4; bl -20; ret
        let code = [
            BTI_C,
            CBZ_X0_NEXT,
            0x17ff_ffff,
            0x362f_ffc0,
            0x5400_0021,
            0x97ff_fffb,
            RET,
        ];
        assert_eq!(targets(&code), [8, 4, 4, 20, 0]);
        assert_eq!(arm64::check_whole(&bytes(&code)), Ok(()));
        // br x1; braaz x1
        for jump in [0xd61f_0020, 0xd61f_083f] {
            assert_eq!(
                arm64::check_whole(&bytes(&[BTI_C, jump])),
                Err(StayReason::JumpsAnywhere),
                "{jump:#x}"
            );
        }
    }
}
