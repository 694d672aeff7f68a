// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// turns: calls functions whose loops lead back to their first instruction.
//
//   last     11 calls, of 50 turns each, from one place; jumps back on a condition
//   down     13 calls, of 1 to 13 turns; jumps back always
//   either   17 calls, of 5 turns; jumps back in two places
//   nested   7 calls, of 3 turns, each of which calls `down` for 2 turns
//   counted  5 calls, of 50 turns; on a condition that a tracer cannot see in the flags
#include <stddef.h>

struct node {
	struct node *next;
};

struct node *last(struct node *node);
long down(long turns);
long either(long turns);
long nested(long turns);
long counted(long turns);

#define FUNCTION(name, code)                                                                                           \
	asm(".globl " #name "\n.type " #name ", @function\n" #name ":\n" code ".size " #name ", .-" #name "\n")

#if defined(__x86_64__)
FUNCTION(last, "mov %rdi, %rax\n mov (%rdi), %rdi\n test %rdi, %rdi\n jne last\n ret\n");
FUNCTION(down, "dec %rdi\n js 1f\n jmp down\n 1: mov %rdi, %rax\n ret\n");
FUNCTION(either, "dec %rdi\n test $1, %rdi\n jne either\n test %rdi, %rdi\n jne either\n mov %rdi, %rax\n ret\n");
FUNCTION(nested, "dec %rdi\n js 1f\n push %rdi\n mov $2, %edi\n call down\n pop %rdi\n jmp nested\n"
		 "1: mov %rdi, %rax\n ret\n");
FUNCTION(counted, "lea -1(%rdi), %rdi\n lea 1(%rdi), %rcx\n loop counted\n mov %rdi, %rax\n ret\n");
#else
FUNCTION(last, "mov x1, x0\n ldr x0, [x0]\n cmp x0, #0\n b.ne last\n mov x0, x1\n ret\n");
FUNCTION(down, "subs x0, x0, #1\n b.mi 1f\n b down\n 1: ret\n");
FUNCTION(either, "subs x0, x0, #1\n tst x0, #1\n b.ne either\n cmp x0, #0\n b.ne either\n ret\n");
FUNCTION(nested, "subs x0, x0, #1\n b.mi 1f\n stp x29, x30, [sp, #-32]!\n str x0, [sp, #16]\n mov x0, #2\n bl down\n"
		 "ldr x0, [sp, #16]\n ldp x29, x30, [sp], #32\n b nested\n 1: ret\n");
FUNCTION(counted, "sub x0, x0, #1\n cbnz x0, counted\n ret\n");
#endif

int main(void)
{
	static struct node nodes[50];
	int failed = 0;

	for (size_t i = 0; i + 1 < 50; i++)
		nodes[i].next = &nodes[i + 1];
	for (long i = 0; i < 11; i++)
		failed |= last(nodes) != &nodes[49];
	for (long i = 0; i < 13; i++)
		failed |= down(i) != -1;
	for (long i = 0; i < 17; i++)
		failed |= either(5) != 0;
	for (long i = 0; i < 7; i++)
		failed |= nested(3) != -1;
	for (long i = 0; i < 5; i++)
		failed |= counted(50) != 0;
	return failed;
}
