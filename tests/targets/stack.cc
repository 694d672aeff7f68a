// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls malloc from nested functions with known names. Reads lines "go COUNT BYTES", "cut BYTES", "skip BYTES",
// "climb DEPTH" and "leave COUNT PROGRAM", each answered by ".".
#include <cstdio>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>

// The USDT probe shop:visited, as <sys/sdt.h> would define it.
#define VISITED() \
	asm volatile("1: nop\n" \
		     ".pushsection .note.stapsdt, \"\", \"note\"\n" \
		     ".balign 4\n" \
		     ".4byte 8, 3f - 2f, 3\n" \
		     ".asciz \"stapsdt\"\n" \
		     "2: .8byte 1b, 0, 0\n" \
		     ".asciz \"shop\"\n" \
		     ".asciz \"visited\"\n" \
		     ".asciz \"\"\n" \
		     "3: .balign 4\n" \
		     ".popsection\n")

namespace shop
{
class Basket
{
      public:
	void *fill(unsigned long bytes);
	template <typename Fruit> void *pick(Fruit bytes);
};

template <typename Fruit> __attribute__((noinline)) void *Basket::pick(Fruit bytes)
{
	void *block = malloc(bytes);

	asm volatile("" ::"r"(block) : "memory"); // prevents tail calls
	return block;
}

__attribute__((noinline)) void *Basket::fill(unsigned long bytes)
{
	void *block = pick(bytes);

	asm volatile("" ::"r"(block) : "memory");
	return block;
}

__attribute__((noinline)) static void visit(unsigned long bytes)
{
	Basket basket;

	free(basket.fill(bytes));
	VISITED();
}

// Calls itself `depth` times.
__attribute__((noinline)) static unsigned long climb(unsigned long depth)
{
	unsigned long steps = depth ? climb(depth - 1) + 1 : 0;

	asm volatile("" : "+r"(steps)); // prevents a loop
	return steps;
}

// `count` children call a function, and execute a program.
__attribute__((noinline)) static void leave(unsigned long count, const char *program)
{
	for (unsigned long i = 0; i < count; i++) {
		pid_t child = fork();

		if (!child) {
			climb(0);
			execl(program, program, nullptr);
			_exit(1);
		}
		waitpid(child, nullptr, 0);
	}
}
} // namespace shop

#if defined(__x86_64__)
// Calls malloc with an invalid frame pointer, as code does that is compiled with -fomit-frame-pointer.
extern "C" void *without_frame(unsigned long bytes);
asm(".text\n"
    ".type without_frame, @function\n"
    "without_frame:\n"
    "	push %rbp\n"
    "	xor %ebp, %ebp\n"
    "	call malloc@PLT\n"
    "	pop %rbp\n"
    "	ret\n"
    ".size without_frame, . - without_frame\n");

// Calls malloc with the frame pointer of its caller, which a walk over frame pointers skips.
extern "C" void *keep_frame(unsigned long bytes);
asm(".text\n"
    ".type keep_frame, @function\n"
    "keep_frame:\n"
    ".cfi_startproc\n"
    "	sub $8, %rsp\n"
    ".cfi_adjust_cfa_offset 8\n"
    "	call malloc@PLT\n"
    "	add $8, %rsp\n"
    ".cfi_adjust_cfa_offset -8\n"
    "	ret\n"
    ".cfi_endproc\n"
    ".size keep_frame, . - keep_frame\n");
#else
static void *keep_frame(unsigned long bytes)
{
	return malloc(bytes);
}

static void *without_frame(unsigned long bytes)
{
	return malloc(bytes);
}
#endif

__attribute__((noinline)) static void skipped(unsigned long bytes)
{
	free(keep_frame(bytes));
}

int main()
{
	char line[64], program[64];
	ssize_t length;

	while ((length = read(0, line, sizeof(line) - 1)) > 0) {
		unsigned long count = 0, bytes = 0;

		line[length] = '\0';
		if (sscanf(line, "go %lu %lu", &count, &bytes) == 2)
			for (unsigned long i = 0; i < count; i++)
				shop::visit(bytes);
		else if (sscanf(line, "cut %lu", &bytes) == 1)
			free(without_frame(bytes));
		else if (sscanf(line, "skip %lu", &bytes) == 1)
			skipped(bytes);
		else if (sscanf(line, "climb %lu", &count) == 1)
			shop::climb(count);
		else if (sscanf(line, "leave %lu %63s", &count, program) == 2)
			shop::leave(count, program);
		if (write(1, ".\n", 2) < 0)
			break;
	}
	return 0;
}
