// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Follows the code of one function on x86-64.

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::{CallTarget, ClosedFunctions, FunctionScan, OpenReason};
use crate::find::code::instructions::{ControlFlow, IndirectJump, decode};

/// Bytes of a PLT stub: `endbr64; bnd jmp *slot(%rip)`.
pub const STUB_BYTES: u64 = 16;
/// Different stack depths at one instruction. More than a few mean a loop that allocates on the stack.
const MOST_STATES: usize = 4;
/// Instructions of a function outside of its main part.
const MOST_IN_PARTS: usize = 4096;
/// Bytes of a return address.
const RETURN_ADDRESS: i64 = 8;

/// Where the stack and frame pointers are, in bytes below their place at the entry, where the return address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StackState {
    depth: i64,
    /// The stack pointer may be lower: memory of unknown size was allocated, or the stack was aligned.
    is_lower: bool,
    /// None if the frame pointer is not one.
    frame: Option<i64>,
}

/// Follows all paths through a function, except behind calls that never return.
///
/// # Errors
/// The function does what a closed one does not, or cannot be followed.
pub fn scan(code: &[u8], addr: u64, functions: &mut ClosedFunctions<'_>) -> Result<FunctionScan, OpenReason> {
    let mut walk = FunctionWalk {
        functions,
        parts: 0,
        start: addr,
        end: addr + code.len() as u64,
        code: decoded(code, addr)?,
        jump_tables: jump_tables(code, addr),
        states: HashMap::new(),
        waiting: Vec::new(),
        found: FunctionScan::default(),
    };
    if changes_thread_state(code) {
        return Err(OpenReason::Unwinds);
    }
    let start = StackState {
        depth: 0,
        is_lower: false,
        frame: None,
    };
    walk.visit(addr, start)?;
    while let Some((at, state)) = walk.waiting.pop() {
        walk.step(at, state)?;
    }
    walk.found.instructions = walk.code.len();
    Ok(walk.found)
}

/// The pointer that a stub at `addr` jumps through.
pub fn slot_of_stub(stub: &[u8], addr: u64) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, stub, addr, DecoderOptions::NONE);
    let mut instruction = decoder.decode();
    if instruction.mnemonic() == Mnemonic::Endbr64 {
        instruction = decoder.decode();
    }
    let is_stub = instruction.code() == Code::Jmp_rm64 && instruction.is_ip_rel_memory_operand();
    is_stub.then(|| instruction.ip_rel_memory_address())
}

/// The addresses that a function calls, or jumps to outside of it.
pub fn calls(code: &[u8], addr: u64) -> Vec<u64> {
    let own = addr..addr + code.len() as u64;
    let instructions = Decoder::with_ip(64, code, addr, DecoderOptions::NONE).into_iter();
    let targets = instructions.map(|instruction| instruction.near_branch_target());
    targets
        .filter(|target| *target != 0 && !own.contains(target))
        .collect()
}

/// Whether the function at an address calls its first instruction.
pub fn has_own_call(code: &[u8], addr: u64) -> bool {
    let mut instructions = Decoder::with_ip(64, code, addr, DecoderOptions::NONE).into_iter();
    instructions.any(|instruction| {
        instruction.flow_control() == FlowControl::Call && instruction.near_branch_target() == addr
    })
}

/// Whether a function changes the C library's description of its thread atomically. Until glibc 2.41, a thread does so
/// (`cancelhandling`) before it waits in a cancellation point: the signal that cancels it unwinds from there.
fn changes_thread_state(code: &[u8]) -> bool {
    /// Where a thread has the address of its own description, in its thread-local storage.
    const SELF: u64 = 0x10;
    let mut thread = Register::None;
    Decoder::new(64, code, DecoderOptions::NONE)
        .into_iter()
        .any(|instruction| {
            let is_own_field = instruction.memory_base() == thread && thread != Register::None;
            if instruction.memory_segment() == Register::FS
                && instruction.memory_base() == Register::None
                && instruction.memory_displacement64() == SELF
            {
                thread = instruction.op0_register();
            }
            instruction.has_lock_prefix() && is_own_field
        })
}

