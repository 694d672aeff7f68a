// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Calls functions a given number of times, in ways that are hard to trace. Reads orders as calls.c does:
 *
 *   WHAT COUNT [NUMBER]     do WHAT COUNT times
 *   threads N ORDER         N threads carry out ORDER at the same time
 *
 * Built with exceptions, like C++ programs, and without them, like C programs.
 *
 * WHAT: count, nap (NUMBER milliseconds), spin (NUMBER microseconds), recurse (NUMBER deep), nest, tail, jump, throw,
 * leave (a thread exits within a call), look (reads its own return address; the number after the TID in the answer
 * counts the calls that found a different address than the first one).
 */
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_THREADS 16
#define MAX_ORDER 256
#define TRACED extern "C" __attribute__((noinline, noclone, used))

static volatile unsigned long sink;

TRACED unsigned long counted(unsigned long number)
{
	return sink = number + 1;
}

TRACED void napping(unsigned long ms)
{
	struct timespec rest = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };

	while (nanosleep(&rest, &rest) && errno == EINTR)
		;
}

static unsigned long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000UL + now.tv_nsec;
}

TRACED void spinning(unsigned long us)
{
	unsigned long end = now_ns() + us * 1000;

	while (now_ns() < end)
		;
}

TRACED unsigned long recursing(unsigned long depth)
{
	unsigned long below = depth > 1 ? recursing(depth - 1) : 0;

	sink = below;
	return below + 1;
}

TRACED void nested_inner(unsigned long number)
{
	sink = number;
}

TRACED void nested_outer(unsigned long number)
{
	nested_inner(number);
	nested_inner(number + 1);
	nested_inner(number + 2);
	sink = number;
}

TRACED unsigned long tail_second(unsigned long number)
{
	return sink = number;
}

/* Compiled to a tail call. */
TRACED unsigned long tail_first(unsigned long number)
{
	sink = number;
	return tail_second(number + 1);
}

static thread_local jmp_buf landing;

TRACED void jumping(unsigned long number)
{
	sink = number;
	longjmp(landing, 1);
}

TRACED void jumped_over(unsigned long number)
{
	jumping(number);
	sink = number;
}

TRACED void landed(unsigned long number)
{
	if (!setjmp(landing))
		jumped_over(number);
	counted(number);
}

#ifdef __cpp_exceptions
TRACED void throwing(unsigned long number)
{
	if (number < ~0UL)
		throw number;
	sink = number;
}

TRACED void catching(unsigned long number)
{
	try {
		throwing(number);
	} catch (unsigned long caught) {
		sink = caught;
	}
}

#endif

static void *volatile first_found;
static thread_local unsigned long found_another;

/* A separate function: the tool treats a function that reads its own return address as one that may return twice. */
static __attribute__((noinline)) void look_behind(void **frame)
{
	void *found = frame[1];

	if (!first_found)
		first_found = found;
	found_another += found != first_found;
}

TRACED void looking(unsigned long number)
{
	look_behind((void **)__builtin_frame_address(0));
	sink = number;
}

TRACED void leaving(unsigned long number)
{
	sink = number;
	pthread_exit(nullptr);
}

static void *leave(void *number)
{
	leaving((unsigned long)number);
	return nullptr;
}

static void leave_thread(unsigned long number)
{
	pthread_t thread;

	pthread_create(&thread, nullptr, leave, (void *)number);
	pthread_join(thread, nullptr);
}

static void recurse(unsigned long depth)
{
	recursing(depth);
}

static void count(unsigned long number)
{
	counted(number);
}

static void look(unsigned long number)
{
	looking(number);
	sink = number;
}

static void tail(unsigned long number)
{
	tail_first(number);
}

static const struct {
	const char *what;
	void (*function)(unsigned long);
} orders[] = {
#ifdef __cpp_exceptions
	{ "throw", catching },
#endif
	{ "count", count },	{ "nap", napping },	   { "spin", spinning },
	{ "recurse", recurse }, { "nest", nested_outer },  { "tail", tail },
	{ "jump", landed },	{ "leave", leave_thread }, { "look", look },
};

static void answer(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		_exit(3);
}

static void obey(const char *order)
{
	char what[32], line[64];
	unsigned long times = 0, number = 0;

	if (sscanf(order, "%31s %lu %lu", what, &times, &number) < 2)
		_exit(2);
	for (const auto &known : orders)
		for (unsigned long i = 0; i < times && !strcmp(known.what, what); i++)
			known.function(number);
	snprintf(line, sizeof(line), "%ld %lu\n", (long)syscall(SYS_gettid), found_another);
	answer(line);
}

static pthread_barrier_t together;

static void *work(void *order)
{
	pthread_barrier_wait(&together);
	obey((const char *)order);
	return nullptr;
}

static void in_threads(unsigned int count, char *order)
{
	pthread_t threads[MAX_THREADS];

	if (count > MAX_THREADS)
		_exit(2);
	pthread_barrier_init(&together, nullptr, count);
	for (unsigned int i = 0; i < count; i++)
		pthread_create(&threads[i], nullptr, work, order);
	for (unsigned int i = 0; i < count; i++)
		pthread_join(threads[i], nullptr);
}

static void obey_line(char *order)
{
	unsigned int number;
	int rest = 0;

	if (sscanf(order, "threads %u %n", &number, &rest) == 1 && rest)
		in_threads(number, order + rest);
	else
		obey(order);
}

int main(int argc, char **argv)
{
	char order[MAX_ORDER];

	for (int i = 1; i < argc; i++)
		obey_line(argv[i]);
	while (argc == 1 && fgets(order, sizeof(order), stdin)) {
		order[strcspn(order, "\n")] = '\0';
		obey_line(order);
		answer(".\n");
	}
	return 0;
}
