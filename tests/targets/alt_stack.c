// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// alt_stack above|below|disarmed|leave N LIBRARY: a signal handler on an alternate stack calls `inner` of the library
// twice while `outer`, N times, waits for a page that may be written. The stack is above that of the thread or below it;
// disarmed: above, and not in use as far as the kernel knows while the handler runs; leave: below, and the handler leaves
// with siglongjmp.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

#define PAGE 4096
#define STACK (16 * PAGE)

static char *page;
static long sum;
static int leaves;
static sigjmp_buf left;
static int (*inner)(int);
static int (*outer)(char *);

static void handle(int signal)
{
	(void)signal;
	sum += inner(60);
	sum += inner(61);
	mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	if (leaves)
		siglongjmp(left, 1);
}

static void wait_for_page(void)
{
	mprotect(page, PAGE, PROT_NONE);
	if (sigsetjmp(left, 1))
		return;
	sum += outer(page);
}

struct round {
	void *alt;
	int flags;
	int times;
};

static void *run(void *argument)
{
	struct round *round = argument;
	stack_t alt = { .ss_sp = round->alt, .ss_size = STACK, .ss_flags = round->flags };

	if (sigaltstack(&alt, NULL))
		return NULL;
	for (int i = 0; i < round->times; i++)
		wait_for_page();
	return round;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	struct round round = { .times = argc > 2 ? atoi(argv[2]) : 1 };
	struct sigaction action = { .sa_handler = handle, .sa_flags = SA_ONSTACK };
	void *library = argc > 3 ? dlopen(argv[3], RTLD_NOW) : NULL;
	/* New mappings are put below older ones. Guard pages keep the stacks from becoming one mapping. */
	char *above = mmap(NULL, STACK + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *stack = mmap(NULL, STACK + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *below = mmap(NULL, STACK + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attributes;
	pthread_t thread;
	void *result;

	if (!library)
		return 2;
	inner = (int (*)(int))dlsym(library, "inner");
	outer = (int (*)(char *))dlsym(library, "outer");
	page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(above + PAGE, STACK, PROT_READ | PROT_WRITE);
	mprotect(stack + PAGE, STACK, PROT_READ | PROT_WRITE);
	mprotect(below + PAGE, STACK, PROT_READ | PROT_WRITE);
	sigaction(SIGSEGV, &action, NULL);
	leaves = !strcmp(mode, "leave");
	round.alt = (!strcmp(mode, "below") || leaves ? below : above) + PAGE;
	round.flags = strcmp(mode, "disarmed") ? 0 : (int)SS_AUTODISARM;
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack + PAGE, STACK);
	if (above < stack || stack < below || pthread_create(&thread, &attributes, run, &round))
		return 2;
	pthread_join(thread, &result);
	printf("sum %ld\n", result ? sum : -1);
	return !result;
}
