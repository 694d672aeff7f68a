// SPDX-License-Identifier: GPL-2.0-only
/* Calls of any function: arguments, and with the return its result and duration, as src/probe/expr.rs plans them. */
#define CALL_ARGS 1 /* the machine that knows what the entry found out */
#define CALL_DROPPED(call) expr_give_back((call)->args[0])
#include "event.bpf.h"
#include "expr.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"

/* A function and where the operations for it begin. */
struct trace_function {
	__u32 entry_pc;
	__u32 return_pc;
	__u32 slots;
	__u32 returns; /* its row comes when it returns */
};

EXPORT_TYPE(trace_function);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* as many as there are functions */
	__type(key, __u32);
	__type(value, struct trace_function);
} functions SEC(".maps");

const volatile __u64 min_latency = 0; /* ns */
const volatile bool with_stack = false;

static __always_inline void emit(struct pt_regs *ctx, struct expr_machine *m, bool at_entry)
{
	if (with_stack)
		expr_add_stack(ctx, m, at_entry);
	expr_emit(m);
}

static __always_inline int entry(struct pt_regs *ctx, __u32 id, bool may_sleep)
{
	struct trace_function *function = bpf_map_lookup_elem(&functions, &id);
	struct expr_machine *m;
	struct call *call;
	__u64 depth = 0;
	__u32 index;

	if (!function || !expr_take(&index))
		return 0;
	m = expr_machine(index);
	if (!m)
		return 0;
	m->record.faulted = 0;
	m->record.cut = 0;
	m->record.lat_ns = 0;
	m->record.stack_at = 0;
	m->record.depth = 0;
	m->record.pad = 0;
	m->record.used = function->slots * sizeof(__u64);
	if (expr_run(ctx, m, index, function->entry_pc, may_sleep) != EXPR_YES)
		goto out;
	event_header(&m->record.header, 0, id, bpf_ktime_get_ns());
	if (!function->returns) {
		emit(ctx, m, true);
		goto out;
	}
	call = call_enter(ctx, id, &depth);
	if (!call)
		goto out;
	call->args[0] = index;
	m->record.depth = depth;
	m->record.header.time_ns = call->start_ns;
	return 0;
out:
	expr_give_back(index);
	return 0;
}

static __always_inline int finish(struct pt_regs *ctx, __u32 id, bool may_sleep)
{
	struct trace_function *function = bpf_map_lookup_elem(&functions, &id);
	struct expr_machine *m;
	struct call *call;
	__u64 depth;
	__u32 index;

	call = call_return(ctx, id, &depth);
	if (!call)
		return 0;
	index = call->args[0];
	m = expr_machine(index);
	if (!m || !function)
		return 0;
	m->record.lat_ns = bpf_ktime_get_ns() - m->record.header.time_ns;
	if (m->record.lat_ns >= min_latency && expr_run(ctx, m, index, function->return_pc, may_sleep) == EXPR_YES)
		emit(ctx, m, false);
	expr_give_back(index);
	return 0;
}

SEC("uprobe")
int trace_entry(struct pt_regs *ctx)
{
	__u64 id = probe_cookie(ctx);

	return is_wanted() ? entry(ctx, id, false) : 0;
}

SEC("uretprobe")
int trace_return(struct pt_regs *ctx)
{
	return finish(ctx, probe_cookie(ctx), false);
}

/* The same where pages can be waited for, which programs with a map of control groups may not. */
SEC("uprobe.s")
int trace_entry_sleepable(struct pt_regs *ctx)
{
	__u64 id = probe_cookie(ctx);

	return is_wanted_anywhere() ? entry(ctx, id, true) : 0;
}

SEC("uretprobe.s")
int trace_return_sleepable(struct pt_regs *ctx)
{
	return finish(ctx, probe_cookie(ctx), true);
}
