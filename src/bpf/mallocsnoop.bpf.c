// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Calls of the allocator: caller, function, size; with --ret the result and duration, with --stack the callers. */
#define CALL_ARGS 2 /* size, pointer */
#include "event.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"
#include "stack.bpf.h"
#include "histogram.bpf.h"

/* Function index in the cookies. */
enum alloc_call {
	CALL_MALLOC,
	CALL_CALLOC,
	CALL_REALLOC,
	CALL_REALLOCARRAY,
	CALL_POSIX_MEMALIGN,
	CALL_ALIGNED_ALLOC,
	CALL_MEMALIGN,
	CALL_VALLOC,
	CALL_PVALLOC,
	CALL_FREE,
};

enum alloc_kind {
	KIND_ALLOC, /* struct alloc_event */
	KIND_ALLOC_STACK, /* struct alloc_stack_event */
	KIND_NEW_THREAD, /* struct event_header alone: first entry of a thread in `usage` */
};

enum usage_layout {
	SIZE_SLOTS = 65, /* slot 0: size 0; slot i: 2^(i-1) .. 2^i - 1 */
};

struct alloc_event {
	struct event_header header;
	__u64 size; /* bytes requested; U64_MAX if count * size overflows; 0 for free */
	__u64 addr; /* argument of free; with --ret the result of other calls, 0 if they failed */
	__u64 lat_ns; /* with --ret */
};

struct alloc_stack_event {
	struct alloc_event alloc;
	struct stack stack;
};

EXPORT_ENUM(alloc_call);
EXPORT_ENUM(alloc_kind);
EXPORT_ENUM(usage_layout);
EXPORT_TYPE(alloc_event);
EXPORT_TYPE(alloc_stack_event);

const volatile __u64 min_size = 0;
const volatile __u64 max_size = ~0ULL;
const volatile bool with_return = false;
const volatile bool with_stack = false;
const volatile bool summary = false;

/* Requests of one thread. */
struct alloc_usage {
	__u64 calls;
	__u64 bytes;
	__u64 largest;
	__u32 uid;
	__u32 pad;
	char comm[COMM_LEN];
	__u64 sizes[SIZE_SLOTS];
};

/*
 * For --summary. Keyed by thread, so that each entry has one writer and is exact without atomics. Entries shared by
 * threads would need them even per CPU, because these programs can be preempted. User space sums over processes.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* user space makes it larger for --summary */
	__type(key, __u64);
	__type(value, struct alloc_usage);
} usage SEC(".maps");

static const struct alloc_usage no_usage = {};

static __always_inline __u64 saturating_product(__u64 count, __u64 size)
{
	__u64 most;

	if ((count | size) >> 32 == 0)
		return count * size;
	most = count ? ~0ULL / count : ~0ULL;
	barrier_var(most); /* keeps clang from using a 128-bit product, which BPF does not have */
	return size > most ? ~0ULL : count * size;
}

