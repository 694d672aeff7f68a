/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The interpreter of --where and --args (src/probe/expr.rs): a stack machine whose operations come from a map.
 *
 * Its state is in a buffer that nobody else uses meanwhile. A buffer per CPU would not do, as these programs can be
 * preempted; and what is in a map is of no concern to the verifier, which therefore looks at a step once and not at
 * every way in which steps can follow each other.
 */
#ifndef EXPR_BPF_H
#define EXPR_BPF_H

#include "event.bpf.h"
#include "stack.bpf.h"

/* Twins are in src/probe/expr/code.rs. */
#define EXPR_STACK 16
#define EXPR_SLOTS 64
#define EXPR_STEPS 256
#define EXPR_LITERAL 128
#define EXPR_LITERALS 128

#define STEPS_AT_ONCE 8 /* of one call of `expr_steps` */
#define PAGE_BYTES 4096 /* the least there is */
#define MOST_TEXT (64 << 10)

#if defined(__TARGET_ARCH_x86)
#define REGISTERS 16
#else
#define REGISTERS 32
#endif

enum expr_code {
	EXPR_END,
	EXPR_TEST,
	EXPR_STORE,
	EXPR_STORE_TEXT,
	EXPR_STORE_BYTES,
	EXPR_PUSH,
	EXPR_REGISTER,
	EXPR_SLOT,
	EXPR_TASK,
	EXPR_LATENCY,
	EXPR_LOAD,
	EXPR_LOW,
	EXPR_NOT,
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
	EXPR_SKIP_IF_FALSE,
	EXPR_SKIP_IF_TRUE,
	EXPR_TRUTH,
	EXPR_MATCH_TEXT,
	EXPR_MATCH_BYTES,
	EXPR_MATCH_COMM,
};

enum expr_task { TASK_PID, TASK_TID, TASK_UID, TASK_CPU };

struct expr_op {
	__u8 code;
	__u8 a;
	__u8 is_signed;
	__u8 pad;
	__u16 skip;
	__u16 pad2;
	__u64 number;
};

/* (text & mask) == value, eight bytes at a time. */
struct expr_literal {
	__u64 value[EXPR_LITERAL / 8];
	__u64 mask[EXPR_LITERAL / 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* as many as the run's functions need */
	__type(key, __u32);
	__type(value, struct expr_op);
} expr_ops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EXPR_LITERALS);
	__type(key, __u32);
	__type(value, struct expr_literal);
} expr_literals SEC(".maps");

/* What leads from a slot to text or bytes. */
#define TEXT_AT(offset, bytes) ((__u64)(offset) << 32 | (bytes))
#define NO_TEXT (~0ULL) /* the address was 0 */

/* `kind` of a record's header. */
enum expr_kind {
	KIND_CALL,
	KIND_CALL_JUMPED, /* at its end, to another function, whose result will be its own */
};

#define NO_STACK (~0U) /* 0 is where it is when there is nothing else */

/* What is found out about a call. User space gets it from `header` on, as far as `used` says. */
struct expr_record {
	struct event_header header;
	__u64 lat_ns;
	__u64 faulted; /* bit n: slot n could not be read */
	__u64 cut; /* bit n: slot n leads to less text than there is */
	__u32 used; /* bytes behind this structure */
	__u32 depth; /* traced calls that this one is nested in */
	__u32 stack_at; /* where in them `struct stack` is, or NO_STACK */
	__u32 function; /* the whole of what `header.func` has the low bits of */
	__u64 words[]; /* the slots, then what they lead to */
};

EXPORT_TYPE(expr_record);
EXPORT_TYPE(stack);

struct expr_machine {
	__u64 stack[EXPR_STACK];
	__u64 registers[REGISTERS]; /* by their DWARF numbers */
	char text[EXPR_LITERAL]; /* that is compared */
	__u32 top; /* numbers on the stack */
	__u32 pc;
	__u32 faulted; /* memory could not be read, or a divisor is 0 */
	__u32 no_result; /* the function has jumped to another one, whose result will be its own */
	struct expr_record record;
};

/* Behind the last text: its end is rounded up to eight bytes, and the stack follows. */
#define TEXT_SLACK 16
#define EXPR_SLACK (TEXT_SLACK + sizeof(struct stack))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct expr_machine) + EXPR_SLOTS * 8 + EXPR_SLACK);
} expr_machines SEC(".maps");

EXPORT_TYPE(expr_machine);

#define NO_MACHINE ((__u32)~0)

