// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Calls of the allocator: caller, function, size; with --ret the result and duration, with --stack the callers. */
#define CALL_ARGS 2 /* size, pointer */
#include "event.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"
#include "stack.bpf.h"
#include "histogram.bpf.h"

/* Where a call has the size of the request, and where the address of the block is. */
enum alloc_shape {
	SHAPE_ARG1, /* the first argument; here and below, the function returns the address */
	SHAPE_ARG2,
	SHAPE_ARG3,
	SHAPE_ARG1_ARG2, /* the product of both */
	SHAPE_ARG2_ARG3,
	SHAPE_ARG3_ARG4,
	SHAPE_STORED, /* posix_memalign: the third argument; it stores the address where the first one points */
	SHAPE_IN_PLACE, /* xallocx: the second argument; the first one is the address */
	SHAPE_FREE, /* it frees the block at its first argument, and requests nothing */
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
	__u64 size; /* bytes requested; U64_MAX if count * size overflows; 0 if it frees a block */
	__u64 addr; /* the freed block; with --ret the result of other calls, 0 if they failed */
	__u64 lat_ns; /* with --ret */
};

struct alloc_stack_event {
	struct alloc_event alloc;
	struct stack stack;
};

enum alloc_limits {
	NO_SITE = 0xffffffff,
	INNER_RANGES = 64,
	JUMPING_THREADS = 4096,
};

/* A probed function. Addresses are those in its file, before relocation. */
struct alloc_site {
	__u64 addr; /* of its probe */
	__u64 inner_start; /* all ranges of `inner` are from here */
	__u64 inner_end; /* to before here */
	__u32 inner; /* index in `inner_code` */
	__u32 shape; /* enum alloc_shape */
	__u64 at_instructions; /* its returns are observed at return instructions */
};

struct inner_range {
	__u64 start;
	__u64 end;
};

/* The code of a file that runs only in allocator functions: what returns there was called by one of them. */
struct inner_code {
	__u64 count; /* of ranges */
	struct inner_range ranges[INNER_RANGES];
};

EXPORT_ENUM(alloc_shape);
EXPORT_ENUM(alloc_limits);
EXPORT_TYPE(alloc_site);
EXPORT_TYPE(inner_code);
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

static __always_inline __u64 requested_size(struct pt_regs *ctx, __u32 shape)
{
	switch (shape) {
	case SHAPE_ARG1:
		return PT_REGS_PARM1(ctx);
	case SHAPE_ARG2:
	case SHAPE_IN_PLACE:
		return PT_REGS_PARM2(ctx);
	case SHAPE_ARG3:
	case SHAPE_STORED:
		return PT_REGS_PARM3(ctx);
	case SHAPE_ARG1_ARG2:
		return saturating_product(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
	case SHAPE_ARG2_ARG3:
		return saturating_product(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
	case SHAPE_ARG3_ARG4:
		return saturating_product(PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx));
	default:
		return 0;
	}
}

/* The index in the cookies. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set by user space */
	__type(key, __u32);
	__type(value, struct alloc_site);
} sites SEC(".maps");

/* One for each file. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set by user space */
	__type(key, __u32);
	__type(value, struct inner_code);
} inner_code SEC(".maps");

static __always_inline struct alloc_site *site_at(__u32 index)
{
	return bpf_map_lookup_elem(&sites, &index);
}

/* A thread between a jump from one allocator function into another and the entry of that. */
struct jump {
	__u64 sp;
	__u32 to[2]; /* sites; two if a function consists of a jump, whose program may run before that of the entry */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* JUMPING_THREADS, set by user space if there are such jumps */
	__type(key, __u64);
	__type(value, struct jump);
} jumps SEC(".maps");

/* Entries of `jumps`, nearly always 0: spares other calls the lookup. */
__u64 jumping = 0;

static __always_inline void forget_jump(__u64 thread)
{
	if (!bpf_map_delete_elem(&jumps, &thread))
		__sync_fetch_and_add(&jumping, -1);
}

/* The thread jumps into the function with this cookie, if the jump is taken. */
static __always_inline void note_jump(struct pt_regs *ctx, __u64 cookie)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct jump jump = { PT_REGS_SP(ctx), { cookie, NO_SITE } };
	struct jump *known;

	if (!is_taken(ctx, cookie) || !is_wanted())
		return;
	known = bpf_map_lookup_elem(&jumps, &thread);
	if (!known) {
		if (!bpf_map_update_elem(&jumps, &thread, &jump, BPF_NOEXIST))
			__sync_fetch_and_add(&jumping, 1);
	} else if (known->sp == jump.sp) {
		known->to[1] = jump.to[0];
	} else {
		*known = jump; /* a signal handler has left that call with longjmp */
	}
}

/* True if the thread enters a function by a jump that was noted. Forgets the jump. */
static __always_inline bool has_jumped(struct pt_regs *ctx, __u32 site)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct jump *jump;

	if (!*(volatile __u64 *)&jumping)
		return false;
	jump = bpf_map_lookup_elem(&jumps, &thread);
	/* In a signal handler, the stack pointer differs. */
	if (!jump || jump->sp != PT_REGS_SP(ctx))
		return false;
	if (jump->to[0] == site)
		jump->to[0] = jump->to[1];
	else if (jump->to[1] != site)
		return false;
	jump->to[1] = NO_SITE;
	if (jump->to[0] == NO_SITE)
		forget_jump(thread);
	return true;
}

