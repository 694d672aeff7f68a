// SPDX-License-Identifier: GPL-2.0-only
/*
 * A targeted scope, for every tool: tells user space of each process that begins to match the filter while the run
 * lasts, so that it gets probes (src/probe/scope/watcher.rs), and of each that ceases to. With --hold, a program that
 * begins to match when it is started is stopped until it has them.
 *
 * Processes have probes, threads have names, users and control groups: a process matches when any of its threads does.
 * What is tested here is the thread that changes. Where another one of a member may match still, user space looks.
 *
 * An object of its own, because it reads kernel types.
 */
#include "filter.bpf.h"

#define SIGSTOP 19
#define PF_KTHREAD 0x00200000
#define MOST_HELD 4096

/* Kinds of records, which are a header alone. In the order of `What` in src/probe/scope/watcher.rs. */
enum scope_kind {
	SCOPE_MATCHES, /* the process is to have probes; `func` is 1 when it stands still until then */
	SCOPE_NEW, /* as above; if it has some already, they are those of a program that is no more */
	SCOPE_CHANGED, /* it may match now, or no more */
	SCOPE_RENAMED, /* the same; its thread `tid` will be called `comm` in a moment */
	SCOPE_GONE, /* it has ended, or runs a program that does not match */
};

enum member_state {
	MEMBER_WAITS = 1, /* user space was told */
	MEMBER_READY, /* the probes are in */
};

const volatile bool follow = false; /* children of members are members */
const volatile bool hold = false;

/* Until the run ends. Not a constant: the guard (src/probe/guard.rs) ends the holding when user space is no more. */
bool holding = true;

/* Processes that have probes, or are to have them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PIDS);
	__type(key, __u32);
	__type(value, __u8);
} members SEC(".maps");

/* Processes that were stopped here and not yet let go. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MOST_HELD);
	__type(key, __u32);
	__type(value, __u8);
} held SEC(".maps");

static __always_inline struct event_header *tell(__u16 kind, __u32 pid)
{
	struct event_header *event = event_reserve(sizeof(*event));

	if (!event)
		return NULL;
	event_header(event, kind, 0, bpf_ktime_get_ns());
	event->pid = pid;
	return event;
}

/* Stops the current process. The map comes first, so that nothing is stopped that the guard does not know of. */
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

static __always_inline void join(__u16 kind, __u32 pid, const __u64 *name, bool may_stop)
{
	__u8 waits = MEMBER_WAITS;
	struct event_header *event = tell(kind, pid);

	if (!event)
		return;
	if (name)
		__builtin_memcpy(event->comm, name, sizeof(event->comm));
	/* Where there is no room, it is told of again and again, and is a member of user space's alone. */
	bpf_map_update_elem(&members, &pid, &waits, BPF_ANY);
	event->func = may_stop && stop(pid);
	event_submit(event, sizeof(*event));
}

static __always_inline void say(__u16 kind, __u32 pid)
{
	struct event_header *event = tell(kind, pid);

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
	/* When another thread than the first one calls execve: links know a process by its first thread, which is no
	 * more. */
	bool taken_over = old_pid != (pid_t)pid;

	if (!(follow && member) && !is_wanted()) {
		if (!member)
			return 0;
		bpf_map_delete_elem(&members, &pid);
		say(SCOPE_GONE, pid);
		return 0;
	}
	/* Else probes stay with a process. */
	if (!member || *member != MEMBER_READY || taken_over)
		join(taken_over ? SCOPE_NEW : SCOPE_MATCHES, pid, NULL, hold);
	return 0;
}

/* The current thread is the parent, from which a child has all that the filter is about. */
SEC("raw_tp/sched_process_fork")
int BPF_PROG(scope_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 pid = BPF_CORE_READ(child, tgid);
	__u32 of;
	__u8 *member = current_member(&of);

	if (of == pid || BPF_CORE_READ(child, flags) & PF_KTHREAD)
		return 0;
	if (filter_pids ? follow && member : is_wanted())
		join(SCOPE_NEW, pid, NULL, false);
	return 0;
}

/* Is the thread within execve? That gives it a name too, but `scope_exec` is told of when it is through. */
static __always_inline bool becomes_program(struct task_struct *task)
{
	return bpf_core_field_exists(task->in_execve) && BPF_CORE_READ_BITFIELD_PROBED(task, in_execve);
}

/* No member until user space has looked, so that it is told of a name that is changed back meanwhile. */
static __always_inline void rename(struct task_struct *task, __u32 pid, const __u64 *name)
{
	struct event_header *event = tell(SCOPE_RENAMED, pid);

	if (!event)
		return;
	bpf_map_delete_elem(&members, &pid);
	event->tid = BPF_CORE_READ(task, pid);
	__builtin_memcpy(event->comm, name, sizeof(event->comm));
	event_submit(event, sizeof(*event));
}

/* Before the name is changed. Only a thread of the same process can do that. */
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
			rename(task, pid, name);
	} else if (!member && is_wanted_but_for_name() && (!filter_cgroups || cgroup_wanted())) {
		join(SCOPE_MATCHES, pid, name, false);
	}
	return 0;
}

static __always_inline int user_changed(void)
{
	__u32 pid;
	__u8 *member = current_member(&pid);

	if (member) {
		if (!follow && !is_wanted())
			say(SCOPE_CHANGED, pid);
	} else if (is_wanted()) {
		join(SCOPE_MATCHES, pid, NULL, false);
	}
	return 0;
}

/* There is no tracepoint where a thread gets another user. */
SEC("kretprobe/commit_creds")
int scope_user(void *ctx)
{
	return user_changed();
}

/* Where the kernel has no kprobes. Tracepoints of system calls cost all system calls a little. */
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

/* Somebody else moves the thread, and helpers only know the control group of the current one: user space looks. */
SEC("raw_tp/cgroup_attach_task")
int BPF_PROG(scope_cgroup, void *to, const char *path, struct task_struct *task)
{
	say(SCOPE_CHANGED, BPF_CORE_READ(task, tgid));
	return 0;
}

/* Before the number is free for others. The last thread has counted itself out when it comes here. */
SEC("raw_tp/sched_process_exit")
int BPF_PROG(scope_exit, struct task_struct *task)
{
	__u32 pid;

	if (!current_member(&pid) || BPF_CORE_READ(task, signal, live.counter))
		return 0;
	bpf_map_delete_elem(&members, &pid);
	if (filter_pids)
		bpf_map_delete_elem(&pids, &pid);
	say(SCOPE_GONE, pid);
	return 0;
}
