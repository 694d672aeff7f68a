/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A shadow stack per thread: what the entry of a call records until the same call returns. */
#ifndef CALLS_BPF_H
#define CALLS_BPF_H

#include "owners.bpf.h"
#include "task.bpf.h"

#define MAX_DEPTH MAX_RETURN_PROBES

#ifndef CALL_ARGS
#define CALL_ARGS 1
#endif

/* For tools whose `args` refer to something: releases it when a call is dropped without a return. */
#ifndef CALL_DROPPED
#define CALL_DROPPED(call)
#endif

struct call {
	/* Position of the return address, or of where it would be on arm64: unique among the live calls of a thread. */
	__u64 sp;
	__u64 start_ns;
	__u64 func; /* index of the function, and CALL_* */
	__u64 args[CALL_ARGS]; /* for the tool */
};

#define CALL_FUNCTION 0xffffffffULL
/* It has jumped to another function, whose return is its own. */
#define CALL_JUMPED (1ULL << 32)
/* It has returned, but not as the innermost call. */
#define CALL_RETURNED (1ULL << 33)

/* The calls of one thread, outermost first. Only the thread itself writes to it, so it needs no lock. */
struct thread {
	__u64 depth;
	struct call calls[MAX_DEPTH];
};

/* One entry in tools that do not match returns with entries: user space sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* THREADS */
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

/* On x86-64, `ret` has popped the return address when a return probe runs. arm64 keeps it in a register. */
#if defined(__TARGET_ARCH_x86)
#define RETURN_ADDRESS_BYTES 8
#else
#define RETURN_ADDRESS_BYTES 0
#endif

/*
 * The stack position of the current call, of whose frame `popped` bytes are gone. For a goroutine, relative to the end
 * of its stack: that does not change when the stack moves.
 */
static __always_inline __u64 call_position(struct pt_regs *ctx, __u64 cookie, __u32 popped)
{
	__u64 sp = PT_REGS_SP(ctx) - popped;
	__u64 end = 0;

	if (!(cookie & COOKIE_GOROUTINE))
		return stack_position(sp);
	bpf_probe_read_user(&end, sizeof(end), (void *)CURRENT_G(ctx) + sizeof(end));
	return sp - end;
}

static __always_inline void add_unmatched(void)
{
	__sync_fetch_and_add(&unmatched, 1);
}

/*
 * True if the function that is entered was tail-called by a probed one. Both return at once, and the return address is
 * already the kernel's trampoline: the start of a page above the stack.
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

/* The index of the function that was called. At a return it is not always that of the cookie. */
static __always_inline __u32 call_function(struct call *call)
{
	return call->func;
}

static __always_inline struct call *call_at(struct thread *thread, __u64 index)
{
	/* Keeps clang, which knows the bound, from dropping the mask: the verifier of 5.10 needs it. */
	barrier_var(index);
	return &thread->calls[index & (MAX_DEPTH - 1)];
}

static __always_inline struct thread *thread_at(__u32 index)
{
	return bpf_map_lookup_elem(&threads, &index);
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
	if (top->func & CALL_RETURNED)
		return true;
	CALL_DROPPED(top);
	if (top->sp != sp || top->func != again)
		add_unmatched();
	return true;
}

/*
 * Loops that call global functions, here and below, are not unrolled: for each call, the verifier walks through all
 * code below it to add up the stack (check_max_stack_depth), which took it longer than all else in thread_exit.
 */
#define FORGOTTEN_AT_ONCE 8
__noinline int forget_some_calls(__u32 index, __u64 sp, __u64 keep, __u64 again)
{
#pragma nounroll
	for (int i = 0; i < FORGOTTEN_AT_ONCE; i++) {
		if (!forget_call(index, sp, keep, again))
			return false;
	}
	return true;
}

/*
 * Forgets the calls of a thread, innermost first, while they are below `sp` on the stack, or at `sp` and not of
 * function `keep`. Counts them as unmatched, except calls of function `again` at `sp`. Returns how many calls remain.
 */
