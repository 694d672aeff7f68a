// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Calls functions of the C library a given number of times, and no others that share their code. Orders are
 * "FUNCTION COUNT", as lines or arguments; each line is answered by ".". FUNCTION: strlen, memcpy, getpgid, spin (does
 * nothing).
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Read without stdio, which would call memcpy. */
static char order[64];

static void obey(const char *text)
{
	static char copy[sizeof(order)];
	char *number = strchr(text, ' ');

	for (unsigned long i = number ? strtoul(number, NULL, 10) : 0; i; i--) {
		if (text[0] == 's' && text[1] == 't')
			/* Keeps the compiler from hoisting the call out of the loop. */
			__asm__ volatile("" : : "r"(strlen(order)) : "memory");
		else if (text[0] == 'm')
			memcpy(copy, order, sizeof(copy));
		else if (text[0] == 'g')
			getpgid(0);
	}
}

int main(int argc, char **argv)
{
	ssize_t length;

	for (int i = 1; i < argc; i++)
		obey(argv[i]);
	while (argc == 1 && (length = read(0, order, sizeof(order) - 1)) > 0) {
		order[length] = '\0';
		obey(order);
		if (write(1, ".\n", 2) < 0)
			return 3;
	}
	return 0;
}
