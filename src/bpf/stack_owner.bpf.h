/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose stack a function runs on: that of a thread or of a goroutine. */
#ifndef STACK_OWNER_BPF_H
#define STACK_OWNER_BPF_H

#include "event.bpf.h"

/* The owner of a stack: a thread, or a goroutine, which moves between threads. */
struct stack_owner {
	__u64 thread; /* PID << 32 | TID; only PID << 32 for a goroutine */
	__u64 goroutine; /* address of Go's `struct g`, or 0 */
};

/*
 * Go's register ABI (since 1.17) reserves a register for the current `struct g`, whose second word is the end of the
 * stack (runtime/runtime2.go).
 */
#if defined(__TARGET_ARCH_x86)
#define CURRENT_G(ctx) ((ctx)->r14)
#else
#define CURRENT_G(ctx) (((struct user_pt_regs *)(ctx))->regs[28])
#endif

static __always_inline struct stack_owner owner_of(struct pt_regs *ctx, __u64 cookie)
{
	struct stack_owner owner = { bpf_get_current_pid_tgid(), 0 };

	if (cookie & COOKIE_GOROUTINE) {
		owner.thread &= ~0xffffffffULL;
		owner.goroutine = CURRENT_G(ctx);
	}
	return owner;
}

#endif