__noinline int forget_calls(__u32 index, __u64 sp, __u64 keep, __u64 again)
{
	struct thread *thread = thread_at(index);

#pragma nounroll
	for (int i = 0; i < MAX_DEPTH / FORGOTTEN_AT_ONCE; i++) {
		if (!forget_some_calls(index, sp, keep, again))
			break;
	}
	return thread ? thread->depth : 0;
}

/* Drops the calls of an owner, and frees its entry. */
__noinline int free_owner(__u32 index)
{
	__u32 of_set = index / OWNERS;
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &of_set);

	if (!set)
		return 0;
	forget_calls(index, ~0ULL, NO_FUNCTION, NO_FUNCTION);
	set->owners[index % OWNERS].id.thread = 0;
	bpf_map_delete_elem(&claims, &index);
	return 0;
}

/*
 * How long an owner keeps its entry after its last call began, if others need one. A goroutine in a call may have
 * ended, or go on after it waited; threads free their entries when they end. Outside of calls an entry holds nothing,
 * but its owner may just be beginning a call on another CPU.
 */
#define KEPT_IN_CALL_NS 10000000000ULL
#define KEPT_IDLE_NS 1000000ULL

#define NOT_REPLACEABLE (~0ULL)
/* Since when the owner of an entry has done nothing, or NOT_REPLACEABLE. Global functions, as in owners.bpf.h. */
__noinline __u64 idle_since(__u32 index)
{
	__u32 of_set = index / OWNERS;
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &of_set);
	struct thread *thread = thread_at(index);
	__u64 since, kept;

	if (!set || !thread || (thread->depth && !set->owners[index % OWNERS].id.goroutine))
		return NOT_REPLACEABLE;
	since = call_at(thread, thread->depth ? thread->depth - 1 : 0)->start_ns;
	kept = thread->depth ? KEPT_IN_CALL_NS : KEPT_IDLE_NS;
	return bpf_ktime_get_ns() - since < kept ? NOT_REPLACEABLE : since;
}

__noinline __u32 longer_idle(__u32 one, __u32 other)
{
	return idle_since(other) < idle_since(one) ? other : one;
}

/* Frees the entry in a set whose owner has done nothing for the longest time. */
__noinline int free_idle_owner(__u32 in_set)
{
	__u32 found = in_set * OWNERS;

#pragma nounroll
	for (__u32 i = 1; i < OWNERS; i++)
		found = longer_idle(found, in_set * OWNERS + i);
	if (idle_since(found) != NOT_REPLACEABLE)
		free_owner(found);
	return 0;
}

/* Claims an entry, if need be that of another owner. Returns its index in `threads`, or NO_THREAD. */
static __always_inline int claim_or_replace(struct stack_owner *owner)
{
	int index = claim_thread(owner->thread, owner->goroutine);

	if (index != NO_THREAD)
		return index;
	free_idle_owner(first_set(owner));
	return claim_thread(owner->thread, owner->goroutine);
}

/*
 * At an entry: drops the calls that longjmp, an exception or a stack switch ended without a return, which is the case
 * if the stack pointer is above them. The kernel applies the same rule to its return probes (arch_uretprobe_is_alive).
 * Returns the number of live calls.
 */
static __always_inline __u64 alive(struct pt_regs *ctx, __u64 cookie, __u64 sp, __u32 index, struct thread *thread)
{
	__u64 depth = thread->depth;
	struct call *top;

	if (!depth)
		return 0;
	top = call_at(thread, depth - 1);
	if (top->sp > sp || (top->sp == sp && (top->func & CALL_JUMPED || is_tail_call(ctx))))
		return depth;
	/* A Go function that has to grow its stack first restarts after that: it is the same call. */
	return forget_calls(index, sp, NO_FUNCTION, cookie & COOKIE_GOROUTINE ? (__u32)cookie : NO_FUNCTION);
}

/*
 * As `call_enter`, for a call of which the return is not seen unless `returns`: no call is nested in it, and the result
 * is valid until the next call of this thread.
 */
