// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Probe points: the instructions of a file that programs run at, and the cookies that identify them there.

use std::collections::{HashMap, HashSet};

use crate::bpf::shared::types::{cookie_jumped, cookie_layout};
use crate::find::code::call_start::{CallStart, RepeatJump};
use crate::find::code::instructions::{ExitKind, FunctionExit};
use crate::find::code::placement::Needs;
use crate::find::elf::FunctionSymbol;
use crate::find::returns::ReturnMethod;

/// Which ends of a function's calls a probe point covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ends {
    Entry,
    Return,
    Both,
    /// The point is an instruction that returns from the function or jumps out of it. The program for returns
    /// runs at a breakpoint there, without a return probe.
    ReturnInstruction,
}

/// The 64-bit value that the kernel passes to a program with each hit of a probe.
///
/// It holds the index of the function and what the program has to know about the probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(u64);

const RETURN_INSTRUCTION: u64 = 1 << cookie_layout::COOKIE_RETURN_INSN_BIT.0;
const TAIL_JUMP: u64 = 1 << cookie_layout::COOKIE_TAIL_JUMP_BIT.0;
const REPEAT_JUMP: u64 = 1 << cookie_layout::COOKIE_REPEAT_JUMP_BIT.0;
const REPEATED_ENTRY: u64 = cookie_layout::COOKIE_REPEATED_ENTRY.0 as u64;
const GOROUTINE: u64 = 1 << cookie_layout::COOKIE_GOROUTINE_BIT.0;
const INTO: u64 = 1 << cookie_layout::COOKIE_INTO_BIT.0;
const CONDITION_SHIFT: u32 = cookie_layout::COOKIE_CONDITION_SHIFT.0;
const TRAP_SHIFT: u32 = cookie_layout::COOKIE_TRAP_SHIFT.0;
const TRAP_BITS: u32 = cookie_layout::COOKIE_TRAP_BITS.0;
const PROCESS_SHIFT: u32 = cookie_layout::COOKIE_PROCESS_SHIFT.0;

/// How many calls that have jumped to one function end together, at most.
pub const MOST_JUMPED: u32 = cookie_jumped::COOKIE_MOST_JUMPED.0;
const COOKIE_JUMPED: u32 = cookie_jumped::COOKIE_JUMPED.0;

/// PIDs are below 2^22 (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;

const _: () = {
    let fields = [
        u32::MAX as u64 & !REPEAT_JUMP,
        REPEAT_JUMP,
        RETURN_INSTRUCTION,
        TAIL_JUMP,
        GOROUTINE,
        15 << CONDITION_SHIFT,
        ((1 << TRAP_BITS) - 1) << TRAP_SHIFT,
        ((1 << PID_BITS) - 1) << PROCESS_SHIFT,
    ];
    let (mut used, mut index) = (0, 0);
    while index < fields.len() {
        assert!(used & fields[index] == 0, "fields of the cookie overlap");
        used |= fields[index];
        index += 1;
    }
};

impl Cookie {
    /// The cookie of an ordinary probe on the function with this index.
    pub const fn of_function(index: u32) -> Cookie {
        Cookie(index as u64)
    }

    /// The cookie of an exit of a function to which others jump, for the `nth` of the calls that end there together.
    pub const fn of_jumped(nth: u32) -> Cookie {
        assert!(nth < MOST_JUMPED);
        Cookie((COOKIE_JUMPED + nth) as u64)
    }

    /// Index of the function, unless there is none.
    pub const fn function(self) -> u32 {
        match self.is_repeat_jump() {
            true => (self.0 & !REPEAT_JUMP) as u32,
            false => self.0 as u32,
        }
    }

    /// Whether the probe is on a jump to the first instruction of the function.
    pub const fn is_repeat_jump(self) -> bool {
        !self.is_jumped() && self.0 & REPEAT_JUMP != 0
    }

    /// Whether it is for calls of any function that has jumped there.
    pub const fn is_jumped(self) -> bool {
        self.0 as u32 >= COOKIE_JUMPED
    }

    /// The same flags for the `nth` of the calls that end together.
    pub const fn with_jumped(self, nth: u32) -> Cookie {
        Cookie(self.0 & !(u32::MAX as u64) | Cookie::of_jumped(nth).0)
    }

    /// For a probe on an instruction that returns: the return address is still on the stack there.
    pub const fn at_return_instruction(self) -> Cookie {
        Cookie(self.0 | RETURN_INSTRUCTION)
    }

    /// For a probe on an instruction that jumps to another function, whose result is not known yet.
    pub const fn at_tail_jump(self) -> Cookie {
        Cookie(self.0 | RETURN_INSTRUCTION | TAIL_JUMP)
    }

    /// As above, where the return instructions of the other function are probed with the cookie of this one.
    pub const fn at_followed_jump(self) -> Cookie {
        Cookie(self.at_tail_jump().0 | 1 << CONDITION_SHIFT)
    }

