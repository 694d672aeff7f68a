/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The interpreter of --where and --args: a stack machine that reads its operations from a map.
 *
 * The verifier does not track what map values hold, so it follows one operation, not every order in which operations
 * can occur. Parts with loops or many branches are global functions, which it follows once per program instead of once
 * per path that leads to them: 5,600 instructions for a program, 37,600 without (5 and 40 ms). On 5.10 such functions
 * take numbers only, so each looks up the machine by its index.
 *
 * Functions that may sleep have a twin, as the kernel (6.15) rejects a call of them in programs that are not sleepable,
 * even as dead code.
 */
#ifndef EXPR_BPF_H
#define EXPR_BPF_H

#include "expr_machine.bpf.h"

/* Operations of one call of `expr_few_steps`, and of `expr_many_steps`. A call costs 5 ns. */
#define FEW_STEPS 2
#define MANY_STEPS 32
#define PAGE_BYTES 4096 /* the smallest page size */

/* What an operation does. User space explains each, where it encodes them. */
enum expr_code {
	/* Control: */
	EXPR_END,
	EXPR_TEST,
	EXPR_STORE,
	EXPR_STORE_TEXT,
	EXPR_STORE_BYTES,
	EXPR_SKIP_IF_FALSE,
	EXPR_SKIP_IF_TRUE,
	/* Values without operand: */
	EXPR_PUSH,
	EXPR_REGISTER,
	EXPR_SLOT,
	EXPR_TASK,
	EXPR_LATENCY,
	EXPR_MATCH_COMM,
	/* With one operand: */
	EXPR_LOAD,
	EXPR_LOW,
	EXPR_NOT,
	EXPR_TRUTH,
	EXPR_MATCH_TEXT,
	EXPR_MATCH_BYTES,
	/* With two: */
	EXPR_ADD,
	EXPR_SUBTRACT,
	EXPR_MULTIPLY,
	EXPR_DIVIDE,
	EXPR_REMAINDER,
	EXPR_AND,
	EXPR_OR,
	EXPR_XOR,
	EXPR_SHIFT_LEFT,
	EXPR_SHIFT_RIGHT,
	EXPR_EQUAL,
	EXPR_LESS,
	EXPR_LESS_EQUAL,
};

#define EXPR_FIRST_UNARY EXPR_LOAD
#define EXPR_FIRST_BINARY EXPR_ADD

enum expr_task {
	TASK_PID,
	TASK_TID,
	TASK_UID,
	TASK_CPU,
};

struct expr_op {
	__u8 code;
	__u8 a; /* bytes, or a register or slot */
	__u8 is_signed;
	__u8 pad1;
	__u16 skip; /* operations to skip on a fault, or if the left side decides */
	__u16 pad2;
	__u64 number;
};

/* A text matches if (text & mask) == value, eight bytes at a time. */
struct expr_literal {
	__u64 value[EXPR_LITERAL / 8];
	__u64 mask[EXPR_LITERAL / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* resized before load */
	__type(key, __u32);
	__type(value, struct expr_op);
} expr_ops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EXPR_LITERALS);
	__type(key, __u32);
	__type(value, struct expr_literal);
} expr_literals SEC(".maps");

EXPORT_TYPE(expr_literal);
EXPORT_TYPE(expr_op);
EXPORT_ENUM(expr_code);
EXPORT_ENUM(expr_task);

/* Calls that are not shown because --where could not be evaluated. */
__u64 undecided = 0;

enum expr_outcome { EXPR_MORE, EXPR_YES, EXPR_NO, EXPR_UNDECIDED };

static __always_inline void expr_push(struct expr_machine *m, __u64 number)
{
	m->stack[m->top & (EXPR_STACK - 1)] = number;
	m->top++;
}

static __always_inline __u64 expr_pop(struct expr_machine *m)
{
	m->top--;
	return m->stack[m->top & (EXPR_STACK - 1)];
}

/* Continues at the operation that handles the fault, with an empty stack. */
static __always_inline void expr_fault(struct expr_machine *m, const struct expr_op *op)
{
	m->faulted = 1;
	m->top = 0;
	m->pc += op->skip;
}

static __always_inline bool read_user(void *to, __u32 bytes, __u64 from, bool may_sleep)
{
	if (!bpf_probe_read_user(to, bytes, (void *)from))
		return true;
	return may_sleep && !bpf_copy_from_user(to, bytes, (void *)from);
}