static __always_inline struct call *call_begin(struct pt_regs *ctx, __u64 cookie, bool in_session, bool returns,
					       __u64 *depth)
{
	struct stack_owner owner = owner_of(ctx, cookie);
	int index = thread_of(&owner);
	struct thread *thread;
	struct call *call;
	__u64 sp;

	if (index == NO_THREAD)
		index = claim_or_replace(&owner);
	thread = thread_at(index);
	if (!thread) {
		add_unmatched();
		return NULL;
	}
	if (in_session && !may_replace_return(PT_REGS_SP(ctx))) {
		*depth = thread->depth;
		add_unmatched();
		return NULL;
	}
	sp = call_position(ctx, cookie, 0);
	*depth = alive(ctx, cookie, sp, index, thread);
	if (*depth >= MAX_DEPTH) {
		thread->depth = MAX_DEPTH;
		add_unmatched();
		return NULL;
	}
	call = call_at(thread, *depth);
	call->sp = sp;
	call->start_ns = bpf_ktime_get_ns();
	call->func = (__u32)cookie;
	thread->depth = *depth + returns;
	return call;
}

/*
 * Pushes a call, for the tool to fill in `args` and for `call_return` to find, and sets `depth` to the number of calls
 * that it is nested in. `in_session`: the caller is a session program, and the kernel replaces the return address
 * unless that program returns NO_RETURN. Returns NULL and counts an unmatched call if this is not safe, or if there are
 * too many nested calls or threads.
 */
static __always_inline struct call *call_enter(struct pt_regs *ctx, __u64 cookie, bool in_session, __u64 *depth)
{
	return call_begin(ctx, cookie, in_session, true, depth);
}

/*
 * Functions that jump to one another return at once, all with the stack pointer of the first. The program of any of
 * them may run first. Returns the index of a call that returns with `func`, among the innermost calls with this stack
 * pointer, or -1.
 */
#define MOST_TAIL_CALLS (COOKIE_MOST_JUMPED + 1)
__noinline int returning_call(__u32 index, __u64 sp, __u64 func)
{
	struct thread *thread = thread_at(index);

	if (!thread)
		return -1;
	for (__u64 i = 1; i <= MOST_TAIL_CALLS; i++) {
		struct call *call;

		if (i > thread->depth)
			break;
		call = call_at(thread, thread->depth - i);
		if (call->sp != sp)
			break;
		if (call->func == (func | CALL_JUMPED))
			return thread->depth - i;
		if (func >= COOKIE_JUMPED && (call->func & (CALL_JUMPED | CALL_RETURNED)) == CALL_JUMPED)
			return thread->depth - i;
	}
	return -1;
}

/* Drops the innermost calls that have returned. */
__noinline int drop_returned(__u32 index)
{
	struct thread *thread = thread_at(index);

	for (int i = 0; i < MOST_TAIL_CALLS && thread && thread->depth; i++) {
		if (!(call_at(thread, thread->depth - 1)->func & CALL_RETURNED))
			break;
		thread->depth--;
	}
	return 0;
}

/* The call that returns at an instruction with this cookie, as above. Its thread has calls. */
static __always_inline struct call *exit_call(struct thread *thread, __u32 index, __u64 sp, __u64 cookie, __u64 *depth)
{
	struct call *call = call_at(thread, thread->depth - 1);
	__u64 func = (__u32)cookie;
	int at;

	if (call->sp < sp) {
		/* Calls that it made ended without a return. */
		if (!forget_calls(index, sp - 1, NO_FUNCTION, NO_FUNCTION))
			return NULL;
		call = call_at(thread, thread->depth - 1);
	}
	if (call->sp != sp)
		return NULL;
	if ((call->func & CALL_FUNCTION) == func) {
		if (goes_on(cookie)) {
			call->func |= CALL_JUMPED;
			return NULL;
		}
		*depth = --thread->depth;
		drop_returned(index);
		return call;
	}
	at = returning_call(index, sp, func);
	if (at < 0)
		return NULL;
	*depth = at;
	call = call_at(thread, at);
	call->func |= CALL_RETURNED;
	drop_returned(index);
	return call;
}

/*
 * Pops the call that returns here, valid until the next call of this thread, and sets `depth` as above. Returns NULL if
 * its entry was not seen: it was filtered, or happened before the probes were attached. That does not count as
 * unmatched: return probes are attached before entry probes, and sessions at once, so whenever an entry is seen its
 * return can be.
 */
