// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Targeted scope, for every tool: reports each process that starts to match the filter while the run lasts, so that
 * user space attaches probes to it, and each that stops to. With --hold, a program that
 * matches when it is executed is stopped until its probes are attached.
 *
 * Probes belong to processes; names, users and control groups belong to threads. A process matches when any of its
 * threads does. Only the thread that changes is tested here: where another thread of a member may still match, user
 * space looks.
 *
 * A separate object, because it reads kernel types.
 */
#include "filter.bpf.h"
#include "hold.bpf.h"

#define PF_KTHREAD 0x00200000

/* Kinds of records. A record is a header alone. */
enum process_change {
	CHANGE_MATCHES, /* needs probes; `func` is 1 if the process is stopped until it has them */
	CHANGE_NEW, /* needs probes: any that it has belong to an earlier program or process */
	CHANGE_UNKNOWN, /* may match now, or no longer */
	CHANGE_RENAMED, /* as above; thread `tid` is about to be named `comm` */
	CHANGE_GONE, /* has exited, or executes a program that does not match */
};

enum member_state {
	MEMBER_WAITING = 1, /* reported to user space */
	MEMBER_READY, /* has its probes */
};

EXPORT_ENUM(process_change);
EXPORT_ENUM(member_state);

const volatile bool follow = false; /* children of members are members */
const volatile bool hold = false;

/* Processes that have probes, or are about to get them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* set by user space before load */
	__type(key, __u32);
	__type(value, __u8);
} members SEC(".maps");

static __always_inline struct event_header *reserve_report(__u16 kind, __u32 pid)
{
	struct event_header *event = event_reserve(sizeof(*event));

	if (!event)
		return NULL;
	event_header(event, kind, 0, bpf_ktime_get_ns());
	event->pid = pid;
	return event;
}

static __always_inline void report(__u16 kind, __u32 pid)
{
	struct event_header *event = reserve_report(kind, pid);

	if (event)
		event_submit(event, sizeof(*event));
}

static __always_inline void report_match(__u16 kind, __u32 pid, const __u64 *name, bool may_stop)
{
	__u8 waiting = MEMBER_WAITING;
	struct event_header *event = reserve_report(kind, pid);

	if (!event)
		return;
	if (name)
		__builtin_memcpy(event->comm, name, sizeof(event->comm));
	/* If the map is full, the process is reported again and again, and is a member in user space only. */
	bpf_map_update_elem(&members, &pid, &waiting, BPF_ANY);
	event->func = may_stop && stop_current(pid);
	event_submit(event, sizeof(*event));
}

static __always_inline __u8 *current_member(__u32 *pid)
{
	*pid = bpf_get_current_pid_tgid() >> 32;
	return bpf_map_lookup_elem(&members, pid);
}

SEC("raw_tp/sched_process_exec")
int BPF_PROG(scope_exec, struct task_struct *task, pid_t old_pid)
{
	__u32 pid;
	__u8 *member = current_member(&pid);
	/* A thread other than the leader called execve: links refer to the former leader, which has exited. */
	bool leader_replaced = old_pid != (pid_t)pid;

	if (!(follow && member) && !is_wanted()) {
		if (!member)
			return 0;
		bpf_map_delete_elem(&members, &pid);
		report(CHANGE_GONE, pid);
		return 0;
	}
	/* Otherwise, probes outlive an exec. */
	if (!member || *member != MEMBER_READY || leader_replaced)
		report_match(leader_replaced ? CHANGE_NEW : CHANGE_MATCHES, pid, NULL, hold);
	return 0;
}

/* The current thread is the parent. The child inherits everything that the filter tests. */
SEC("raw_tp/sched_process_fork")
int BPF_PROG(scope_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 pid = BPF_CORE_READ(child, tgid);
	__u32 parent_pid;
	__u8 *member = current_member(&parent_pid);

	if (parent_pid == pid || BPF_CORE_READ(child, flags) & PF_KTHREAD)
		return 0;
	if (filter_pids ? follow && member : is_wanted())
		report_match(CHANGE_NEW, pid, NULL, false);
	return 0;
}

/* Is the thread inside execve? That renames it too, but scope_exec runs at its end. */
static __always_inline bool in_execve(struct task_struct *task)
{
	return bpf_core_field_exists(task->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

/* Not a member until user space has looked, so that a second rename, back to a name that matches, is reported too. */
static __always_inline void report_rename(struct task_struct *task, __u32 pid, const __u64 *name)
{
	struct event_header *event = reserve_report(CHANGE_RENAMED, pid);

	if (!event)
		return;
	bpf_map_delete_elem(&members, &pid);
	event->tid = BPF_CORE_READ(task, pid);
	__builtin_memcpy(event->comm, name, sizeof(event->comm));
	event_submit(event, sizeof(*event));
}

/* Runs before the name changes. The current thread belongs to the same process: no other may rename it. */
SEC("raw_tp/task_rename")
int BPF_PROG(scope_rename, struct task_struct *task, const char *to)
{
	__u64 name[2] = {};
	__u32 pid;
	__u8 *member = current_member(&pid);

	if (in_execve(task))
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), to);
	if (!name_wanted(name)) {
		if (member && !follow)
			report_rename(task, pid, name);
	} else if (!member && is_wanted_but_for_name() && (!filter_cgroups || cgroup_wanted())) {
		report_match(CHANGE_MATCHES, pid, name, false);
	}
	return 0;
}

static __always_inline int user_changed(void)
{
	__u32 pid;
	__u8 *member = current_member(&pid);

	if (member) {
		if (!follow && !is_wanted())
			report(CHANGE_UNKNOWN, pid);
	} else if (is_wanted()) {
		report_match(CHANGE_MATCHES, pid, NULL, false);
	}
	return 0;
}

/* There is no tracepoint for a change of the user. */
SEC("kretprobe/commit_creds")
int scope_user(void *ctx)
{
	return user_changed();
}

/* Where the kernel has no kprobes. Tracepoints of system calls slow every system call slightly. */
SEC("tracepoint/syscalls/sys_exit_setuid")
int scope_setuid(void *ctx)
{
	return user_changed();
}

SEC("tracepoint/syscalls/sys_exit_setreuid")
int scope_setreuid(void *ctx)
{
	return user_changed();
}

SEC("tracepoint/syscalls/sys_exit_setresuid")
int scope_setresuid(void *ctx)
{
	return user_changed();
}

/* Another process moves the thread, and helpers only test the control group of the current one: user space looks. */
SEC("raw_tp/cgroup_attach_task")
int BPF_PROG(scope_cgroup, void *to, const char *path, struct task_struct *task)
{
	report(CHANGE_UNKNOWN, BPF_CORE_READ(task, tgid));
	return 0;
}

/* Runs before the PID can be reused. `live` is 0 when the last thread gets here. */
SEC("raw_tp/sched_process_exit")
int BPF_PROG(scope_exit, struct task_struct *task)
{
	__u32 pid;

	if (!current_member(&pid) || BPF_CORE_READ(task, signal, live.counter))
		return 0;
	bpf_map_delete_elem(&members, &pid);
	if (filter_pids)
		bpf_map_delete_elem(&pids, &pid);
	report(CHANGE_GONE, pid);
	return 0;
}
