// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * usage: caller [-n] [-e] LIBRARY FUNCTION
 *
 * Calls a function of a library, which with -n is loaded in a namespace of its own. With -e, the main thread ends and
 * another one goes on. A line "COUNT ARG..." of standard input calls it COUNT times with up to six arguments:
 * numbers, or `zeros` for the address of 4 KiB of zeros. The answer is "TID RESULT..." and then "."; to any other line,
 * it is only ".".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_ARGS 6

typedef unsigned long function(unsigned long, unsigned long, unsigned long, unsigned long, unsigned long,
			       unsigned long);

static unsigned long value(const char *word)
{
	static char zeros[4096] __attribute__((aligned(4096)));

	return strcmp(word, "zeros") ? strtoul(word, NULL, 0) : (unsigned long)zeros;
}

static void call(function *function, unsigned long count, const unsigned long *arg)
{
	printf("%ld", (long)syscall(SYS_gettid));
	while (count--)
		printf(" 0x%lx", function(arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]));
	printf("\n");
}

static void obey(function *function, char *order)
{
	unsigned long arg[MAX_ARGS] = { 0 };
	unsigned long count;
	char *word = strtok(order, " \n");

	count = word ? strtoul(word, NULL, 0) : 0;
	for (int i = 0; i < MAX_ARGS && (word = strtok(NULL, " \n")); i++)
		arg[i] = value(word);
	if (count)
		call(function, count, arg);
}

static void *load(const char *path, int own)
{
#ifdef __GLIBC__
	if (own)
		return dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
#endif
	return dlopen(path, RTLD_NOW);
}

static void *obey_all(void *function_of_library)
{
	function *function = NULL;
	char order[256];

	*(void **)&function = function_of_library;
	while (fgets(order, sizeof(order), stdin)) {
		obey(function, order);
		printf(".\n");
		fflush(stdout);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	void *library, *function = NULL;
	int own = 0, end = 0, option;
	pthread_t thread;

	while ((option = getopt(argc, argv, "ne")) > 0) {
		own |= option == 'n';
		end |= option == 'e';
	}
	library = argc == optind + 2 ? load(argv[optind], own) : NULL;
	if (library)
		function = dlsym(library, argv[optind + 1]);
	if (!function) {
		fprintf(stderr, "%s\n", argc == optind + 2 ? dlerror() : "usage: caller [-n] [-e] LIBRARY FUNCTION");
		return 2;
	}
	if (!end)
		obey_all(function);
	if (pthread_create(&thread, NULL, obey_all, function))
		return 3;
	pthread_exit(NULL);
}
