/* SPDX-License-Identifier: GPL-2.0-only */
/* Calls under way, thread by thread: what an entry remembers until the same call returns. */
#ifndef CALLS_BPF_H
#define CALLS_BPF_H

#include "event.bpf.h"

/* As many returns as the kernel watches in one thread at a time: MAX_URETPROBE_DEPTH of linux/uprobes.h. */
#define MAX_DEPTH 64

#ifndef CALL_ARGS
#define CALL_ARGS 1
#endif

/* For the tool to release what a call's `args` refer to, when it will not be seen to return. */
#ifndef CALL_DROPPED
#define CALL_DROPPED(call)
#endif

struct call {
	__u64 sp; /* where the return address lies, or would lie: tells one live call of a thread from every other */
	__u64 start_ns;
	__u64 func;
	__u64 args[CALL_ARGS]; /* as the tool likes */
};

/* The calls of one thread, outermost first. Only the thread itself writes here, so nothing is locked. */
struct thread {
	__u64 depth;
	struct call calls[MAX_DEPTH];
};

/* Whose calls they are. */
struct stack_owner {
	__u64 thread; /* process << 32 | thread; the process alone where there is a goroutine */
	__u64 goroutine; /* address of Go's `struct g`, or 0 */
};

/* As many as `owner_sets` has room for. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* THREADS of src/run/session.rs, when the tool watches returns */
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

/*
 * Which of `threads` is whose: a hash table that is looked through without leaving the program. The kernel's own would
 * cost a call a sixth of what an empty probe does (docs/performance.md). Only its owner reads and writes an entry once
 * it is claimed, so nothing is locked.
 */
#define OWNERS 8 /* of a set */
#define OWNER_SETS_LOG2 10
#define OWNER_SETS (1 << OWNER_SETS_LOG2)
/*
 * The one that the hash says, and those behind it: of 8192 places, 4096 threads have all found one of these, and of
 * 6144 with random numbers one in 300 has not.
 */
#define SETS_TRIED 4

struct owner {
	struct stack_owner id;
	__u64 index; /* of `threads`: read and not reckoned, or the verifier follows a path for each place in a set */
};

struct owner_set {
	struct owner owners[OWNERS];
	__u64 spilled; /* it was full once, so that its owners can be in the next as well */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* OWNER_SETS as above */
	__type(key, __u32);
	__type(value, struct owner_set);
} owner_sets SEC(".maps");

/* What is taken of `threads`: putting an index in here is what claims it, as a map does that for one alone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* THREADS as above */
	__type(key, __u32);
	__type(value, __u8);
} claims SEC(".maps");

#define NO_THREAD (-1)

/* x86-64's `ret` has taken the return address off the stack when a return probe runs; arm64 keeps it in a register. */
#if defined(__TARGET_ARCH_x86)
#define RETURN_ADDRESS_BYTES 8
#else
#define RETURN_ADDRESS_BYTES 0
#endif

/*
 * In the cookie of a probe on an instruction that returns, in place of a return probe: the return address is still on
 * the stack. `LEAVING` of src/probe/attach.rs.
 */
#define LEAVING (1ULL << 32)
/* Beside it where that instruction jumps to another function. */
#define JUMPING (1ULL << 33)

/*
 * In the cookie of a function of a Go program. Its calls belong to a goroutine, which goes from one thread to another,
 * with a stack that is moved when it grows. `GOROUTINE` of src/probe/attach.rs.
 */
#define GOROUTINE (1ULL << 34)

/* Go's register ABI (since 1.17) has the current `struct g` in a register of its own; its second word is the end of the
 * stack (runtime/runtime2.go). */
#if defined(__TARGET_ARCH_x86)
#define CURRENT_G(ctx) ((ctx)->r14)
#else
#define CURRENT_G(ctx) (((struct user_pt_regs *)(ctx))->regs[28])
#endif

static __always_inline struct stack_owner owner_of(struct pt_regs *ctx, __u64 cookie)
{
	struct stack_owner owner = { bpf_get_current_pid_tgid(), 0 };

	if (cookie & GOROUTINE) {
		owner.thread &= ~0xffffffffULL;
		owner.goroutine = CURRENT_G(ctx);
	}
	return owner;
}

