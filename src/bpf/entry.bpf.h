/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which hits at the entry of a function begin a call. */
#ifndef ENTRY_BPF_H
#define ENTRY_BPF_H

#include "stack_owner.bpf.h"

/*
 * Whoever is between a jump to the first instruction of a function and that instruction, with the stack pointer, or 0.
 * Threads that end stay, so the oldest make room for others.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* set by user space if there are such jumps */
	__type(key, struct stack_owner);
	__type(value, __u64);
} repeating SEC(".maps");

/* True unless the hit is one of a jump to the first instruction, or follows one. */
static __always_inline bool is_first_turn(struct pt_regs *ctx, __u64 cookie)
{
	struct stack_owner owner = owner_of(ctx, cookie);
	__u64 sp = PT_REGS_SP(ctx);
	__u64 *jumped = bpf_map_lookup_elem(&repeating, &owner);

	if (!(cookie & COOKIE_REPEAT_JUMP)) {
		/* A signal handler that runs in between and calls the function has another stack pointer. */
		if (!jumped || *jumped != sp)
			return true;
		*jumped = 0;
		return false;
	}
	if (!is_taken(ctx, cookie))
		return false;
	if (jumped)
		*jumped = sp;
	else
		bpf_map_update_elem(&repeating, &owner, &sp, BPF_ANY);
	return false;
}

/* True if a hit at an entry begins a call. */
static __always_inline bool begins_call(struct pt_regs *ctx, __u64 cookie)
{
	__u8 condition = cookie >> COOKIE_CONDITION_SHIFT & 15;

	if (cookie & COOKIE_REPEAT_JUMP || condition == COOKIE_REPEATED_ENTRY)
		return is_first_turn(ctx, cookie);
	return !condition || condition_holds(ctx, condition);
}

#endif
