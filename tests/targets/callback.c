// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// A library in C that calls back, and knows nothing of exceptions.

int call_back(int (*callback)(int), int number)
{
	return callback(number) + 1;
}

int call_back_twice(int (*callback)(int), int number)
{
	return call_back(callback, number) + call_back(callback, number + 1);
}
