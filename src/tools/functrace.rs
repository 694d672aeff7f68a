//! Calls of any function: typed arguments, and with `--ret` the result and the duration.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::MapHandle;
use libbpf_rs::skel::SkelBuilder;
use plain::Plain;

use crate::bpf::functrace::{FunctraceSkelBuilder, OpenFunctraceSkel, types};
use crate::cli::{CommandArgs, FilterArgs, FunctionArgs, OutputArgs, RunArgs, parse_duration, parse_size};
use crate::find::code::placement::Needs;
use crate::find::debug::signatures::Signatures;
use crate::find::elf::ElfFile;
use crate::find::host::proc::{FileId, Object};
use crate::find::spec::{self, At};
use crate::find::stack::symbolize::Symbolizer;
use crate::output::escape::printable;
use crate::output::{Column, Output, Table, Value};
use crate::privileges;
use crate::probe::attach::{AttachMode, Attacher, Ends, loaded};
use crate::probe::event::{Header, callers, decode};
use crate::probe::expr::programs::{FunctionPrograms, MapSizes, ProgramMaps};
use crate::probe::expr::{CallRecord, CallValues, NameScope, TraceRequest};
use crate::probe::follow::Follow;
use crate::probe::search::functions::{Functions, Learn, Scope, Site};
use crate::run::session::{Counter, Parts, Session, Step, attach_all, configure, load, make_room_for_calls};

const EXAMPLES: &str = "\
EXPRESSIONS, in --where and --args:
    arg0 arg1 ...            arguments, also those past the registers
    NAME NAME->MEMBER        parameters whose names are known: funclist shows them
    retval lat               what came back, and how long it took: rows come at the return
    pid tid uid cpu comm     who calls
    64K 1M 0x1f 'a' 10ms     sizes, numbers, characters, durations
    *(u32*)(arg0+8)          memory, u8 to u64 and i8 to i64; (i32)arg0 is a cast
    str(arg0) buf(arg1,16)   text up to a NUL, and bytes; to be compared with == != ^=
    && || ! == != ^= < <= > >= + - * / % & | ^ << >> ~      ^= is \"begins with\"

What does not mention the return is read when the call begins.

EXAMPLES:
    functrace 'libc:malloc' --where 'comm == \"python3\" && arg0 > 1M'
    functrace 'r:bash:readline' --args 'str(retval)'
    functrace 'libc:getaddrinfo' --ret                   # results and durations
    functrace 'libc:open*' --args 'str(arg0)' -p 1234    # only this
    functrace -p 1234 'app:handle_*' --indent            # who calls whom
    functrace libpq:PQexec --min-latency 10ms --stack    # slow ones, and where they come from
    functrace usdt:python3:function__entry --args 'str(arg0), str(arg1), arg2'
    functrace 'libc:str*' -- ls /                        # a command from its first call on";

/// Show each call of functions: arguments, results, durations.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Only calls for which this is true
    #[arg(long = "where", value_name = "EXPRESSION")]
    condition: Option<String>,
    /// Show these instead of what is known of the parameters
    #[arg(long, value_name = "EXPRESSIONS")]
    args: Option<String>,
    /// Add the result and the duration; rows then come when calls return
    #[arg(long)]
    ret: bool,
    /// Only calls that took as long as this: 10ms, 500us
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    min_latency: Option<Duration>,
    /// Add the stack of the caller
    #[arg(long)]
    stack: bool,
    /// Indent functions that are called by others that are shown
    #[arg(long)]
    indent: bool,
    /// Longer text is cut, and marked; at most 64K
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_text_length)]
    str_len: u32,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    command: CommandArgs,
}

const COLUMNS: &[Column] = &[
    Column::left("TIME", "time", 8),
    Column::right("PID", "pid", 7),
    Column::right("TID", "tid", 7),
    Column::right("UID", "uid", 5).data_only(),
    Column::left("COMM", "comm", 15),
    Column::right("LATus", "lat_ns", 11),
    Column::left("FUNC", "func", 20).text_only(),
    Column::left("FUNC", "function", 20).data_only(),
    Column::left("FILE", "file", 15).data_only(),
    Column::right("DEPTH", "depth", 5).data_only(),
    Column::left("RETVAL", "retval", 14),
    Column::left("ARGS", "args", 20),
    Column::left("FAULTS", "faults", 6).data_only(),
    Column::left("TRUNCATED", "truncated", 9).data_only(),
    Column::below("stack"),
];

