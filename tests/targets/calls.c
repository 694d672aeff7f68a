// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Makes the requested allocator calls and no others between them. Each line of standard input, or each argument, is an
 * order. The answer is a line "TID ADDRESS..." for each thread or process that made calls, followed by a line ".".
 *
 *   CALL COUNT ARG...   call it COUNT times with these arguments; each block is freed immediately
 *   threads N ORDER     N threads carry out ORDER at the same time
 *   fork ORDER          a child process carries out ORDER
 *   exec ORDER          a child process executes this program again with ORDER
 *   become PROGRAM      this process executes PROGRAM, which reads the following orders
 *   child               a child process reads the following orders until "exit"; then this process continues
 *   name COMM, setuid UID, spin MILLION, exit STATUS, raise SIGNAL
 *   total               print the number of allocator calls to stderr (with bump.c)
 *   where               answer with the address of malloc
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ADDRESSES 200 /* per answer, so that a single write holds it */
#define MAX_THREADS 16
#define MAX_ORDER 256

/* Allocated before main: the first call of the program. */
#define FIRST_CALL_BYTES 104729

unsigned long bump_calls(void) __attribute__((weak));

static const char *program;

__attribute__((constructor)) static void first_call(void)
{
	free(malloc(FIRST_CALL_BYTES));
}

static void *allocate(const char *call, const unsigned long *arg)
{
	void *block = NULL;

	if (!strcmp(call, "malloc"))
		return malloc(arg[0]);
	if (!strcmp(call, "calloc"))
		return calloc(arg[0], arg[1]);
	if (!strcmp(call, "realloc"))
		return realloc(malloc(1), arg[0]);
	if (!strcmp(call, "reallocarray"))
		return reallocarray(malloc(1), arg[0], arg[1]);
	if (!strcmp(call, "posix_memalign"))
		return posix_memalign(&block, arg[0], arg[1]) ? NULL : block;
	if (!strcmp(call, "aligned_alloc"))
		return aligned_alloc(arg[0], arg[1]);
	if (!strcmp(call, "memalign"))
		return memalign(arg[0], arg[1]);
#ifdef __GLIBC__
	if (!strcmp(call, "valloc"))
		return valloc(arg[0]);
	if (!strcmp(call, "pvalloc"))
		return pvalloc(arg[0]);
#endif
	dprintf(2, "no such order: %s\n", call);
	_exit(2);
}

static void answer(const char *text)
{
	if (write(1, text, strlen(text)) < 0)
		_exit(3);
}

static void call_many(const char *order)
{
	char call[32], line[64 + MAX_ADDRESSES * 20];
	unsigned long count = 0, arg[3] = { 0 };
	int used = snprintf(line, sizeof(line), "%ld", (long)syscall(SYS_gettid));

	if (sscanf(order, "%31s %lu %lu %lu %lu", call, &count, &arg[0], &arg[1], &arg[2]) < 2)
		_exit(2);
	for (unsigned long i = 0; i < count; i++) {
		void *block = allocate(call, arg);

		if (i < MAX_ADDRESSES)
			used += snprintf(line + used, sizeof(line) - used, " %#lx", (unsigned long)block);
		free(block);
	}
	snprintf(line + used, sizeof(line) - used, "\n");
	answer(line);
}

static pthread_barrier_t together;

static void obey(char *order);

static void *thread(void *order)
{
	pthread_barrier_wait(&together);
	obey(order);
	return NULL;
}

static void in_threads(unsigned int count, char *order)
{
	pthread_t threads[MAX_THREADS];

	if (count > MAX_THREADS)
		_exit(2);
	pthread_barrier_init(&together, NULL, count);
	for (unsigned int i = 0; i < count; i++)
		pthread_create(&threads[i], NULL, thread, order);
	for (unsigned int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static void in_child(char *order, int execute)
{
	char *const argv[] = { (char *)program, order, NULL };
	pid_t child = fork();

	if (child == 0 && execute) {
		execv(program, argv);
		_exit(4);
	}
	if (child == 0) {
		call_many(order);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static void become(char *other)
{
	char *const argv[] = { other, NULL };

	execv(other, argv);
	_exit(4);
}

static void go_on_in_child(void)
{
	pid_t child = fork();

	if (child)
		waitpid(child, NULL, 0);
}

static void spin(unsigned long millions)
{
	for (volatile unsigned long i = 0; i < millions * 1000000; i++)
		;
}

/* dprintf would call the allocator. */
static void total(void)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%lu calls\n", bump_calls ? bump_calls() : 0);

	if (write(2, line, length) < 0)
		_exit(3);
}

static void obey(char *order)
{
	char line[64] = "", name[16];
	unsigned int number = 0;
	int rest = 0;

	if (sscanf(order, "threads %u %n", &number, &rest) == 1 && rest)
		in_threads(number, order + rest);
	else if (!strncmp(order, "fork ", 5))
		in_child(order + 5, 0);
	else if (!strncmp(order, "exec ", 5))
		in_child(order + 5, 1);
	else if (!strncmp(order, "become ", 7))
		become(order + 7);
	else if (!strcmp(order, "child"))
		go_on_in_child();
	else if (sscanf(order, "name %15s", name) == 1)
		prctl(PR_SET_NAME, name);
	else if (sscanf(order, "setuid %u", &number) == 1)
		number = setuid(number);
	else if (sscanf(order, "spin %u", &number) == 1)
		spin(number);
	else if (sscanf(order, "exit %u", &number) == 1)
		_exit(number);
	else if (sscanf(order, "raise %u", &number) == 1)
		raise(number);
	else if (!strcmp(order, "total"))
		total();
	else if (!strcmp(order, "where"))
		snprintf(line, sizeof(line), "%ld %#lx\n", (long)getpid(), (unsigned long)malloc);
	else
		call_many(order);
	answer(line);
}

/* Reads byte by byte, because stdio would allocate a buffer. */
static int read_order(char *order)
{
	size_t length = 0;

	while (length < MAX_ORDER - 1 && read(0, order + length, 1) == 1) {
		if (order[length++] == '\n') {
			order[length - 1] = '\0';
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	char order[MAX_ORDER];

	program = argv[0];
	for (int i = 1; i < argc; i++)
		obey(argv[i]);
	while (argc == 1 && read_order(order)) {
		obey(order);
		answer(".\n");
	}
	return 0;
}
