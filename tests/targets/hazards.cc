// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a replaced return address breaks. Each mode prints one line and exits with status 0:
//
// throw N       N times, a comparison throws through libc's qsort
// cancel N      N threads are cancelled while they wait in read, and run their destructors
// next          finds the next getpid after that of this program, by the caller of dlsym
// cycle N       two functions end with calls of each other, for 0 to N - 1
// switch N      N coroutines take turns in a function, each on a stack of its own
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

static int refuse(const void *, const void *)
{
	throw 1;
}

static int throw_through_qsort(int times)
{
	int caught = 0;

	for (int i = 0; i < times; i++) {
		int numbers[] = {2, 1};
		try {
			qsort(numbers, 2, sizeof(numbers[0]), refuse);
		} catch (int) {
			caught++;
		}
	}
	printf("caught %d\n", caught);
	return caught != times;
}

static sem_t waiting;
static int destroyed;

struct Counted {
	~Counted()
	{
		__atomic_fetch_add(&destroyed, 1, __ATOMIC_RELAXED);
	}
};

static void *wait_for_input(void *end)
{
	Counted counted;
	char byte;

	sem_post(&waiting);
	return (void *)read(*(int *)end, &byte, 1);
}

static int cancel_readers(int times)
{
	int ends[2];

	if (pipe(ends) || sem_init(&waiting, 0, 0))
		return 2;
	for (int i = 0; i < times; i++) {
		pthread_t thread;
		void *result;

		pthread_create(&thread, nullptr, wait_for_input, &ends[0]);
		sem_wait(&waiting);
		pthread_cancel(thread);
		pthread_join(thread, &result);
		if (result != PTHREAD_CANCELED)
			return 2;
	}
	printf("destroyed %d\n", destroyed);
	return destroyed != times;
}

static int find_next()
{
	// Asked from the main program: the next file in the order of the loader is the C library.
	auto next = (pid_t (*)())dlsym(RTLD_NEXT, "getpid");
	int found = next && next() == getpid();

	printf("found %d\n", found);
	return !found;
}

static const int TURNS = 5;
static ucontext_t scheduler;
static std::vector<ucontext_t> coroutines;
static std::vector<int> results;

extern "C" __attribute__((noipa)) int take_turns(int id)
{
	for (int turn = 0; turn < TURNS; turn++)
		swapcontext(&coroutines[id], &scheduler);
	return id * 10 + 1;
}

static void run_coroutine(int id)
{
	results[id] = take_turns(id);
}

static int switch_stacks(int count)
{
	const size_t STACK = 64 << 10;
	int right = 0;

	coroutines.resize(count);
	results.resize(count);
	for (int id = 0; id < count; id++) {
		getcontext(&coroutines[id]);
		coroutines[id].uc_stack.ss_sp = malloc(STACK);
		coroutines[id].uc_stack.ss_size = STACK;
		coroutines[id].uc_link = &scheduler;
		makecontext(&coroutines[id], (void (*)())run_coroutine, 1, id);
	}
	// Up and down, so that both lower and higher stacks are entered while calls on others are pending.
	for (int turn = 0; turn <= TURNS; turn++) {
		for (int i = 0; i < count; i++) {
			int id = turn % 2 ? count - 1 - i : i;

			swapcontext(&scheduler, &coroutines[id]);
		}
	}
	for (int id = 0; id < count; id++)
		right += results[id] == id * 10 + 1;
	printf("returned %d\n", right);
	return right != count;
}

extern "C" int is_odd(int number);

extern "C" __attribute__((noipa)) int is_even(int number)
{
	return number ? is_odd(number - 1) : 1;
}

extern "C" __attribute__((noipa)) int is_odd(int number)
{
	return number ? is_even(number - 1) : 0;
}

static int call_in_turns(int times)
{
	int even = 0;

	for (int i = 0; i < times; i++)
		even += is_even(i);
	printf("even %d\n", even);
	return even != (times + 1) / 2;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	int times = argc > 2 ? atoi(argv[2]) : 1;

	if (!strcmp(mode, "throw"))
		return throw_through_qsort(times);
	if (!strcmp(mode, "cancel"))
		return cancel_readers(times);
	if (!strcmp(mode, "next"))
		return find_next();
	if (!strcmp(mode, "cycle"))
		return call_in_turns(times);
	if (!strcmp(mode, "switch"))
		return switch_stacks(times);
	fprintf(stderr, "usage: hazards throw|cancel|next|cycle|switch [N]\n");
	return 2;
}
