// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * A bump allocator that counts all calls to it and never frees memory. Some calls are nested in ways that are hard to
 * match with their returns: malloc calls itself for some sizes, and valloc makes a tail call to malloc.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static char room[64 << 20] __attribute__((aligned(4096)));
static size_t used;
static unsigned long calls;

unsigned long bump_calls(void)
{
	return __atomic_load_n(&calls, __ATOMIC_RELAXED);
}

#ifdef BEGIN_WITH_LOCK
#define COUNT __attribute__((always_inline)) inline /* functions start with an instruction that cannot be probed */
#else
#define COUNT __attribute__((noinline))
#endif

static COUNT void count(void)
{
	__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
}

/* The size is stored before the block, for realloc. */
static void *take(size_t align, size_t size)
{
	size_t before = align < 16 ? 16 : align;
	size_t start = __atomic_fetch_add(&used, before * 2 + size, __ATOMIC_RELAXED);
	char *block = room + ((start + before + before - 1) & ~(before - 1));

	if (size > sizeof(room) || block + size > room + sizeof(room)) {
		errno = ENOMEM;
		return NULL;
	}
	((size_t *)block)[-1] = size;
	return block;
}

/* malloc recurses once for each byte above FLAT_BYTES, for sizes up to DEEPEST_BYTES. */
#define FLAT_BYTES 7001
#define DEEPEST_BYTES 7004
#define BYTES_A_LEVEL 16
/* A size for which malloc raises a signal. */
#define RAISING_BYTES 7919

void *malloc(size_t size);
static void *(*volatile again)(size_t) = malloc; /* volatile, or the compiler turns the recursion into a loop */

void *malloc(size_t size)
{
	count();
#ifndef BEGIN_WITH_LOCK
	if (size == RAISING_BYTES)
		raise(SIGUSR1);
#endif
	if (size > FLAT_BYTES && size <= DEEPEST_BYTES)
		return (char *)again(size - 1) + BYTES_A_LEVEL;
	return take(16, size);
}

void *valloc(size_t size)
{
	count();
	return again(size); /* compiled to a tail call */
}

void *calloc(size_t number, size_t size)
{
	count();
	return size && number > SIZE_MAX / size ? NULL : take(16, number * size); /* static memory is zero */
}

void *realloc(void *old, size_t size)
{
	void *block;

	count();
	block = take(16, size);
	if (block && old) {
		size_t kept = ((size_t *)old)[-1];

		memcpy(block, old, kept < size ? kept : size);
	}
	return block;
}

void *aligned_alloc(size_t align, size_t size)
{
	count();
	return take(align, size);
}

int posix_memalign(void **block, size_t align, size_t size)
{
	count();
	*block = take(align, size);
	return *block ? 0 : ENOMEM;
}

void free(void *block)
{
	(void)block;
	count();
}