static __always_inline struct call *call_return(struct pt_regs *ctx, __u64 cookie, __u64 *depth)
{
	struct stack_owner owner = owner_of(ctx, cookie);
	__u64 sp = call_position(ctx, cookie, cookie & COOKIE_EXIT ? 0 : RETURN_ADDRESS_BYTES);
	int index = thread_of(&owner);
	struct thread *thread = thread_at(index);

	struct call *top;

	if (!thread || !thread->depth || !is_taken(ctx, cookie))
		return NULL;
	if (cookie & COOKIE_EXIT)
		return exit_call(thread, index, sp, cookie, depth);
	top = call_at(thread, thread->depth - 1);
	if (top->sp < sp || (top->sp == sp && top->func != (__u32)cookie)) {
		/* Calls that it made ended without a return. */
		if (!forget_calls(index, sp, (__u32)cookie, NO_FUNCTION))
			return NULL;
		top = call_at(thread, thread->depth - 1);
	}
	if (top->sp != sp || top->func != (__u32)cookie)
		return NULL;
	*depth = --thread->depth;
	drop_returned(index);
	return top;
}

/* True if one of the outermost `depth` calls of a thread is of this function. A global function, as above. */
__noinline int has_call_of(__u32 index, __u64 func, __u64 depth)
{
	struct thread *thread = thread_at(index);

	if (!thread)
		return 0;
	for (__u64 i = 0; i < MAX_DEPTH; i++) {
		if (i >= depth)
			break;
		if ((call_at(thread, i)->func & CALL_FUNCTION) == func)
			return 1;
	}
	return 0;
}

static __always_inline bool is_under_way(struct pt_regs *ctx, __u64 cookie, __u64 depth)
{
	struct stack_owner owner = owner_of(ctx, cookie);

	return has_call_of(thread_of(&owner), (__u32)cookie, depth);
}

/* Frees the entries of the goroutines of a process in one set. */
__noinline int free_goroutines_in(__u32 in_set, __u64 process)
{
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &in_set);

	if (!set)
		return 0;
#pragma nounroll
	for (__u32 i = 0; i < OWNERS; i++) {
		if (set->owners[i].id.thread == process && set->owners[i].id.goroutine)
			free_owner(in_set * OWNERS + i);
	}
	return 0;
}

/* In two loops, as the verifier follows every turn. */
#define SETS_AT_ONCE 32
__noinline int free_some_goroutines(__u32 first, __u64 process)
{
#pragma nounroll
	for (__u32 i = 0; i < SETS_AT_ONCE; i++)
		free_goroutines_in(first + i, process);
	return 0;
}

/* Frees the entry of a thread that exits or executes another program; with the main thread, those of goroutines. */
__noinline int thread_ends(__u64 id)
{
	struct stack_owner owner = { id, 0 };
	int index = thread_of(&owner);
	__u64 process = id & ~0xffffffffULL;

	if (index != NO_THREAD)
		free_owner(index);
	if (!has_goroutines || (__u32)id != id >> 32)
		return 0;
#pragma nounroll
	for (__u32 first = 0; first < OWNER_SETS; first += SETS_AT_ONCE)
		free_some_goroutines(first, process);
	return 0;
}

/*
 * True if a session program, which runs at both ends of a call, runs at the return: the program counter is back in the
 * caller then. bpf_session_is_return says the same, but needs kernel BTF and has an argument on some kernels only.
 */
static __always_inline bool returns_here(struct pt_regs *ctx)
{
	return PT_REGS_IP(ctx) != bpf_get_func_ip(ctx);
}

/* A session program returns this at an entry to skip the return: the call then does not pay for a return probe. */
#define NO_RETURN 1

SEC("raw_tp/sched_process_exit")
int thread_exit(void *ctx)
{
	thread_ends(bpf_get_current_pid_tgid());
	return 0;
}

/* The thread that calls execve becomes the thread group leader; the second argument is its previous TID. */
SEC("raw_tp/sched_process_exec")
int thread_exec(__u64 *args)
{
	__u64 process = bpf_get_current_pid_tgid() >> 32;

	thread_ends(process << 32 | process);
	thread_ends(process << 32 | (__u32)args[1]);
	return 0;
}

#endif