fn decoded(code: &[u8], addr: u64) -> Result<HashMap<u64, Instruction>, OpenReason> {
    let mut found = HashMap::new();
    let mut decoder = Decoder::with_ip(64, code, addr, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Err(OpenReason::Unknown);
        }
        found.insert(instruction.ip(), instruction);
    }
    Ok(found)
}

/// Addresses of the jumps through tables of the function.
fn jump_tables(code: &[u8], addr: u64) -> Vec<u64> {
    decode(code)
        .flatten()
        .filter(|instruction| matches!(instruction.flow, ControlFlow::Indirect(IndirectJump::JumpTable)))
        .map(|instruction| addr + instruction.start)
        .collect()
}

impl StackState {
    fn is_at_entry(self) -> bool {
        self.depth == 0 && !self.is_lower
    }
}

struct FunctionWalk<'w, 'e> {
    functions: &'w mut ClosedFunctions<'e>,
    /// Instructions by address: those of the function, and those of parts that the compiler moved away.
    code: HashMap<u64, Instruction>,
    /// Where the function begins and ends.
    start: u64,
    end: u64,
    /// How many instructions are in such parts.
    parts: usize,
    jump_tables: Vec<u64>,
    /// States in which instructions were reached.
    states: HashMap<u64, Vec<StackState>>,
    waiting: Vec<(u64, StackState)>,
    found: FunctionScan,
}

impl FunctionWalk<'_, '_> {
    /// Code may be reached with the stack in this state.
    fn visit(&mut self, at: u64, state: StackState) -> Result<(), OpenReason> {
        if !self.code.contains_key(&at) {
            self.decode_part(at)?;
        }
        let states = self.states.entry(at).or_default();
        if states.contains(&state) {
            return Ok(());
        }
        if states.len() > MOST_STATES {
            return Err(OpenReason::MovesStack);
        }
        let state = match states.len() {
            MOST_STATES => lowest(states, state)?,
            _ => state,
        };
        states.push(state);
        self.waiting.push((at, state));
        Ok(())
    }

