// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! A row for each call.

use super::Args;
use super::allocators::Allocators;
use super::functions::AllocCall;
use crate::bpf::mallocsnoop::types::{self, alloc_shape};
use crate::output::{Column, Output, StackLines, Table, Value};
use crate::probe::event::{Header, RawStack, StackMoment, decode};
use crate::run::{Event, EventHandler, SessionNeeds};

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("TID", "tid", 7).data_only(),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 15),
    Column::left("CALL", "call", 14),
    Column::right("SIZE", "size_bytes", 12),
    Column::left("ADDR", "addr", 14).text_only(),
    Column::left("ADDR", "addr", 14).data_only(),
    Column::left("FAILED", "failed", 6).data_only(),
    Column::right("LATus", "lat_ns", 9),
    Column::below("stack"),
    Column::right("CERTAIN", "stack_certain", 7).data_only(),
];

/// Prints a row for each call.
pub struct AllocPrinter {
    table: Table,
    with_return: bool,
    with_stack: bool,
}

impl AllocPrinter {
    pub fn new(args: &Args) -> Self {
        let mut table = Table::new("event", COLUMNS);
        if !args.ret {
            table = table.without("lat_ns").without("failed");
        }
        if !args.ret && !args.traces(AllocCall::Free) {
            table = table.without("addr");
        }
        if !args.stack {
            table = table.without("stack").without("stack_certain");
        }
        Self {
            table,
            with_return: args.ret,
            with_stack: args.stack,
        }
    }
}

impl EventHandler<Allocators> for AllocPrinter {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            stacks: self.with_stack,
            ..SessionNeeds::default()
        }
    }

    fn begin(&mut self, out: &mut Output) {
        out.header(&self.table);
    }

    fn event(&mut self, event: Event<'_, Allocators>) {
        let (Some(header), Some(alloc)) = (
            decode::<Header>(event.record),
            decode::<types::alloc_event>(event.record),
        ) else {
            return;
        };
        let stack = match decode::<types::alloc_stack_event>(event.record).filter(|_| self.with_stack) {
            Some(types::alloc_stack_event { stack, .. }) => {
                let stack = RawStack {
                    moment: StackMoment::from_record(stack.moment),
                    caller: stack.caller,
                    bytes: stack.bytes,
                    frames: &stack.frames,
                };
                Some(event.stacks.name(header, &stack))
            }
            None => None,
        };
        let function = event.finder.function(header.func.into());
        let freed = function.is_some_and(|function| function.shape == alloc_shape::SHAPE_FREE);
        let name = function.map_or("?", |function| &function.name);
        let failed = self.with_return && !freed && alloc.addr == 0 && alloc.size != 0;
        let addr = if (self.with_return && !failed) || freed {
            Value::Hex(alloc.addr)
        } else {
            Value::Null
        };
        let out = event.out;
        out.row(
            &self.table,
            &[
                Value::Time(out.wall(header.time_ns)),
                Value::U64(header.pid.into()),
                Value::U64(header.tid.into()),
                Value::U64(header.uid.into()),
                Value::Bytes(header.comm()),
                Value::Str(name),
                if freed {
                    Value::Null
                } else {
                    Value::U64(alloc.size)
                },
                if failed { Value::Str("failed") } else { addr },
                addr,
                Value::Bool(failed),
                Value::Micros(alloc.lat_ns),
                stack.map_or(Value::Null, Value::Stack),
                stack.map_or(Value::Null, StackLines::certain),
            ],
        );
    }
}