const MOST_TEXT: u64 = types::expr_limit::EXPR_TEXT.0 as u64;

fn parse_text_length(text: &str) -> Result<u32, String> {
    match parse_size(text)? {
        bytes @ 1..=MOST_TEXT => Ok(bytes as u32),
        _ => Err("give a length from 1 to 64K".to_owned()),
    }
}

// SAFETY: integers and arrays of integers; every bit pattern is valid.
unsafe impl Plain for types::expr_record {}
// SAFETY: as above.
unsafe impl Plain for types::stack {}

pub fn run(args: Args) -> Result<u8> {
    privileges::require_privileges()?;
    let mut out = args.output.open()?;
    let mut filter = args.filter.resolve()?;
    filter.follow = args.functions.follow;
    let specs = args.functions.specs();
    let asked = asked(&args, &specs)?;
    let with_return = asked.returns;
    let ends = ends(&asked);
    let plans = Rc::new(RefCell::new(FunctionPrograms::new(asked)));
    let command = args.command.hold(&mut filter)?;
    let way = AttachMode::choose(args.run.attach)?;
    let scope = Scope {
        filter: &filter,
        command: command.as_ref().map(|held| (&args.command.command[..], held)),
        placing: args.run.placement,
    };
    let last_file = LastFile::default();
    let learn = learn(
        &plans,
        &last_file,
        if args.stack { Needs::STACK } else { Needs::NOTHING },
    );
    let (functions, targets) = Functions::resolve(&specs, &scope, ends, learn)?;
    last_file.take();
    privileges::return_memory(); // debug information can be large
    tell_refused(&plans)?;
    let follows_calls = functions.borrow().watch(Ends::Both);
    let sessions = follows_calls && way.has_sessions();
    // Sessions are for return probes.
    let two_programs =
        follows_calls && (!sessions || functions.borrow().may_return_at_instructions(&targets));
    let at_entry = two_programs || functions.borrow().watch(Ends::Entry);
    let at_return = two_programs || functions.borrow().watch(Ends::Return);
    // Programs that can wait for pages can have no map of control groups.
    let sleeps = plans.borrow().reads() && filter.cgroups.is_empty() && way.can_sleep();

    let mut storage = MaybeUninit::uninit();
    let mut open = FunctraceSkelBuilder::default().open(&mut storage)?;
    let ring_bytes = args.run.ring_bytes();
    let room = plans
        .borrow_mut()
        .sizes(args.str_len, ring_bytes, targets.may_grow());
    if let Some(rodata) = open.maps.rodata_data.as_mut() {
        configure!(rodata, &filter, ring_bytes, way);
        rodata.min_latency = args.min_latency.map_or(0, |time| time.as_nanos() as u64);
        rodata.with_stack = args.stack;
        rodata.follows_calls = follows_calls;
        rodata.expr_config = room.config();
    }
    make_room(&mut open, &room, functions.borrow().capacity())?;
    open.maps.events.set_max_entries(ring_bytes)?;
    open.maps.pids.set_max_entries(filter.map_entries())?;
    make_room_for_calls!(open.maps, follows_calls);
    let progs = &mut open.progs;
    progs.trace_entry.set_autoload(!sleeps && at_entry);
    progs.trace_return.set_autoload(!sleeps && at_return);
    progs.trace_entry_sleepable.set_autoload(sleeps && at_entry);
    progs.trace_return_sleepable.set_autoload(sleeps && at_return);
    progs.trace_session.set_autoload(!sleeps && sessions);
    progs.trace_session_sleepable.set_autoload(sleeps && sessions);
    progs.thread_exit.set_autoload(follows_calls);
    progs.thread_exec.set_autoload(follows_calls);
    way.prepare([
        &mut progs.trace_entry,
        &mut progs.trace_return,
        &mut progs.trace_entry_sleepable,
        &mut progs.trace_return_sleepable,
    ]);
    let skel = load(open)?;
    filter.fill(&skel.maps.pids, &skel.maps.cgroups)?;
    let maps = ProgramMaps {
        functions: MapHandle::try_from(&skel.maps.functions)?,
        ops: MapHandle::try_from(&skel.maps.expr_ops)?,
        literals: MapHandle::try_from(&skel.maps.expr_literals)?,
        free: MapHandle::try_from(&skel.maps.expr_free)?,
    };
    plans.borrow_mut().load(maps, room.machines)?;
    let follow = args
        .functions
        .follow
        .then(|| Follow::start(&skel.maps.pids))
        .transpose()?;
    let _ends = follows_calls
        .then(|| attach_all([&skel.progs.thread_exit, &skel.progs.thread_exec]))
        .transpose()?;

    let progs = &skel.progs;
    let (entry, exit, both) = match sleeps {
        true => (
            &progs.trace_entry_sleepable,
            &progs.trace_return_sleepable,
            &progs.trace_session_sleepable,
        ),
        false => (&progs.trace_entry, &progs.trace_return, &progs.trace_session),
    };
    let programs = loaded([
        (sessions, both, Ends::Both),
        (at_return, exit, Ends::Return),
        (at_entry, entry, Ends::Entry),
    ]);
    let bss = skel
        .maps
        .bss_data
        .as_ref()
        .context("the BPF object has no counters")?;
    let undecided = Counter::new(&bss.undecided);
    let mut session = Session::start(
        Parts {
            events: skel.maps.events.as_fd(),
            ring_bytes,
            lost: &bss.lost,
            unmatched: &bss.unmatched,
            hits: &bss.hits,
            targets,
            attacher: Attacher::new(way, &filter, programs)?,
            command,
            follow,
            symbolizer: args.stack.then(Symbolizer::new),
            inspects: false,
            reads_maps: false,
            limits: args.run.limits(&args.output, None),
        },
        &mut out,
    )?;
    let mut printer = Printer {
        functions,
        plans,
        table: table(&args, with_return),
        indent: args.indent,
        values: CallValues::default(),
        indented: String::new(),
    };
    let mut frames = Vec::new();
    out.header(&printer.table);
    while let Some(step) = session.next(&mut out)? {
        let Step::Event(record) = step else { continue };
        let Some(call) = printer.read(record) else {
            continue;
        };
        if args.stack {
            session.name_frames(call.header.pid, &call.callers, &mut frames);
        }
        printer.print(&call, &frames, &mut out);
    }
    tell_undecided(undecided.get(), &mut out);
    tell_refused(&printer.plans)?;
    session.finish(&mut out)
}

