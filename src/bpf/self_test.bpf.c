// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Programs that count their runs, for the self-test of doctor. */
#include "event.bpf.h"

__u64 entered = 0;
__u64 returned = 0;
/* The cookie that the entry program got. */
__u64 entry_cookie = 0;

/*
 * Other processes may run the same test: perf's return probes run for every process that has one there (see
 * is_own_probe).
 */
static __always_inline bool is_tested_process(void)
{
	return current_ids() >> 32 == filter_pid;
}

SEC("uprobe")
int test_entry(struct pt_regs *ctx)
{
	__u64 cookie = probe_cookie(ctx);

	if (!is_tested_process())
		return 0;
	entry_cookie = cookie;
	__sync_fetch_and_add(&entered, 1);
	return 0;
}

SEC("uretprobe")
int test_return(struct pt_regs *ctx)
{
	probe_cookie(ctx);
	if (is_tested_process())
		__sync_fetch_and_add(&returned, 1);
	return 0;
}
