/* SPDX-License-Identifier: GPL-2.0-only */
/* Events: the header that every record starts with, the ring that carries them, and what could not be carried. */
#ifndef EVENT_BPF_H
#define EVENT_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "ids.bpf.h"

char LICENSE[] SEC("license") = "GPL";

#define COMM_LEN 16
#define RECORD_HEADER_BYTES 8 /* BPF_RINGBUF_HDR_SZ of linux/bpf.h */

/* Twin of `Header` in src/probe/event.rs, which asserts size and offsets. No implicit padding. */
struct event_header {
	__u64 time_ns; /* CLOCK_MONOTONIC at the probe */
	__u32 pid; /* thread group */
	__u32 tid;
	__u32 uid;
	__u16 kind; /* which record of this tool follows */
	__u16 func; /* index of the function, from the probe's cookie */
	char comm[COMM_LEN];
};

/* A type that Rust reads has to be that of a variable, or the skeleton does not have it. */
#define EXPORT_TYPE(name) const volatile struct name *name##_type __attribute__((unused)) = 0
#define EXPORT_ENUM(name) const volatile enum name *name##_type __attribute__((unused)) = 0

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23); /* set by --buffer-size before load */
} events SEC(".maps");

/* Events that found the ring full. Read by user space in place. */
__u64 lost = 0;

/* Calls whose entry or return was never seen: longjmp, exit, or no room to remember them. */
__u64 unmatched = 0;

/* The reader is woken when this many bytes wait, should it be resting at that moment. */
const volatile __u64 wake_at = 1 << 16;

/* False where the kernel has no bpf_get_attach_cookie (before 5.15). */
const volatile bool has_cookies = true;

/*
 * Since 6.13, a tracing program with more than 64 bytes of stack gets one per CPU instead of its task's, although at a
 * uprobe another task can preempt it and run the same program: both then write over each other (seen on 7.2 as look-ups
 * that miss). Programs with a tail call are excepted; this one is never made, needs no map, and the verifier removes
 * it.
 */
const volatile bool never = false;

static __always_inline void keep_task_stack(void *ctx)
{
	if (never)
		bpf_tail_call(ctx, NULL, 0);
}

/*
 * How often the programs ran, by the kind of trap that led to them (src/probe/hits.rs), which is in the cookie. Each
 * CPU has a cache line of its own; CPUs that are more than there are lines share them.
 */
#define HIT_LINES 128
#define TRAP_KINDS 8
#define TRAP_SHIFT 36
#define TRAP_RETURN 2ULL /* Trap::Return */
__u64 hits[HIT_LINES * TRAP_KINDS] __attribute__((aligned(64))) = {};

static __always_inline void count_hit(__u64 cookie)
{
	__u64 index = bpf_get_smp_processor_id() * TRAP_KINDS + (cookie >> TRAP_SHIFT) % TRAP_KINDS;

	/* Or clang masks the two parts, and 5.10's verifier does not know the bound of both together. */
	barrier_var(index);
	__sync_fetch_and_add(&hits[index % (HIT_LINES * TRAP_KINDS)], 1);
}

/* The cookie without the kind of trap. `at_return`: of a session, whose cookie tells the kind of its entry. */
static __always_inline __u64 hit_cookie(void *ctx, bool at_return)
{
	__u64 cookie;

	keep_task_stack(ctx);
	if (has_cookies)
		cookie = bpf_get_attach_cookie(ctx);
	else
		asm volatile("%0 = 0x75627066636f6f6b ll" : "=r"(cookie));
	count_hit(at_return ? TRAP_RETURN << TRAP_SHIFT : cookie);
	return cookie & ~((TRAP_KINDS - 1ULL) << TRAP_SHIFT);
}

/*
 * The number given to this probe when it was attached: the identity of the function. bpf_get_func_ip would be an
 * alternative, but is 0 for uprobes on 6.1. Where there are no cookies, the program is loaded once for each cookie
 * with this constant replaced (COOKIE_MARK in src/probe/attach.rs). Each program begins with this, so it is also where
 * hits are counted.
 */
static __always_inline __u64 probe_cookie(void *ctx)
{
	return hit_cookie(ctx, false);
}

/*
 * Is the probe with this cookie one of the current process? Perf's return probes run for every process that has one
 * there, whichever they were made for (seen on 6.1; not on 6.18). Where several processes have theirs, and no entry
 * tells, the cookie does. `PROCESS_SHIFT` of src/probe/attach.rs.
 */
#define PROCESS_SHIFT 40
static __always_inline bool is_own_probe(__u64 cookie)
{
	__u64 process = cookie >> PROCESS_SHIFT;

	return !process || process == current_ids() >> 32;
}

/* Room for `size` bytes in the ring, or NULL and one more lost. `size` must be a constant. */
static __always_inline void *event_reserve(__u64 size)
{
	void *event = bpf_ringbuf_reserve(&events, size, 0);

	if (!event)
		__sync_fetch_and_add(&lost, 1);
	return event;
}

static __always_inline void event_header(struct event_header *h, __u16 kind, __u16 func, __u64 time_ns)
{
	__u64 pid_tgid = current_ids();

	h->time_ns = time_ns;
	h->pid = pid_tgid >> 32;
	h->tid = pid_tgid;
	h->uid = bpf_get_current_uid_gid();
	h->kind = kind;
	h->func = func;
	bpf_get_current_comm(h->comm, sizeof(h->comm));
}

/*
 * How to hand over `size` bytes. The kernel wakes a reader that has caught up; ours never looks so while it is busy
 * (see src/probe/ring.rs), so a burst costs no wakeup an event. When the ring fills faster than the reader's rest
 * lasts, the record that crosses `wake_at` ends the rest.
 */
static __always_inline __u64 event_wakeup(__u64 size)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	bool crosses = waiting >= wake_at && waiting < wake_at + size + RECORD_HEADER_BYTES;

	return crosses ? BPF_RB_FORCE_WAKEUP : 0;
}

/* Hands over what was reserved. */
static __always_inline void event_submit(void *event, __u64 size)
{
	bpf_ringbuf_submit(event, event_wakeup(size));
}

/* Copies a record into the ring: for those whose size is not known before. */
static __always_inline void event_output(void *event, __u64 size)
{
	if (bpf_ringbuf_output(&events, event, size, event_wakeup(size)))
		__sync_fetch_and_add(&lost, 1);
}

#endif
