// SPDX-License-Identifier: GPL-2.0-only
/*
 * --follow, for every tool: children join the tool's map `pids` when they are forked, before they run. An object of
 * its own, because it reads kernel types: the tools themselves then need no BTF of the kernel.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "pids.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Children that found no room in `pids`. */
__u64 unfollowed = 0;

SEC("tp_btf/sched_process_fork")
int BPF_PROG(follow_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 from = parent->tgid;
	__u32 to = child->tgid;
	__u8 one = 1;

	if (from == to || !bpf_map_lookup_elem(&pids, &from))
		return 0;
	if (bpf_map_update_elem(&pids, &to, &one, BPF_ANY))
		__sync_fetch_and_add(&unfollowed, 1);
	return 0;
}

/* A process id is free for others once its group leader is: the leader goes last. */
SEC("tp_btf/sched_process_free")
int BPF_PROG(follow_free, struct task_struct *task)
{
	__u32 pid = task->tgid;

	if (task->pid == task->tgid)
		bpf_map_delete_elem(&pids, &pid);
	return 0;
}
