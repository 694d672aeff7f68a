// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Each call of @FUNCTION@: arguments, result and duration.

use anyhow::Result;
use clap::Parser;
use plain::Plain;

use crate::bpf::@NAME@::{@SKELETON@SkelBuilder, types};
use crate::cli::{CommandArgs, CommonArgs};
use crate::find::code::placement::Needs;
use crate::find::elf::ElfFile;
use crate::find::host::proc::ObjectFile;
use crate::find::spec;
use crate::output::{Column, Table, Value};
use crate::probe::event::{Header, decode};
use crate::probe::point::Ends;
use crate::probe::search::functions::{Functions, OnFound, TracedFunction};
use crate::run::{Event, Run, SessionOptions, Step};

const EXAMPLES: &str = "\
EXAMPLES:
    @NAME@                      # calls in all processes, until Ctrl-C
    @NAME@ -p 1234 -M 10        # the next ten calls in a process
    @NAME@ --comm python3 -j    # calls in each python3, as JSON
    @NAME@ -- COMMAND           # calls in a command, from its start";

/// Show each call of @FUNCTION@: arguments, result, duration
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    command: CommandArgs,
}

const FUNCTION: &str = "@TARGET@:@FUNCTION@";

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("TID", "tid", 7).data_only(),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 15),
    Column::left("FUNC", "function", 0).data_only(),
    Column::right("LATus", "lat_ns", 9),
    Column::left("RETVAL", "retval", 14),
    Column::left("ARG0", "arg0", 14),
    Column::left("ARG1", "arg1", 14),
    Column::left("ARG2", "arg2", 14),
    Column::left("ARG3", "arg3", 14),
    Column::left("ARG4", "arg4", 14),
    Column::left("ARG5", "arg5", 14),
];

// SAFETY: integers and arrays of integers without padding; every bit pattern is valid.
unsafe impl Plain for types::call_event {}

pub fn run(args: Args) -> Result<u8> {
    let run = Run::begin(&args.common, &args.command)?;
    let found = run.search(Functions::new(
        vec![spec::parse(FUNCTION)?],
        |_| Ends::Both,
        ReadsArguments,
    ))?;
    let open = found.open(@SKELETON@SkelBuilder::default())?;
    let mut session = open.attach(SessionOptions::default())?;
    let table = Table::new("event", COLUMNS);
    session.out().header(&table);
    while let Some(step) = session.next()? {
        if let Step::Event(event) = step {
            print(&table, event);
        }
    }
    session.finish()
}

/// The probe at the entry may be moved to a later instruction, but not past one that changes an argument.
struct ReadsArguments;

impl OnFound for ReadsArguments {
    fn on_found(&mut self, _: &TracedFunction, _: &ObjectFile, _: &ElfFile) -> Needs {
        Needs::arguments(6)
    }
}

fn print(table: &Table, event: Event<'_, Functions<ReadsArguments>>) {
    let Event {
        record, finder, out, ..
    } = event;
    let (Some(header), Some(call)) = (decode::<Header>(record), decode::<types::call_event>(record)) else {
        return;
    };
    let function = finder.get(header.func.into()).map(TracedFunction::name);
    let [arg0, arg1, arg2, arg3, arg4, arg5] = call.args.map(Value::Hex);
    out.row(
        table,
        &[
            Value::Time(out.wall(header.time_ns)),
            Value::U64(header.pid.into()),
            Value::U64(header.tid.into()),
            Value::U64(header.uid.into()),
            Value::Bytes(header.comm()),
            Value::Bytes(function.as_deref().unwrap_or("?").as_bytes()),
            Value::Micros(call.lat_ns),
            match call.has_retval {
                0 => Value::Null,
                _ => Value::Hex(call.retval),
            },
            arg0,
            arg1,
            arg2,
            arg3,
            arg4,
            arg5,
        ],
    );
}
