/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Events: the header of every record, the ring buffer, and the counters of what got lost. */
#ifndef EVENT_BPF_H
#define EVENT_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "cookie.bpf.h"
#include "ids.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define COMM_LEN 16
#define RECORD_HEADER_BYTES 8 /* BPF_RINGBUF_HDR_SZ of linux/bpf.h */

/* No implicit padding: user space reads it in place. */
struct event_header {
	__u64 time_ns; /* CLOCK_MONOTONIC at the probe */
	__u32 pid; /* thread group */
	__u32 tid;
	__u32 uid;
	__u16 kind; /* which record of this object follows */
	__u16 func; /* index of the function, where an object has few; or what `kind` says */
	char comm[COMM_LEN];
};

/* A type that Rust reads has to be that of a variable, or the skeleton does not have it. */
#define EXPORT_TYPE(name) const volatile struct name *name##_type __attribute__((unused)) = 0
#define EXPORT_ENUM(name) const volatile enum name *name##_type __attribute__((unused)) = 0

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 23); /* set by --buffer-size before load */
} events SEC(".maps");

/* Events that found the ring full. User space reads the counters in place. */
__u64 lost = 0;

/* Calls whose return was never seen (longjmp, exit), or that there was no room to record. */
__u64 unmatched = 0;

/* A sleeping reader is woken when this many bytes are in the ring. */
const volatile __u64 wake_at = 1 << 16;

/* False where the kernel has no bpf_get_attach_cookie (before 5.15). */
const volatile bool has_cookies = true;

/*
 * Offsets of members of kernel structs; all 0 if the kernel has no BTF. User space reads them from there: for CO-RE,
 * libbpf loads and searches all of the kernel's BTF at each start, which takes four times as long.
 */
struct task_offsets {
	__u32 alt_stack; /* task_struct.sas_ss_sp, which sas_ss_size follows */
	__u32 utask; /* task_struct.utask */
	__u32 return_probes; /* uprobe_task.return_instances: pending return probes, innermost first */
	__u32 stack; /* return_instance.stack: where the return address is */
	__u32 next; /* return_instance.next */
};

const volatile struct task_offsets task_offsets = {};

/*
 * Since 6.13, a tracing program with more than 64 bytes of stack gets a stack per CPU instead of its task's, although
 * at a uprobe another task can preempt it and run the same program. Both then overwrite each other's stack (seen on 7.2
 * as lookups that miss). Programs with a tail call are exempt. This one is never made and needs no map: the verifier
 * removes it.
 */
const volatile bool never = false;

static __always_inline void keep_task_stack(void *ctx)
{
	if (never)
		bpf_tail_call(ctx, NULL, 0);
}

/*
 * How often the programs ran, by CPU and kind of trap. Each CPU has a cache line; with more CPUs than lines, some share
 * one.
 */
enum hit_layout {
	HIT_LINES = 128,
	TRAP_KINDS = 1 << COOKIE_TRAP_BITS, /* in a line */
};
__u64 hits[HIT_LINES * TRAP_KINDS] __attribute__((aligned(64))) = {};

static __always_inline void count_hit(__u64 cookie)
{
	__u64 index = bpf_get_smp_processor_id() * TRAP_KINDS + (cookie >> COOKIE_TRAP_SHIFT) % TRAP_KINDS;

	/* Keeps clang from masking the two terms separately: the verifier of 5.10 then loses the bound of their sum. */
	barrier_var(index);
	__sync_fetch_and_add(&hits[index % (HIT_LINES * TRAP_KINDS)], 1);
}

/*
 * Functions with a call that the filter accepts, for tools that report functions without one. Those that share a byte
 * are taken to be called together, which can only hide one.
 */
enum called_layout {
	CALLED_FUNCTIONS = 1 << 14,
};
__u8 called[CALLED_FUNCTIONS] = {};

/* Tests before it writes, so that CPUs can share the cache line. */
static __always_inline void mark_called(__u64 cookie)
{
	__u8 *mark = &called[cookie % CALLED_FUNCTIONS];

	if (!*mark)
		*mark = 1;
}

/*
 * Counts a hit and returns the cookie without the kind of trap. `at_return`: a session's program runs at the return,
 * where its cookie has the kind of the entry.
 */
