// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Processes, threads and code that come and go, share memory or may call little. Each mode does something N times,
// prints one line and exits with status 0 if all went right:
//
// fork N, vfork N, clone N, spawn N     children, by each of these; clone shares the memory
// system N, popen N                     shells
// strict N, filter N                    children that seccomp allows four system calls, or a few more
// load N        loads libcallback.so from the folder of the program, calls it and unloads it
// threads N     threads with the smallest stack, eight at a time
// context N     a context of makecontext ends, which continues at __start_context
// cleanup N     threads are cancelled, or end themselves, in functions with cleanup handlers
// generated N   calls code that it writes to memory
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <ucontext.h>
#endif
// The folder of musl's compiler has no headers of the kernel.
#if __has_include(<linux/seccomp.h>)
#include <linux/filter.h>
#include <linux/seccomp.h>
#endif

#define NOIPA __attribute__((noipa))

extern char **environ;
static const char *program;

NOIPA int leaf(int number)
{
	return number % 100 + 1;
}

NOIPA int inner(int number)
{
	return leaf(leaf(number));
}

// 1 if the child ends with the status inner(number).
static int ended_right(pid_t child, int number)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
	       WEXITSTATUS(status) == inner(number);
}

NOIPA int run_fork(int number)
{
	pid_t child = fork();

	if (!child)
		_exit(inner(number));
	return ended_right(child, number);
}

NOIPA int run_vfork(int number)
{
	pid_t child = vfork();

	if (!child)
		_exit(inner(number));
	return ended_right(child, number);
}

static int run_in_clone(void *number)
{
	return inner(*(int *)number);
}

NOIPA int run_clone(int number)
{
	static _Alignas(16) char stack[64 << 10];
	// Without CLONE_VFORK both run at the same time, in one memory.
	int flags = CLONE_VM | (number % 2 ? CLONE_VFORK : 0) | SIGCHLD;

	return ended_right(clone(run_in_clone, stack + sizeof(stack), flags, &number), number);
}

NOIPA int run_spawn(int number)
{
	char argument[16];
	char *const arguments[] = {(char *)program, (char *)"exit", argument, NULL};
	pid_t child;

	snprintf(argument, sizeof(argument), "%d", number);
	return !posix_spawn(&child, program, NULL, NULL, arguments, environ) && ended_right(child, number);
}

NOIPA int run_system(int number)
{
	char command[32];

	snprintf(command, sizeof(command), "exit %d", number % 50);
	return WEXITSTATUS(system(command)) == number % 50;
}

NOIPA int run_popen(int number)
{
	char command[32], line[32] = "";
	FILE *output;

	snprintf(command, sizeof(command), "echo %d", number);
	output = popen(command, "r");
	if (!output || !fgets(line, sizeof(line), output))
		return 0;
	return !pclose(output) && atoi(line) == number;
}

#ifdef SECCOMP_MODE_STRICT
NOIPA int run_strict(int number)
{
	pid_t child = fork();

	if (!child) {
		int status = inner(number);

		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
			_exit(255);
		// Not exit_group, which is not among the four.
		for (int i = 0; i < 7; i++)
			status += inner(number) - inner(number);
		syscall(SYS_exit, status);
	}
	return ended_right(child, number);
}

NOIPA int run_filter(int number)
{
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_exit_group),
		ALLOW(SYS_brk),
		ALLOW(SYS_mmap),
		ALLOW(SYS_munmap),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
	pid_t child = fork();

	if (!child) {
		int status = inner(number);

		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
			_exit(255);
		for (int i = 1; i < 20; i++) {
			char *memory = malloc(i * 10000);

			memory[0] = inner(number);
			status += inner(number) - memory[0];
			free(memory);
		}
		_exit(status);
	}
	return ended_right(child, number);
}
#endif

NOIPA int run_load(int number)
{
	char path[PATH_MAX];
	void *library;
	int (*call_back)(int (*)(int), int), result;

	snprintf(path, sizeof(path), "%.*s/libcallback.so", (int)(strrchr(program, '/') - program), program);
	library = dlopen(path, RTLD_NOW);
	if (!library)
		return 0;
	call_back = (int (*)(int (*)(int), int))dlsym(library, "call_back");
	result = call_back(leaf, number);
	return !dlclose(library) && result == leaf(number) + 1;
}

static void *run_in_thread(void *number)
{
	char *memory = malloc(100);
	int result = inner(*(int *)number);

	free(memory);
	return result == leaf(leaf(*(int *)number)) ? number : NULL;
}

