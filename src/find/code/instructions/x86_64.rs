// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Decoding of x86-64 instructions.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::decoded::{ArrayAddress, BadOffset, BranchCondition, ControlFlow, IndirectJump, Instruction};

/// The virtual addresses that code at `addr` refers to by their distance, as calls and jumps do, and where it does. The
/// code is not decoded, so other bytes that look like a distance are among them. A distance of 0 is that in a `nop`.
pub fn references(code: &[u8], addr: u64) -> impl Iterator<Item = (u64, u64)> {
    let distances = code.windows(4).zip(addr..).filter_map(|(bytes, at)| {
        let distance = i32::from_le_bytes(bytes.try_into().ok()?);
        (distance != 0).then_some((at, distance))
    });
    distances.map(|(at, distance)| (at, at.wrapping_add(4).wrapping_add_signed(distance.into())))
}

/// The virtual addresses that code at `addr` calls or jumps to. As above, with fewer others.
pub fn branches(code: &[u8], addr: u64) -> impl Iterator<Item = u64> {
    let is_branch = move |at: u64| {
        let before = usize::try_from(at - addr).ok().and_then(|at| code.get(..at));
        matches!(before, Some([.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f]))
    };
    let references = references(code, addr).filter(move |&(at, _)| is_branch(at));
    references.map(|(_, to)| to)
}

/// The instructions in order. An error is the last item.
pub fn decode(function: &[u8]) -> impl Iterator<Item = Result<Instruction, BadOffset>> {
    let mut decoder = Decoder::new(64, function, DecoderOptions::NONE);
    let mut sources = RegisterSources::default();
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
                flow: flow(&instruction, &mut sources),
            }),
        })
    })
}

/// Where instructions start, in bytes; an error for a byte at which none does. Decoding goes on after it: in data
/// between functions, it agrees with the real instructions again after a few of them.
pub fn starts(code: &[u8]) -> impl Iterator<Item = Result<u64, u64>> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    std::iter::from_fn(move || {
        if !decoder.can_decode() {
            return None;
        }
        let start = decoder.position();
        if !decoder.decode().is_invalid() {
            return Some(Ok(start as u64));
        }
        decoder.set_position(start + 1).ok()?;
        Some(Err(start as u64))
    })
}

fn flow(instruction: &iced_x86::Instruction, sources: &mut RegisterSources) -> ControlFlow {
    let target = instruction.near_branch64() as i64;
    match (instruction.flow_control(), instruction.mnemonic()) {
        (FlowControl::Return, Mnemonic::Ret) => ControlFlow::Return,
        (FlowControl::UnconditionalBranch, Mnemonic::Jmp) => ControlFlow::Jump(target),
        (FlowControl::ConditionalBranch, _) if instruction.is_jcc_short_or_near() => {
            ControlFlow::Branch(target, BranchCondition::Flags(condition_code(instruction)))
        }
        (FlowControl::ConditionalBranch, _) => ControlFlow::Branch(target, BranchCondition::Other),
        (FlowControl::IndirectBranch, Mnemonic::Jmp) => ControlFlow::Indirect(sources.jump(instruction)),
        _ => {
            sources.follow(instruction);
            ControlFlow::Next
        }
    }
}

/// The low four bits of the opcode.
fn condition_code(instruction: &iced_x86::Instruction) -> u8 {
    use iced_x86::ConditionCode::*;
    match instruction.condition_code() {
        None | o => 0,
        no => 1,
        b => 2,
        ae => 3,
        e => 4,
        ne => 5,
        be => 6,
        a => 7,
        s => 8,
        ns => 9,
        p => 10,
        np => 11,
        l => 12,
        ge => 13,
        le => 14,
        g => 15,
    }
}

/// What the general registers hold, from the last instruction that wrote each, in the order of the code.
struct RegisterSources {
    sources: [RegisterSource; 16],
    info: InstructionInfoFactory,
}

#[derive(Clone, Copy)]
enum RegisterSource {
    /// The caller: nothing wrote it.
    Caller,
    /// The address of something at a fixed place.
    Address(i64),
    /// A sum, as of the address of a jump table and a distance in it.
    Sum,
    /// A word of memory.
    Jump(IndirectJump),
    Other,
}

impl Default for RegisterSources {
    fn default() -> Self {
        RegisterSources {
            sources: [RegisterSource::Caller; 16],
            info: InstructionInfoFactory::new(),
        }
    }
}

impl RegisterSources {
    /// Where an indirect jump leads.
    fn jump(&self, jump: &iced_x86::Instruction) -> IndirectJump {
        // `notrack`: with -fcf-protection, only jump tables are exempt from checks of their targets.
        if jump.segment_prefix() == Register::DS {
            return IndirectJump::JumpTable;
        }
        match jump.op0_kind() {
            OpKind::Memory => self.load(jump),
            _ => match self.of(jump.op0_register()) {
                RegisterSource::Caller => IndirectJump::Pointer,
                RegisterSource::Sum => IndirectJump::JumpTable,
                RegisterSource::Jump(jump) => jump,
                RegisterSource::Address(_) | RegisterSource::Other => IndirectJump::Unknown,
            },
        }
    }

    /// Where a jump to the word leads that an instruction reads from memory.
    fn load(&self, load: &iced_x86::Instruction) -> IndirectJump {
        let base = load.memory_base();
        if load.memory_index() == Register::None {
            return IndirectJump::Pointer;
        }
        let displacement = load.memory_displacement64();
        IndirectJump::Element(match (base, self.of(base)) {
            (Register::None, _) => ArrayAddress::Absolute(displacement),
            (_, RegisterSource::Address(addr)) => {
                ArrayAddress::Relative(addr.wrapping_add_unsigned(displacement))
            }
            _ => ArrayAddress::Unknown,
        })
    }

    fn of(&self, register: Register) -> RegisterSource {
        let number = register.is_gpr().then(|| register.full_register().number());
        let source = number.and_then(|number| self.sources.get(number));
        source.copied().unwrap_or(RegisterSource::Other)
    }

    fn follow(&mut self, instruction: &iced_x86::Instruction) {
        let written = instruction.op0_register();
        let source = match (instruction.code(), instruction.op1_kind()) {
            (Code::Lea_r64_m, _) if instruction.is_ip_rel_memory_operand() => {
                RegisterSource::Address(instruction.ip_rel_memory_address() as i64)
            }
            (Code::Mov_r64_rm64, OpKind::Memory) => RegisterSource::Jump(self.load(instruction)),
            (Code::Mov_r64_rm64 | Code::Mov_rm64_r64, OpKind::Register) => {
                self.of(instruction.op1_register())
            }
            (Code::Add_r64_rm64 | Code::Add_rm64_r64, OpKind::Register) => RegisterSource::Sum,
            _ => RegisterSource::Other,
        };
        for used in self.info.info(instruction).used_registers() {
            let is_written = matches!(
                used.access(),
                OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
            );
            let register = used.register();
            if !is_written || !register.is_gpr() {
                continue;
            }
            let is_result = register.full_register() == written.full_register();
            if let Some(slot) = self.sources.get_mut(register.full_register().number()) {
                *slot = if is_result { source } else { RegisterSource::Other };
            }
        }
    }
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
