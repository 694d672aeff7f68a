// SPDX-License-Identifier: GPL-2.0-only
/* How long calls take, from entry to return. */
#include "event.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"
#include "group.bpf.h"
#include "histogram.bpf.h"

const volatile bool per_function = false;
const volatile bool one_histogram = false; /* of all functions and all callers */
const volatile bool outermost = false; /* not calls that are nested in one of the same function */
/* What is drawn when the slots of nanoseconds do not serve: units of this many nanoseconds, in steps of this width. */
const volatile __u64 unit_ns = 1;
const volatile __u64 linear_width = 0;

#define DRAWN (1U << 31) /* flag of a slot that is drawn and not one of nanoseconds */
#define MOST_LINEAR 1000 /* the last linear slot has all that is larger */

struct slot_key {
	__u64 group;
	__u32 func;
	__u32 slot;
};

struct slot_value {
	__u64 count;
	__u64 total_ns;
	/*
	 * Of calls that are preempted between test and store, one can be missed. What it had is in the same slot, so
	 * that no percentile shows the difference.
	 */
	__u64 max_ns;
};

EXPORT_TYPE(slot_key);
EXPORT_TYPE(slot_value);

/* Per CPU and added to atomically, as in funccount.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* ALL_SLOTS of src/tools/funclatency.rs */
	__type(key, __u32);
	__type(value, struct slot_value);
} all_slots SEC(".maps");

/* When groups or functions are kept apart instead. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1); /* set by src/tools/funclatency.rs */
	__type(key, struct slot_key);
	__type(value, struct slot_value);
} slots SEC(".maps");

static const struct slot_value no_calls_yet = {};

static __always_inline struct slot_value *slot_apart(struct slot_key *key)
{
	struct slot_value *value = bpf_map_lookup_elem(&slots, key);

	if (value)
		return value;
	bpf_map_update_elem(&slots, key, &no_calls_yet, BPF_NOEXIST);
	value = bpf_map_lookup_elem(&slots, key);
	if (value)
		announce_group(key->group);
	return value;
}

static __always_inline struct slot_value *slot_in_all(__u32 slot)
{
	/* Those that are drawn lie behind those of nanoseconds. */
	__u32 index = slot & DRAWN ? FINE_SLOTS + (slot & ~DRAWN) : slot;

	return bpf_map_lookup_elem(&all_slots, &index);
}

static __always_inline void add_to_slot(struct slot_key *key, __u64 lat_ns)
{
	struct slot_value *value = one_histogram ? slot_in_all(key->slot) : slot_apart(key);

	if (!value) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	__sync_fetch_and_add(&value->count, 1);
	__sync_fetch_and_add(&value->total_ns, lat_ns);
	if (lat_ns > value->max_ns)
		value->max_ns = lat_ns;
}

static __always_inline __u32 drawn_slot(__u64 value)
{
	__u64 linear;

	if (!linear_width)
		return fine_slot(value);
	linear = value / linear_width;
	return linear < MOST_LINEAR ? linear : MOST_LINEAR;
}

/* True when the return is awaited. */
static __always_inline bool enter(struct pt_regs *ctx)
{
	__u64 cookie = probe_cookie(ctx);
	struct call *call;
	__u64 depth;

	if (!is_wanted())
		return false;
	call = call_enter(ctx, cookie, &depth);
	if (call && outermost)
		call->args[0] = is_under_way(ctx, cookie, depth);
	return call;
}

static __always_inline void leave(struct pt_regs *ctx)
{
	__u64 cookie = probe_cookie(ctx);
	__u64 now = bpf_ktime_get_ns();
	struct slot_key key = {};
	struct call *call;
	__u64 depth;
	__u64 lat_ns;

	call = call_return(ctx, cookie, &depth);
	if (!call || (outermost && call->args[0]))
		return;
	lat_ns = now - call->start_ns;
	key.group = group_of_current();
	key.func = per_function ? (__u32)cookie : 0;
	key.slot = fine_slot(lat_ns);
	add_to_slot(&key, lat_ns);
	if (unit_ns == 1 && !linear_width)
		return;
	key.slot = DRAWN | drawn_slot(lat_ns / unit_ns);
	add_to_slot(&key, lat_ns);
}

SEC("uprobe")
int latency_entry(struct pt_regs *ctx)
{
	enter(ctx);
	return 0;
}

SEC("uretprobe")
int latency_return(struct pt_regs *ctx)
{
	leave(ctx);
	return 0;
}

SEC("uprobe.session")
int latency_session(struct pt_regs *ctx)
{
	if (!returns_here(ctx))
		return enter(ctx) ? 0 : NO_RETURN;
	leave(ctx);
	return 0;
}