/* The stack pointer; of a goroutine, how far it is from the end of its stack, which stays when that is moved. */
static __always_inline __u64 stack_pointer(struct pt_regs *ctx, __u64 cookie)
{
	__u64 end = 0;

	if (cookie & GOROUTINE)
		bpf_probe_read_user(&end, sizeof(end), (void *)CURRENT_G(ctx) + sizeof(end));
	return PT_REGS_SP(ctx) - end;
}

static __always_inline void add_unmatched(void)
{
	__sync_fetch_and_add(&unmatched, 1);
}

/*
 * Is the function that begins here one that another has jumped to at its end? Then both return at once, and the
 * return address is already the kernel's trampoline: the start of a page above the stack.
 */
static __always_inline bool is_tail_call(struct pt_regs *ctx)
{
	__u64 to = 0;

#if defined(__TARGET_ARCH_x86)
	bpf_probe_read_user(&to, sizeof(to), (void *)PT_REGS_SP(ctx));
#else
	to = PT_REGS_RET(ctx);
#endif
	return to > PT_REGS_SP(ctx) && !(to & 0xfff);
}

static __always_inline struct call *call_at(struct thread *thread, __u64 index)
{
	/* Or clang, who knows the bound, leaves the mask out, and 5.10's verifier does not know it. */
	barrier_var(index);
	return &thread->calls[index & (MAX_DEPTH - 1)];
}

static __always_inline struct thread *thread_at(__u32 index)
{
	return bpf_map_lookup_elem(&threads, &index);
}

/* The index in `threads` of an owner, or NO_THREAD when it is not in this set. */
static __always_inline int thread_in(struct owner_set *set, struct stack_owner *id)
{
	for (int i = 0; i < OWNERS; i++) {
		struct owner *owner = &set->owners[i];

		if (owner->id.thread == id->thread && owner->id.goroutine == id->goroutine)
			return owner->index;
	}
	return NO_THREAD;
}

static __always_inline __u32 first_set(struct stack_owner *owner)
{
	/* 2^32 by the golden ratio: numbers that follow each other are spread. */
	return ((__u32)(owner->thread ^ owner->goroutine) * 0x9e3779b1) >> (32 - OWNER_SETS_LOG2);
}

/*
 * Global functions, here and below: the verifier follows each of them once per program, instead of once per path that
 * leads to it. With its loops split in two, this file costs it 1,000 instructions per program; inlined, 7.2 took
 * seconds. On 5.10 such functions take numbers only, so they look up what they work on.
 */
__noinline int thread_in_set(__u32 in_set, __u64 of_thread, __u64 of_goroutine)
{
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &in_set);
	struct stack_owner owner = { of_thread, of_goroutine };

	return set ? thread_in(set, &owner) : NO_THREAD;
}

/* The index in `threads` of an owner who found its first set full, or NO_THREAD. */
__noinline int spilled_thread(__u64 of_thread, __u64 of_goroutine)
{
	struct stack_owner owner = { of_thread, of_goroutine };
	__u32 first = first_set(&owner);

	for (__u32 i = 1; i < SETS_TRIED; i++) {
		__u32 index = (first + i) & (OWNER_SETS - 1);
		struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &index);
		int found = thread_in_set(index, of_thread, of_goroutine);

		if (found != NO_THREAD)
			return found;
		if (!set || !set->spilled)
			break;
	}
	return NO_THREAD;
}

/* Claims a place of a set for an owner. Returns its index in `threads`, or NO_THREAD if all are taken. */
__noinline int claim_in_set(__u32 in_set, __u64 of_thread, __u64 of_goroutine)
{
	struct owner owner = { { of_thread, of_goroutine }, 0 };
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &in_set);
	__u8 one = 1;

	if (!set)
		return NO_THREAD;
	for (__u32 i = 0; i < OWNERS; i++) {
		__u32 index = in_set * OWNERS + i;

		if (!set->owners[i].id.thread && !bpf_map_update_elem(&claims, &index, &one, BPF_NOEXIST)) {
			owner.index = index;
			set->owners[i] = owner;
			return index;
		}
	}
	set->spilled = 1;
	return NO_THREAD;
}

