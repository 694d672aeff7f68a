/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* User stacks inside an event. */
#ifndef STACK_BPF_H
#define STACK_BPF_H

#include "event.bpf.h"

#define STACK_DEPTH 127 /* the kernel's default limit, perf_event_max_stack */

/* When in a call a stack was read. */
enum stack_moment {
	/* The function's frame is not set up yet, so the kernel's walk skips the direct caller, unless the probed
	   instruction is `push %rbp` or `endbr64` (x86-64, since 6.12; never on arm64). */
	STACK_AT_ENTRY,
	/* At an instruction that returns: the frame is gone, and the kernel's walk always skips the direct caller. */
	STACK_AT_EXIT,
	/* In the caller again. */
	STACK_AFTER_RETURN,
};

struct stack {
	__u64 caller; /* return address of the probed function at its entry or exit, which user space inserts; else 0 */
	__s32 bytes; /* used part of `frames`, or a negative errno */
	__u32 moment; /* enum stack_moment */
	__u64 frames[STACK_DEPTH];
};

/* The moment of a hit that ends a call. */
static __always_inline enum stack_moment moment_of_end(__u64 cookie)
{
	return cookie & COOKIE_EXIT ? STACK_AT_EXIT : STACK_AFTER_RETURN;
}

static __always_inline void stack_read(struct pt_regs *ctx, struct stack *stack, enum stack_moment moment)
{
	stack->caller = 0;
	stack->moment = moment;
	if (moment != STACK_AFTER_RETURN) {
#if defined(__TARGET_ARCH_x86)
		bpf_probe_read_user(&stack->caller, sizeof(stack->caller), (void *)PT_REGS_SP(ctx));
#else
		stack->caller = PT_REGS_RET(ctx);
#endif
	}
	stack->bytes = bpf_get_stack(ctx, stack->frames, sizeof(stack->frames), BPF_F_USER_STACK);
}

#endif
