/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* PIDs and TIDs as the PID namespace of this run numbers them. */
#ifndef IDS_BPF_H
#define IDS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/* From linux/bpf.h. Part of the stable interface, so it needs no relocation. */
struct bpf_pidns_info {
	__u32 pid;
	__u32 tgid;
};

/* Device and inode of the PID namespace of this run; 0 for the initial one, which the kernel itself uses. */
const volatile __u64 pid_ns_dev = 0;
const volatile __u64 pid_ns_ino = 0;

/* The only process that has breakpoints, or 0 for any. */
const volatile __u32 filter_pid = 0;

/*
 * Like bpf_get_current_pid_tgid, in the PID namespace of this run. The kernel translates only for tasks whose own
 * namespace that is; the IDs of others are 0. But if only one process has breakpoints, and it is in a nested namespace,
 * the current one must be that process.
 */
static __always_inline __u64 current_ids(void)
{
	struct bpf_pidns_info ids = {};

	if (!pid_ns_ino)
		return bpf_get_current_pid_tgid();
	if (bpf_get_ns_current_pid_tgid(pid_ns_dev, pid_ns_ino, &ids, sizeof(ids)))
		return (__u64)filter_pid << 32;
	return (__u64)ids.tgid << 32 | ids.pid;
}

#endif
