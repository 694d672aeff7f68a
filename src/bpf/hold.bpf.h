/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * --hold: programs are stopped when they are executed, and resumed once they have their probes.
 *
 * A program must never stay stopped. The tool resumes it. If the tool is stopped, the watchdog process does. Both can
 * be killed, stopped or frozen at once, as all processes of a control group can. Then these programs do: `hold_exit` at
 * the end of either process, while the kernel has not detached it yet, and `hold_switch` when the watchdog is silent.
 */
#ifndef HOLD_BPF_H
#define HOLD_BPF_H

#include "event.bpf.h"

#define SIGCONT 18
#define SIGSTOP 19
#define EBUSY 16
#define MAX_HELD 4096
#define MAX_QUEUEING 256 /* looks at whether a signal has been queued */
#define MAX_SENDING 100000 /* attempts to queue a signal */
#define LONGEST_SILENCE_NS 1000000000 /* of the watchdog, which shows itself five times as often */

/* Cleared by user space, at the end of the run or because the tool does not respond. */
bool holding = true;

/* Counted up by the tool several times a second, to show the watchdog that it is not stopped itself. */
__u32 heartbeat = 1;

/* When the watchdog ran last: CLOCK_MONOTONIC. */
__u64 guarded_ns = 1;

/* The tool or the watchdog has died. */
bool abandoned = false;

/* Processes may have been stopped since `hold_switch` last found none. */
bool stopped_some = false;

__u32 tool_pid = 0;
__u32 guard_pid = 0;

/* Processes that were stopped here and not resumed yet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HELD);
	__type(key, __u32);
	__type(value, __u8);
} held SEC(".maps");

/* Only called by programs that are loaded on kernels that have them. */
extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym __weak;
extern void bpf_task_release(struct task_struct *task) __ksym __weak;
extern int bpf_send_signal_task(struct task_struct *task, int signal, enum pid_type type, __u64 value) __ksym __weak;

static __always_inline bool is_guarded(__u64 now)
{
	return (__s64)(now - *(volatile __u64 *)&guarded_ns) < LONGEST_SILENCE_NS;
}

static __always_inline bool may_hold(void)
{
	return *(volatile bool *)&holding && !*(volatile bool *)&abandoned && is_guarded(bpf_ktime_get_ns());
}

/* The kernel may queue a signal in an interrupt, a moment after bpf_send_signal(). */
static __always_inline void wait_for_stop_signal(void)
{
	struct signal_struct *signal = BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), signal);

	for (int i = 0; i < MAX_QUEUEING; i++) {
		if (BPF_CORE_READ(signal, shared_pending.signal.sig[0]) & 1UL << (SIGSTOP - 1))
			return;
	}
}

/*
 * Stops the current process. The map is written first, so that whoever resumes all knows of every process that is
 * stopped. By then may_hold() is false: either that is seen here when the signal is queued, or the signal was queued
 * before all are resumed.
 */
static __always_inline bool stop_current(__u32 pid)
{
	__u8 one = 1;

	if (!may_hold())
		return false;
	stopped_some = true;
	if (bpf_map_update_elem(&held, &pid, &one, BPF_ANY))
		return false;
	if (!bpf_send_signal(SIGSTOP)) {
		wait_for_stop_signal();
		if (may_hold())
			return true;
		bpf_send_signal(SIGCONT);
	}
	bpf_map_delete_elem(&held, &pid);
	return false;
}

/*
 * Programs of tracepoints queue a signal for an interrupt, in one slot per CPU. Returns 0 if that is taken, else 1: the
 * signal is queued, or the process exits.
 */
static long send_cont(__u32 attempt, __u32 *pid)
{
	struct task_struct *task = bpf_task_from_pid(*pid);
	int error;

	if (!task)
		return 1;
	error = bpf_send_signal_task(task, SIGCONT, PIDTYPE_TGID, 0);
	bpf_task_release(task);
	return error != -EBUSY;
}

static long resume_each(void *map, __u32 *pid, __u8 *value, void *context)
{
	__u32 key = *pid;

	bpf_loop(MAX_SENDING, send_cont, &key, 0);
	bpf_map_delete_elem(&held, &key);
	return 0;
}

/* Returns 1 to end the iteration: there are no more slots. */
static long resume_one(void *map, __u32 *pid, __u8 *value, void *context)
{
	__u32 key = *pid;

	stopped_some = true;
	if (!send_cont(0, &key))
		return 1;
	bpf_map_delete_elem(&held, &key);
	return 0;
}

/* Since Linux 6.16, `group_dead` is there, and this runs while the kernel still sends signals for the process. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(hold_exit, struct task_struct *task, bool group_dead)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;

	if (!group_dead || (pid != tool_pid && pid != guard_pid))
		return 0;
	abandoned = true;
	bpf_for_each_map_elem(&held, resume_each, NULL, 0);
	return 0;
}

/*
 * While the watchdog is silent, each switch from a user process resumes one: interrupts are off, and a queued signal is
 * sent when they are on again. From a kernel thread, the kernel sends none.
 */
SEC("tp_btf/sched_switch")
int BPF_PROG(hold_switch)
{
	if (!stopped_some || is_guarded(bpf_ktime_get_ns()) || !bpf_get_current_task_btf()->mm)
		return 0;
	/* In this order: stop_current() sets it before it writes to the map. */
	stopped_some = false;
	bpf_for_each_map_elem(&held, resume_one, NULL, 0);
	return 0;
}

#endif