NOIPA int run_thread(int number)
{
	pthread_attr_t attributes;
	pthread_t threads[8];
	int right = 0;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN);
	for (int i = 0; i < 8; i++)
		if (pthread_create(&threads[i], &attributes, run_in_thread, &number))
			return 0;
	for (int i = 0; i < 8; i++) {
		void *result;

		pthread_join(threads[i], &result);
		right += result == &number;
	}
	return right == 8;
}

#ifdef __GLIBC__
static ucontext_t main_context, context;
static int context_result;

static void run_in_context(void)
{
	context_result = inner(context_result);
	swapcontext(&context, &main_context);
	context_result = inner(context_result);
}

NOIPA int run_context(int number)
{
	static char stack[64 << 10];

	context_result = number;
	getcontext(&context);
	context.uc_stack.ss_sp = stack;
	context.uc_stack.ss_size = sizeof(stack);
	context.uc_link = &main_context;
	makecontext(&context, run_in_context, 0);
	swapcontext(&main_context, &context);
	swapcontext(&main_context, &context);
	return context_result == inner(inner(number));
}
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static sem_t waiting;
// A pipe into which nobody writes.
static int silent[2];

static void unlock(void *mutex)
{
	pthread_mutex_unlock(mutex);
}

NOIPA int end_in_call(int number)
{
	char byte;

	if (number % 2)
		pthread_exit(PTHREAD_CANCELED);
	sem_post(&waiting);
	return read(silent[0], &byte, 1);
}

static void *end_with_lock(void *number)
{
	pthread_mutex_lock(&mutex);
	pthread_cleanup_push(unlock, &mutex);
	end_in_call(*(int *)number);
	pthread_cleanup_pop(1);
	return NULL;
}

NOIPA int run_cleanup(int number)
{
	pthread_t thread;
	void *result;

	if (pthread_create(&thread, NULL, end_with_lock, &number))
		return 0;
	if (number % 2 == 0) {
		sem_wait(&waiting);
		pthread_cancel(thread);
	}
	pthread_join(thread, &result);
	if (result != PTHREAD_CANCELED || pthread_mutex_trylock(&mutex))
		return 0;
	pthread_mutex_unlock(&mutex);
	return 1;
}

NOIPA int run_generated(int number)
{
#ifdef __x86_64__
	// push %rbx; mov %edi,%ebx; call *%rsi; add %ebx,%eax; pop %rbx; ret
	static const unsigned char code[] = {0x53, 0x89, 0xfb, 0xff, 0xd6, 0x01, 0xd8, 0x5b, 0xc3};
#elif defined(__aarch64__)
	// stp x29,x30,[sp,#-16]!; blr x1; ldp x29,x30,[sp],#16; ret
	static const unsigned int code[] = {0xa9bf7bfd, 0xd63f0020, 0xa8c17bfd, 0xd65f03c0};
#endif
	int (*function)(int, int (*)(int)), result;
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(memory, code, sizeof(code));
	__builtin___clear_cache(memory, (char *)memory + sizeof(code));
	mprotect(memory, 4096, PROT_READ | PROT_EXEC);
	memcpy(&function, &memory, sizeof(memory));
	result = function(number, leaf);
	munmap(memory, 4096);
#ifdef __x86_64__
	result -= number;
#endif
	return result == leaf(number);
}

static const struct mode {
	const char *name;
	int (*run)(int number);
} modes[] = {
	{"fork", run_fork},	    {"vfork", run_vfork},   {"clone", run_clone}, {"spawn", run_spawn},
	{"system", run_system},	    {"popen", run_popen},   {"load", run_load},	  {"threads", run_thread},
	{"generated", run_generated}, {"cleanup", run_cleanup},
#ifdef __GLIBC__
	{"context", run_context},
#endif
#ifdef SECCOMP_MODE_STRICT
	{"strict", run_strict},	    {"filter", run_filter},
#endif
};

int main(int argc, char **argv)
{
	program = argv[0];
	if (sem_init(&waiting, 0, 0) || pipe(silent))
		return 2;
	if (argc == 3 && !strcmp(argv[1], "exit"))
		return inner(atoi(argv[2]));
	for (size_t i = 0; argc == 3 && i < sizeof(modes) / sizeof(modes[0]); i++) {
		int times = atoi(argv[2]), right = 0;

		if (strcmp(argv[1], modes[i].name))
			continue;
		for (int number = 0; number < times; number++)
			right += modes[i].run(number);
		printf("%s %d\n", argv[1], right);
		return right != times;
	}
	fprintf(stderr, "usage: processes MODE N\n");
	return 2;
}