/* The length of the text including its NUL, at most `bytes`, or a negative errno. */
static __always_inline long read_user_text(char *to, __u32 bytes, __u64 from, bool may_sleep)
{
	long length = bpf_probe_read_user_str(to, bytes, (void *)from);
	__u64 page = from;

	if (!may_sleep)
		return length;
	/* Reading a byte of a page brings it into memory: page by page, up to the end of the text. */
	for (int i = 0; i <= EXPR_TEXT / PAGE_BYTES && length < 0; i++) {
		char byte;

		if (bpf_copy_from_user(&byte, sizeof(byte), (void *)page))
			break;
		length = bpf_probe_read_user_str(to, bytes, (void *)from);
		page = (page | (PAGE_BYTES - 1)) + 1;
	}
	return length;
}

static __always_inline long read_to(struct expr_machine *m, __u64 at, __u64 bytes, __u64 from, bool is_text,
				    bool may_sleep)
{
	const __u64 most_text = expr_config.most_text + 2;
	char *to = (char *)m + at_most(at, sizeof(*m) + expr_config.text_starts);

	bytes = at_most(bytes, most_text > EXPR_LITERAL ? most_text : EXPR_LITERAL);
	if (is_text)
		return read_user_text(to, bytes, from, may_sleep);
	return read_user(to, bytes, from, may_sleep) ? 0 : -1;
}

__noinline long expr_read_sleepable(__u32 index, __u64 at, __u64 bytes, __u64 from, bool is_text)
{
	struct expr_machine *m = expr_machine(index);

	return m ? read_to(m, at, bytes, from, is_text, true) : -1;
}

/*
 * Reads memory of the process to offset `at` of a machine: `bytes` of them, or up to a NUL. Returns the length of the
 * text including its NUL, or 0 for bytes; a negative number if they cannot be read.
 */
static __always_inline long read_memory(struct expr_machine *m, __u32 index, __u64 at, __u64 bytes, __u64 from,
					bool is_text, bool may_sleep)
{
	return may_sleep ? expr_read_sleepable(index, at, bytes, from, is_text)
			 : read_to(m, at, bytes, from, is_text, false);
}

static __always_inline bool fetch(__u32 index, __u64 bytes, __u64 from, bool is_text, bool may_sleep)
{
	const __u64 at = offsetof(struct expr_machine, text);
	struct expr_machine *m = expr_machine(index);

	return m && read_memory(m, index, at, bytes, from, is_text, may_sleep) >= 0;
}

/* Reads text or bytes to compare. Bytes after the end keep what they were, and are not compared. False on a fault. */
__noinline int expr_fetch(__u32 index, __u64 bytes, __u64 from, bool is_text)
{
	return fetch(index, bytes, from, is_text, false);
}

__noinline int expr_fetch_sleepable(__u32 index, __u64 bytes, __u64 from, bool is_text)
{
	return fetch(index, bytes, from, is_text, true);
}

/* The low `op->a` bytes of a number, extended to 64 bits. */
static __always_inline __u64 expr_low(__u64 number, const struct expr_op *op)
{
	__u32 shift = (64 - 8 * op->a) & 63;

	number <<= shift;
	return op->is_signed ? (__u64)((__s64)number >> shift) : number >> shift;
}

static __always_inline __u64 magnitude(__u64 number)
{
	return (__s64)number < 0 ? -number : number;
}

/* BPF has no signed division. */
__noinline __u64 expr_quotient(__u64 a, __u64 b, bool is_signed, bool remainder)
{
	bool negative = false;

	if (is_signed) {
		negative = remainder ? (__s64)a < 0 : (__s64)(a ^ b) < 0;
		a = magnitude(a);
		b = magnitude(b);
	}
	a = remainder ? a % b : a / b;
	return negative ? -a : a;
}

static __always_inline __u64 expr_task(__u8 which)
{
	switch (which) {
	case TASK_PID:
		return current_ids() >> 32;
	case TASK_TID:
		return (__u32)current_ids();
	case TASK_UID:
		return (__u32)bpf_get_current_uid_gid();
	default:
		return bpf_get_smp_processor_id();
	}
}

/* Operations with two operands, except divisions. */
static __always_inline __u64 expr_calculate(const struct expr_op *op, __u64 a, __u64 b)
{
	switch (op->code) {
	case EXPR_ADD:
		return a + b;
	case EXPR_SUBTRACT:
		return a - b;
	case EXPR_MULTIPLY:
		return a * b;
	case EXPR_AND:
		return a & b;
	case EXPR_OR:
		return a | b;
	case EXPR_XOR:
		return a ^ b;
	case EXPR_SHIFT_LEFT:
		return a << (b & 63);
	case EXPR_SHIFT_RIGHT:
		return op->is_signed ? (__u64)((__s64)a >> (b & 63)) : a >> (b & 63);
	case EXPR_EQUAL:
		return a == b;
	case EXPR_LESS:
		return op->is_signed ? (__s64)a < (__s64)b : a < b;
	default:
		return op->is_signed ? (__s64)a <= (__s64)b : a <= b;
	}
}

