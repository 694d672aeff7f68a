// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * --follow, for every tool: adds children to the tool's map `pids` when they are forked, before they run. A separate
 * object, because it reads kernel types: the tools themselves need no kernel BTF.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "pids.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Children that were not added because `pids` was full. */
__u64 unfollowed = 0;

SEC("tp_btf/sched_process_fork")
int BPF_PROG(follow_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 parent_pid = parent->tgid;
	__u32 pid = child->tgid;
	__u8 one = 1;

	if (parent_pid == pid || !bpf_map_lookup_elem(&pids, &parent_pid))
		return 0;
	if (bpf_map_update_elem(&pids, &pid, &one, BPF_ANY))
		__sync_fetch_and_add(&unfollowed, 1);
	return 0;
}

/* A PID can be reused once the group leader is freed, which is the last thread to be. */
SEC("tp_btf/sched_process_free")
int BPF_PROG(follow_free, struct task_struct *task)
{
	__u32 pid = task->tgid;

	if (task->pid == task->tgid)
		bpf_map_delete_elem(&pids, &pid);
	return 0;
}
