/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Slots of histograms. */
#ifndef HISTOGRAM_BPF_H
#define HISTOGRAM_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

/* Each power of two has 2^FINE_BITS slots, so that a slot is at most 1/32 of its values wide. */
enum histogram_layout {
	FINE_BITS = 5,
	FINE_SLOTS = (64 - FINE_BITS + 1) << FINE_BITS, /* number of results of fine_slot */
};

/* Number of significant bits: 0 for 0, 64 for 2^63 and above. */
static __always_inline __u32 bits_of(__u64 value)
{
	__u32 bits = 0;

	for (__u32 step = 32; step; step >>= 1) {
		if (value >> step) {
			value >>= step;
			bits += step;
		}
	}
	return bits + (value != 0);
}

/* The slot of a value. Values below 2^(FINE_BITS + 1) have a slot each. */
static __always_inline __u32 fine_slot(__u64 value)
{
	__u32 bits = bits_of(value);
	__u32 shift = bits > FINE_BITS + 1 ? bits - FINE_BITS - 1 : 0;

	return (shift << FINE_BITS) + (value >> shift);
}

#endif
