// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Functions that get return probes, for alt_stack.c: in a file of their own, as that one uses sigaltstack.

int inner(int number)
{
	return number + 1;
}

static volatile int calls;

/*
 * The handler of SIGSEGV runs before the byte can be written. Not at the first instruction, which has the probe: it would
 * be hit again after the handler.
 */
int outer(char *page)
{
	calls++;
	*(volatile char *)page = 1;
	return 1;
}
