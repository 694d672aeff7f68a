// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Empty programs, to measure the price of a trap. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("uprobe")
int price_entry(struct pt_regs *ctx)
{
	return 0;
}

SEC("uretprobe")
int price_return(struct pt_regs *ctx)
{
	return 0;
}
