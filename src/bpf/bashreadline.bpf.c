// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Lines that readline returns, and the process that they are for. */
#include "event.bpf.h"
#include "filter.bpf.h"

#define MAX_LINE 16384 /* longer lines are truncated */
#define TTY_LEN 32

/* Includes what user space could not look up if the process exits after this line. */
struct line_event {
	struct event_header header;
	__u64 cgroup; /* cgroup2 id */
	__u64 exe_inode;
	__u32 exe_dev; /* the kernel's dev_t: major << 20 | minor */
	__u32 parent;
	__u32 login_uid; /* 0xffffffff: none */
	__s32 len; /* bytes of `text`, or a negative errno when it could not be read */
	__u32 truncated; /* the line is longer than `text` */
	__u32 pad;
	char tty[TTY_LEN]; /* such as "pts3"; empty without a terminal */
	/* followed by `text`: `len` bytes and a NUL, in 256, 4096 or MAX_LINE + 1 bytes */
};

EXPORT_TYPE(line_event);

/* True if the string ends here, after the bytes that were read. */
static __always_inline bool ends_at(const char *end)
{
	char last = 1;

	return !bpf_probe_read_user(&last, 1, end) && !last;
}

static __always_inline void process_facts(struct line_event *e)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);

	e->cgroup = bpf_get_current_cgroup_id();
	e->exe_inode = BPF_CORE_READ(inode, i_ino);
	e->exe_dev = BPF_CORE_READ(inode, i_sb, s_dev);
	/* The kernel translates only the IDs of the current task to another PID namespace. */
	e->parent = pid_ns_ino ? 0 : BPF_CORE_READ(task, real_parent, tgid);
	e->login_uid = ~0;
	if (bpf_core_field_exists(task->loginuid)) /* CONFIG_AUDIT */
		e->login_uid = BPF_CORE_READ(task, loginuid.val);
	if (BPF_CORE_READ_STR_INTO(&e->tty, task, signal, tty, name) < 0)
		e->tty[0] = 0;
}

/*
 * Sends the line if it fits into `room` bytes with its NUL, or truncated if `largest`. Reads directly into the ring: a
 * buffer per CPU could be overwritten by another task that preempts the program and runs it on the same CPU.
 */
static __always_inline bool send_line(const char *line, __u16 func, __u32 room, bool largest)
{
	__u64 size = sizeof(struct line_event) + room;
	struct line_event *e = event_reserve(size);
	long len;

	if (!e)
		return true;
	len = bpf_probe_read_user_str(e + 1, room, line);
	if (len == room && !largest) {
		bpf_ringbuf_discard(e, 0);
		return false;
	}
	event_header(&e->header, 0, func, bpf_ktime_get_ns());
	e->len = len > 0 ? len - 1 : len;
	e->truncated = len == room && !ends_at(line + room - 1);
	e->pad = 0;
	process_facts(e);
	event_submit(e, size);
	return true;
}

SEC("uretprobe")
int line_return(struct pt_regs *ctx)
{
	const char *line = (const char *)PT_REGS_RC(ctx);
	__u64 cookie = probe_cookie(ctx);
	__u16 func = cookie;

	if (!line || !is_own_probe(cookie) || !is_wanted()) /* NULL means EOF */
		return 0;
	if (send_line(line, func, 256, false) || send_line(line, func, 4096, false))
		return 0;
	send_line(line, func, MAX_LINE + 1, true);
	return 0;
}