/* Is the text of the machine the one with this index in `expr_literals`? */
__noinline int expr_matches(__u32 index, __u32 literal_index)
{
	const struct expr_literal *literal = bpf_map_lookup_elem(&expr_literals, &literal_index);
	const struct expr_machine *m = expr_machine(index);
	const __u64 *text;

	if (!literal || !m)
		return false;
	text = (const __u64 *)m->text;
	for (int i = 0; i < EXPR_LITERAL / 8; i++) {
		if (!literal->mask[i])
			break;
		if ((text[i] & literal->mask[i]) != literal->value[i])
			return false;
	}
	return true;
}

static __always_inline bool append(__u32 index, __u32 slot, __u64 from, __u64 most, bool is_text, bool may_sleep)
{
	struct expr_machine *m = expr_machine(index);
	/* A negative length is the result of a call that failed. */
	__u64 wanted = !is_text && (__s64)most < 0 ? 0 : most;
	__u64 bytes = expr_config.most_text;
	long length = 0;
	__u64 at, to;

	if (!m)
		return false;
	slot &= EXPR_SLOTS - 1;
	m->record.words[slot] = NO_TEXT;
	if (!from)
		return true;
	at = m->record.used;
	to = sizeof(*m) + at;
	if (at > expr_config.text_starts) {
		/* No room: nothing is kept of it, but it is read, as it may be a fault. */
		to = offsetof(struct expr_machine, text);
		bytes = 0;
	}
	if (bytes > wanted)
		bytes = wanted;
	/* Two bytes more of a text: the NUL, and one that shows whether the text goes on. */
	if (is_text || bytes)
		length = read_memory(m, index, to, is_text ? bytes + 2 : bytes, from, is_text, may_sleep);
	if (length < 0)
		return false;
	length = is_text ? length - (length > 0) : (long)wanted;
	if (length > (long)bytes) {
		length = bytes;
		m->record.truncated |= 1ULL << slot;
	}
	m->record.words[slot] = TEXT_AT(at, length);
	m->record.used = (at + length + 7) & ~7;
	return true;
}

/* Appends text or bytes to the record, at most so many, and refers a slot to them. False if they cannot be read. */
__noinline int expr_append(__u32 index, __u32 slot, __u64 from, __u64 most, bool is_text)
{
	return append(index, slot, from, most, is_text, false);
}

__noinline int expr_append_sleepable(__u32 index, __u32 slot, __u64 from, __u64 most, bool is_text)
{
	return append(index, slot, from, most, is_text, true);
}

/* Stores what is on the stack into a slot. False if it cannot be read. */
static __always_inline bool expr_store(struct expr_machine *m, __u32 index, const struct expr_op *op, bool may_sleep)
{
	bool is_text = op->code == EXPR_STORE_TEXT;
	__u64 number = expr_pop(m);
	__u64 from;

	if (m->faulted)
		return false;
	if (op->code == EXPR_STORE) {
		m->record.words[op->a & (EXPR_SLOTS - 1)] = number;
		return true;
	}
	from = expr_pop(m);
	return may_sleep ? expr_append_sleepable(index, op->a, from, number, is_text)
			 : expr_append(index, op->a, from, number, is_text);
}

/* The value of an operation, from its operands. False if there is none: memory cannot be read, or a divisor is 0. */
static __always_inline bool expr_value(struct expr_machine *m, __u32 index, const struct expr_op *op, __u64 a, __u64 b,
				       __u64 *value, bool may_sleep)
{
	bool is_text;
	__u64 bytes;

	switch (op->code) {
	case EXPR_PUSH:
		*value = op->number;
		return true;
	case EXPR_REGISTER:
		*value = m->registers[op->a & (REGISTERS - 1)];
		return !m->no_result;
	case EXPR_SLOT:
		*value = m->record.words[op->a & (EXPR_SLOTS - 1)];
		return !(m->record.faulted >> (op->a & (EXPR_SLOTS - 1)) & 1);
	case EXPR_TASK:
		*value = expr_task(op->a);
		return true;
	case EXPR_LATENCY:
		*value = m->record.lat_ns;
		return true;
	case EXPR_MATCH_COMM:
		*value = !bpf_get_current_comm(m->text, COMM_LEN) && expr_matches(index, op->number);
		return true;
	case EXPR_LOAD:
		b = 0;
		if (!read_user(&b, at_most(op->a, sizeof(b)), a, may_sleep))
			return false;
		*value = expr_low(b, op);
		return true;
	case EXPR_LOW:
		*value = expr_low(a, op);
		return true;
	case EXPR_NOT:
		*value = !a;
		return true;
	case EXPR_TRUTH:
		*value = a != 0;
		return true;
	case EXPR_MATCH_TEXT:
	case EXPR_MATCH_BYTES:
		is_text = op->code == EXPR_MATCH_TEXT;
		bytes = is_text ? EXPR_LITERAL : op->a;
		if (!(may_sleep ? expr_fetch_sleepable(index, bytes, a, is_text)
				: expr_fetch(index, bytes, a, is_text)))
			return false;
		*value = expr_matches(index, op->number);
		return true;
	case EXPR_DIVIDE:
	case EXPR_REMAINDER:
		if (!b)
			return false;
		*value = expr_quotient(a, b, op->is_signed, op->code == EXPR_REMAINDER);
		return true;
	default:
		*value = expr_calculate(op, a, b);
		return true;
	}
}

