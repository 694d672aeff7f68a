// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Decoding of x86-64 instructions.

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};

use super::decoded::{BadOffset, ControlFlow, Instruction};

/// The instructions in order. An error is the last item.
pub fn decode(function: &[u8]) -> impl Iterator<Item = Result<Instruction, BadOffset>> {
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
            true => Err(BadOffset::Undecodable { at: start }),
            false => Ok(Instruction {
                start,
                end: instruction.next_ip(),
                flow: match (instruction.mnemonic(), instruction.op0_kind()) {
                    (Mnemonic::Ret, _) => ControlFlow::Return,
                    (Mnemonic::Jmp, OpKind::NearBranch64) => {
                        ControlFlow::Jump(instruction.near_branch64() as i64)
                    }
                    _ => ControlFlow::Next,
                },
            }),
        })
    })
}

pub fn may_be_rejected(code: &[u8]) -> bool {
    let is_harmless = |byte: &&u8| matches!(byte, 0x66 | 0x67 | 0xf2 | 0xf3 | 0x40..=0x4f);
    let first = code.iter().find(|byte| !is_harmless(byte));
    // lock, the segments es, cs, ss and ds, VEX and EVEX
    matches!(first, Some(0xf0 | 0x26 | 0x2e | 0x36 | 0x3e | 0xc4 | 0xc5 | 0x62))
}

/// As long as the stack pointer is unchanged, it points to the return address.
pub fn reads_return_address(function: &[u8]) -> bool {
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