    const fn is_followed_jump(self) -> bool {
        let bits = Cookie(0).at_followed_jump().0;
        self.0 & bits == bits
    }

    /// As above, if the flags match this condition code of the processor (4 bits).
    pub const fn at_conditional_tail_jump(self, code: u8) -> Cookie {
        Cookie(self.0 | TAIL_JUMP | ((code & 15) as u64) << CONDITION_SHIFT)
    }

    /// For the entry of a function: a hit begins a call if the flags match this condition code of the processor.
    const fn entered_if(self, code: u8) -> Cookie {
        Cookie(self.0 | ((code & 15) as u64) << CONDITION_SHIFT)
    }

    /// For the entry of a function: a hit begins a call unless a probed jump led there.
    const fn at_repeated_entry(self) -> Cookie {
        Cookie(self.0 | REPEATED_ENTRY << CONDITION_SHIFT)
    }

    /// Whether the probe is at such an entry.
    pub const fn is_repeated_entry(self) -> bool {
        let condition = self.0 >> CONDITION_SHIFT & 15;
        condition == REPEATED_ENTRY && self.0 & (TAIL_JUMP | RETURN_INSTRUCTION) == 0
    }

    /// For a probe on such a jump, which is taken if the flags match a condition code.
    const fn at_repeat_jump(self, condition: Option<u8>) -> Cookie {
        let cookie = match condition {
            Some(code) => self.at_conditional_tail_jump(code),
            None => self.at_tail_jump(),
        };
        Cookie(cookie.0 | REPEAT_JUMP)
    }

    /// For a jump into this function out of another one: the cookie of an exit of that, as if it were this function's.
    pub const fn of_jump_into(self) -> Cookie {
        Cookie(self.0 | INTO)
    }

    /// For a Go function: its calls belong to a goroutine, which moves between threads.
    pub const fn in_goroutine(self) -> Cookie {
        Cookie(self.0 | GOROUTINE)
    }

    /// Counts the hits of the probe as those of this kind of trap.
    pub const fn with_trap(self, kind: u32) -> Cookie {
        Cookie(self.0 | (kind as u64) << TRAP_SHIFT)
    }

    /// Restricts the probe to the process with this PID.
    pub const fn for_process(self, pid: u32) -> Cookie {
        Cookie(self.0 | (pid as u64) << PROCESS_SHIFT)
    }

    /// The value as the kernel passes it.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// An instruction of a file to put a breakpoint on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// File offset, bytes.
    pub offset: u64,
    pub cookie: Cookie,
    pub ends: Ends,
    /// File offset of the semaphore that some USDT probes have, which counts their tracers: the probe does
    /// nothing while it is 0.
    pub semaphore: Option<u64>,
    /// Set if a later instruction of the function that begins here would do as well.
    pub movable: Option<MovableFunction>,
    /// The kernel has to single-step the instruction out of line. Not known before
    /// [`PlacementPolicy::place`](super::search::placing::PlacementPolicy::place).
    pub stepped: bool,
}

/// What has to be known about a function before its probe can be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovableFunction {
    /// Size of the function in bytes, 0 if unknown.
    pub size: u64,
    /// What the programs read at the probe.
    pub needs: Needs,
}

impl ProbePoint {
    /// Both ends of a function's calls; the programs read `needs` at its entry.
    pub fn function(function: &FunctionSymbol, cookie: Cookie, needs: Needs) -> ProbePoint {
        ProbePoint {
            offset: function.offset,
            cookie,
            ends: Ends::Both,
            semaphore: None,
            movable: Some(MovableFunction {
                size: function.size,
                needs,
            }),
            stepped: true,
        }
    }
}

impl ProbePoint {
    /// The points for the ends of this one, with returns observed in this way.
    pub fn with_returns(self, returns: &ReturnMethod) -> Vec<ProbePoint> {
        let ReturnMethod::Instructions(exits, _) = returns else {
            return vec![self];
        };
        let entry = (self.ends == Ends::Both).then_some(ProbePoint {
            ends: Ends::Entry,
            ..self
        });
        let leaving = exits.iter().map(|exit| self.at_exit(exit));
        entry.into_iter().chain(leaving).collect()
    }

    /// The point at an instruction that ends a call of the function.
    pub fn at_exit(self, exit: &FunctionExit) -> ProbePoint {
        let cookie = match exit.followed {
            true => self.cookie.with_jumped(0),
            false => self.cookie,
        };
        ProbePoint {
            offset: exit.at,
            cookie: match exit.kind {
                ExitKind::Return => cookie.at_return_instruction(),
                ExitKind::Jump => cookie.at_tail_jump(),
                ExitKind::FollowedJump => cookie.at_followed_jump(),
                ExitKind::JumpIf(code) => cookie.at_conditional_tail_jump(code),
            },
            ends: Ends::ReturnInstruction,
            movable: None,
            ..self
        }
    }
}

