// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Histograms of the time from entry to return of calls. */
#include "event.bpf.h"
#include "entry.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"
#include "group.bpf.h"
#include "histogram.bpf.h"

const volatile bool per_function = false;
const volatile bool one_histogram = false; /* of ns, for all functions and groups: use `all_slots` */
const volatile bool outermost = false; /* skip calls that are nested in a call of the same function */
/* For histograms in other units than ns or with linear slots, which do not divide the fine slots of ns evenly. */
const volatile __u64 unit_ns = 1;
const volatile __u64 linear_width = 0; /* units per slot; 0 for fine slots */

enum latency_layout {
	MAX_LINEAR = 1000, /* the last linear slot, which holds all larger values */
};

EXPORT_ENUM(latency_layout);

struct slot_key {
	__u64 group;
	__u32 func;
	__u32 slot; /* of ns, for percentiles */
	__u32 drawn; /* in other units. With a key of both, all that is shown of an interval is of the same calls. */
	__u32 unused;
};

/* Calls that returned in intervals with an even number, or with an odd one. */
struct slot_calls {
	__u64 count; /* since the run started */
	__u64 total_ns;
	__u64 interval; /* the last with a call; the extremes are of this one */
	__u64 max_ns;
	__u64 max_complement_ns; /* the largest ~ns, which is that of the shortest call: memory starts as 0 */
};

/* While the calls of one interval are read, those of the next are counted beside them. */
struct slot_value {
	struct slot_calls calls[2];
};

/* The number of the interval; user space counts. */
__u64 interval = 0;

EXPORT_TYPE(slot_key);
EXPORT_TYPE(slot_value);

/* Per CPU and added to atomically, as in funccount.bpf.c. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* set by user space */
	__type(key, __u32);
	__type(value, struct slot_value);
} all_slots SEC(".maps");

/* In place of `all_slots` if there is a histogram per function or group, or in other units. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1); /* set by user space */
	__type(key, struct slot_key);
	__type(value, struct slot_value);
} slots SEC(".maps");

static const struct slot_value no_calls_yet = {};

static __always_inline struct slot_value *slot_of_key(struct slot_key *key)
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

/*
 * Not atomic: if the program is preempted between comparison and store, a value can be lost. It is one of the same
 * slot, so percentiles change by less than their error.
 */
static __always_inline void extend(struct slot_calls *calls, __u64 number, __u64 lat_ns)
{
	if (calls->interval > number)
		return; /* was preempted for an interval */
	if (calls->interval < number) {
		calls->max_ns = 0;
		calls->max_complement_ns = 0;
		calls->interval = number;
	}
	if (lat_ns > calls->max_ns)
		calls->max_ns = lat_ns;
	if (~lat_ns > calls->max_complement_ns)
		calls->max_complement_ns = ~lat_ns;
}

static __always_inline void add_to_slot(struct slot_key *key, __u64 lat_ns)
{
	struct slot_value *value = one_histogram ? bpf_map_lookup_elem(&all_slots, &key->slot) : slot_of_key(key);
	__u64 number = *(volatile __u64 *)&interval;
	struct slot_calls *calls;

	if (!value) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	calls = &value->calls[number & 1];
	__sync_fetch_and_add(&calls->count, 1);
	__sync_fetch_and_add(&calls->total_ns, lat_ns);
	extend(calls, number, lat_ns);
}

static __always_inline __u32 drawn_slot(__u64 value)
{
	__u64 linear;

	if (!linear_width)
		return fine_slot(value);
	linear = value / linear_width;
	return linear < MAX_LINEAR ? linear : MAX_LINEAR;
}

/* Returns true if the return of the call is needed. */
static __always_inline bool enter(struct pt_regs *ctx, __u64 cookie, bool in_session)
{
	struct call *call;
	__u64 depth;

	if (!is_wanted() || !begins_call(ctx, cookie))
		return false;
	mark_called(cookie);
	call = call_enter(ctx, cookie, in_session, &depth);
	if (call && outermost)
		call->args[0] = is_under_way(ctx, cookie, depth);
	return call;
}

static __always_inline void leave(struct pt_regs *ctx, __u64 cookie)
{
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
	key.func = per_function ? call_function(call) : 0;
	key.slot = fine_slot(lat_ns);
	if (unit_ns != 1 || linear_width)
		key.drawn = drawn_slot(lat_ns / unit_ns);
	add_to_slot(&key, lat_ns);
}

SEC("uprobe")
int latency_entry(struct pt_regs *ctx)
{
	enter(ctx, probe_cookie(ctx), false);
	return 0;
}

SEC("uretprobe")
int latency_return(struct pt_regs *ctx)
{
	leave(ctx, probe_cookie(ctx));
	return 0;
}

SEC("uprobe.session")
int latency_session(struct pt_regs *ctx)
{
	bool at_return = returns_here(ctx);
	__u64 cookie = hit_cookie(ctx, at_return);

	if (!at_return)
		return enter(ctx, cookie, true) ? 0 : NO_RETURN;
	leave(ctx, cookie);
	return 0;
}