    /// Decodes an instruction outside of the function.
    fn decode_part(&mut self, at: u64) -> Result<(), OpenReason> {
        let bytes = self.functions.instruction(at).ok_or(OpenReason::Unknown)?;
        let instruction = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE).decode();
        self.parts += 1;
        if instruction.is_invalid() || self.functions.is_function(at) || self.parts > MOST_IN_PARTS {
            return Err(OpenReason::Unknown);
        }
        self.code.insert(at, instruction);
        Ok(())
    }

    fn step(&mut self, at: u64, state: StackState) -> Result<(), OpenReason> {
        let Some(instruction) = self.code.get(&at).copied() else {
            return Ok(());
        };
        check_memory(&instruction, state)?;
        let next = instruction.next_ip();
        let target = instruction.near_branch_target();
        match instruction.flow_control() {
            FlowControl::Next => self.visit(next, after(&instruction, state)?),
            FlowControl::ConditionalBranch => {
                self.go_to(target, state)?;
                self.visit(next, state)
            }
            FlowControl::UnconditionalBranch => self.go_to(target, state),
            FlowControl::Call if instruction.mnemonic() == Mnemonic::Syscall => self.visit(next, state),
            FlowControl::Call | FlowControl::IndirectCall => {
                let called = self.called(&instruction, target)?;
                if self.functions.never_returns(called) {
                    return match self.functions.unwinds(called) {
                        true => Err(OpenReason::Unwinds),
                        false => Ok(()),
                    };
                }
                match called {
                    CallTarget::Function(addr) => self.found.calls.push(addr),
                    CallTarget::Slot(slot) => self.found.slots.push(slot),
                }
                // Without code behind it, the compiler knows that the call does not return.
                match next == self.end {
                    true => Ok(()),
                    false => self.visit(next, state),
                }
            }
            FlowControl::IndirectBranch if self.jump_tables.contains(&at) => self.visit_leaders(state),
            FlowControl::IndirectBranch if instruction.is_ip_rel_memory_operand() => {
                self.found.slots.push(instruction.ip_rel_memory_address());
                Ok(())
            }
            FlowControl::IndirectBranch => Err(OpenReason::CallsPointer),
            FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret && state.is_at_entry() => Ok(()),
            FlowControl::Return => Err(OpenReason::MovesStack),
            // ud2, hlt
            FlowControl::Exception | FlowControl::Interrupt => Ok(()),
            FlowControl::XbeginXabortXend => Err(OpenReason::Unknown),
        }
    }

    /// A jump: inside the function, or to another one, which returns to the caller.
    fn go_to(&mut self, target: u64, state: StackState) -> Result<(), OpenReason> {
        let leaves = !self.code.contains_key(&target) && self.functions.is_called(target);
        match (leaves, state.is_at_entry()) {
            (false, _) => self.visit(target, state),
            (true, true) => {
                self.found.calls.push(target);
                Ok(())
            }
            (true, false) => Err(OpenReason::MovesStack),
        }
    }

    fn called(&self, instruction: &Instruction, target: u64) -> Result<CallTarget, OpenReason> {
        match (instruction.op0_kind(), instruction.is_ip_rel_memory_operand()) {
            (OpKind::NearBranch64, _) if self.code.contains_key(&target) && target != self.start => {
                Err(OpenReason::ReadsReturnAddress)
            }
            (OpKind::NearBranch64, _) => Ok(CallTarget::Function(target)),
            (OpKind::Memory, true) => Ok(CallTarget::Slot(instruction.ip_rel_memory_address())),
            _ => Err(OpenReason::CallsPointer),
        }
    }

    /// A jump table may lead to any code that nothing else leads to.
    fn visit_leaders(&mut self, state: StackState) -> Result<(), OpenReason> {
        let ends = self.code.values().filter(|instruction| {
            matches!(
                instruction.flow_control(),
                FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Return
                    | FlowControl::Exception
                    | FlowControl::Call
            )
        });
        let is_unreached = |leader: &u64| self.code.contains_key(leader) && !self.states.contains_key(leader);
        let leaders: Vec<u64> = ends.map(Instruction::next_ip).filter(is_unreached).collect();
        leaders
            .into_iter()
            .try_for_each(|leader| self.visit(leader, state))
    }
}

/// A state that all of these are cases of.
fn lowest(states: &[StackState], state: StackState) -> Result<StackState, OpenReason> {
    if state.frame.is_none() || states.iter().any(|other| other.frame != state.frame) {
        return Err(OpenReason::MovesStack);
    }
    let depths = states.iter().map(|state| state.depth);
    Ok(StackState {
        depth: depths.min().map_or(state.depth, |least| least.min(state.depth)),
        is_lower: true,
        ..state
    })
}

