// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Addresses in code for x86-64.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::LoadedAddress;

/// What the code at virtual address `addr` loads, in its order: `lea f(%rip)`, `mov $f` and `mov slot(%rip)`.
pub fn loads(code: &[u8], addr: u64) -> Vec<LoadedAddress> {
    let instructions = Decoder::with_ip(64, code, addr, DecoderOptions::NONE).into_iter();
    instructions
        .filter(|instruction| instruction.op0_kind() == OpKind::Register)
        .filter_map(|instruction| load(&instruction))
        .collect()
}

/// The addresses that the code at virtual address `addr` calls directly.
pub fn calls(code: &[u8], addr: u64) -> Vec<u64> {
    let instructions = Decoder::with_ip(64, code, addr, DecoderOptions::NONE).into_iter();
    instructions
        .filter(|instruction| instruction.flow_control() == FlowControl::Call)
        .map(|instruction| instruction.near_branch_target())
        .collect()
}

fn load(instruction: &Instruction) -> Option<LoadedAddress> {
    let is_relative = instruction.is_ip_rel_memory_operand();
    match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Lea, _) if is_relative => Some(LoadedAddress::Value(instruction.ip_rel_memory_address())),
        (Mnemonic::Mov | Mnemonic::Cmovne | Mnemonic::Cmove, OpKind::Memory) if is_relative => {
            Some(LoadedAddress::PointerAt(instruction.ip_rel_memory_address()))
        }
        (Mnemonic::Mov, OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64) => {
            Some(LoadedAddress::Value(instruction.immediate(1)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_each_form() {
        let code = [
            // lea 0x10(%rip),%rax; mov $0x401000,%edx; mov 0x20(%rip),%rcx; mov %rax,%rdx; ret
            &[0x48, 0x8d, 0x05, 0x10, 0, 0, 0][..],
            &[0xba, 0, 0x10, 0x40, 0],
            &[0x48, 0x8b, 0x0d, 0x20, 0, 0, 0],
            &[0x48, 0x89, 0xc2, 0xc3],
        ];
        let expected = [
            LoadedAddress::Value(0x1017),
            LoadedAddress::Value(0x401000),
            LoadedAddress::PointerAt(0x1033),
        ];
        assert_eq!(loads(&code.concat(), 0x1000), expected);
        // call +0x10; jmp +0x10; ret
        let code = [0xe8, 0x10, 0, 0, 0, 0xeb, 0x10, 0xc3];
        assert_eq!(calls(&code, 0x1000), [0x1015]);
    }
}