static __always_inline enum expr_outcome expr_step(struct expr_machine *m, __u32 index, const struct expr_op *op,
						   bool may_sleep)
{
	__u64 a = 0, b = 0;

	switch (op->code) {
	case EXPR_END:
		return EXPR_YES;
	case EXPR_TEST:
		if (m->faulted)
			return EXPR_UNDECIDED;
		return expr_pop(m) ? EXPR_MORE : EXPR_NO;
	case EXPR_STORE:
	case EXPR_STORE_TEXT:
	case EXPR_STORE_BYTES:
		if (!expr_store(m, index, op, may_sleep))
			m->record.faulted |= 1ULL << (op->a & (EXPR_SLOTS - 1));
		m->faulted = 0;
		m->top = 0;
		return EXPR_MORE;
	case EXPR_SKIP_IF_FALSE:
	case EXPR_SKIP_IF_TRUE:
		a = expr_pop(m);
		if ((a != 0) == (op->code == EXPR_SKIP_IF_TRUE)) {
			m->top++; /* it stays */
			m->pc += op->skip;
		}
		return EXPR_MORE;
	}
	if (op->code >= EXPR_FIRST_BINARY)
		b = expr_pop(m);
	if (op->code >= EXPR_FIRST_UNARY)
		a = expr_pop(m);
	if (expr_value(m, index, op, a, b, &a, may_sleep))
		expr_push(m, a);
	else
		expr_fault(m, op);
	return EXPR_MORE;
}

static __always_inline int few_steps(__u32 index, bool may_sleep)
{
	struct expr_machine *m = expr_machine(index);

	if (!m)
		return EXPR_UNDECIDED;
	for (int i = 0; i < FEW_STEPS; i++) {
		__u32 pc = m->pc++;
		struct expr_op *op = bpf_map_lookup_elem(&expr_ops, &pc);
		enum expr_outcome outcome;

		if (!op)
			return EXPR_UNDECIDED;
		outcome = expr_step(m, index, op, may_sleep);
		if (outcome != EXPR_MORE)
			return outcome;
	}
	return EXPR_MORE;
}

__noinline int expr_few_steps(__u32 index)
{
	return few_steps(index, false);
}

__noinline int expr_few_steps_sleepable(__u32 index)
{
	return few_steps(index, true);
}

static __always_inline int many_steps(__u32 index, bool may_sleep)
{
	int outcome = EXPR_MORE;

	for (int i = 0; i < MANY_STEPS / FEW_STEPS && outcome == EXPR_MORE; i++)
		outcome = may_sleep ? expr_few_steps_sleepable(index) : expr_few_steps(index);
	return outcome;
}

__noinline int expr_many_steps(__u32 index)
{
	return many_steps(index, false);
}

__noinline int expr_many_steps_sleepable(__u32 index)
{
	return many_steps(index, true);
}

/* Runs the operations that start at `pc`, with these registers. */
static __always_inline enum expr_outcome expr_run(struct pt_regs *ctx, struct expr_machine *m, __u32 index, __u32 pc,
						  bool may_sleep)
{
	int outcome = EXPR_MORE;

	expr_registers(m, ctx);
	m->pc = pc;
	m->top = 0;
	m->faulted = 0;
	for (int i = 0; i < EXPR_STEPS / MANY_STEPS && outcome == EXPR_MORE; i++)
		outcome = may_sleep ? expr_many_steps_sleepable(index) : expr_many_steps(index);
	if (outcome == EXPR_UNDECIDED)
		__sync_fetch_and_add(&undecided, 1);
	return outcome;
}

#endif
