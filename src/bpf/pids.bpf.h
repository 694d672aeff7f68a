/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef PIDS_BPF_H
#define PIDS_BPF_H

/* Process ids to see, when there is more than one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

#endif
