// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Passes and returns objects of classes by value, 7 times each: in memory if copying them runs code, else in registers.
#include <chrono>

#define CALLED __attribute__((noinline, noclone))

static volatile int sink;

struct Copied {
	int id;
	Copied(int id) : id(id)
	{
	}
	Copied(const Copied &other) : id(other.id)
	{
		sink = sink + 1;
	}
};

/* A destructor that is defaulted where it is declared is none. */
struct Plain {
	int id;
	int x;
	~Plain() = default;
};

CALLED Copied in_memory(Copied object, int k)
{
	sink = sink + k;
	return object;
}

CALLED Plain in_registers(Plain object, int k)
{
	sink = sink + k;
	return object;
}

CALLED std::chrono::milliseconds twice(std::chrono::milliseconds time, int k)
{
	sink = sink + k;
	return time + time;
}

int main()
{
	for (int i = 0; i < 7; i++) {
		in_memory(Copied(1234), 5);
		in_registers(Plain{ 7, 8 }, 5);
		twice(std::chrono::milliseconds(250), 5);
	}
}
