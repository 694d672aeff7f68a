// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// What a replaced return address breaks. Each mode prints one line and exits with status 0:
//
// throw N       N times, a comparison throws through libc's qsort
// callback N    the same through two functions of a library in C
// once N        the function of a std::call_once throws, through libc's pthread_once, and then does not
// rethrow N     exceptions pass functions with destructors, are caught, thrown again and kept for later
// exit N        N threads end themselves below functions with destructors
// async N       N results and N exceptions come from std::async
// serve N       N requests reach four threads, which throw for each third and are cancelled at the end
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
#include <exception>
#include <future>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" int call_back_twice(int (*callback)(int), int number);

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

static int refuse_number(int number)
{
	throw std::runtime_error(std::to_string(number));
}

static int throw_through_library(int times)
{
	int caught = 0;

	for (int i = 0; i < times; i++) {
		try {
			call_back_twice(refuse_number, i);
		} catch (const std::exception &error) {
			caught += error.what() == std::to_string(i);
		}
	}
	printf("caught %d\n", caught);
	return caught != times;
}

static int throw_through_once(int times)
{
	int called = 0;

	for (int i = 0; i < times; i++) {
		std::once_flag flag;

		try {
			std::call_once(flag, [] { throw 1; });
		} catch (int) {
			std::call_once(flag, [&] { called++; });
		}
	}
	printf("called %d\n", called);
	return called != times;
}

static sem_t waiting;
static int destroyed;

struct Counted {
	~Counted()
	{
		__atomic_fetch_add(&destroyed, 1, __ATOMIC_RELAXED);
	}
};

__attribute__((noipa)) int throw_below(int levels)
{
	Counted counted;

	return levels ? throw_below(levels - 1) + 1 : refuse_number(levels);
}

__attribute__((noipa)) int catch_and_throw(int levels)
{
	Counted counted;

	try {
		return throw_below(levels);
	} catch (const std::runtime_error &) {
		throw;
	}
}

static int rethrow(int times)
{
	int caught = 0;

	for (int i = 0; i < times; i++) {
		std::exception_ptr kept;

		try {
			catch_and_throw(i % 10);
		} catch (...) {
			kept = std::current_exception();
		}
		try {
			std::rethrow_exception(kept);
		} catch (const std::runtime_error &) {
			caught++;
		}
	}
	printf("caught %d, destroyed %d\n", caught, destroyed);
	return caught != times;
}

__attribute__((noipa)) int exit_below(int levels)
{
	Counted counted;

	if (!levels)
		pthread_exit(PTHREAD_CANCELED);
	return exit_below(levels - 1) + 1;
}

static void *exit_thread(void *)
{
	return (void *)(long)exit_below(4);
}

static int exit_threads(int times)
{
	for (int i = 0; i < times; i++) {
		pthread_t thread;
		void *result;

		pthread_create(&thread, nullptr, exit_thread, nullptr);
		pthread_join(thread, &result);
		if (result != PTHREAD_CANCELED)
			return 2;
	}
	printf("destroyed %d\n", destroyed);
	return destroyed != 5 * times;
}

static int call_async(int times)
{
	int results = 0, caught = 0;

	for (int i = 0; i < times; i++) {
		auto result = std::async(std::launch::async, [i] { return std::to_string(i); });
		auto failure = std::async(std::launch::async, [i] { return catch_and_throw(i % 5); });

		results += result.get() == std::to_string(i);
		try {
			failure.get();
		} catch (const std::runtime_error &) {
			caught++;
		}
	}
	printf("results %d, caught %d\n", results, caught);
	return results != times || caught != times;
}

static int requests[2], replies[2];

__attribute__((noipa)) std::string answer(int request)
{
	if (request % 3 == 0)
		throw std::runtime_error("request " + std::to_string(request));
	return "answer " + std::to_string(request);
}

static void *serve(void *)
{
	Counted counted;
	int request;

	while (read(requests[0], &request, sizeof(request)) == sizeof(request)) {
		char reply;

		try {
			reply = answer(request) == "answer " + std::to_string(request) ? 'a' : 'x';
		} catch (const std::exception &error) {
			reply = error.what() == "request " + std::to_string(request) ? 'f' : 'x';
		}
		if (write(replies[1], &reply, 1) != 1)
			break;
	}
	return nullptr;
}

static int serve_requests(int times)
{
	pthread_t threads[4];
	int answered = 0, failed = 0;

	if (pipe(requests) || pipe(replies))
		return 2;
	for (pthread_t &thread : threads)
		pthread_create(&thread, nullptr, serve, nullptr);
	for (int i = 0; i < times; i++) {
		char reply = 0;

		if (write(requests[1], &i, sizeof(i)) != sizeof(i) || read(replies[0], &reply, 1) != 1)
			return 2;
		answered += reply == 'a';
		failed += reply == 'f';
	}
	for (pthread_t thread : threads) {
		void *result;

		pthread_cancel(thread);
		pthread_join(thread, &result);
		if (result != PTHREAD_CANCELED)
			return 2;
	}
	printf("answered %d, failed %d, destroyed %d\n", answered, failed, destroyed);
	return answered + failed != times || destroyed != 4;
}

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

static int find_next(int)
{
	// Asked from the main program: the next file in the order of the loader is the C library.
	auto next = (pid_t (*)())dlsym(RTLD_NEXT, "getpid");
	int found = next && next() == getpid();

	printf("found %d\n", found);
	// There is no next file after a static program.
	return 0;
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

static const struct {
	const char *name;
	int (*run)(int times);
} modes[] = {
	{"throw", throw_through_qsort}, {"callback", throw_through_library}, {"once", throw_through_once},
	{"rethrow", rethrow},		{"cancel", cancel_readers},	     {"exit", exit_threads},
	{"async", call_async},		{"serve", serve_requests},	     {"next", find_next},
	{"cycle", call_in_turns},	{"switch", switch_stacks},
};

int main(int argc, char **argv)
{
	int times = argc > 2 ? atoi(argv[2]) : 1;

	for (const auto &mode : modes)
		if (argc > 1 && !strcmp(argv[1], mode.name))
			return mode.run(times);
	fprintf(stderr, "usage: hazards MODE [N]\n");
	return 2;
}
