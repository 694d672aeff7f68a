/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which entry of `threads` (calls.bpf.h) has the shadow stack of a thread or goroutine. */
#ifndef OWNERS_BPF_H
#define OWNERS_BPF_H

#include "stack_owner.bpf.h"

/*
 * `owner_sets` is a hash table from owners to entries of `threads`, which is looked up without leaving the program. A
 * lookup in a kernel hash map costs a call a sixth of what an empty probe does (docs/performance.md). Once an entry is
 * claimed, only its owner reads and writes it, so it needs no lock.
 */
enum call_layout {
	OWNERS = 8, /* in a set */
	OWNER_SETS_LOG2 = 10,
	OWNER_SETS = 1 << OWNER_SETS_LOG2,
	THREADS = OWNERS * OWNER_SETS,
};

/* The maps here have one entry in tools that do not match returns with entries: user space sets the sizes. */

/*
 * The set that the hash selects, and those after it. With 8192 entries, 4096 threads all found room in these; of 6144
 * threads with random TIDs, one in 300 did not.
 */
#define SETS_TRIED 4

struct owner {
	struct stack_owner id;
	__u64 index; /* in `threads`; stored, because if it were computed the verifier would follow a path per owner */
};

struct owner_set {
	struct owner owners[OWNERS];
	__u64 spilled; /* was full once, so owners that hash here may be in the next set */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* OWNER_SETS */
	__type(key, __u32);
	__type(value, struct owner_set);
} owner_sets SEC(".maps");

/* Entries of `threads` in use. Inserting the index here claims it: the map lets only one insertion succeed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* THREADS */
	__type(key, __u32);
	__type(value, __u8);
} claims SEC(".maps");

#define NO_THREAD (-1)

/* Goroutines have had entries. Nothing says when they end: their entries are freed with their process. */
__u64 has_goroutines = 0;

/* The index in `threads` of an owner, or NO_THREAD if it is not in this set. */
static __always_inline int thread_in(struct owner_set *set, struct stack_owner *id)
{
	for (int i = 0; i < OWNERS; i++) {
		struct owner *owner = &set->owners[i];

		if (owner->id.thread == id->thread && owner->id.goroutine == id->goroutine)
			return owner->index;
	}
	return NO_THREAD;
}

static __always_inline __u32 first_set(struct stack_owner *owner)
{
	/* Fibonacci hashing, 2^32 / golden ratio: spreads consecutive IDs. */
	return ((__u32)(owner->thread ^ owner->goroutine) * 0x9e3779b1) >> (32 - OWNER_SETS_LOG2);
}

/*
 * Global functions, here and below: the verifier follows each of them once per program, instead of once per path that
 * leads to it. With its loops split in two, this file costs it 1,000 instructions per program; inlined, 7.2 took
 * seconds. On 5.10 such functions take numbers only, so they look up what they work on.
 */
__noinline int thread_in_set(__u32 in_set, __u64 of_thread, __u64 of_goroutine)
{
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &in_set);
	struct stack_owner owner = { of_thread, of_goroutine };

	return set ? thread_in(set, &owner) : NO_THREAD;
}

/* The index in `threads` of an owner in one of the sets after its first, or NO_THREAD. */
__noinline int spilled_thread(__u64 of_thread, __u64 of_goroutine)
{
	struct stack_owner owner = { of_thread, of_goroutine };
	__u32 first = first_set(&owner);

	for (__u32 i = 1; i < SETS_TRIED; i++) {
		__u32 index = (first + i) & (OWNER_SETS - 1);
		struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &index);
		int found = thread_in_set(index, of_thread, of_goroutine);

		if (found != NO_THREAD)
			return found;
		if (!set || !set->spilled)
			break;
	}
	return NO_THREAD;
}

/* Claims an entry of a set for an owner. Returns its index in `threads`, or NO_THREAD if the set is full. */
__noinline int claim_in_set(__u32 in_set, __u64 of_thread, __u64 of_goroutine)
{
	struct owner owner = { { of_thread, of_goroutine }, 0 };
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &in_set);
	__u8 one = 1;

	if (!set)
		return NO_THREAD;
	for (__u32 i = 0; i < OWNERS; i++) {
		__u32 index = in_set * OWNERS + i;

		if (!set->owners[i].id.thread && !bpf_map_update_elem(&claims, &index, &one, BPF_NOEXIST)) {
			owner.index = index;
			set->owners[i] = owner;
			return index;
		}
	}
	set->spilled = 1;
	return NO_THREAD;
}

/* Claims an entry for an owner, in the first set with room. Returns its index in `threads`, or NO_THREAD. */
__noinline int claim_thread(__u64 of_thread, __u64 of_goroutine)
{
	struct stack_owner owner = { of_thread, of_goroutine };
	__u32 first = first_set(&owner);

	if (of_goroutine && !has_goroutines)
		has_goroutines = 1;
	for (__u32 i = 0; i < SETS_TRIED; i++) {
		int index = claim_in_set((first + i) & (OWNER_SETS - 1), of_thread, of_goroutine);

		if (index != NO_THREAD)
			return index;
	}
	return NO_THREAD;
}

/* The index in `threads` of an owner, or NO_THREAD. */
static __always_inline int thread_of(struct stack_owner *owner)
{
	__u32 index = first_set(owner);
	struct owner_set *set = bpf_map_lookup_elem(&owner_sets, &index);
	int found;

	if (!set)
		return NO_THREAD;
	found = thread_in(set, owner);
	if (found == NO_THREAD && set->spilled)
		found = spilled_thread(owner->thread, owner->goroutine);
	return found;
}

#endif
