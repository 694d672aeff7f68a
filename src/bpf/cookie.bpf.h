/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cookie of a probe: 64 bits that user space sets when it attaches the probe and that the program reads. */
#ifndef COOKIE_BPF_H
#define COOKIE_BPF_H

/* The low 31 bits are the index of the function. Bits that are not listed are 0. */
enum cookie_layout {
	/* In programs for entries: the probe is on a jump to the first instruction of its function, which begins no
	   call. COOKIE_TAIL_JUMP and the condition say when it is taken. */
	COOKIE_REPEAT_JUMP_BIT = 31,
	/* The probe is on an instruction that returns, and stands in for a return probe: the return address is still on
	   the stack. */
	COOKIE_RETURN_INSN_BIT = 32,
	/* Set as well if that instruction jumps to another function, whose result is not known yet. Set alone if it
	   does so on a condition only. */
	COOKIE_TAIL_JUMP_BIT = 33,
	/* A function of a Go program. Its calls belong to a goroutine, which moves between threads and whose stack
	   moves when it grows. */
	COOKIE_GOROUTINE_BIT = 34,
	/* mallocsnoop, which does not trace Go: the probe is on a jump into this function, not an exit of it. */
	COOKIE_INTO_BIT = COOKIE_GOROUTINE_BIT,
	/* enum trap_kind */
	COOKIE_TRAP_SHIFT = 35,
	COOKIE_TRAP_BITS = 3,
	/* The condition, as the processor encodes it in the instruction (4 bits). At entries, if not 0, the condition
	   under which a hit begins a call, or COOKIE_REPEATED_ENTRY: it does unless a probed jump led there. 1 for an
	   unconditional jump if the return instructions of that other function are probed with the same cookie. */
	COOKIE_CONDITION_SHIFT = 38,
	COOKIE_REPEATED_ENTRY = 15,
	/* The only process that the probe is for, or 0. */
	COOKIE_PROCESS_SHIFT = 42,
};

/* In place of a cookie, where the kernel has none: each copy of a program is loaded with its own constant. */
enum cookie_mark {
	COOKIE_MARK_LOW = 0x636f6f6b,
	COOKIE_MARK_HIGH = 0x75627066,
};

/*
 * In place of the index of a function, at exits of one that others jump to: an exit of a call that has jumped here. The
 * calls on the way, at most so many, end together, and each program ends one of them.
 */
enum cookie_jumped {
	COOKIE_MOST_JUMPED = 3,
	COOKIE_JUMPED = 0xffffffff - COOKIE_MOST_JUMPED + 1, /* the first of them */
};

#define COOKIE_REPEAT_JUMP (1ULL << COOKIE_REPEAT_JUMP_BIT)
#define COOKIE_RETURN_INSN (1ULL << COOKIE_RETURN_INSN_BIT)
#define COOKIE_TAIL_JUMP (1ULL << COOKIE_TAIL_JUMP_BIT)
#define COOKIE_GOROUTINE (1ULL << COOKIE_GOROUTINE_BIT)
#define COOKIE_INTO (1ULL << COOKIE_INTO_BIT)
/* The probe is on an instruction that ends a call, or may. */
#define COOKIE_EXIT (COOKIE_RETURN_INSN | COOKIE_TAIL_JUMP)
#define COOKIE_TRAP_MASK (((1ULL << COOKIE_TRAP_BITS) - 1) << COOKIE_TRAP_SHIFT)
#define COOKIE_MARK ((__u64)COOKIE_MARK_HIGH << 32 | COOKIE_MARK_LOW)

/* What led to a run of a program. Nearly all of a probe's cost is the trap. */
enum trap_kind {
	TRAP_EMULATED, /* breakpoint on an instruction that the kernel emulates */
	TRAP_STEPPED, /* breakpoint on an instruction that is single-stepped out of line */
	TRAP_RETURN, /* return probe; the hit at the entry is counted as well */
	TRAP_RETURN_OF_EMULATED, /* return probe; no program runs at the entry, whose instruction is emulated */
	TRAP_RETURN_OF_STEPPED, /* return probe; no program runs at the entry, whose instruction is single-stepped */
};

#endif
