/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The current thread: which of its stacks it runs on, and whether the kernel may replace a return address there. */
#ifndef TASK_BPF_H
#define TASK_BPF_H

#include "event.bpf.h"

struct vm_area_struct;

static __always_inline __u64 kernel_word(__u64 base, __u32 offset)
{
	__u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), (void *)base + offset);
	return word;
}

/* True if `sp` is on the alternate signal stack of the thread, by the kernel's own rule (__on_sig_stack). */
static __always_inline bool is_on_alt_stack(__u64 sp)
{
	struct {
		__u64 start;
		__u64 bytes;
	} alt = {};

	if (!task_offsets.alt_stack)
		return false;
	bpf_probe_read_kernel(&alt, sizeof(alt), (void *)bpf_get_current_task() + task_offsets.alt_stack);
	return sp > alt.start && sp - alt.start <= alt.bytes;
}

/* Above every address of user space. */
#define NOT_ALT_STACK (1ULL << 63)

/*
 * A stack pointer, such that those of inner calls are lower. A signal handler on the alternate stack runs inside the
 * calls on the stack of the thread, wherever the two stacks are.
 */
static __always_inline __u64 stack_position(__u64 sp)
{
	return is_on_alt_stack(sp) ? sp : sp | NOT_ALT_STACK;
}

struct mapping {
	__u64 vma;
};

static long note_mapping(struct task_struct *task, struct vm_area_struct *vma, void *found)
{
	((struct mapping *)found)->vma = (__u64)vma;
	return 0;
}

/* The memory mapping of an address of the current process, as an opaque number; 0 if it is not known. */
static __always_inline __u64 mapping_of(__u64 address)
{
	struct mapping found = {};

	bpf_find_vma(bpf_get_current_task_btf(), address, note_mapping, &found, 0);
	return found.vma;
}

/* False if the call whose return address was replaced at `slot` has ended: `sp`, the stack pointer, is above. */
static __always_inline bool may_return_to(__u64 slot, __u64 sp)
{
	__u64 address = 0;
	bool alt = is_on_alt_stack(sp);
	__u64 mapping;

	/* The kernel's trampoline is the start of a page. */
	if (!bpf_probe_read_user(&address, sizeof(address), (void *)slot) && address & 0xfff)
		return false;
	if (alt != is_on_alt_stack(slot))
		return alt;
	/* Another stack of a program that switches stacks itself, or what longjmp left of a call on this stack. */
	mapping = mapping_of(sp);
	return !mapping || mapping != mapping_of(slot);
}

/* The kernel has at most this many return probes pending in a thread: MAX_URETPROBE_DEPTH of linux/uprobes.h. */
#define MAX_RETURN_PROBES 64

struct pending_check {
	__u64 sp;
	__u64 probe; /* the pending return probe to look at next */
	bool refused;
};

/* A callback instead of a loop: the verifier follows it once. */
static long check_pending(__u64 index, struct pending_check *check)
{
	__u64 slot = kernel_word(check->probe, task_offsets.stack);

	if (!check->probe || slot >= check->sp)
		return 1;
	check->refused = may_return_to(slot, check->sp);
	check->probe = kernel_word(check->probe, task_offsets.next);
	return check->refused;
}

/*
 * True if the kernel may replace the return address at `sp`. It then forgets its pending return probes below, as if
 * longjmp had ended those calls (cleanup_return_instances). If such a call is on another stack and returns later, the
 * process is killed.
 */
__noinline int may_replace_return(__u64 sp)
{
	struct pending_check check = { .sp = sp };
	__u64 utask;

	if (!task_offsets.utask)
		return true;
	utask = kernel_word(bpf_get_current_task(), task_offsets.utask);
	if (!utask)
		return true;
	check.probe = kernel_word(utask, task_offsets.return_probes);
	if (!check.probe || kernel_word(check.probe, task_offsets.stack) >= sp)
		return true;
	bpf_loop(MAX_RETURN_PROBES, check_pending, &check, 0);
	return !check.refused;
}

#endif
