/* SPDX-License-Identifier: GPL-2.0-only */
/* The numbers of processes and threads, as the person who reads them has them. */
#ifndef IDS_BPF_H
#define IDS_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/* linux/bpf.h has it. A part of the interface, so it needs no relocation. */
struct bpf_pidns_info {
	__u32 pid;
	__u32 tgid;
};

/* Device and inode of the pid namespace of this run; 0: the initial one, whose numbers the kernel itself uses. */
const volatile __u64 pid_ns_dev = 0;
const volatile __u64 pid_ns_ino = 0;

/* The one process that has breakpoints; 0: any. */
const volatile __u32 filter_pid = 0;

/*
 * Process and thread, like bpf_get_current_pid_tgid, as the run's own pid namespace numbers them. The kernel tells that
 * of members of that very namespace. Others have no number, which is 0 as everywhere in the kernel; but where only one
 * process has breakpoints, and it is in a namespace below, it is that one.
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
