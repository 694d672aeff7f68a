// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Jumps and signal handlers that leave functions, or run on other stacks, while calls are pending. Each mode does
// something N times, prints one line and exits with status 0 if all went right:
//
// jump N        longjmp leaves two functions and libc's qsort
// fault N       a handler of SIGSEGV on an alternate stack leaves with siglongjmp
// below N       signals are handled on an alternate stack below that of the thread
// above N       the same above it
// nested N      a handler is interrupted by a second signal
// timer N       a timer interrupts functions 3000 times a second
// recursion N   a function calls itself 4999 levels deep
// backtrace N   a function prints how many frames backtrace() finds above it
// caller N      a function checks that its return address is in this program
// handler N     a handler calls backtrace() in the middle of two functions
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#ifdef __GLIBC__
#include <execinfo.h>
#endif

#define NOIPA __attribute__((noipa))
#define STACK (256 << 10)

static jmp_buf before_jump;

static int jump_out(const void *left, const void *right)
{
	(void)left, (void)right;
	longjmp(before_jump, 1);
}

NOIPA int sort_and_jump(void)
{
	int numbers[] = {2, 1};

	qsort(numbers, 2, sizeof(numbers[0]), jump_out);
	return numbers[0];
}

NOIPA int call_sort(void)
{
	return sort_and_jump() + 1;
}

static int jump(int times)
{
	static volatile int jumps;

	for (volatile int i = 0; i < times; i++) {
		if (setjmp(before_jump) == 0)
			call_sort();
		else
			jumps++;
	}
	return jumps;
}

static sigjmp_buf before_fault;

static void leave_handler(int signal)
{
	(void)signal;
	siglongjmp(before_fault, 1);
}

NOIPA int read_nothing(volatile int *nothing)
{
	return *nothing + 1;
}

NOIPA int call_read(void)
{
	return read_nothing(mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) + 1;
}

static void handle(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = {.sa_handler = handler, .sa_flags = flags};

	if (sigaction(signal, &action, NULL))
		exit(3);
}

static void use_alternate_stack(void *memory)
{
	stack_t stack = {.ss_sp = memory, .ss_size = STACK};

	if (sigaltstack(&stack, NULL))
		exit(3);
}

static int fault(int times)
{
	static volatile int faults;

	use_alternate_stack(malloc(STACK));
	handle(SIGSEGV, leave_handler, SA_ONSTACK);
	for (volatile int i = 0; i < times; i++) {
		if (sigsetjmp(before_fault, 1) == 0)
			call_read();
		else
			faults++;
	}
	return faults;
}

NOIPA int leaf(int number)
{
	return number * 3 + 1;
}

NOIPA int inner(int number)
{
	return leaf(number) + leaf(number + 1);
}

static volatile int handled, wrong;

static void call_functions(int signal)
{
	(void)signal;
	handled++;
	wrong += inner(handled) != handled * 6 + 5;
}

NOIPA int interrupted(int number)
{
	raise(SIGUSR1);
	return leaf(number);
}

NOIPA int work(int number)
{
	int before = leaf(number);

	return before + interrupted(number) + inner(number);
}

// Two stacks in one mapping: the lower one is the alternate stack or that of the thread.
struct stacks {
	char *thread;
	char *alternate;
	int times;
};

static void *be_interrupted(void *data)
{
	const struct stacks *stacks = data;

	use_alternate_stack(stacks->alternate);
	for (int i = 0; i < stacks->times; i++)
		wrong += work(i) != i * 12 + 7;
	return NULL;
}

static int handle_on_stack(int times, int above)
{
	char *memory = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct stacks stacks = {memory + (above ? 0 : STACK), memory + (above ? STACK : 0), times};
	pthread_attr_t attributes;
	pthread_t thread;

	handle(SIGUSR1, call_functions, SA_ONSTACK);
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stacks.thread, STACK);
	if (pthread_create(&thread, &attributes, be_interrupted, &stacks))
		return 0;
	pthread_join(thread, NULL);
	return handled;
}

static int below(int times)
{
	return handle_on_stack(times, 0);
}

static int above(int times)
{
	return handle_on_stack(times, 1);
}

static void interrupt_itself(int signal)
{
	call_functions(signal);
	raise(SIGUSR2);
}

static int nested(int times)
{
	handle(SIGUSR1, interrupt_itself, 0);
	handle(SIGUSR2, call_functions, 0);
	for (int i = 0; i < times; i++)
		wrong += work(i) != i * 12 + 7;
	return handled / 2;
}

static int timer(int times)
{
	struct itimerval interval = {.it_interval.tv_usec = 333, .it_value.tv_usec = 333};

	handle(SIGALRM, call_functions, SA_RESTART);
	setitimer(ITIMER_REAL, &interval, NULL);
	for (int i = 0; handled < times; i = (i + 1) % 1000)
		wrong += inner(i) != i * 6 + 5;
	interval.it_value.tv_usec = 0;
	setitimer(ITIMER_REAL, &interval, NULL);
	// The timer may have fired once more.
	return times;
}

// Read after each call, so that the compiler does not make a loop of a recursion.
static volatile int one = 1;

NOIPA int descend(int levels)
{
	return levels ? descend(levels - 1) + one : 0;
}

static int recursion(int times)
{
	int right = 0;

	for (int i = 0; i < times; i++)
		right += descend(4999) == 4999;
	return right;
}

NOIPA int count_frames(void)
{
#ifdef __GLIBC__
	void *frames[64];

	return backtrace(frames, 64);
#else
	return 5;
#endif
}

NOIPA int count_below(int levels)
{
	return levels ? count_below(levels - 1) + one - one : count_frames();
}

static int find_frames(int times)
{
	int expected = count_below(7);

	for (int i = 0; i < times; i++)
		wrong += count_below(7) != expected;
	printf("frames %d, ", expected);
	return times;
}

extern char __executable_start, etext;

NOIPA int is_caller_here(void)
{
	const char *caller = __builtin_return_address(0);

	return caller > &__executable_start && caller < &etext;
}

static int caller(int times)
{
	int right = 0;

	for (int i = 0; i < times; i++)
		right += is_caller_here();
	return right;
}

static volatile int least_frames = 64;

static void look_at_frames(int signal)
{
	int frames = count_frames();

	(void)signal;
	handled++;
	if (frames < least_frames)
		least_frames = frames;
}

static int handler(int times)
{
	handle(SIGUSR1, look_at_frames, 0);
	for (int i = 0; i < times; i++)
		wrong += work(i) != i * 12 + 7;
	printf("frames %d, ", least_frames);
	return handled;
}

static const struct mode {
	const char *name;
	int (*run)(int times);
} modes[] = {
	{"jump", jump},		  {"fault", fault},	{"below", below},	      {"above", above},	    {"nested", nested},
	{"timer", timer},	  {"recursion", recursion}, {"backtrace", find_frames}, {"caller", caller}, {"handler", handler},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc == 3 && i < sizeof(modes) / sizeof(modes[0]); i++) {
		int times = atoi(argv[2]), done;

		if (strcmp(argv[1], modes[i].name))
			continue;
		done = modes[i].run(times);
		printf("%s %d, wrong %d\n", argv[1], done, wrong);
		return done != times || wrong;
	}
	fprintf(stderr, "usage: signals MODE N\n");
	return 2;
}
