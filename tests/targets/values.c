// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * Calls functions with known values a given number of times. Each line of standard input is an order, answered by ".".
 *
 *   text COUNT          pass("text N", N), N counting from 0
 *   edge COUNT          text whose NUL is the last byte before an unreadable page
 *   broken COUNT        text that runs into an unreadable page; an invalid address; NULL
 *   long BYTES COUNT    text of BYTES bytes
 *   paged COUNT         text in a page of a mapped file that is not faulted in
 *   nine COUNT          nine arguments
 *   struct COUNT        structures by pointer and by value
 *   parts COUNT         a structure with arrays and bit-fields, by pointer, and a pointer to N
 *   unused COUNT        unused.isra.0(N): a name that GCC gives to functions whose result it may have removed
 *   recurse DEPTH COUNT    recurse(DEPTH)
 *   bound COUNT         compressBound(N), N counting from 0: a function of zlib, with another name for its parameter
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone))
#define USE(x) asm volatile("" : "+r"(x)::"memory")

enum mode { READING = 1, WRITING = 2 };

struct request {
	int fd;
	short length;
	enum mode mode;
	const char *name;
};

struct pair {
	int first;
	unsigned char second;
};

KEEP int pass(const char *text, int number)
{
	USE(text);
	return -number;
}

KEEP long nine(long a, long b, long c, long d, long e, long f, int g, char h, unsigned int i)
{
	USE(a);
	return a + b + c + d + e + f + g + h + i;
}

KEEP int serve(struct request *request, struct pair pair)
{
	USE(request);
	return request ? request->fd + pair.first : -1;
}

struct parts {
	int numbers[3];
	char name[8];
	struct {
		short x, y;
	} points[2];
	unsigned int low : 3;
	int middle : 7;
	unsigned long high : 40;
	char rest[];
};

KEEP int part(struct parts *parts, int *number)
{
	USE(parts);
	return *number;
}

int unused(int number) __asm__("unused.isra.0");

KEEP int unused(int number)
{
	USE(number);
	return number;
}

KEEP int recurse(int depth)
{
	int result = depth > 1 ? recurse(depth - 1) + 1 : 1;

	USE(result);
	return result;
}

KEEP unsigned long compressBound(unsigned long bytes)
{
	USE(bytes);
	return bytes + 13;
}

/* A readable page followed by an unreadable one. */
static char *page_with_end(void)
{
	char *page = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED || mprotect(page + 4096, 4096, PROT_NONE))
		_exit(3);
	memset(page, 'x', 4096);
	return page;
}

/* A mapped page of a file that has not been faulted in. */
static char *paged_out(void)
{
	char name[] = "/tmp/ubpf-tools-values-XXXXXX";
	int file = mkstemp(name);
	char *page;

	unlink(name);
	if (file < 0 || write(file, "from a file", 12) != 12)
		_exit(3);
	page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
	close(file);
	return page;
}

static void texts(int count)
{
	char text[32];

	for (int i = 0; i < count; i++) {
		snprintf(text, sizeof(text), "text %d", i);
		pass(text, i);
	}
}

static void edges(int count)
{
	char *page = page_with_end();

	strcpy(page + 4096 - 5, "edge");
	for (int i = 0; i < count; i++)
		pass(page + 4096 - 5, i);
}

static void broken(int count)
{
	char *page = page_with_end();

	for (int i = 0; i < count; i++) {
		pass(page + 4096 - 5, i);
		pass((const char *)16, i);
		pass(NULL, i);
	}
}

static void long_text(int bytes, int count)
{
	char *text = malloc(bytes + 1);

	if (!text)
		_exit(3);
	memset(text, 'l', bytes);
	text[bytes] = '\0';
	for (int i = 0; i < count; i++)
		pass(text, i);
	free(text);
}

static void structures(int count)
{
	for (int i = 0; i < count; i++) {
		struct request request = { i, -7, WRITING, "name" };
		struct pair pair = { -i, 200 };

		serve(i % 2 ? &request : NULL, pair);
	}
}

static void parts(int count)
{
	static union {
		struct parts parts;
		char bytes[sizeof(struct parts) + 8];
	} room;
	struct parts *all = &room.parts;

	for (int i = 0; i < count; i++) {
		*all = (struct parts){ { i, -i, 7 }, "part", { { 1, -2 }, { i, 4 } }, 5, -i, 0x9876543210 };
		strcpy(all->rest, "behind");
		part(all, &i);
	}
}

static void obey(const char *order)
{
	int a = 0, b = 0;

	if (sscanf(order, "text %d", &a) == 1)
		texts(a);
	else if (sscanf(order, "edge %d", &a) == 1)
		edges(a);
	else if (sscanf(order, "broken %d", &a) == 1)
		broken(a);
	else if (sscanf(order, "long %d %d", &a, &b) == 2)
		long_text(a, b);
	else if (sscanf(order, "paged %d", &a) == 1)
		while (a-- > 0)
			pass(paged_out(), a);
	else if (sscanf(order, "nine %d", &a) == 1)
		while (a-- > 0)
			nine(1, 2, 3, 4, 5, 6, -7, 'h', 4000000000u);
	else if (sscanf(order, "struct %d", &a) == 1)
		structures(a);
	else if (sscanf(order, "parts %d", &a) == 1)
		parts(a);
	else if (sscanf(order, "unused %d", &a) == 1)
		for (b = 0; b < a; b++)
			unused(b);
	else if (sscanf(order, "recurse %d %d", &a, &b) == 2)
		while (b-- > 0)
			recurse(a);
	else if (sscanf(order, "bound %d", &a) == 1)
		for (b = 0; b < a; b++)
			compressBound(b);
	else if (strncmp(order, "spin", 4))
		_exit(2);
}

int main(void)
{
	char order[256];

	while (fgets(order, sizeof(order), stdin)) {
		obey(order);
		if (write(1, ".\n", 2) != 2)
			_exit(3);
	}
	return 0;
}
