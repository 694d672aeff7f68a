// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// moved N: calls a function N times. Part of it is elsewhere, as compilers do with code that is seldom needed, and has a
// return of its own and no symbol. Only for x86-64.
#include <stdio.h>
#include <stdlib.h>

int moved(int number);

asm(".text\n"
    ".globl moved\n"
    ".type moved, @function\n"
    "moved:\n"
    ".cfi_startproc\n"
    "push %rbx\n"
    ".cfi_def_cfa_offset 16\n"
    "test $3, %edi\n"
    "je moved.cold\n"
    "lea 2(%rdi), %eax\n"
    "pop %rbx\n"
    ".cfi_def_cfa_offset 8\n"
    "ret\n"
    ".cfi_endproc\n"
    ".size moved, .-moved\n"
    ".section .text.unlikely,\"ax\",@progbits\n"
    "moved.cold:\n"
    ".cfi_startproc\n"
    ".cfi_def_cfa_offset 16\n"
    "mov $1, %eax\n"
    "pop %rbx\n"
    ".cfi_def_cfa_offset 8\n"
    "ret\n"
    ".cfi_endproc\n"
    ".size moved.cold, .-moved.cold\n"
    ".text\n");

int main(int argc, char **argv)
{
	int times = argc > 1 ? atoi(argv[1]) : 1;
	long sum = 0;

	for (int i = 0; i < times; i++)
		sum += moved(i);
	printf("sum %ld\n", sum);
	return 0;
}