/* Those that nobody uses. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1);
	__uint(value_size, sizeof(__u32));
} expr_free SEC(".maps");

/* Bytes of `words` that can be begun in, and most that are read at once. */
const volatile __u32 expr_room = EXPR_SLOTS * 8;
const volatile __u32 expr_most_text = 0;

/* Calls for which --where could not be decided. */
__u64 undecided = 0;

enum expr_outcome { EXPR_MORE, EXPR_YES, EXPR_NO, EXPR_UNDECIDED };

/* The lesser of both, so that the verifier knows it and clang does not reckon otherwise. */
static __always_inline __u64 at_most(__u64 number, __u64 bound)
{
	barrier_var(number);
	if (number > bound)
		number = bound;
	barrier_var(number);
	return number;
}

static __always_inline struct expr_machine *expr_machine(__u32 index)
{
	return bpf_map_lookup_elem(&expr_machines, &index);
}

static __always_inline bool expr_take(__u32 *index)
{
	if (!bpf_map_pop_elem(&expr_free, index))
		return true;
	__sync_fetch_and_add(&lost, 1);
	return false;
}

static __always_inline void expr_give_back(__u32 index)
{
	if (index != NO_MACHINE)
		bpf_map_push_elem(&expr_free, &index, 0);
}

/* A machine that was taken, with an empty record of a function. */
static __always_inline struct expr_machine *expr_begin(__u32 index, __u32 function, __u32 slots)
{
	struct expr_machine *m = expr_machine(index);

	if (!m)
		return NULL;
	m->record.lat_ns = 0;
	m->record.faulted = 0;
	m->record.cut = 0;
	m->record.used = slots * sizeof(__u64);
	m->record.depth = 0;
	m->record.stack_at = NO_STACK;
	m->record.function = function;
	m->no_result = 0;
	return m;
}

static __always_inline void expr_registers(struct expr_machine *m, struct pt_regs *ctx)
{
#if defined(__TARGET_ARCH_x86)
	m->registers[0] = ctx->ax;
	m->registers[1] = ctx->dx;
	m->registers[2] = ctx->cx;
	m->registers[3] = ctx->bx;
	m->registers[4] = ctx->si;
	m->registers[5] = ctx->di;
	m->registers[6] = ctx->bp;
	m->registers[7] = ctx->sp;
	m->registers[8] = ctx->r8;
	m->registers[9] = ctx->r9;
	m->registers[10] = ctx->r10;
	m->registers[11] = ctx->r11;
	m->registers[12] = ctx->r12;
	m->registers[13] = ctx->r13;
	m->registers[14] = ctx->r14;
	m->registers[15] = ctx->r15;
#else
	struct user_pt_regs *regs = (struct user_pt_regs *)ctx;

#pragma unroll
	for (int i = 0; i < 31; i++)
		m->registers[i] = regs->regs[i];
	m->registers[31] = regs->sp;
#endif
}

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

/* The operation that tells of it goes on with an empty stack. */
static __always_inline void expr_fault(struct expr_machine *m, const struct expr_op *op)
{
	m->faulted = 1;
	m->top = 0;
	m->pc += op->skip;
}

/* `may_sleep`, here and below: pages that are not in memory can be waited for. */
static __always_inline bool read_user(void *to, __u32 bytes, __u64 from, bool may_sleep)
{
	if (!bpf_probe_read_user(to, bytes, (void *)from))
		return true;
	return may_sleep && !bpf_copy_from_user(to, bytes, (void *)from);
}

/* Bytes of the text with its NUL, at most `bytes`, or a negative errno. */
static __always_inline long read_user_text(char *to, __u32 bytes, __u64 from, bool may_sleep)
{
	long length = bpf_probe_read_user_str(to, bytes, (void *)from);
	__u64 page = from;

	if (!may_sleep)
		return length;
	/* Page by page as far as the text goes: what is touched comes into memory. */
	for (int i = 0; i <= MOST_TEXT / PAGE_BYTES && length < 0; i++) {
		char byte;

		if (bpf_copy_from_user(&byte, sizeof(byte), (void *)page))
			break;
		length = bpf_probe_read_user_str(to, bytes, (void *)from);
		page = (page | (PAGE_BYTES - 1)) + 1;
	}
	return length;
}

static __always_inline __u64 expr_low(__u64 number, const struct expr_op *op)
{
	__u32 shift = 64 - 8 * op->a;

	if (!op->a || op->a >= 8)
		return number;
	number <<= shift & 63;
	return op->is_signed ? (__u64)((__s64)number >> (shift & 63)) : number >> (shift & 63);
}

