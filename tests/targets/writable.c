// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls a function 101 times that is in a segment in which the program may write.
#include <stdio.h>

#if defined(__x86_64__)
#define ADD_AND_RETURN "lea 1(%rdi), %rax\n ret\n"
#else
#define ADD_AND_RETURN "add x0, x0, #1\n ret\n"
#endif
__asm__(".section .writable, \"awx\", %progbits\n.globl increase\n.type increase, %function\n"
	"increase: " ADD_AND_RETURN ".size increase, .-increase\n.text\n");
long increase(long number);

int main(void)
{
	long sum = 0;

	for (int i = 0; i < 101; i++)
		sum = increase(sum);
	printf("sum %ld\n", sum);
	return 0;
}
