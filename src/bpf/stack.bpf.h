/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* User stacks inside an event. */
#ifndef STACK_BPF_H
#define STACK_BPF_H

#include "event.bpf.h"

#define STACK_DEPTH 127 /* the kernel's default limit, perf_event_max_stack */

struct stack {
	/*
	 * Return address of the probed function, read at its entry, or at an instruction that returns; 0 after the
	 * return. At the entry the function's frame is not set up yet, so the kernel's walk skips the direct caller,
	 * unless the function begins with `push %rbp` (x86-64, since 6.0; never on arm64). User space inserts it.
	 */
	__u64 caller;
	__s64 bytes; /* used part of `frames`, or a negative errno */
	__u64 frames[STACK_DEPTH];
};

static __always_inline void stack_read(struct pt_regs *ctx, struct stack *stack, bool at_entry)
{
	stack->caller = 0;
	if (at_entry) {
#if defined(__TARGET_ARCH_x86)
		bpf_probe_read_user(&stack->caller, sizeof(stack->caller), (void *)PT_REGS_SP(ctx));
#else
		stack->caller = PT_REGS_RET(ctx);
#endif
	}
	stack->bytes = bpf_get_stack(ctx, stack->frames, sizeof(stack->frames), BPF_F_USER_STACK);
}

#endif