static __always_inline __u64 magnitude(__u64 number)
{
	return (__s64)number < 0 ? -number : number;
}

/* BPF knows no division with a sign. */
static __always_inline __u64 expr_quotient(__u64 a, __u64 b, const struct expr_op *op)
{
	bool remainder = op->code == EXPR_REMAINDER;
	bool negative = false;

	if (op->is_signed) {
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

static __always_inline __u64 expr_calculate(__u64 a, __u64 b, const struct expr_op *op)
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
	case EXPR_LESS_EQUAL:
		return op->is_signed ? (__s64)a <= (__s64)b : a <= b;
	default:
		return expr_quotient(a, b, op);
	}
}

static __always_inline bool expr_matches(const struct expr_machine *m, __u32 index)
{
	const struct expr_literal *literal = bpf_map_lookup_elem(&expr_literals, &index);
	const __u64 *text = (const __u64 *)m->text;

	if (!literal)
		return false;
	for (int i = 0; i < EXPR_LITERAL / 8; i++) {
		if (!literal->mask[i])
			break;
		if ((text[i] & literal->mask[i]) != literal->value[i])
			return false;
	}
	return true;
}

/* Brings text into the place where it is compared. What is behind its end is not looked at. */
static __always_inline bool expr_fetch(struct expr_machine *m, const struct expr_op *op, bool may_sleep)
{
	if (op->code == EXPR_MATCH_COMM)
		return !bpf_get_current_comm(m->text, COMM_LEN);
	if (op->code == EXPR_MATCH_TEXT)
		return read_user_text(m->text, sizeof(m->text), expr_pop(m), may_sleep) >= 0;
	return read_user(m->text, at_most(op->a, sizeof(m->text)), expr_pop(m), may_sleep);
}

static __always_inline void expr_store(struct expr_machine *m, const struct expr_op *op, __u64 number)
{
	m->record.words[op->a & (EXPR_SLOTS - 1)] = number;
}

/* Into the record, behind what is there. */
static __always_inline bool expr_store_text(struct expr_machine *m, const struct expr_op *op, __u64 from, __u64 most,
					    bool may_sleep)
{
	__u64 bit = 1ULL << (op->a & (EXPR_SLOTS - 1));
	__u64 at = at_most(m->record.used, expr_room);
	/* A length below zero is that of a call that failed. */
	__u64 wanted = op->code == EXPR_STORE_BYTES && (__s64)most < 0 ? 0 : most;
	__u64 bytes = m->record.used > expr_room ? 0 : at_most(wanted, expr_most_text);
	char *to = (char *)m->record.words + at;
	long length = bytes;

	if (!from) {
		expr_store(m, op, NO_TEXT);
		return true;
	}
	if (op->code == EXPR_STORE_TEXT) {
		/* Two more than it may have: a NUL, and a byte that tells whether there is more. */
		length = read_user_text(to, at_most(bytes + 2, expr_most_text + 2), from, may_sleep);
		if (length < 0)
			return false;
		length -= length > 0;
		if (length > (long)bytes) {
			length = bytes;
			m->record.cut |= bit;
		}
	} else {
		if (bytes && !read_user(to, at_most(bytes, expr_most_text), from, may_sleep))
			return false;
		if (wanted > bytes)
			m->record.cut |= bit;
	}
	expr_store(m, op, TEXT_AT(at, length));
	m->record.used = (at + length + 7) & ~7;
	return true;
}

