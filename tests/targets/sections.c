// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls `add` and `total` 101 times each. Built with debug information in several forms.
#include <stdio.h>

#define CALLED __attribute__((noinline, noclone))
#define USE(x) __asm__ volatile("" : "+r"(x)::"memory")

struct point {
	int x, y;
};

CALLED long add(long a, long b)
{
	USE(a);
	return a + b;
}

CALLED int total(struct point *point)
{
	USE(point);
	return point->x + point->y;
}

int main(void)
{
	long sum = 0;

	for (int i = 0; i < 101; i++) {
		struct point point = { i, 2 };

		sum += add(i, 2) + total(&point);
	}
	printf("sum %ld\n", sum);
	return 0;
}
