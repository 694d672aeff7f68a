// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// jumpers N: functions that end with a jump to another one, which ends with a jump to a third. Each is called N times.
#include <stdio.h>
#include <stdlib.h>

#define JUMPER(name, target) \
	__attribute__((noipa)) int name(int number) \
	{ \
		return target(number + 1); \
	}

__attribute__((noipa)) int last(int number)
{
	return number * 2;
}

JUMPER(inner_jumper, last)
JUMPER(outer_jumper, inner_jumper)
JUMPER(jumper_1, last)
JUMPER(jumper_2, last)
JUMPER(jumper_3, last)
JUMPER(jumper_4, last)

int main(int argc, char **argv)
{
	int times = argc > 1 ? atoi(argv[1]) : 1;
	long sum = 0;

	for (int i = 0; i < times; i++) {
		sum += outer_jumper(i);
		sum += jumper_1(i) + jumper_2(i) + jumper_3(i) + jumper_4(i);
	}
	printf("sum %ld\n", sum);
	return 0;
}