const NO_STACK: u32 = types::expr_stack_at::NO_STACK.0;
const KIND_CALL_JUMPED: u16 = types::expr_kind::KIND_CALL_JUMPED.0 as u16;

/// What is asked for of every function.
fn asked(args: &Args, specs: &[String]) -> Result<TraceRequest> {
    let mut asked = TraceRequest::parse(args.condition.as_deref(), args.args.as_deref())?;
    let is_return = |text: &String| spec::parse(text).is_ok_and(|spec| spec.at == At::Return);
    // Rows of one run come at one end of calls when they are nested, or nothing would fit.
    let nested_returns = args.indent && specs.iter().any(is_return);
    asked.returns |= args.ret || args.min_latency.is_some() || nested_returns;
    asked.result = args.ret;
    asked.depth = args.indent;
    Ok(asked)
}

/// Which ends of calls are watched for a moment that was asked for.
fn ends(asked: &TraceRequest) -> impl Fn(At) -> Ends + use<> {
    let alone = asked.needs_no_entry();
    let both = asked.returns || asked.depth;
    move |at| match at {
        At::Return if alone => Ends::Return,
        At::Return => Ends::Both,
        At::Any | At::Entry if both => Ends::Both,
        At::Any | At::Entry => Ends::Entry,
    }
}

/// The signatures of the file that was looked at last: its functions come one after the other.
type LastFile = Rc<RefCell<Option<(FileId, Signatures)>>>;

/// Plans each function that is found. Its probe needs what the plan reads, and `others`.
fn learn(plans: &Rc<RefCell<FunctionPrograms>>, last: &LastFile, others: Needs) -> Box<Learn> {
    let (plans, last) = (Rc::clone(plans), Rc::clone(last));
    Box::new(move |_, site: &Site, object: &Object, elf: &ElfFile| {
        let place = &site.place;
        let mut last = last.borrow_mut();
        let signature = place.symbol.as_ref().and_then(|symbol| {
            if last.as_ref().is_none_or(|(id, _)| *id != object.id) {
                *last = Some((object.id, Signatures::read(&object.file, elf, &object.path)));
            }
            last.as_ref()
                .and_then(|(_, signatures)| signatures.at(place.addr, symbol))
        });
        let scope = NameScope {
            function: &place.name,
            signature: signature.as_ref(),
            probe: place.usdt.as_deref(),
            is_go: place.is_go,
        };
        plans.borrow_mut().add(scope, site.ends).and(others)
    })
}

