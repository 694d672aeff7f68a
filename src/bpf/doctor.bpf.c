// SPDX-License-Identifier: GPL-2.0-only
/* What src/probe/trial.rs tries: programs that tell that they ran. */
#include "event.bpf.h"

__u64 entered = 0;
__u64 returned = 0;
/* The number that the entry was given. */
__u64 entry_cookie = 0;

SEC("uprobe")
int try_entry(struct pt_regs *ctx)
{
	entry_cookie = probe_cookie(ctx);
	__sync_fetch_and_add(&entered, 1);
	return 0;
}

SEC("uretprobe")
int try_return(struct pt_regs *ctx)
{
	probe_cookie(ctx);
	__sync_fetch_and_add(&returned, 1);
	return 0;
}
