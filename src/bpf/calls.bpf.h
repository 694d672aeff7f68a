/* SPDX-License-Identifier: GPL-2.0-only */
/* Calls in flight: what an entry remembers until the same call returns. */
#ifndef CALLS_BPF_H
#define CALLS_BPF_H

#include "event.bpf.h"

/*
 * The stack pointer tells one live call of a thread from every other: recursion is deeper down, and a function that
 * is left by longjmp or an exception leaves an entry that no return can match, since the next call at that depth
 * replaces it. The function is part of the key because a tail call enters the second function at the same depth.
 */
struct call_key {
	__u64 pid_tgid;
	__u64 sp; /* where the return address lies, or would lie */
	__u64 func;
};

struct call {
	__u64 start_ns;
	__u64 args[2]; /* as the tool likes */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* CALLS_IN_FLIGHT of src/probe/session.rs, when the tool uses return probes */
	__type(key, struct call_key);
	__type(value, struct call);
} calls SEC(".maps");

/* x86-64's `ret` has taken the return address off the stack when a return probe runs; arm64 keeps it in a register. */
#if defined(__TARGET_ARCH_x86)
#define RETURN_ADDRESS_BYTES 8
#else
#define RETURN_ADDRESS_BYTES 0
#endif

static __always_inline void call_enter(struct pt_regs *ctx, __u64 func, __u64 arg0, __u64 arg1)
{
	struct call_key key = { bpf_get_current_pid_tgid(), PT_REGS_SP(ctx), func };
	struct call call = { bpf_ktime_get_ns(), { arg0, arg1 } };

	if (!bpf_map_update_elem(&calls, &key, &call, BPF_NOEXIST))
		return;
	/* Either the call that was here never returned, or this one cannot be remembered: one is unmatched anyhow. */
	__sync_fetch_and_add(&unmatched, 1);
	if (bpf_map_update_elem(&calls, &key, &call, BPF_EXIST))
		bpf_map_delete_elem(&calls, &key);
}

/*
 * Takes the call that returns here out of the map. False when its entry was not seen: the call was suppressed, or
 * began before the probes were in. Not an unmatched call: return probes are attached before entry probes, so an
 * entry that was seen has its return seen.
 */
static __always_inline bool call_return(struct pt_regs *ctx, __u64 func, struct call *call)
{
	struct call_key key = { bpf_get_current_pid_tgid(), PT_REGS_SP(ctx) - RETURN_ADDRESS_BYTES, func };
	struct call *found = bpf_map_lookup_elem(&calls, &key);

	if (!found)
		return false;
	*call = *found; /* before the delete: the slot may be someone else's at once */
	bpf_map_delete_elem(&calls, &key);
	return true;
}

#endif