fn make_room(open: &mut OpenFunctraceSkel<'_>, room: &MapSizes, functions: u32) -> Result<()> {
    let maps = &mut open.maps;
    maps.functions.set_max_entries(functions)?;
    maps.expr_ops.set_max_entries(room.ops)?;
    maps.expr_machines.set_value_size(room.machine_bytes)?;
    maps.expr_machines.set_max_entries(room.machines)?;
    maps.expr_free.set_max_entries(room.machines)?;
    Ok(())
}

fn table(args: &Args, with_return: bool) -> Table {
    let mut table = Table::new("event", COLUMNS);
    if !args.ret {
        table = table.without("retval");
    }
    if !(args.ret || args.min_latency.is_some()) {
        table = table.in_text("lat_ns", false);
    }
    if !with_return {
        table = table.without("lat_ns");
    }
    if !args.indent {
        table = table.without("depth");
    }
    if !args.stack {
        table = table.without("stack");
    }
    table
}

/// Functions for which what was asked makes no sense. It is an error when it makes none for any.
fn tell_refused(plans: &RefCell<FunctionPrograms>) -> Result<()> {
    if let Some(problem) = plans.borrow_mut().take_problem()? {
        eprintln!("warning: {}", printable(problem.as_bytes()));
    }
    Ok(())
}

/// A predicate that met memory which could not be read is neither true nor false.
fn tell_undecided(calls: u64, out: &mut Output) {
    if calls > 0 {
        out.record("undecided", &[("count", Value::U64(calls))]);
        eprintln!(
            "warning: {calls} calls are not shown, as --where could not be decided: memory could not be read, or a \
             divisor was 0"
        );
    }
}

/// What every row has, whatever is fetched.
struct Call {
    header: Header,
    /// Its cookie.
    function: u32,
    lat_ns: u64,
    depth: u32,
    /// Return addresses, innermost first; empty without --stack.
    callers: Vec<u64>,
}

/// Turns records into rows.
struct Printer {
    functions: Rc<RefCell<Functions>>,
    plans: Rc<RefCell<FunctionPrograms>>,
    table: Table,
    indent: bool,
    /// Those of the call that was read last.
    values: CallValues,
    /// Its name, with what shows its depth.
    indented: String,
}

impl Printer {
    /// Reads a record. None when it is none of ours.
    fn read(&mut self, bytes: &[u8]) -> Option<Call> {
        let (header, record) = (decode::<Header>(bytes)?, decode::<types::expr_record>(bytes)?);
        let words = bytes
            .get(size_of::<types::expr_record>()..)?
            .get(..record.used as usize)?;
        let plans = self.plans.borrow();
        let plan = plans.get(record.function as usize)?;
        let found = CallRecord {
            words,
            faulted: record.faulted,
            truncated: record.truncated,
            comm: header.comm(),
            no_result: header.kind == KIND_CALL_JUMPED,
        };
        self.values.read(plan, &found);
        let stack = match record.stack_at {
            NO_STACK => None,
            at => decode::<types::stack>(words.get(at as usize..)?),
        };
        let callers = stack
            .map(|stack| callers(stack.caller, stack.bytes, &stack.frames))
            .unwrap_or_default();
        Some(Call {
            header: *header,
            function: record.function,
            lat_ns: record.lat_ns,
            depth: record.depth,
            callers,
        })
    }

    fn print(&mut self, call: &Call, frames: &[Rc<str>], out: &mut Output) {
        let functions = self.functions.borrow();
        let Some(site) = functions.site(call.function as usize) else {
            return;
        };
        let name = site.name();
        self.indented.clear();
        let depth = if self.indent { call.depth } else { 0 };
        self.indented.extend((0..depth).map(|_| INDENT));
        self.indented.push_str(&name);
        out.row(
            &self.table,
            &[
                Value::Time(out.wall(call.header.time_ns)),
                Value::U64(call.header.pid.into()),
                Value::U64(call.header.tid.into()),
                Value::U64(call.header.uid.into()),
                Value::Bytes(call.header.comm()),
                Value::Micros(call.lat_ns),
                Value::Bytes(self.indented.as_bytes()),
                Value::Bytes(name.as_bytes()),
                Value::Bytes(site.module.as_bytes()),
                Value::U64(call.depth.into()),
                self.values.result.as_ref().map_or(Value::Null, Value::Datum),
                Value::Fields(&self.values.args),
                Value::Lines(&self.values.faults),
                Value::Lines(&self.values.truncated),
                Value::Lines(frames),
            ],
        );
    }
}

const INDENT: &str = "  ";
