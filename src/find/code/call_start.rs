// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which hits at the start of a function begin a call. A loop may lead back to the first instruction, and Go functions
//! start again after they made their stack larger.

use super::instructions::{BranchCondition, ControlFlow, Instruction, decode};
use super::placement::may_jump_to;

/// Longer functions are not examined.
const MOST_CODE: usize = 1 << 20;
/// Jumps to the first instruction, each of which gets a probe.
const MOST_JUMPS: usize = 16;
/// Instructions before the last branch of a stack check.
const MOST_CHECK: usize = 8;

/// How hits at the start of a function tell its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CallStart {
    /// Each call runs the first instruction once, as far as is known.
    #[default]
    Once,
    /// The function first checks whether its stack is large enough, and starts again after that has grown. A call
    /// leaves the check once: at the branch `at` bytes from the start, with flags that match this condition code of the
    /// processor (4 bits).
    Check { at: u64, condition: u8 },
    /// These instructions of the function jump to its first one.
    Repeated(Vec<RepeatJump>),
    /// There is a jump to the first instruction of which a program cannot tell whether it is taken.
    Unknown,
}

/// A jump to the first instruction of its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepeatJump {
    /// Bytes from the start of the function.
    pub at: u64,
    /// It is taken if the flags match this condition code of the processor (4 bits). None if it always is.
    pub condition: Option<u8>,
}

impl CallStart {
    /// Examines the code of a function. `grows_stack`: it may begin with a check of its stack.
    pub fn of(function: &[u8], grows_stack: bool) -> CallStart {
        if function.len() > MOST_CODE || !may_jump_to(function, 0) {
            return CallStart::Once;
        }
        // Code behind an invalid instruction is none of the function.
        let instructions: Vec<Instruction> = decode(function).map_while(Result::ok).collect();
        let mut jumps = Vec::new();
        for instruction in &instructions {
            let condition = match instruction.flow {
                ControlFlow::Jump(0) => None,
                ControlFlow::Branch(0, BranchCondition::Flags(code)) => Some(code),
                ControlFlow::Branch(0, BranchCondition::Other) => return CallStart::Unknown,
                _ => continue,
            };
            let at = instruction.start;
            jumps.push(RepeatJump { at, condition });
        }
        if let ([jump], true) = (&jumps[..], grows_stack)
            && let Some(check) = stack_check(&instructions, *jump)
        {
            return check;
        }
        match jumps.first() {
            None => CallStart::Once,
            // The probe of the jump would be that of the start, too.
            Some(first) if first.at == 0 || jumps.len() > MOST_JUMPS => CallStart::Unknown,
            Some(_) => CallStart::Repeated(jumps),
        }
    }
}