static __always_inline __u64 requested_size(struct pt_regs *ctx, __u64 call)
{
	switch (call) {
	case CALL_MALLOC:
	case CALL_VALLOC:
	case CALL_PVALLOC:
		return PT_REGS_PARM1(ctx);
	case CALL_CALLOC:
		return saturating_product(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
	case CALL_REALLOC:
	case CALL_ALIGNED_ALLOC:
	case CALL_MEMALIGN:
		return PT_REGS_PARM2(ctx);
	case CALL_REALLOCARRAY:
		return saturating_product(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
	case CALL_POSIX_MEMALIGN:
		return PT_REGS_PARM3(ctx);
	default:
		return 0;
	}
}

static __always_inline struct alloc_usage *thread_usage(__u64 thread)
{
	struct alloc_usage *usage_of = bpf_map_lookup_elem(&usage, &thread);
	struct event_header *event;

	if (usage_of)
		return usage_of;
	if (bpf_map_update_elem(&usage, &thread, &no_usage, BPF_NOEXIST)) {
		__sync_fetch_and_add(&lost, 1);
		return NULL;
	}
	event = event_reserve(sizeof(*event));
	if (event) {
		event_header(event, KIND_NEW_THREAD, 0, bpf_ktime_get_ns());
		event_submit(event, sizeof(*event));
	}
	return bpf_map_lookup_elem(&usage, &thread);
}

static __always_inline void add_to_usage(__u64 size)
{
	__u64 thread = current_ids();
	__u32 slot = bits_of(size);
	struct alloc_usage *of;

	if (!(__u32)thread) /* not in the PID namespace of this run: use the kernel's TID to keep threads distinct */
		thread |= (__u32)bpf_get_current_pid_tgid();
	of = thread_usage(thread);
	if (!of)
		return;
	of->calls++;
	of->bytes += size;
	if (size > of->largest)
		of->largest = size;
	of->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(of->comm, sizeof(of->comm)); /* every time, because exec changes it */
	if (slot < SIZE_SLOTS)
		of->sizes[slot]++;
}

static __always_inline void alloc_fill(struct alloc_event *e, __u16 kind, __u16 call, __u64 size, __u64 addr,
				       __u64 start_ns, __u64 lat_ns)
{
	event_header(&e->header, kind, call, start_ns);
	e->size = size;
	e->addr = addr;
	e->lat_ns = lat_ns;
}

static __always_inline void alloc_emit(struct pt_regs *ctx, __u16 call, __u64 size, __u64 addr, __u64 start_ns,
				       __u64 lat_ns, bool at_entry)
{
	if (with_stack) {
		struct alloc_stack_event *e = event_reserve(sizeof(*e));

		if (!e)
			return;
		alloc_fill(&e->alloc, KIND_ALLOC_STACK, call, size, addr, start_ns, lat_ns);
		stack_read(ctx, &e->stack, at_entry);
		event_submit(e, sizeof(*e));
	} else {
		struct alloc_event *e = event_reserve(sizeof(*e));

		if (!e)
			return;
		alloc_fill(e, KIND_ALLOC, call, size, addr, start_ns, lat_ns);
		event_submit(e, sizeof(*e));
	}
}

/* Returns true if the return of the call is needed. */
static __always_inline bool remember(struct pt_regs *ctx, __u64 call, __u64 size, __u64 pointer, bool in_session)
{
	__u64 depth;
	struct call *entry = call_enter(ctx, call, in_session, &depth);

	if (!entry)
		return false;
	entry->args[0] = size;
	entry->args[1] = pointer;
	return true;
}

/* Returns true if the return of the call is needed. */
static __always_inline bool enter(struct pt_regs *ctx, __u64 call, bool in_session)
{
	__u64 size = requested_size(ctx, call);
	/* free: the block; posix_memalign: where it stores the address; else unused */
	__u64 pointer = PT_REGS_PARM1(ctx);

	if (call != CALL_FREE && (size < min_size || size > max_size))
		return false;
	if (!is_wanted())
		return false;
	if (with_return)
		return remember(ctx, call, size, pointer, in_session);
	if (summary)
		add_to_usage(size);
	else
		alloc_emit(ctx, call, size, call == CALL_FREE ? pointer : 0, bpf_ktime_get_ns(), 0, true);
	return false;
}

/* The address of the block that a call returned, 0 if it failed, or the one that it freed. */
static __always_inline __u64 returned_address(struct pt_regs *ctx, __u64 call, __u64 pointer)
{
	__u64 addr = 0;

	if (call == CALL_FREE)
		return pointer;
	if (call != CALL_POSIX_MEMALIGN)
		return PT_REGS_RC(ctx);
	if ((int)PT_REGS_RC(ctx) == 0)
		bpf_probe_read_user(&addr, sizeof(addr), (void *)pointer);
	return addr;
}

static __always_inline void leave(struct pt_regs *ctx, __u64 cookie)
{
	__u64 depth;
	struct call *entry = call_return(ctx, cookie, &depth);
	__u32 call;

	if (!entry)
		return;
	call = call_function(entry);
	alloc_emit(ctx, call, entry->args[0], returned_address(ctx, call, entry->args[1]), entry->start_ns,
		   bpf_ktime_get_ns() - entry->start_ns, cookie & COOKIE_EXIT);
}

SEC("uprobe")
int alloc_entry(struct pt_regs *ctx)
{
	enter(ctx, probe_cookie(ctx), false);
	return 0;
}

SEC("uretprobe")
int alloc_return(struct pt_regs *ctx)
{
	leave(ctx, probe_cookie(ctx));
	return 0;
}

SEC("uprobe.session")
int alloc_session(struct pt_regs *ctx)
{
	bool at_return = returns_here(ctx);
	__u64 cookie = hit_cookie(ctx, at_return);

	if (!at_return)
		return enter(ctx, cookie, true) ? 0 : NO_RETURN;
	leave(ctx, cookie);
	return 0;
}