/// Has the `points` of a function, whose first instruction is at `start`, tell which hits begin a call.
pub fn begin_calls(points: &mut Vec<ProbePoint>, start: ProbePoint, call_start: &CallStart) {
    let entries = points
        .iter_mut()
        .filter(|point| matches!(point.ends, Ends::Entry | Ends::Both));
    match call_start {
        CallStart::Once | CallStart::Unknown => {}
        CallStart::Check { at, condition } => entries.for_each(|point| {
            point.offset += at;
            point.cookie = point.cookie.entered_if(*condition);
            point.movable = None;
        }),
        CallStart::Repeated(jumps) => {
            entries.for_each(|point| point.cookie = point.cookie.at_repeated_entry());
            points.extend(jumps.iter().map(|&RepeatJump { at, condition }| ProbePoint {
                offset: start.offset + at,
                cookie: start.cookie.at_repeat_jump(condition),
                ends: Ends::Entry,
                movable: None,
                ..start
            }));
        }
    }
}

/// How many functions have returns at instructions that the kernel single-steps, of their own or of functions to which
/// they jump.
pub fn count_stepped_returns(points: &[ProbePoint]) -> usize {
    let is_shared = points
        .iter()
        .any(|point| point.cookie.is_jumped() && point.stepped);
    let is_slow = |point: &&ProbePoint| {
        point.ends == Ends::ReturnInstruction
            && !point.cookie.is_jumped()
            && (point.stepped || is_shared && point.cookie.is_followed_jump())
    };
    let slow = points.iter().filter(is_slow);
    slow.map(|point| point.cookie.function())
        .collect::<HashSet<u32>>()
        .len()
}

/// Lets functions share the exits of those that they jump to. Many jump to the same few, and each probe runs a program;
/// one for each call that can end there is enough.
pub fn share_exits(points: &mut Vec<ProbePoint>) {
    let mut counts: HashMap<(u64, Cookie), u32> = HashMap::new();
    points.retain_mut(|point| {
        if !point.cookie.is_jumped() {
            return true;
        }
        let count = counts.entry((point.offset, point.cookie)).or_default();
        let nth = *count;
        *count += 1;
        if nth < MOST_JUMPED {
            point.cookie = point.cookie.with_jumped(nth);
        }
        nth < MOST_JUMPED
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_index_survives_all_flags() {
        const INDEX: u32 = (u32::MAX >> 1) - MOST_JUMPED;
        let cookie = Cookie::of_function(INDEX)
            .at_repeat_jump(Some(15))
            .in_goroutine()
            .with_trap(4)
            .for_process((1 << PID_BITS) - 1);
        assert_eq!(cookie.function(), INDEX);
        assert_eq!(cookie.bits() >> PROCESS_SHIFT, (1 << PID_BITS) - 1);
    }

    #[test]
    fn exits_are_shared_by_the_functions_that_jump_there() {
        let exit = |offset, cookie: Cookie| ProbePoint {
            offset,
            cookie: cookie.at_return_instruction(),
            ends: Ends::ReturnInstruction,
            semaphore: None,
            movable: None,
            stepped: true,
        };
        let own = exit(8, Cookie::of_function(4));
        let mut points = vec![own];
        points.extend([8; 40].map(|offset| exit(offset, Cookie::of_jumped(0))));
        points.push(exit(9, Cookie::of_jumped(0)));
        share_exits(&mut points);
        let jumped = |offset, nth| exit(offset, Cookie::of_jumped(nth));
        assert_eq!(
            points,
            [own, jumped(8, 0), jumped(8, 1), jumped(8, 2), jumped(9, 0)]
        );
        assert!(points[1..].iter().all(|point| point.cookie.is_jumped()));
        assert!(!own.cookie.is_jumped());
    }

    #[test]
    fn returns_behind_a_jump_count_as_slow() {
        let point = |offset, cookie, ends, stepped| ProbePoint {
            offset,
            cookie,
            ends,
            semaphore: None,
            movable: None,
            stepped,
        };
        let [jumps, returns, fast] = [3, 4, 5].map(Cookie::of_function);
        let shared = Cookie::of_jumped(0).at_return_instruction();
        let exit = Ends::ReturnInstruction;
        let mut points = vec![
            point(0, jumps, Ends::Entry, true),
            point(5, jumps.at_followed_jump(), exit, false),
            point(8, fast.at_tail_jump(), exit, false),
        ];
        assert_eq!(count_stepped_returns(&points), 0);
        points.push(point(9, shared, exit, true));
        assert_eq!(count_stepped_returns(&points), 1);
        points.extend([10, 11].map(|at| point(at, returns.at_return_instruction(), exit, true)));
        assert_eq!(count_stepped_returns(&points), 2);
    }

    #[test]
    fn ordinary_cookie_is_the_function_index() {
        assert_eq!(Cookie::of_function(7).bits(), 7);
    }
}