static __always_inline enum expr_outcome expr_step(struct expr_machine *m, const struct expr_op *op, bool may_sleep)
{
	__u64 a, b;

	switch (op->code) {
	case EXPR_END:
		return EXPR_YES;
	case EXPR_TEST:
		if (m->faulted)
			return EXPR_UNDECIDED;
		return expr_pop(m) ? EXPR_MORE : EXPR_NO;
	case EXPR_STORE_TEXT:
	case EXPR_STORE_BYTES:
	case EXPR_STORE:
		b = expr_pop(m);
		a = op->code == EXPR_STORE ? 0 : expr_pop(m);
		if (!m->faulted && op->code == EXPR_STORE)
			expr_store(m, op, b);
		else if (m->faulted || !expr_store_text(m, op, a, b, may_sleep))
			m->record.faulted |= 1ULL << (op->a & (EXPR_SLOTS - 1));
		m->faulted = 0;
		m->top = 0;
		break;
	case EXPR_PUSH:
		expr_push(m, op->number);
		break;
	case EXPR_REGISTER:
		if (m->no_result)
			expr_fault(m, op);
		else
			expr_push(m, m->registers[op->a & (REGISTERS - 1)]);
		break;
	case EXPR_SLOT:
		if (m->record.faulted >> (op->a & (EXPR_SLOTS - 1)) & 1)
			expr_fault(m, op);
		else
			expr_push(m, m->record.words[op->a & (EXPR_SLOTS - 1)]);
		break;
	case EXPR_TASK:
		expr_push(m, expr_task(op->a));
		break;
	case EXPR_LATENCY:
		expr_push(m, m->record.lat_ns);
		break;
	case EXPR_LOAD:
		a = 0;
		if (read_user(&a, op->a == 1 ? 1 : op->a == 2 ? 2 : op->a == 4 ? 4 : 8, expr_pop(m), may_sleep))
			expr_push(m, expr_low(a, op));
		else
			expr_fault(m, op);
		break;
	case EXPR_LOW:
		expr_push(m, expr_low(expr_pop(m), op));
		break;
	case EXPR_NOT:
		expr_push(m, !expr_pop(m));
		break;
	case EXPR_TRUTH:
		expr_push(m, expr_pop(m) != 0);
		break;
	case EXPR_SKIP_IF_FALSE:
	case EXPR_SKIP_IF_TRUE:
		a = expr_pop(m);
		if ((a != 0) == (op->code == EXPR_SKIP_IF_TRUE)) {
			expr_push(m, a);
			m->pc += op->skip;
		}
		break;
	case EXPR_MATCH_TEXT:
	case EXPR_MATCH_BYTES:
	case EXPR_MATCH_COMM:
		if (expr_fetch(m, op, may_sleep))
			expr_push(m, expr_matches(m, op->number));
		else
			expr_fault(m, op);
		break;
	case EXPR_DIVIDE:
	case EXPR_REMAINDER:
		b = expr_pop(m);
		a = expr_pop(m);
		if (b)
			expr_push(m, expr_quotient(a, b, op));
		else
			expr_fault(m, op);
		break;
	default:
		b = expr_pop(m);
		a = expr_pop(m);
		expr_push(m, expr_calculate(a, b, op));
	}
	return EXPR_MORE;
}

static __always_inline int some_steps(__u32 index, bool may_sleep)
{
	struct expr_machine *m = expr_machine(index);

	if (!m)
		return EXPR_UNDECIDED;
	for (int i = 0; i < STEPS_AT_ONCE; i++) {
		__u32 pc = m->pc++;
		struct expr_op *op = bpf_map_lookup_elem(&expr_ops, &pc);
		enum expr_outcome outcome;

		if (!op)
			return EXPR_UNDECIDED;
		outcome = expr_step(m, op, may_sleep);
		if (outcome != EXPR_MORE)
			return outcome;
	}
	return EXPR_MORE;
}

/* Not static, so that the verifier looks at them once and not at each call. */
__noinline int expr_steps(__u32 index)
{
	return some_steps(index, false);
}

__noinline int expr_steps_sleepable(__u32 index)
{
	return some_steps(index, true);
}

/* Puts the user stack into the record, behind what is there. */
static __always_inline void expr_add_stack(struct pt_regs *ctx, struct expr_machine *m, bool at_entry)
{
	__u64 at = at_most(m->record.used, expr_room + expr_most_text + TEXT_SLACK);

	stack_read(ctx, (struct stack *)((char *)m->record.words + at), at_entry);
	m->record.stack_at = at;
	m->record.used = at + sizeof(struct stack);
}

/* Copies the record into the ring. */
static __always_inline void expr_emit(struct expr_machine *m)
{
	__u64 used = at_most(m->record.used, expr_room + expr_most_text + EXPR_SLACK);

	event_output(&m->record, sizeof(m->record) + used);
}

/* Runs the operations from `pc` on, with these registers. */
static __always_inline enum expr_outcome expr_run(struct pt_regs *ctx, struct expr_machine *m, __u32 index, __u32 pc,
						  bool may_sleep)
{
	int outcome = EXPR_MORE;

	expr_registers(m, ctx);
	m->pc = pc;
	m->top = 0;
	m->faulted = 0;
	for (int i = 0; i < EXPR_STEPS / STEPS_AT_ONCE && outcome == EXPR_MORE; i++)
		outcome = may_sleep ? expr_steps_sleepable(index) : expr_steps(index);
	if (outcome == EXPR_UNDECIDED)
		__sync_fetch_and_add(&undecided, 1);
	return outcome;
}

#endif