/* The same for the first call of an owner. */
__noinline int claim_thread(__u64 of_thread, __u64 of_goroutine)
{
	struct stack_owner owner = { of_thread, of_goroutine };
	__u32 first = first_set(&owner);

	for (__u32 i = 0; i < SETS_TRIED; i++) {
		int index = claim_in_set((first + i) & (OWNER_SETS - 1), of_thread, of_goroutine);

		if (index != NO_THREAD)
			return index;
	}
	return NO_THREAD;
}

/* The index in `threads` of an owner, or NO_THREAD. */
static __always_inline int thread_of(struct stack_owner *owner)
{
	__u32 index = first_set(owner);
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &index);
	int found;

	if (!set)
		return NO_THREAD;
	found = thread_in(set, owner);
	if (found == NO_THREAD && set->spilled)
		found = spilled_thread(owner->thread, owner->goroutine);
	return found;
}

/* Forgets the innermost call of a thread, under the conditions of `forget_calls`. False if it is kept. */
#define NO_FUNCTION (~0ULL)
__noinline int forget_call(__u32 index, __u64 sp, __u64 keep, __u64 again)
{
	struct thread *thread = thread_at(index);
	struct call *top;

	if (!thread || !thread->depth)
		return false;
	top = call_at(thread, thread->depth - 1);
	if (top->sp > sp || (top->sp == sp && top->func == keep))
		return false;
	thread->depth--;
	CALL_DROPPED(top);
	if (top->sp != sp || top->func != again)
		add_unmatched();
	return true;
}

#define FORGOTTEN_AT_ONCE 8
__noinline int forget_some_calls(__u32 index, __u64 sp, __u64 keep, __u64 again)
{
	for (int i = 0; i < FORGOTTEN_AT_ONCE; i++) {
		if (!forget_call(index, sp, keep, again))
			return false;
	}
	return true;
}

/*
 * Forgets the calls of a thread, innermost first, while they are below `sp` on the stack, or at `sp` and not of
 * function `keep`. Those of function `again` at `sp` do not count as unmatched. Returns how many calls remain.
 */
__noinline int forget_calls(__u32 index, __u64 sp, __u64 keep, __u64 again)
{
	struct thread *thread = thread_at(index);

	for (int i = 0; i < MAX_DEPTH / FORGOTTEN_AT_ONCE; i++) {
		if (!forget_some_calls(index, sp, keep, again))
			break;
	}
	return thread ? thread->depth : 0;
}

/*
 * Before a call begins: forgets those that longjmp, an exception or a switch of stacks has left without a return, as
 * the stack has been cut back below them. The kernel knows its own return probes by the same rule
 * (arch_uretprobe_is_alive). Returns how many are alive.
 */
static __always_inline __u64 alive(struct pt_regs *ctx, __u64 cookie, __u32 index, struct thread *thread)
{
	__u64 sp = stack_pointer(ctx, cookie);
	__u64 depth = thread->depth;
	__u64 top;

	if (!depth)
		return 0;
	top = call_at(thread, depth - 1)->sp;
	if (top > sp || (top == sp && is_tail_call(ctx)))
		return depth;
	/* A Go function that has to make its stack larger first begins anew after that: the same call. */
	return forget_calls(index, sp, NO_FUNCTION, cookie & GOROUTINE ? (__u32)cookie : NO_FUNCTION);
}

/*
 * A call begins: for the tool to fill in `args`, and for `call_return` to find. NULL when it cannot be remembered,
 * which counts as unmatched: the thread has too many calls under way, or there are too many threads. `depth` is set
 * to the number of calls that it is nested in.
 */
