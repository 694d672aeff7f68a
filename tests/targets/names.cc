// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/* Calls functions whose names are written in several ways, each a fixed number of times. */
#include <cstdio>
#include <string>

#define CALLED __attribute__((noinline, noclone))

namespace app
{
/* With an ABI tag in its symbol. */
CALLED std::string greet(int n)
{
	return std::string(n % 7, 'x');
}
} // namespace app

CALLED int len(std::string text)
{
	return text.size();
}

struct A {
	int n;
	CALLED A operator*(int by) const
	{
		return { n * by };
	}
	CALLED A &operator*=(int by)
	{
		n += by;
		return *this;
	}
	CALLED A operator+(int by) const
	{
		return { n - by };
	}
};

CALLED int f(char *text)
{
	__asm__ volatile("" ::: "memory");
	return text[0];
}

CALLED int f(const char *text, int at)
{
	__asm__ volatile("" ::: "memory");
	return text[at];
}

/* gcc makes a copy for the only value of `by`. */
static __attribute__((noinline)) int scale(int n, int by, int)
{
	__asm__ volatile("" ::: "memory");
	return n * by;
}

#if defined(__x86_64__)
#define ADD_AND_RETURN "lea 1(%rdi), %rax\n ret\n"
#define COUNT_DOWN "inside: dec %rdi\n jnz inside\n ret\n"
#else
#define ADD_AND_RETURN "add x0, x0, #1\n ret\n"
#define COUNT_DOWN "inside: subs x0, x0, #1\n b.ne inside\n ret\n"
#endif
__asm__(".text\n.globl untyped\n.globl same\nuntyped:\nsame: " ADD_AND_RETURN
	".globl unsized\n.type unsized, %function\n"
	"unsized: " ADD_AND_RETURN
	/* As clang 19 names `template <std::integral T> long twice(T)` and one with `requires`. */
	".globl _Z6thriceITkSt8integrallET_S0_\n.type _Z6thriceITkSt8integrallET_S0_, %function\n"
	"_Z6thriceITkSt8integrallET_S0_: " ADD_AND_RETURN
	".globl _Z5twiceIlQsr3stdE8integralIT_EES0_S0_\n.type _Z5twiceIlQsr3stdE8integralIT_EES0_S0_, %function\n"
	"_Z5twiceIlQsr3stdE8integralIT_EES0_S0_: " ADD_AND_RETURN "own: " ADD_AND_RETURN ".globl loops\nloops: nop\n" COUNT_DOWN);
extern "C" long untyped(long);
extern "C" long unsized(long);
extern "C" long own(long);
long thrice(long) __asm__("_Z6thriceITkSt8integrallET_S0_");
long twice(long) __asm__("_Z5twiceIlQsr3stdE8integralIT_EES0_S0_");

template <typename... T> CALLED long pack(T... numbers)
{
	__asm__ volatile("" ::: "memory");
	return (0 + ... + numbers);
}
extern "C" void loops(long);

extern "C" {
static CALLED int chosen_one(int n)
{
	__asm__ volatile("");
	return n + 1;
}
static CALLED int chosen_other(int n)
{
	__asm__ volatile("");
	return n + 2;
}
static int choice = 1;
static int (*choose(void))(int)
{
	return choice ? chosen_one : chosen_other;
}
int chosen(int n) __attribute__((ifunc("choose")));
CALLED int first_name(int n)
{
	__asm__ volatile("");
	return n + 3;
}
int second_name(int n) __attribute__((alias("first_name"), nothrow));
static int local_name(int n) __attribute__((alias("first_name"), nothrow));
int __internal_name(int n) __attribute__((alias("first_name"), nothrow));
}

int main()
{
	char text[] = "text";
	A a = { 1 };
	long sum = 0;
	for (int i = 0; i < 97; i++)
		sum += app::greet(i).size() + len("text");
	for (int i = 0; i < 89; i++)
		sum += (a * i).n;
	for (int i = 0; i < 7; i++)
		sum += (a *= i).n;
	for (int i = 0; i < 3; i++)
		sum += (a + i).n;
	for (int i = 0; i < 11; i++)
		sum += f(text);
	for (int i = 0; i < 13; i++)
		sum += f(text, 1);
	for (int i = 0; i < 83; i++)
		sum += scale(i, 3, i);
	for (int i = 0; i < 79; i++)
		sum = unsized(untyped(sum));
	for (int i = 0; i < 67; i++)
		sum = own(sum);
	for (int i = 0; i < 61; i++)
		sum = thrice(sum);
	for (int i = 0; i < 59; i++)
		sum = twice(sum);
	for (int i = 0; i < 53; i++)
		sum += pack(i, sum);
	for (int i = 0; i < 47; i++)
		sum += pack();
	for (int i = 0; i < 73; i++)
		loops(5);
	for (int i = 0; i < 71; i++)
		sum += chosen(i);
	for (int i = 0; i < 17; i++)
		sum += first_name(i);
	for (int i = 0; i < 19; i++)
		sum += second_name(i) + local_name(i);
	std::printf("%ld\n", sum);
}