/// Checks that an instruction neither reads, writes nor points to the return address.
fn check_memory(instruction: &Instruction, state: StackState) -> Result<(), OpenReason> {
    let uses_memory =
        (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
    let base = match instruction.memory_base() {
        Register::RSP => Some(state.depth),
        Register::RBP => state.frame,
        _ => None,
    };
    let copies_stack_pointer = instruction.op_count() > 1
        && instruction.op1_register() == Register::RSP
        && instruction.op0_register() != Register::RBP;
    if copies_stack_pointer && state.depth == 0 {
        return Err(OpenReason::ReadsReturnAddress);
    }
    let (true, Some(below), Register::None) = (uses_memory, base, instruction.memory_index()) else {
        return Ok(());
    };
    let is_lower = state.is_lower && instruction.memory_base() == Register::RSP;
    // From the place of the return address.
    let start = instruction.memory_displacement64() as i64 - below;
    let size = match instruction.mnemonic() {
        Mnemonic::Lea => 1,
        _ => instruction.memory_size().size().max(1) as i64,
    };
    match (is_lower || start < RETURN_ADDRESS) && start + size > 0 {
        true => Err(OpenReason::ReadsReturnAddress),
        false => Ok(()),
    }
}

/// The stack after an instruction that is not a branch.
fn after(instruction: &Instruction, state: StackState) -> Result<StackState, OpenReason> {
    let StackState { depth, frame, .. } = state;
    let to = instruction.op0_register();
    let immediate = || instruction.immediate(1) as i64;
    let displacement = instruction.memory_displacement64() as i64;
    let from = instruction.op1_register();
    let moved = |depth| StackState { depth, ..state };
    let in_frame = |depth| StackState {
        depth,
        is_lower: false,
        frame,
    };
    let lower = StackState {
        is_lower: true,
        ..state
    };
    let next = match (instruction.mnemonic(), to) {
        (Mnemonic::Push | Mnemonic::Pushfq, _) if state.is_lower => Some(state),
        (Mnemonic::Push | Mnemonic::Pushfq, _) => Some(moved(depth - popped(instruction))),
        // Popping the return address reads it.
        (Mnemonic::Pop | Mnemonic::Popfq, _) if depth == 0 => return Err(OpenReason::ReadsReturnAddress),
        (Mnemonic::Pop | Mnemonic::Popfq, _) if to != Register::RSP && !state.is_lower => Some(StackState {
            frame: frame.filter(|_| to != Register::RBP),
            ..moved(depth - popped(instruction))
        }),
        (Mnemonic::Sub, Register::RSP) if is_immediate(instruction) => match state.is_lower {
            true => Some(state),
            false => Some(moved(depth + immediate())),
        },
        (Mnemonic::Sub | Mnemonic::And, Register::RSP) if frame.is_some() => Some(lower),
        (Mnemonic::Add, Register::RSP) if is_immediate(instruction) && !state.is_lower => {
            Some(moved(depth - immediate()))
        }
        (Mnemonic::Lea, Register::RSP) if is_plain(instruction, Register::RSP) && !state.is_lower => {
            Some(moved(depth - displacement))
        }
        (Mnemonic::Lea, Register::RSP) if is_plain(instruction, Register::RBP) => {
            frame.map(|frame| in_frame(frame - displacement))
        }
        (Mnemonic::Mov, Register::RSP) if from == Register::RBP => frame.map(in_frame),
        (Mnemonic::Mov, Register::RBP) if from == Register::RSP && !state.is_lower => Some(StackState {
            frame: Some(depth),
            ..state
        }),
        (Mnemonic::Leave, _) => frame.map(|frame| StackState {
            depth: frame - RETURN_ADDRESS,
            is_lower: false,
            frame: None,
        }),
        _ if writes_stack_pointer(instruction) => None,
        (_, Register::RBP | Register::EBP) if writes_first(instruction) => {
            Some(StackState { frame: None, ..state })
        }
        _ => Some(state),
    };
    next.filter(|next| next.depth >= 0 && (!next.is_lower || next.frame.is_some()))
        .ok_or(OpenReason::MovesStack)
}

/// Bytes by which the stack pointer rises.
fn popped(instruction: &Instruction) -> i64 {
    instruction.stack_pointer_increment().into()
}

fn is_immediate(instruction: &Instruction) -> bool {
    !matches!(instruction.op1_kind(), OpKind::Register | OpKind::Memory)
}

/// Whether the address is a register and a constant.
fn is_plain(instruction: &Instruction, base: Register) -> bool {
    instruction.memory_base() == base && instruction.memory_index() == Register::None
}

fn writes_first(instruction: &Instruction) -> bool {
    !matches!(
        instruction.mnemonic(),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push
    )
}

/// Whether an instruction that [`after`] does not know writes the stack pointer.
fn writes_stack_pointer(instruction: &Instruction) -> bool {
    let is_stack_pointer =
        |register: Register| register.is_gpr() && register.full_register() == Register::RSP;
    let named = (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register && is_stack_pointer(instruction.op_register(operand))
    });
    let only_reads = match instruction.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test => true,
        Mnemonic::Mov | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Lea => {
            !is_stack_pointer(instruction.op0_register())
        }
        _ => false,
    };
    (named && !only_reads)
        || (instruction.is_stack_instruction() && instruction.stack_pointer_increment() != 0)
}
