// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// USDT probes without sys/sdt.h, whose arguments are variables of the program: 13 hits of `counters:nop`, and of
// `counters:nop5`, whose instruction has five bytes on x86-64. At each hit, `hidden` is one less and `shown[1]` one more. The third
// argument is a constant, 250 in an unsigned byte, which compilers write as -6.
#if defined(__x86_64__)
#define NOP5 ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00"
#define CONSTANT "$"
#else
#define NOP5 "nop"
#define CONSTANT ""
#endif

#define PROBE(name, nop)                                                                                               \
	asm volatile("990: " nop "\n.pushsection .note.stapsdt, \"\", \"note\"\n.balign 4\n"                           \
		     ".4byte 8, 992f - 991f, 3\n.asciz \"stapsdt\"\n"                                                  \
		     "991: .8byte 990b, 0, 0\n.asciz \"counters\"\n.asciz \"" name "\"\n"                              \
		     ".ascii \"-4@%0 8@%1 1@" CONSTANT "-6\"\n.byte 0\n992: .balign 4\n.popsection"                                     \
		     :                                                                                                 \
		     : "m"(hidden), "m"(shown[1]))

/* Operands as compilers write them for programs that are not position independent, and for variables of libraries. */
#if defined(__x86_64__)
#define OPERANDS "8@shown+8 8@shown(,%%rdx,8) 8@shown(%%rcx) 8@shown@GOTPCREL(%%rip) 8@$shown 1@$-6 -1@$250 8@$-1"
#define PROBE_OPERANDS()                                                                                               \
	asm volatile("990: nop\n.pushsection .note.stapsdt, \"\", \"note\"\n.balign 4\n"                              \
		     ".4byte 8, 992f - 991f, 3\n.asciz \"stapsdt\"\n"                                                  \
		     "991: .8byte 990b, 0, 0\n.asciz \"counters\"\n.asciz \"operands\"\n"                             \
		     ".ascii \"" OPERANDS "\"\n.byte 0\n992: .balign 4\n.popsection"                                 \
		     :                                                                                                 \
		     : "c"(8UL), "d"(1UL))
#else
#define PROBE_OPERANDS()
#endif

static volatile int hidden = 7;
volatile unsigned long shown[2] = { 0, 1UL << 40 };

int main(void)
{
	for (int i = 0; i < 13; i++) {
		PROBE("nop", "nop");
		PROBE("nop5", NOP5);
		PROBE_OPERANDS();
		hidden--;
		shown[1]++;
	}
	return 0;
}
