/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which threads are traced. The settings are constants, so that the verifier removes the tests of unused ones. */
#ifndef FILTER_BPF_H
#define FILTER_BPF_H

#include "event.bpf.h"
#include "pids.bpf.h"

enum filter_limits {
	MAX_COMMS = 8,
	MAX_CGROUPS = 16,
};

/* A thread name of at most 15 bytes, or a prefix: (comm & mask) == value, eight bytes at a time. */
struct comm_pattern {
	__u64 value[2];
	__u64 mask[2];
};

const volatile bool filter_pids = false; /* only processes in the map `pids` */
const volatile bool filter_uid = false;
const volatile __u32 wanted_uid = 0;
const volatile __u32 filter_comms = 0; /* length of `wanted_comms`; one has to match */
const volatile struct comm_pattern wanted_comms[MAX_COMMS] = {};
const volatile __u32 filter_cgroups = 0; /* length of `cgroups`; the thread has to be in one */

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u32);
	__type(value, __u32);
} cgroups SEC(".maps");

static __always_inline bool name_wanted(const __u64 comm[2])
{
	for (__u32 i = 0; i < MAX_COMMS; i++) {
		if (i >= filter_comms)
			return false;
		if ((comm[0] & wanted_comms[i].mask[0]) == wanted_comms[i].value[0] &&
		    (comm[1] & wanted_comms[i].mask[1]) == wanted_comms[i].value[1])
			return true;
	}
	return false;
}

static __always_inline bool comm_wanted(void)
{
	__u64 comm[2] = {};

	bpf_get_current_comm(comm, sizeof(comm));
	return name_wanted(comm);
}

static __always_inline bool cgroup_wanted(void)
{
	for (__u32 i = 0; i < MAX_CGROUPS; i++) {
		if (i >= filter_cgroups)
			return false;
		if (bpf_current_task_under_cgroup(&cgroups, i) == 1)
			return true;
	}
	return false;
}

/* True if the current thread matches, whatever its name and control group. Cheap tests come first. */
static __always_inline bool is_wanted_but_for_name(void)
{
	__u32 pid = 0;

	if (filter_pid || filter_pids)
		pid = current_ids() >> 32;
	if (filter_pid && pid != filter_pid)
		return false;
	if (filter_uid && (__u32)bpf_get_current_uid_gid() != wanted_uid)
		return false;
	return !filter_pids || bpf_map_lookup_elem(&pids, &pid);
}

/* True if the current thread matches, whatever its control group. */
static __always_inline bool is_wanted_anywhere(void)
{
	return is_wanted_but_for_name() && (!filter_comms || comm_wanted());
}

/* True if the current thread matches. */
static __always_inline bool is_wanted(void)
{
	return is_wanted_anywhere() && (!filter_cgroups || cgroup_wanted());
}

#endif
