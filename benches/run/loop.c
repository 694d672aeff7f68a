// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * The traced program. Each line on standard input is a number of calls, and optionally a function. Every thread makes
 * that many calls at once, of the function or of malloc and free. The answer is the time before the first call
 * (CLOCK_MONOTONIC) and the CPU time of the main thread for all calls, both in nanoseconds. Nothing else allocates
 * after the first line of output, so a tracer has to see exactly these calls.
 */
#include <gnu/libc-version.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static pthread_barrier_t together;
static unsigned long calls;

/* Functions that differ in their first instruction; the second one is the same. */
#if defined(__x86_64__)
#define BEGINS_WITH(name, instruction)                                                                                 \
	asm(".globl " #name "\n.type " #name ", @function\n" #name ":\n" instruction                                   \
	    "\npush %rbx\npop %rbx\nret\n.size " #name ", . - " #name "\n");                                           \
	void name(void)

BEGINS_WITH(begins_push, "");
BEGINS_WITH(begins_endbr64, "endbr64");
BEGINS_WITH(begins_test, "test %rdi,%rdi");

static const struct {
	const char *name;
	void (*function)(void);
} functions[] = {
	{ "begins_push", begins_push },
	{ "begins_endbr64", begins_endbr64 },
	{ "begins_test", begins_test },
};
#endif
static void (*function)(void);

static void choose(const char *name)
{
	function = NULL;
#if defined(__x86_64__)
	for (unsigned int i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (!strcmp(functions[i].name, name))
			function = functions[i].function;
#endif
}

static unsigned long long now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void burst(void)
{
	for (unsigned long i = 0; function && i < calls; i++)
		function();
	for (unsigned long i = 0; !function && i < calls; i++) {
		void *volatile block = malloc(100); /* volatile: otherwise the compiler removes both calls */

		free(block);
	}
}

static void *helper(void *unused)
{
	for (;;) {
		pthread_barrier_wait(&together);
		burst();
		pthread_barrier_wait(&together);
	}
	return unused;
}

/* printf and dprintf allocate. */
static void write_line(const char *line, ssize_t length)
{
	if (write(1, line, length) != length)
		exit(1);
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 1;
	char line[128];

	pthread_barrier_init(&together, NULL, threads);
	for (int i = 1; i < threads; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, helper, NULL))
			return 1;
	}
	/* The address that the dynamic loader resolved. */
	write_line(line, snprintf(line, sizeof(line), "%p %s\n", (void *)malloc, gnu_get_libc_version()));
	for (;;) {
		ssize_t length = read(0, line, sizeof(line) - 1);
		unsigned long long start, cpu;
		char *rest;

		if (length <= 0)
			return 0;
		line[length] = 0;
		line[strcspn(line, "\n")] = 0;
		calls = strtoul(line, &rest, 10);
		choose(rest + strspn(rest, " "));
		pthread_barrier_wait(&together);
		start = now_ns(CLOCK_MONOTONIC);
		cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
		burst();
		cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
		pthread_barrier_wait(&together);
		write_line(line, snprintf(line, sizeof(line), "%llu %llu\n", start, cpu));
	}
}
