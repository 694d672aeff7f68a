// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Counts calls per function, and with --by per group. */
#include "event.bpf.h"
#include "entry.bpf.h"
#include "filter.bpf.h"
#include "group.bpf.h"

/*
 * Per CPU, so that CPUs do not share cache lines. Additions are atomic nevertheless, because another task can preempt
 * these programs and run them on the same CPU.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* number of functions, set by user space */
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct count_key {
	__u64 group;
	__u64 func;
};

/* In place of `counts` if calls are grouped. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1); /* set by user space */
	__type(key, struct count_key);
	__type(value, __u64);
} group_counts SEC(".maps");

static __always_inline __u64 *group_count(__u64 func)
{
	struct count_key key = { group_of_current(), func };
	__u64 *count = bpf_map_lookup_elem(&group_counts, &key);
	__u64 zero = 0;

	if (count)
		return count;
	bpf_map_update_elem(&group_counts, &key, &zero, BPF_NOEXIST);
	count = bpf_map_lookup_elem(&group_counts, &key);
	if (count)
		announce_group(key.group);
	return count;
}

static __always_inline int count_call(__u64 cookie)
{
	__u32 func = cookie;
	__u64 *count;

	if (!is_own_probe(cookie) || !is_wanted())
		return 0;
	mark_called(cookie);
	count = group_by ? group_count(func) : bpf_map_lookup_elem(&counts, &func);
	__sync_fetch_and_add(count ?: &lost, 1);
	return 0;
}

SEC("uprobe")
int count_entry(struct pt_regs *ctx)
{
	__u64 cookie = probe_cookie(ctx);

	return begins_call(ctx, cookie) ? count_call(cookie) : 0;
}

SEC("uretprobe")
int count_return(struct pt_regs *ctx)
{
	__u64 cookie = probe_cookie(ctx);

	return is_taken(ctx, cookie) ? count_call(cookie) : 0;
}