/// The check of the stack at the start of a function: its branches lead to code that makes the stack larger and then
/// jumps to the start.
fn stack_check(instructions: &[Instruction], back: RepeatJump) -> Option<CallStart> {
    let target = |instruction: &Instruction| match instruction.flow {
        ControlFlow::Jump(target) | ControlFlow::Branch(target, _) => Some(target),
        _ => None,
    };
    let growth = instructions.iter().find_map(target)?;
    let is_straight = |instruction: &&Instruction| matches!(instruction.flow, ControlFlow::Next);
    let leads_there = |instruction: &&Instruction| matches!(instruction.flow, ControlFlow::Branch(to, BranchCondition::Flags(_)) if to == growth);
    let check = instructions
        .iter()
        .take(MOST_CHECK)
        .take_while(|instruction| is_straight(instruction) || leads_there(instruction));
    let branches = check.clone().filter(leads_there).count();
    let last = check.filter(leads_there).last()?;
    let ControlFlow::Branch(_, BranchCondition::Flags(grows)) = last.flow else {
        return None;
    };
    let is_growth = |at: u64| (growth as u64..=back.at).contains(&at);
    let mut code = instructions
        .iter()
        .filter(|instruction| is_growth(instruction.start));
    let starts_there = code
        .clone()
        .next()
        .is_some_and(|first| first.start == growth as u64);
    let is_block = code.all(|instruction| instruction.start == back.at || is_straight(&instruction));
    let entered = instructions
        .iter()
        .filter_map(target)
        .filter(|&to| to > 0 && (to as u64 <= last.start || is_growth(to as u64)))
        .count();
    // Codes differ in the lowest bit from those of the opposite condition.
    let condition = grows ^ 1;
    let is_check = back.condition.is_none()
        && last.start < growth as u64
        && starts_there
        && is_block
        && entered == branches
        && condition != 0
        && condition != 15;
    is_check.then_some(CallStart::Check {
        at: last.start,
        condition,
    })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn repeated<const N: usize>(jumps: [(u64, Option<u8>); N]) -> CallStart {
        CallStart::Repeated(jumps.map(|(at, condition)| RepeatJump { at, condition }).into())
    }

    #[test]
    fn loops_at_the_start_are_found() {
        // mov %rdi,%rax; mov (%rdi),%rdi; test %rdi,%rdi; jne 0; ret
        let list = [
            0x48, 0x89, 0xf8, 0x48, 0x8b, 0x3f, 0x48, 0x85, 0xff, 0x75, 0xf5, 0xc3,
        ];
        assert_eq!(CallStart::of(&list, false), repeated([(9, Some(5))]));
        // dec %edi; js 6; jmp 0; ret
        let unconditional = [0xff, 0xcf, 0x78, 0x02, 0xeb, 0xfa, 0xc3];
        assert_eq!(CallStart::of(&unconditional, false), repeated([(4, None)]));
        assert_eq!(CallStart::of(&unconditional, true), repeated([(4, None)]));
        // dec %edi; jne 0; dec %esi; jne 0 (in six bytes); ret
        let two = [
            0xff, 0xcf, 0x75, 0xfc, 0xff, 0xce, 0x0f, 0x85, 0xf4, 0xff, 0xff, 0xff, 0xc3,
        ];
        assert_eq!(CallStart::of(&two, false), repeated([(2, Some(5)), (6, Some(5))]));
    }

    #[test]
    fn other_loops_do_not_count() {
        // endbr64; dec %edi; jne 4; ret
        let behind = [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0xcf, 0x75, 0xfc, 0xc3];
        assert_eq!(CallStart::of(&behind, false), CallStart::Once);
        // The bytes of `jmp 0` in an immediate: mov $0xf9eb,%eax; ret
        let data = [0xb8, 0xeb, 0xfd, 0, 0, 0xc3];
        assert_eq!(CallStart::of(&data, false), CallStart::Once);
    }

    #[test]
    fn a_jump_that_cannot_be_judged_is_said() {
        // dec %edi; loop 0; ret
        assert_eq!(
            CallStart::of(&[0xff, 0xcf, 0xe2, 0xfc, 0xc3], false),
            CallStart::Unknown
        );
        // jmp 0
        assert_eq!(CallStart::of(&[0xeb, 0xfe], false), CallStart::Unknown);
    }

    #[test]
    fn a_call_leaves_the_stack_check_of_go_once() {
        // cmp 16(%r14),%rsp; jbe 10; push %rbp; nop; pop %rbp; ret; call; jmp 0
        let small = [
            0x49, 0x3b, 0x66, 0x10, 0x76, 0x04, 0x55, 0x90, 0x5d, 0xc3, 0xe8, 0, 0, 0, 0, 0xeb, 0xef,
        ];
        let check = |at| CallStart::Check { at, condition: 7 };
        assert_eq!(CallStart::of(&small, true), check(4));
        assert_eq!(CallStart::of(&small, false), repeated([(15, None)]));
        // mov %rsp,%r12; sub $0x5dc0,%r12; jb 21; cmp 16(%r14),%r12; jbe 21; nop; ret; nop; call; jmp 0
        let large = [
            0x49, 0x89, 0xe4, 0x49, 0x81, 0xec, 0xc0, 0x5d, 0, 0, 0x72, 0x09, 0x4d, 0x3b, 0x66, 0x10, 0x76,
            0x03, 0x90, 0xc3, 0x90, 0xe8, 0, 0, 0, 0, 0xeb, 0xe4,
        ];
        assert_eq!(CallStart::of(&large, true), check(16));
        // The nop jumps to the call instead.
        let mut entered = large;
        entered[18..20].copy_from_slice(&[0xeb, 0x01]);
        assert_eq!(CallStart::of(&entered, true), repeated([(26, None)]));
    }
}
