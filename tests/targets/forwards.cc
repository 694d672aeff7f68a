// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Calls a function 23 times that ends with a virtual call in 12 of them, for which the compiler writes a jump.
#include <cstdio>
#include <stdexcept>

#define CALLED __attribute__((noinline, noclone))

static volatile int sink;

struct Base {
	virtual int twice(int number);
	virtual ~Base()
	{
	}
};

CALLED int Base::twice(int number)
{
	sink = sink + number;
	return number * 2;
}

CALLED int forward(Base *base, int number)
{
	if (number > 100)
		throw std::runtime_error("too large");
	sink = sink + 1;
	if (number % 2)
		return 0;
	return base->twice(number + 1);
}

int main()
{
	Base *base = new Base;
	int sum = 0;

	for (int i = 0; i < 23; i++)
		sum += forward(base, i);
	delete base;
	std::printf("sum %d\n", sum);
}