static __always_inline __u64 hit_cookie(void *ctx, bool at_return)
{
	__u64 cookie;

	keep_task_stack(ctx);
	if (has_cookies)
		cookie = bpf_get_attach_cookie(ctx);
	else
		asm volatile("%0 = %1 ll" : "=r"(cookie) : "i"(COOKIE_MARK));
	count_hit(at_return ? (__u64)TRAP_RETURN << COOKIE_TRAP_SHIFT : cookie);
	return cookie & ~COOKIE_TRAP_MASK;
}

/*
 * The cookie of the probe that was hit. bpf_get_func_ip is not an alternative: it is 0 for uprobes on 6.1. Where the
 * kernel has no cookies, user space loads one copy of the program per cookie, with COOKIE_MARK replaced. Every program
 * starts with this call, so hits are counted here too.
 */
static __always_inline __u64 probe_cookie(void *ctx)
{
	return hit_cookie(ctx, false);
}

/*
 * True if the probe with this cookie belongs to the current process. Return probes of perf events run in every process
 * that has one there, whichever process the event is for (seen on 6.1, not on 6.18). Where no program runs at the
 * entry, which would distinguish them, the cookie has the process.
 */
static __always_inline bool is_own_probe(__u64 cookie)
{
	__u64 process = cookie >> COOKIE_PROCESS_SHIFT;

	return !process || process == current_ids() >> 32;
}

/* Would a conditional jump with this condition code be taken? An odd code is the opposite of the even one before it. */
static __always_inline bool condition_holds(struct pt_regs *ctx, __u8 code)
{
#if defined(__TARGET_ARCH_x86)
	__u64 flags = ctx->flags;
	bool carry = flags & 1, parity = flags & 4, zero = flags & 0x40, sign = flags & 0x80, overflow = flags & 0x800;
	/* In the order of the codes: o, b, e, be, s, p, l, le. */
	__u8 holds = overflow | carry << 1 | zero << 2 | (carry | zero) << 3 | sign << 4 | parity << 5 |
		     (sign ^ overflow) << 6 | (zero | (sign ^ overflow)) << 7;
#else
	__u64 flags = ((struct user_pt_regs *)ctx)->pstate >> 28;
	bool overflow = flags & 1, carry = flags & 2, zero = flags & 4, sign = flags & 8;
	bool below = sign ^ overflow;
	/* In the order of the codes: eq, cs, mi, vs, hi, ge, gt, al. */
	__u8 holds = zero | carry << 1 | sign << 2 | overflow << 3 | (carry & !zero) << 4 | !below << 5 |
		     (!zero & !below) << 6 | 1 << 7;
#endif
	return (holds >> (code >> 1 & 7) & 1) ^ (code & 1);
}

/* True unless the probe is on a jump that leaves its function on a condition, which does not hold now. */
static __always_inline bool is_taken(struct pt_regs *ctx, __u64 cookie)
{
	return (cookie & COOKIE_EXIT) != COOKIE_TAIL_JUMP ||
	       condition_holds(ctx, cookie >> COOKIE_CONDITION_SHIFT & 15);
}

/* True if the probe is on a jump to another function whose return instructions are probed as well. */
static __always_inline bool goes_on(__u64 cookie)
{
	return (cookie & COOKIE_EXIT) == COOKIE_EXIT && cookie >> COOKIE_CONDITION_SHIFT & 1;
}

/* Reserves `size` bytes, a constant, in the ring. If it is full, counts a lost event and returns NULL. */
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
 * The flags to submit `size` bytes with. The kernel wakes a reader that has caught up. Ours holds its position back
 * while it is busy, so that it never looks caught up and a burst costs no wakeup per event. If the ring fills faster
 * than the reader sleeps, the record that crosses `wake_at` wakes it.
 */
static __always_inline __u64 event_wakeup(__u64 size)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	bool crosses = waiting >= wake_at && waiting < wake_at + size + RECORD_HEADER_BYTES;

	return crosses ? BPF_RB_FORCE_WAKEUP : 0;
}

/* Submits a reserved event. */
static __always_inline void event_submit(void *event, __u64 size)
{
	bpf_ringbuf_submit(event, event_wakeup(size));
}

/* Copies a record into the ring, for records whose size is not known in advance. */
static __always_inline void event_output(void *event, __u64 size)
{
	if (bpf_ringbuf_output(&events, event, size, event_wakeup(size)))
		__sync_fetch_and_add(&lost, 1);
}

#endif
