// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Calls of functions: user space says which values to fetch at the entry and at the return. */
#define CALL_ARGS 1 /* the index of the machine that has what the entry fetched */
#define CALL_DROPPED(call) expr_give_back((call)->args[0])
#include "event.bpf.h"
#include "expr.bpf.h"
#include "entry.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"

/* How a function is traced. */
enum trace_flags {
	ROW_AT_RETURN = 1,
	HAS_DEPTH = 2, /* the row comes at the entry, but the call is followed, to know what is nested in it */
	RETURN_ALONE = 4, /* there is no probe at the entry */
	RETURN_UNSEEN = 8, /* there is none at the return */
};

EXPORT_ENUM(trace_flags);

/* A function: where its operations start in `expr_ops`. */
struct trace_function {
	__u32 entry_pc;
	__u32 return_pc;
	__u32 slots;
	__u32 flags; /* enum trace_flags */
};

EXPORT_TYPE(trace_function);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* resized before load */
	__type(key, __u32);
	__type(value, struct trace_function);
} functions SEC(".maps");

const volatile __u64 min_latency = 0; /* ns */
const volatile bool with_stack = false;
/* False if this run traces entries only: the verifier then skips what remembers calls. */
const volatile bool follows_calls = true;

static __always_inline void emit(struct pt_regs *ctx, struct expr_machine *m, enum stack_moment moment)
{
	if (with_stack)
		expr_add_stack(ctx, m, moment);
	expr_emit(m);
}

/*
 * Remembers the call. True if its machine is kept for the return; `follows` is set if the return is to be seen, if only
 * to know what is nested in the call.
 */
static __always_inline bool enter(struct pt_regs *ctx, struct expr_machine *m, __u64 cookie, __u32 index, __u32 flags,
				  bool in_session, bool *follows)
{
	bool waits = flags & ROW_AT_RETURN;
	__u64 depth = 0;
	struct call *call = call_begin(ctx, cookie, in_session, !(flags & RETURN_UNSEEN), &depth);

	m->record.depth = depth;
	*follows = call;
	if (call) {
		call->args[0] = waits ? index : NO_MACHINE;
		m->record.header.time_ns = call->start_ns;
	}
	if (!waits)
		emit(ctx, m, STACK_AT_ENTRY);
	return call && waits;
}

/* Sleepable programs cannot use a map of cgroups. */
static __always_inline bool wanted(bool may_sleep)
{
	return may_sleep ? is_wanted_anywhere() : is_wanted();
}

/* True if the return is to be seen. */
static __always_inline bool entry(struct pt_regs *ctx, __u64 cookie, bool in_session, bool may_sleep)
{
	__u32 id = cookie;
	struct trace_function *function;
	struct expr_machine *m;
	bool follows = false;
	__u32 index;

	if (!wanted(may_sleep) || !begins_call(ctx, cookie))
		return false;
	mark_called(cookie);
	function = bpf_map_lookup_elem(&functions, &id);
	if (!function || !expr_take(&index))
		return false;
	m = expr_begin(index, id, function->slots);
	if (!m)
		return false;
	if (expr_run(ctx, m, index, function->entry_pc, may_sleep) == EXPR_YES) {
		event_header(&m->record.header, KIND_CALL, id, bpf_ktime_get_ns());
		if (!follows_calls || !function->flags)
			emit(ctx, m, STACK_AT_ENTRY);
		else if (enter(ctx, m, cookie, index, function->flags, in_session, &follows))
			return true;
	}
	expr_give_back(index);
	return follows;
}

/* The function of the call that returns here, and its machine. Returns NULL if there is none. */
static __always_inline struct trace_function *leave(struct pt_regs *ctx, __u64 cookie, __u32 *id, __u32 *index,
						    bool may_sleep)
{
	struct trace_function *function;
	struct call *call;
	__u64 depth;

	*id = cookie;
	function = bpf_map_lookup_elem(&functions, id);
	if (function && function->flags & RETURN_ALONE) {
		if (!is_own_probe(cookie) || !is_taken(ctx, cookie) || !wanted(may_sleep))
			return NULL;
		mark_called(cookie);
		return expr_take(index) ? function : NULL;
	}
	call = call_return(ctx, cookie, &depth);
	if (!call || call->args[0] == NO_MACHINE)
		return NULL;
	*id = call_function(call);
	*index = call->args[0];
	return bpf_map_lookup_elem(&functions, id);
}

static __always_inline void finish(struct pt_regs *ctx, __u64 cookie, bool may_sleep)
{
	__u64 now = bpf_ktime_get_ns();
	struct trace_function *function;
	struct expr_machine *m;
	__u32 id, index;

	function = leave(ctx, cookie, &id, &index, may_sleep);
	if (!function)
		return;
	if (function->flags & RETURN_ALONE) {
		m = expr_begin(index, id, function->slots);
		if (m)
			event_header(&m->record.header, KIND_CALL, id, now);
	} else {
		m = expr_machine(index);
	}
	if (!m)
		return;
	m->record.lat_ns = now - m->record.header.time_ns;
	if (cookie & COOKIE_TAIL_JUMP) {
		m->no_result = 1;
		m->record.header.kind = KIND_CALL_JUMPED;
	}
	if (m->record.lat_ns >= min_latency && expr_run(ctx, m, index, function->return_pc, may_sleep) == EXPR_YES)
		emit(ctx, m, moment_of_end(cookie));
	expr_give_back(index);
}

static __always_inline int session(struct pt_regs *ctx, bool may_sleep)
{
	bool at_return = returns_here(ctx);
	__u64 cookie = hit_cookie(ctx, at_return);

	if (!at_return)
		return entry(ctx, cookie, true, may_sleep) ? 0 : NO_RETURN;
	finish(ctx, cookie, may_sleep);
	return 0;
}

SEC("uprobe")
int trace_entry(struct pt_regs *ctx)
{
	entry(ctx, probe_cookie(ctx), false, false);
	return 0;
}

SEC("uretprobe")
int trace_return(struct pt_regs *ctx)
{
	finish(ctx, probe_cookie(ctx), false);
	return 0;
}

SEC("uprobe.session")
int trace_session(struct pt_regs *ctx)
{
	return session(ctx, false);
}

/* Sleepable programs wait for pages that are not in memory. */
SEC("uprobe.s")
int trace_entry_sleepable(struct pt_regs *ctx)
{
	entry(ctx, probe_cookie(ctx), false, true);
	return 0;
}

SEC("uretprobe.s")
int trace_return_sleepable(struct pt_regs *ctx)
{
	finish(ctx, probe_cookie(ctx), true);
	return 0;
}

SEC("uprobe.session.s")
int trace_session_sleepable(struct pt_regs *ctx)
{
	return session(ctx, true);
}
