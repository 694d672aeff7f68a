/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the interpreter of expr.bpf.h works on: a machine per call, which has the record that goes into the ring.
 *
 * A machine is a map value that one call owns. A value per CPU does not work, because these programs can be preempted.
 */
#ifndef EXPR_MACHINE_BPF_H
#define EXPR_MACHINE_BPF_H

#include "event.bpf.h"
#include "stack.bpf.h"

/* Rust reads these limits from the skeleton. */
enum expr_limit {
	EXPR_STACK = 16, /* numbers on the stack */
	EXPR_SLOTS = 64, /* numbers in a record */
	EXPR_STEPS = 256, /* operations at one end of a call */
	EXPR_LITERAL = 128, /* bytes of a text to compare with */
	EXPR_LITERALS = 128, /* such texts in a run */
	EXPR_TEXT = 64 << 10, /* bytes of a text in a record */
	EXPR_TEXT_SLACK = 16, /* after the last text: its end is rounded up to eight bytes */
};

#define REGISTERS 32 /* a power of two */

/* The content of a slot that refers to text or bytes: where they are in `words`, and how many. */
#define TEXT_AT(offset, bytes) ((__u64)(offset) << 32 | (bytes))
#define NO_TEXT (~0ULL) /* the address is 0 */

/* `kind` of a record's header. */
enum expr_kind {
	KIND_CALL,
	KIND_CALL_JUMPED, /* the function ended in a tail call, whose result is not known */
};

enum expr_stack_at {
	NO_STACK = ~0U, /* 0 is where the stack is in a record without slots */
};

/* What is known of a call. User space gets `used` bytes of `words`. */
struct expr_record {
	struct event_header header;
	__u64 lat_ns;
	__u64 faulted; /* bit n: slot n could not be read */
	__u64 truncated; /* bit n: the text of slot n is truncated */
	__u32 used; /* bytes of `words` */
	__u32 depth; /* traced calls that this one is nested in */
	__u32 stack_at; /* offset of `struct stack` in `words`, or NO_STACK */
	__u32 function; /* index; `header.func` has its low 16 bits */
	__u64 words[]; /* the slots, then the texts that they refer to */
};

EXPORT_TYPE(expr_record);
EXPORT_TYPE(stack);

struct expr_machine {
	__u64 stack[EXPR_STACK];
	__u64 registers[REGISTERS]; /* by DWARF number */
	char text[EXPR_LITERAL]; /* to compare */
	__u32 top; /* numbers on the stack */
	__u32 pc;
	__u32 faulted; /* memory could not be read, or a divisor is 0 */
	__u32 no_result; /* see KIND_CALL_JUMPED */
	struct expr_record record;
};

/* The last text may be as long as this, and the stack follows it. */
#define EXPR_SLACK (EXPR_TEXT_SLACK + sizeof(struct stack))

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct expr_machine) + EXPR_SLOTS * 8 + EXPR_SLACK);
} expr_machines SEC(".maps");

EXPORT_TYPE(expr_machine);
EXPORT_ENUM(expr_limit);
EXPORT_ENUM(expr_kind);
EXPORT_ENUM(expr_stack_at);

#define NO_MACHINE ((__u32)~0)

/* Machines that are free. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1);
	__uint(value_size, sizeof(__u32));
} expr_free SEC(".maps");

/* What this run needs, so that the verifier skips the rest. User space sets it before load. */
const volatile struct expr_config {
	__u32 text_starts; /* bytes of `words` in which a text may start */
	__u32 most_text; /* bytes of the longest text */
} expr_config = { .text_starts = EXPR_SLOTS * 8 };

/* The minimum, computed so that the verifier knows the bound and clang does not optimize it away. */
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

/* The machine with this index, with an empty record. */
static __always_inline struct expr_machine *expr_begin(__u32 index, __u32 function, __u32 slots)
{
	struct expr_machine *m = expr_machine(index);

	if (!m)
		return NULL;
	m->record.lat_ns = 0;
	m->record.faulted = 0;
	m->record.truncated = 0;
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
	m->registers[16] = ctx->ip;
#else
	struct user_pt_regs *regs = (struct user_pt_regs *)ctx;

#pragma unroll
	for (int i = 0; i < 31; i++)
		m->registers[i] = regs->regs[i];
	m->registers[31] = regs->sp;
#endif
}

/* Appends the user stack to the record. */
static __always_inline void expr_add_stack(struct pt_regs *ctx, struct expr_machine *m, enum stack_moment moment)
{
	__u64 at = at_most(m->record.used, expr_config.text_starts + expr_config.most_text + EXPR_TEXT_SLACK);

	stack_read(ctx, (struct stack *)((char *)m->record.words + at), moment);
	m->record.stack_at = at;
	m->record.used = at + sizeof(struct stack);
}

/* Copies the record into the ring. */
static __always_inline void expr_emit(struct expr_machine *m)
{
	__u64 used = at_most(m->record.used, expr_config.text_starts + expr_config.most_text + EXPR_SLACK);

	event_output(&m->record, sizeof(m->record) + used);
}

#endif
