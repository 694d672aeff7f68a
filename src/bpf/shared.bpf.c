// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The types and constants of the headers, for user space: it uses those of this object's skeleton. The object itself is
 * not loaded, and the tools' own objects need no variables to export them.
 */
#include "event.bpf.h"
#include "filter.bpf.h"
#include "group.bpf.h"
#include "calls.bpf.h"
#include "histogram.bpf.h"
#include "stack.bpf.h"

EXPORT_ENUM(call_layout);
EXPORT_ENUM(cookie_jumped);
EXPORT_ENUM(cookie_layout);
EXPORT_ENUM(cookie_mark);
EXPORT_ENUM(filter_limits);
EXPORT_ENUM(group_by);
EXPORT_ENUM(histogram_layout);
EXPORT_ENUM(hit_layout);
EXPORT_ENUM(pid_limits);
EXPORT_ENUM(stack_moment);
EXPORT_ENUM(trap_kind);
EXPORT_TYPE(event_header);
EXPORT_TYPE(group_event);
EXPORT_TYPE(stack);
