// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Calls of @FUNCTION@: arguments, result and duration. */
#define CALL_ARGS 6 /* the arguments, from the entry to the return */
#include "event.bpf.h"
#include "filter.bpf.h"
#include "calls.bpf.h"

struct call_event {
	struct event_header header; /* time_ns: at the entry; func: index of the function */
	__u64 lat_ns;
	__u64 has_retval; /* 0 if the call ended in a jump to another function, whose result is not known yet */
	__u64 retval;
	__u64 args[CALL_ARGS];
};

EXPORT_TYPE(call_event);

/* Returns true if the return of the call is needed. */
static __always_inline bool enter(struct pt_regs *ctx, __u64 cookie)
{
	struct call *call;
	__u64 depth;

	if (!is_wanted())
		return false;
	call = call_enter(ctx, cookie, &depth);
	if (!call)
		return false;
	call->args[0] = PT_REGS_PARM1(ctx);
	call->args[1] = PT_REGS_PARM2(ctx);
	call->args[2] = PT_REGS_PARM3(ctx);
	call->args[3] = PT_REGS_PARM4(ctx);
	call->args[4] = PT_REGS_PARM5(ctx);
	call->args[5] = PT_REGS_PARM6(ctx);
	return true;
}

static __always_inline void leave(struct pt_regs *ctx, __u64 cookie)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 depth;
	struct call *call = call_return(ctx, cookie, &depth);
	struct call_event *e;

	if (!call)
		return;
	e = event_reserve(sizeof(*e));
	if (!e)
		return;
	event_header(&e->header, 0, cookie, call->start_ns);
	e->lat_ns = now - call->start_ns;
	e->has_retval = !(cookie & COOKIE_TAIL_JUMP);
	e->retval = PT_REGS_RC(ctx);
	__builtin_memcpy(e->args, call->args, sizeof(e->args));
	event_submit(e, sizeof(*e));
}

SEC("uprobe")
int @NAME@_entry(struct pt_regs *ctx)
{
	enter(ctx, probe_cookie(ctx));
	return 0;
}

SEC("uretprobe")
int @NAME@_return(struct pt_regs *ctx)
{
	leave(ctx, probe_cookie(ctx));
	return 0;
}

/* Both of the above, on kernels that run one program at both ends of a call. */
SEC("uprobe.session")
int @NAME@_session(struct pt_regs *ctx)
{
	bool at_return = returns_here(ctx);
	__u64 cookie = hit_cookie(ctx, at_return);

	if (!at_return)
		return enter(ctx, cookie) ? 0 : NO_RETURN;
	leave(ctx, cookie);
	return 0;
}
