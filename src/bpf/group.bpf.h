/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Groups of calls that are counted together (--by). */
#ifndef GROUP_BPF_H
#define GROUP_BPF_H

#include "event.bpf.h"

enum group_by {
	BY_NOTHING,
	BY_PROCESS,
	BY_THREAD,
	BY_USER,
	BY_CONTAINER, /* by control group, which user space maps to its container */
};

const volatile __u32 group_by = BY_NOTHING;

/* Describes a group when it is first seen: its processes may have exited when the counts are read. */
struct group_event {
	struct event_header header;
	__u64 group;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space makes it larger if calls are grouped */
	__type(key, __u64);
	__type(value, __u8);
} groups SEC(".maps");

static __always_inline __u64 group_of_current(void)
{
	switch (group_by) {
	case BY_PROCESS:
		return current_ids() >> 32;
	case BY_THREAD:
		return (__u32)current_ids();
	case BY_USER:
		return (__u32)bpf_get_current_uid_gid();
	case BY_CONTAINER:
		return bpf_get_current_cgroup_id();
	default:
		return 0;
	}
}

/* To be called when an entry for the group is created. */
static __always_inline void announce_group(__u64 group)
{
	struct group_event *event;
	__u8 one = 1;

	if (!group_by || bpf_map_update_elem(&groups, &group, &one, BPF_NOEXIST))
		return;
	event = event_reserve(sizeof(*event));
	if (!event)
		return;
	event_header(&event->header, 0, 0, bpf_ktime_get_ns());
	event->group = group;
	event_submit(event, sizeof(*event));
}

#endif