/* A global function, which the verifier follows once. */
__noinline int is_in_ranges(__u32 inner, __u64 addr)
{
	struct inner_code *code = bpf_map_lookup_elem(&inner_code, &inner);

	if (!code)
		return false;
	for (__u32 i = 0; i < INNER_RANGES; i++) {
		if (i >= code->count)
			break;
		if (addr >= code->ranges[i].start && addr < code->ranges[i].end)
			return true;
	}
	return false;
}

/*
 * True if a function was called by another one of the allocator. That is read from its return address and not from
 * what the thread did before, so calls that never return cannot disturb it.
 */
static __always_inline bool is_called_within(struct pt_regs *ctx, struct alloc_site *site)
{
	__u64 caller = 0;

	if (site->inner_start == site->inner_end)
		return false;
#if defined(__TARGET_ARCH_x86)
	bpf_probe_read_user(&caller, sizeof(caller), (void *)PT_REGS_SP(ctx));
#else
	caller = PT_REGS_RET(ctx);
#endif
	/* The file is mapped as a whole, so distances are those in the file. */
	caller += site->addr - PT_REGS_IP(ctx);
	if (caller < site->inner_start || caller >= site->inner_end)
		return false;
	return is_in_ranges(site->inner, caller);
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
	of->bytes = of->bytes + size < size ? ~0ULL : of->bytes + size;
	if (size > of->largest)
		of->largest = size;
	of->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(of->comm, sizeof(of->comm)); /* every time, because exec changes it */
	if (slot < SIZE_SLOTS)
		of->sizes[slot]++;
}

static __always_inline void alloc_fill(struct alloc_event *e, __u16 kind, __u16 site, __u64 size, __u64 addr,
				       __u64 start_ns, __u64 lat_ns)
{
	event_header(&e->header, kind, site, start_ns);
	e->size = size;
	e->addr = addr;
	e->lat_ns = lat_ns;
}

static __always_inline void alloc_emit(struct pt_regs *ctx, __u16 site, __u64 size, __u64 addr, __u64 start_ns,
				       __u64 lat_ns, enum stack_moment moment)
{
	if (with_stack) {
		struct alloc_stack_event *e = event_reserve(sizeof(*e));

		if (!e)
			return;
		alloc_fill(&e->alloc, KIND_ALLOC_STACK, site, size, addr, start_ns, lat_ns);
		stack_read(ctx, &e->stack, moment);
		event_submit(e, sizeof(*e));
	} else {
		struct alloc_event *e = event_reserve(sizeof(*e));

		if (!e)
			return;
		alloc_fill(e, KIND_ALLOC, site, size, addr, start_ns, lat_ns);
		event_submit(e, sizeof(*e));
	}
}

/* In place of the pointer: the call is nested in another one, which has the row. */
#define NESTED (~0ULL)

/* Returns true if the return of the call is needed. */
static __always_inline bool remember(struct pt_regs *ctx, __u64 site, __u64 size, __u64 pointer, bool in_session)
{
	__u64 depth;
	struct call *entry = call_enter(ctx, site, in_session, &depth);

	if (!entry)
		return false;
	entry->args[0] = size;
	entry->args[1] = pointer;
	return true;
}

/* Returns true if the return of the call is needed. */
static __always_inline bool enter(struct pt_regs *ctx, __u64 cookie, bool in_session)
{
	struct alloc_site *site = site_at(cookie);
	/* The freed block, or where the address of the new one is stored; else unused. */
	__u64 pointer = PT_REGS_PARM1(ctx);
	bool frees;
	__u64 size;

	if (!site)
		return false;
	if (has_jumped(ctx, cookie)) {
		/* Both calls return with the same stack pointer, so return probes of both have to be matched. */
		if (with_return && !in_session && !site->at_instructions)
			remember(ctx, cookie, 0, NESTED, in_session);
		return false;
	}
	size = requested_size(ctx, site->shape);
	frees = site->shape == SHAPE_FREE;
	if (!frees && (size < min_size || size > max_size))
		return false;
	if (!is_wanted() || is_called_within(ctx, site))
		return false;
	if (with_return)
		return remember(ctx, cookie, size, pointer, in_session);
	if (summary)
		add_to_usage(size);
	else
		alloc_emit(ctx, cookie, size, frees ? pointer : 0, bpf_ktime_get_ns(), 0, STACK_AT_ENTRY);
	return false;
}

/* The address of the block that a call returned, 0 if it failed, or the one that it freed. */
static __always_inline __u64 returned_address(struct pt_regs *ctx, __u32 shape, __u64 pointer)
{
	__u64 addr = 0;

	if (shape == SHAPE_FREE || shape == SHAPE_IN_PLACE)
		return pointer;
	if (shape != SHAPE_STORED)
		return PT_REGS_RC(ctx);
	if ((int)PT_REGS_RC(ctx) == 0)
		bpf_probe_read_user(&addr, sizeof(addr), (void *)pointer);
	return addr;
}

static __always_inline void leave(struct pt_regs *ctx, __u64 cookie)
{
	__u64 depth;
	struct call *entry = call_return(ctx, cookie, &depth);
	struct alloc_site *site;

	if (!entry || entry->args[1] == NESTED)
		return;
	site = site_at(call_function(entry));
	if (!site)
		return;
	alloc_emit(ctx, call_function(entry), entry->args[0], returned_address(ctx, site->shape, entry->args[1]),
		   entry->start_ns, bpf_ktime_get_ns() - entry->start_ns, moment_of_end(cookie));
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
	__u64 cookie = probe_cookie(ctx);

	if (cookie & COOKIE_INTO)
		note_jump(ctx, cookie);
	else if (with_return)
		leave(ctx, cookie);
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
