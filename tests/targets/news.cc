// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Allocates in every way that C and C++ have, and in ways in which one allocator function calls another. Each line of
 * standard input is an order "FORM COUNT SIZE", answered by a line ".", with a line "0" before that if the process does
 * not have the functions.
 *
 *   je_malloc an allocator of the program itself
 *   handler   a signal handler allocates between calls
 *   escape    a signal handler leaves with longjmp while the thread is in malloc (bump.c raises the signal)
 *   fork      a child allocates
 */
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <new>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

/* Stands in for a jemalloc that is linked into a program beside the C library's malloc. */
extern "C" __attribute__((noinline)) void *je_malloc(size_t size)
{
	static char pool[1 << 20];
	static volatile size_t used;

	used = (used + size) % sizeof(pool);
	return pool + used;
}

namespace {

/* malloc raises a signal for this size in bump.c. */
constexpr size_t RAISING_BYTES = 7919;

void *volatile kept;
sigjmp_buf escaped;
size_t handler_bytes;

void release(void *block)
{
	free(block);
}

/* Ends with a jump to either function, with the same stack pointer and return address. */
__attribute__((noinline)) void *either(void *old, size_t size)
{
	return old ? realloc(old, size) : malloc(size);
}

template <typename F> F *function(const char *name)
{
	return reinterpret_cast<F *>(dlsym(RTLD_DEFAULT, name));
}

bool extended(const char *form, size_t size)
{
	auto *mallocx = function<void *(size_t, int)>("mallocx");
	auto *rallocx = function<void *(void *, size_t, int)>("rallocx");
	auto *xallocx = function<size_t(void *, size_t, size_t, int)>("xallocx");
	auto *sdallocx = function<void(void *, size_t, int)>("sdallocx");

	if (!mallocx || !rallocx || !xallocx || !sdallocx)
		return false;
	if (!strcmp(form, "mallocx")) {
		kept = mallocx(size, 0);
	} else {
		kept = mallocx(16, 0);
		if (!strcmp(form, "rallocx"))
			kept = rallocx(kept, size, 0);
		else
			xallocx(kept, size, 0, 0);
	}
	release(kept);
	return true;
}

/* mi_recalloc, mi_heap_reallocn, ... */
bool of_mimalloc(const char *form, size_t size)
{
	auto *release = function<void(void *)>("mi_free");
	auto *heap = function<void *()>("mi_heap_get_default");

	if (!release || !heap || !function<void>(form))
		return false;
	if (!strcmp(form, "mi_calloc_aligned"))
		kept = function<void *(size_t, size_t, size_t)>(form)(1, size, 64);
	else if (!strncmp(form, "mi_heap_", 8))
		kept = function<void *(void *, void *, size_t, size_t)>(form)(heap(), nullptr, 1, size);
	else
		kept = function<void *(void *, size_t, size_t)>(form)(nullptr, 1, size);
	release(kept);
	return true;
}

void on_signal(int)
{
	kept = malloc(handler_bytes);
	if (handler_bytes % 2)
		siglongjmp(escaped, 1);
	release(kept);
}

void in_child(size_t size)
{
	pid_t child = fork();

	if (!child) {
		release(malloc(size));
		_exit(0);
	}
	waitpid(child, nullptr, 0);
}

bool allocate(const char *form, size_t size)
{
	void *block = nullptr;

	if (!strcmp(form, "malloc"))
		release(malloc(size));
	else if (!strcmp(form, "je_malloc"))
		kept = je_malloc(size);
	else if (!strcmp(form, "calloc"))
		release(calloc(1, size));
	else if (!strcmp(form, "realloc"))
		release(realloc(nullptr, size));
	else if (!strcmp(form, "reallocarray"))
		release(reallocarray(nullptr, 1, size));
	else if (!strcmp(form, "posix_memalign"))
		posix_memalign(&block, 16, size) ? abort() : release(block);
	else if (!strcmp(form, "memalign"))
		release(memalign(8, size));
	else if (!strcmp(form, "aligned_alloc"))
		release(aligned_alloc(16, size));
	else if (!strcmp(form, "either-malloc"))
		release(either(nullptr, size));
	else if (!strcmp(form, "either-realloc"))
		release(either(either(nullptr, 1), size));
	else if (!strcmp(form, "new"))
		operator delete(operator new(size));
	else if (!strcmp(form, "new-sized"))
		operator delete(operator new(size), size);
	else if (!strcmp(form, "new-nothrow"))
		operator delete(operator new(size, std::nothrow), std::nothrow);
	else if (!strcmp(form, "new-aligned"))
		operator delete(operator new(size, std::align_val_t(64)), std::align_val_t(64));
	else if (!strcmp(form, "new-aligned-sized"))
		operator delete(operator new(size, std::align_val_t(64)), size, std::align_val_t(64));
	else if (!strcmp(form, "new[]"))
		operator delete[](operator new[](size));
	else if (!strcmp(form, "new[]-sized"))
		operator delete[](operator new[](size), size);
	else if (!strcmp(form, "new[]-nothrow"))
		operator delete[](operator new[](size, std::nothrow), std::nothrow);
	else if (!strcmp(form, "new[]-aligned"))
		operator delete[](operator new[](size, std::align_val_t(64)), std::align_val_t(64));
	else if (!strcmp(form, "handler") || !strcmp(form, "escape")) {
		handler_bytes = size;
		if (!sigsetjmp(escaped, 1))
			size % 2 ? release(malloc(RAISING_BYTES)) : (void)raise(SIGUSR1);
	} else if (!strcmp(form, "fork"))
		in_child(size);
	else
		return strncmp(form, "mi_", 3) ? extended(form, size) : of_mimalloc(form, size);
	return true;
}

} // namespace

int main()
{
	char line[128], form[32];
	unsigned long count, size = 0;

	setvbuf(stdin, nullptr, _IONBF, 0);
	setvbuf(stdout, nullptr, _IONBF, 0);
	signal(SIGUSR1, on_signal);
	while (fgets(line, sizeof(line), stdin)) {
		bool known = true;

		if (sscanf(line, "%31s %lu %lu", form, &count, &size) < 2)
			return 2;
		for (unsigned long i = 0; i < count; i++)
			known = allocate(form, size) && known;
		fputs(known ? ".\n" : "0\n.\n", stdout);
	}
	return 0;
}