static __always_inline struct call *call_enter(struct pt_regs *ctx, __u64 cookie, __u64 *depth)
{
	struct stack_owner owner = owner_of(ctx, cookie);
	int index = thread_of(&owner);
	struct thread *thread;
	struct call *call;

	if (index == NO_THREAD)
		index = claim_thread(owner.thread, owner.goroutine);
	thread = thread_at(index);
	if (!thread) {
		add_unmatched();
		return NULL;
	}
	*depth = alive(ctx, cookie, index, thread);
	if (*depth >= MAX_DEPTH) {
		thread->depth = MAX_DEPTH;
		add_unmatched();
		return NULL;
	}
	call = call_at(thread, *depth);
	call->sp = stack_pointer(ctx, cookie);
	call->start_ns = bpf_ktime_get_ns();
	call->func = (__u32)cookie;
	thread->depth = *depth + 1;
	return call;
}

/*
 * The call that returns here; its memory is good until this thread's next call. NULL when its entry was not seen: the
 * call was suppressed, or began before the probes were in. That is no unmatched call: return probes are attached
 * before entry probes, and sessions are both at once, so an entry that was seen has its return seen. `depth` as above.
 */
static __always_inline struct call *call_return(struct pt_regs *ctx, __u64 cookie, __u64 *depth)
{
	struct stack_owner owner = owner_of(ctx, cookie);
	__u64 sp = stack_pointer(ctx, cookie) - (cookie & LEAVING ? 0 : RETURN_ADDRESS_BYTES);
	int index = thread_of(&owner);
	struct thread *thread = thread_at(index);

	struct call *top;

	if (!thread || !thread->depth)
		return NULL;
	top = call_at(thread, thread->depth - 1);
	if (top->sp < sp || (top->sp == sp && top->func != (__u32)cookie)) {
		/* Calls that it made have been left without a return. */
		if (!forget_calls(index, sp, (__u32)cookie, NO_FUNCTION))
			return NULL;
		top = call_at(thread, thread->depth - 1);
	}
	if (top->sp != sp || top->func != (__u32)cookie)
		return NULL;
	*depth = --thread->depth;
	return top;
}

/* Is one of the `depth` calls that a thread began first one of this function? Global as above. */
__noinline int has_call_of(__u32 index, __u64 func, __u64 depth)
{
	struct thread *thread = thread_at(index);

	if (!thread)
		return 0;
	for (__u64 i = 0; i < MAX_DEPTH; i++) {
		if (i >= depth)
			break;
		if (call_at(thread, i)->func == func)
			return 1;
	}
	return 0;
}

static __always_inline bool is_under_way(struct pt_regs *ctx, __u64 cookie, __u64 depth)
{
	struct stack_owner owner = owner_of(ctx, cookie);

	return has_call_of(thread_of(&owner), (__u32)cookie, depth);
}

/* The calls of a thread that ends, or becomes another program, do not return. Its entry is free for others. */
static __always_inline void thread_ends(__u64 id)
{
	struct stack_owner owner = { id, 0 };
	int index = thread_of(&owner);
	struct thread *thread = thread_at(index);
	__u32 of_set = (__u32)index / OWNERS;
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &of_set);

	if (!thread || !set)
		return;
	forget_calls(index, ~0ULL, NO_FUNCTION, NO_FUNCTION);
	set->owners[(__u32)index % OWNERS].id.thread = 0;
	bpf_map_delete_elem(&claims, &index);
}

/*
 * Does a program of a session link, which is run at both ends of a call, run at its return? Then the kernel has put the
 * program counter back into the caller. bpf_session_is_return says the same, but wants the kernel's BTF and takes an
 * argument on some kernels and none on others.
 */
static __always_inline bool returns_here(struct pt_regs *ctx)
{
	return PT_REGS_IP(ctx) != bpf_get_func_ip(ctx);
}

/* What such a program says at an entry whose return it does not want to see: the call pays for no return probe then. */
#define NO_RETURN 1

SEC("raw_tp/sched_process_exit")
int thread_exit(void *ctx)
{
	thread_ends(bpf_get_current_pid_tgid());
	return 0;
}

/* The thread that calls execve takes the number of its process; the second argument is the one it had. */
SEC("raw_tp/sched_process_exec")
int thread_exec(__u64 *args)
{
	__u64 process = bpf_get_current_pid_tgid() >> 32;

	thread_ends(process << 32 | process);
	thread_ends(process << 32 | (__u32)args[1]);
	return 0;
}

#endif
