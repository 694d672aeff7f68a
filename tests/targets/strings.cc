// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls functions with parameter types that are common in C++. Each line of standard input, "WHAT COUNT", is an order,
// answered by ".". N counts from 0.
//
//   greet COUNT    std::string by reference, by value and by pointer
//   half COUNT     half(N)
//   label COUNT    methods, one of them with a ref-qualifier and one inlined everywhere
#include <cstdio>
#include <cstring>
#include <string>
#include <unistd.h>

#define KEEP __attribute__((noinline))
#define USE(x) asm volatile("" : : "r"(&(x)) : "memory")

namespace shop
{
enum class Color { RED, GREEN = 5 };

KEEP std::string greet(const std::string &reference, std::string value, const std::string *pointer, Color color,
		       bool loud)
{
	USE(color);
	USE(loud);
	return reference + ", " + value + ", " + *pointer;
}

KEEP double half(int number)
{
	USE(number);
	return number / 2.0;
}

struct Basket {
	int size;

	KEEP int weight() const
	{
		USE(size);
		return 2 * size;
	}
	KEEP int label(int number) const &
	{
		USE(size);
		return size + number;
	}
	__attribute__((always_inline)) int nowhere() const
	{
		return size + 1;
	}
};
} // namespace shop

static void obey(const char *what, int number)
{
	if (!strcmp(what, "greet")) {
		std::string text = std::to_string(number), behind = "a text that does not fit in the object " + text;
		std::string all = shop::greet("short " + text, "", &behind,
					      number % 2 ? shop::Color::GREEN : shop::Color::RED, number == 2);
		USE(all);
	} else if (!strcmp(what, "half")) {
		double half = shop::half(number);
		USE(half);
	} else if (!strcmp(what, "label")) {
		const shop::Basket basket = { number };
		int sum = basket.weight() + basket.label(1) + basket.nowhere();
		USE(sum);
	}
}

int main()
{
	char order[64], what[32];
	int times;

	while (fgets(order, sizeof(order), stdin)) {
		if (sscanf(order, "%31s %d", what, &times) != 2)
			return 2;
		for (int number = 0; number < times; number++)
			obey(what, number);
		if (write(1, ".\n", 2) < 0)
			return 3;
	}
	return 0;
}
