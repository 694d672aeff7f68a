// SPDX-License-Identifier: GPL-2.0-only
/*
 * For targeted runs of every tool: reports each process that starts or stops matching the filter, so that user space
 * can attach probes to it or detach them. With --hold, a process that matches when it executes a program is stopped
 * until it has its probes.
 *
 * Probes belong to processes, but names, users and control groups to threads: a process matches if any of its threads
 * does. The programs test the thread that changes. If another thread of a member may still match, user space checks.
 *
 * A separate object, because it reads kernel types: the tools themselves do not need the kernel's BTF.
 */
#include "filter.bpf.h"

#define SIGSTOP 19
#define PF_KTHREAD 0x00200000
#define MAX_HELD 4096

/* Kinds of records, which are a header alone. */
enum process_change {
	PROCESS_MATCHES, /* needs probes; `func` is 1 if it is stopped until then */
	PROCESS_NEW, /* as above; probes that it has are those of a previous program */
	PROCESS_CHANGED, /* may have started or stopped matching */
	PROCESS_RENAMED, /* as above; its thread `tid` is about to be named `comm` */
	PROCESS_GONE, /* has exited, or executed a program that does not match */
};

enum member_state {
	MEMBER_WAITS = 1, /* reported to user space */
	MEMBER_READY, /* has its probes */
};

EXPORT_ENUM(process_change);
EXPORT_ENUM(member_state);

const volatile bool follow = false; /* children of members are members */
const volatile bool hold = false;

/* Stop processes? Cleared when the run ends, by the watchdog if user space was killed. */
bool holding = true;

/* Processes that have probes or will get them: enum member_state. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PIDS);
	__type(key, __u32);
	__type(value, __u8);
} members SEC(".maps");

/* Processes that were stopped and have not been resumed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HELD);
	__type(key, __u32);
	__type(value, __u8);
} held SEC(".maps");

static __always_inline struct event_header *new_record(__u16 kind, __u32 pid)
{
	struct event_header *event = event_reserve(sizeof(*event));

	if (!event)
		return NULL;
	event_header(event, kind, 0, bpf_ktime_get_ns());
	event->pid = pid;
	return event;
}

/* Stops the current process. Updates the map first, so that the watchdog knows every process that is stopped. */
static __always_inline bool stop(__u32 pid)
{
	__u8 one = 1;

	if (!holding || bpf_map_update_elem(&held, &pid, &one, BPF_ANY))
		return false;
	if (!bpf_send_signal(SIGSTOP))
		return true;
	bpf_map_delete_elem(&held, &pid);
	return false;
}

static __always_inline void add_member(__u16 kind, __u32 pid, const __u64 *name, bool may_stop)
{
	__u8 waits = MEMBER_WAITS;
	struct event_header *event = new_record(kind, pid);

	if (!event)
		return;
	if (name)
		__builtin_memcpy(event->comm, name, sizeof(event->comm));
	/* If the map is full, only user space knows the member, and it is reported again with each change. */
	bpf_map_update_elem(&members, &pid, &waits, BPF_ANY);
	event->func = may_stop && stop(pid);
	event_submit(event, sizeof(*event));
}

static __always_inline void report(__u16 kind, __u32 pid)
{
	struct event_header *event = new_record(kind, pid);

	if (event)
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
	/* A thread other than the leader has called execve. Links identify a process by its leader, which is gone. */
	bool taken_over = old_pid != (pid_t)pid;

	if (!(follow && member) && !is_wanted()) {
		if (!member)
			return 0;
		bpf_map_delete_elem(&members, &pid);
		report(PROCESS_GONE, pid);
		return 0;
	}
	/* Otherwise the process keeps its probes. */
	if (!member || *member != MEMBER_READY || taken_over)
		add_member(taken_over ? PROCESS_NEW : PROCESS_MATCHES, pid, NULL, hold);
	return 0;
}

/* The current thread is the parent: the child inherits everything that the filter tests. */
SEC("raw_tp/sched_process_fork")
int BPF_PROG(scope_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 pid = BPF_CORE_READ(child, tgid);
	__u32 of;
	__u8 *member = current_member(&of);

	if (of == pid || BPF_CORE_READ(child, flags) & PF_KTHREAD)
		return 0;
	if (filter_pids ? follow && member : is_wanted())
		add_member(PROCESS_NEW, pid, NULL, false);
	return 0;
}

/* True if the thread is in execve, which renames it as well: `scope_exec` handles that when it has succeeded. */
static __always_inline bool becomes_program(struct task_struct *task)
{
	return bpf_core_field_exists(task->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

/* Not a member until user space has checked, so that a change back in the meantime is reported too. */
static __always_inline void report_rename(struct task_struct *task, __u32 pid, const __u64 *name)
{
	struct event_header *event = new_record(PROCESS_RENAMED, pid);

	if (!event)
		return;
	bpf_map_delete_elem(&members, &pid);
	event->tid = BPF_CORE_READ(task, pid);
	__builtin_memcpy(event->comm, name, sizeof(event->comm));
	event_submit(event, sizeof(*event));
}

/* Runs before the name changes. Only a thread of the same process can change it. */
SEC("raw_tp/task_rename")
int BPF_PROG(scope_rename, struct task_struct *task, const char *to)
{
	__u64 name[2] = {};
	__u32 pid;
	__u8 *member = current_member(&pid);

	if (becomes_program(task))
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), to);
	if (!name_wanted(name)) {
		if (member && !follow)
			report_rename(task, pid, name);
	} else if (!member && is_wanted_but_for_name() && (!filter_cgroups || cgroup_wanted())) {
		add_member(PROCESS_MATCHES, pid, name, false);
	}
	return 0;
}

static __always_inline int user_changed(void)
{
	__u32 pid;
	__u8 *member = current_member(&pid);

	if (member) {
		if (!follow && !is_wanted())
			report(PROCESS_CHANGED, pid);
	} else if (is_wanted()) {
		add_member(PROCESS_MATCHES, pid, NULL, false);
	}
	return 0;
}

/* There is no tracepoint for a change of user. */
SEC("kretprobe/commit_creds")
int scope_user(void *ctx)
{
	return user_changed();
}

/* If the kernel has no kprobes. Syscall tracepoints slow down every system call a little. */
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

/* Another thread moves it, and helpers can test only the control group of the current one: user space checks. */
SEC("raw_tp/cgroup_attach_task")
int BPF_PROG(scope_cgroup, void *to, const char *path, struct task_struct *task)
{
	report(PROCESS_CHANGED, BPF_CORE_READ(task, tgid));
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
	report(PROCESS_GONE, pid);
	return 0;
}
