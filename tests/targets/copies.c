// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Moves the page of a function to anonymous memory, as programs do to have their code in large pages. Each line of
 * standard input calls that function once, and is answered with ".".
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

__attribute__((noinline, aligned(PAGE))) int copied(int number)
{
	return number + 1;
}

__attribute__((noinline, aligned(PAGE))) int main(void)
{
	void *page = (void *)copied;
	void *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char line[256];
	int number = 0;

	if (copy == MAP_FAILED)
		return 1;
	memcpy(copy, page, PAGE);
	if (mremap(copy, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) != page)
		return 1;
	while (fgets(line, sizeof(line), stdin)) {
		number = copied(number);
		printf(".\n");
		fflush(stdout);
	}
	return number == 0;
}
