/* SPDX-License-Identifier: GPL-2.0-only */
/* Slots of histograms, as src/output/histogram.rs and src/output/distribution.rs read them. */
#ifndef HISTOGRAM_BPF_H
#define HISTOGRAM_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define FINE_BITS 5 /* each power of two has 2^FINE_BITS slots: a slot is at most 1/32 of its values wide */

#define FINE_SLOTS 1920 /* 64 bits: as many as fine_slot has results */

/* Number of significant bits: 0 for 0, 64 for 2^63 and more. */
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

/* Small values have a slot each. */
static __always_inline __u32 fine_slot(__u64 value)
{
	__u32 bits = bits_of(value);
	__u32 shift = bits > FINE_BITS + 1 ? bits - FINE_BITS - 1 : 0;

	return (shift << FINE_BITS) + (value >> shift);
}

#endif
