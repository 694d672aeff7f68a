/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The set of processes to trace. */
#ifndef PIDS_BPF_H
#define PIDS_BPF_H

enum pid_limits {
	MAX_PIDS = 16384, /* in `pids`, and in `members` of the process watcher */
};

/* PIDs, if there is more than one or children are followed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PIDS);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

#endif
