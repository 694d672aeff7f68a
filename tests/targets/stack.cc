// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls malloc from nested functions with known names. Reads lines "go COUNT BYTES" and "cut BYTES", each answered by
// ".".
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

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
#else
static void *without_frame(unsigned long bytes)
{
	return malloc(bytes);
}
#endif

int main()
{
	char line[64];
	ssize_t length;

	while ((length = read(0, line, sizeof(line) - 1)) > 0) {
		unsigned long count = 0, bytes = 0;

		line[length] = '\0';
		if (sscanf(line, "go %lu %lu", &count, &bytes) == 2)
			for (unsigned long i = 0; i < count; i++)
				shop::visit(bytes);
		else if (sscanf(line, "cut %lu", &bytes) == 1)
			free(without_frame(bytes));
		if (write(1, ".\n", 2) < 0)
			break;
	}
	return 0;
}
