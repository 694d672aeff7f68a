// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls `scaled` 101 times, of which the optimizer makes a copy without the parameters that are constant or unused.
#include <stdio.h>

static __attribute__((noinline)) int scaled(int *number, int unused, int by)
{
	return *number * by;
}

int main(int argc, char **argv)
{
	int number, sum = 0;

	(void)argv;
	for (int i = 0; i < 101; i++) {
		number = argc + i;
		sum += scaled(&number, i, 3);
	}
	printf("%p sum %d\n", (void *)&number, sum);
	return 0;
}
