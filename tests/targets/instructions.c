// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls each function of instructions.py with the same registers, flags and memory; prints what it changes, or the
// signal that it raises. The program is not position-independent, so that two runs print the same.
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct instruction {
	void *function;
	const char *name;
	// For a string instruction: how many elements a repeat prefix stands for.
	uint64_t count;
};

extern const struct instruction instructions[];

enum { REGISTERS = 16, VECTORS = 16, FLAGS = 0x8d5, STACK_POINTER = 4 };

char memory[4096] __attribute__((aligned(4096)));
// In the order of their numbers in instructions.
uint64_t before[REGISTERS], after[REGISTERS], flags_after, kept_stack;
char vectors_before[VECTORS][16] __attribute__((aligned(16))), vectors_after[VECTORS][16] __attribute__((aligned(16)));
void *called;

void call(void);
#define EACH(do) \
	do(rax, 0) do(rcx, 1) do(rdx, 2) do(rbx, 3) do(rbp, 5) do(rsi, 6) do(rdi, 7) do(r8, 8) do(r9, 9) do(r10, 10) \
	do(r11, 11) do(r12, 12) do(r13, 13) do(r14, 14) do(r15, 15)
#define LOAD(name, number) "mov before + 8 * " #number "(%rip), %" #name "\n"
#define STORE(name, number) "mov %" #name ", after + 8 * " #number "(%rip)\n"
#define EACH_VECTOR(do) do(0) do(1) do(2) do(3) do(9) do(10)
#define LOAD_VECTOR(number) "movaps vectors_before + 16 * " #number "(%rip), %xmm" #number "\n"
#define STORE_VECTOR(number) "movaps %xmm" #number ", vectors_after + 16 * " #number "(%rip)\n"
__asm__(".text\n.globl call; call:\n push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"mov %rsp, kept_stack(%rip)\n" EACH_VECTOR(LOAD_VECTOR)
	"push $0x8d7\n popfq\n" EACH(LOAD) "call *called(%rip)\n" EACH(STORE)
	"pushfq\n pop flags_after(%rip)\n" EACH_VECTOR(STORE_VECTOR)
	"mov kept_stack(%rip), %rsp\n cld\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static sigjmp_buf back;

static void on_signal(int signal)
{
	siglongjmp(back, signal);
}

// FNV-1a.
static uint64_t hash(uint64_t sum, const void *data, size_t bytes)
{
	for (const unsigned char *byte = data; bytes--; byte++)
		sum = (sum ^ *byte) * 0x100000001b3;
	return sum;
}

static void run(const struct instruction *instruction)
{
	int signal = sigsetjmp(back, 1);
	uint64_t sum = 0xcbf29ce484222325;

	if (signal) {
		printf("%s signal %d\n", instruction->name, signal);
		return;
	}
	for (size_t i = 0; i < sizeof(memory); i++)
		memory[i] = (char)(i * 7);
	for (int i = 0; i < REGISTERS; i++)
		before[i] = (uint64_t)memory + 1024 + 64 * i;
	if (instruction->count)
		before[1] = instruction->count;
	for (size_t i = 0; i < sizeof(vectors_before); i++)
		vectors_before[i / 16][i % 16] = (char)(i * 5);
	called = instruction->function;
	call();
	// The auxiliary and overflow flags are undefined after some instructions, but a processor sets them the same.
	flags_after &= FLAGS;
	sum = hash(sum, after, sizeof(after));
	sum = hash(sum, &flags_after, sizeof(flags_after));
	sum = hash(sum, vectors_after, sizeof(vectors_after));
	sum = hash(sum, memory, sizeof(memory));
	printf("%s %016lx\n", instruction->name, sum);
}

int main(void)
{
	const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP};
	struct sigaction action = {.sa_handler = on_signal};

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
	for (const struct instruction *i = instructions; i->function; i++)
		run(i);
	return 0;
}
