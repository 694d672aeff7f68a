// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// x86-64 instructions that kernels execute as something else under a probe. Calls each function N times; exits with
// status 0 if all results are right.
#include <stdlib.h>

// `xchg %rax,%r8`, which kernels execute as a nop.
long swap_r8(long number);
__asm__(".globl swap_r8; .type swap_r8, @function; swap_r8:\n"
	".cfi_startproc\n mov %rdi, %r8\n jmp 1f\n 1: call exchange\n ret\n .cfi_endproc\n .size swap_r8, . - swap_r8\n"
	".globl exchange; .type exchange, @function; exchange:\n"
	".cfi_startproc\n .byte 0x49, 0x90\n ret\n .cfi_endproc\n .size exchange, . - exchange\n");

// A nop of five bytes behind what the function keeps below its stack pointer: some kernels replace it by a call.
long keep_below(long number);
__asm__(".globl keep_below; .type keep_below, @function; keep_below:\n"
	".cfi_startproc\n mov %rdi, -8(%rsp)\n mov %rdi, -16(%rsp)\n"
	".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" // keep_below+0xa
	"mov -8(%rsp), %rax\n add -16(%rsp), %rax\n ret\n .cfi_endproc\n .size keep_below, . - keep_below\n");

// A symbol and a USDT note that are wrong: no instruction starts there.
__asm__(".globl inside_keep_below; .type inside_keep_below, @function\n"
	".set inside_keep_below, keep_below + 1; .size inside_keep_below, 2\n"
	".pushsection .note.stapsdt, \"\", \"note\"\n .balign 4\n"
	".4byte 8, 2f - 1f, 3\n .asciz \"stapsdt\"\n"
	"1: .8byte keep_below + 1, 0, 0\n .asciz \"opcodes\"\n .asciz \"inside\"\n .asciz \"\"\n"
	"2: .balign 4\n .popsection\n");

int main(int argc, char **argv)
{
	long times = argc > 1 ? atol(argv[1]) : 1;

	for (long i = 1; i <= times; i++) {
		if (swap_r8(i) != i || keep_below(i) != 2 * i)
			return 1;
	}
	return 0;
}
