// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Function calls with typed arguments; result and latency with `--ret`.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::MapHandle;
use plain::Plain;

use crate::bpf::functrace::{FunctraceSkel, FunctraceSkelBuilder, OpenFunctraceSkel, types};
use crate::cli::{CommandArgs, CommonArgs, FunctionArgs, parse_latency, parse_size};
use crate::find::code::placement::Needs;
use crate::find::debug::signatures::{self, SignatureSource};
use crate::find::debug::types::FunctionSignature;
use crate::find::elf::ElfFile;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::resolve::ResolvedProbe;
use crate::find::returns::{NoReturnProbe, ReturnMethod};
use crate::find::spec::{NamePattern, ProbeMoment, ProbeSpec};
use crate::output::{Column, Output, StackLines, Table, Value};
use crate::privileges::return_memory;
use crate::probe::counters::BpfCounter;
use crate::probe::event::{Header, RawStack, StackMoment, decode};
use crate::probe::expr::programs::{FunctionPrograms, MapSizes, ProgramMaps};
use crate::probe::expr::{CallRecord, CallValues, NameScope, TraceRequest};
use crate::probe::point::Ends;
use crate::probe::search::finder::Finder;
use crate::probe::search::functions::FunctionFinder;
use crate::probe::search::traced::OnFound;
use crate::run::{Event, EventHandler, FoundFunctions, LoadedObject, Run, RunState, SessionNeeds};
use crate::wording::FunctionNames;

const EXAMPLES: &str = "\
EXAMPLES:
    functrace libc:getaddrinfo --ret                     # results and latencies
    functrace 'libc:open*' --args 'str(arg0)' -p 1234
    functrace 'libc:malloc' --where 'comm == \"python3\" && arg0 > 1M'
    functrace -p 1234 'app:handle_*' --indent            # who calls whom";

const LONG_HELP: &str = "\
EXPRESSIONS of --where and --args:
    arg0 arg1 ...            arguments, in registers and on the stack
    NAME NAME->MEMBER        parameters by name (funclist lists them)
    NAME[2] NAME.MEMBER[n]   elements of arrays, and of what pointers point to
    mode == Mode::Write      enumerators, also without scope; NULL, nullptr
    retval lat               result and latency: rows are printed at return
    pid tid uid cpu comm     the calling thread
    64K 1M 0x1f 'a' 10ms     sizes, numbers, characters, durations
    *(u32*)(arg0+8)          memory, as u8 to u64 and i8 to i64; (i32)arg0 casts
    str(arg0) buf(arg1,16)   a string, and bytes; compare with == != ^=
    && || ! == != ^= < <= > >= + - * / % & | ^ << >> ~      ^= means \"starts with\"

Expressions without retval and lat are read when the function is entered.

EXAMPLES:
    functrace 'libc:malloc' --where 'comm == \"python3\" && arg0 > 1M'
    functrace 'r:bash:readline' --args 'str(retval)'
    functrace 'libc:getaddrinfo' --ret                   # results and latencies
    functrace 'libc:open*' --args 'str(arg0)' -p 1234
    functrace -p 1234 'app:handle_*' --indent            # who calls whom
    functrace libpq:PQexec --min-latency 10ms --stack    # slow calls with their stacks
    functrace usdt:python3:function__entry --args 'str(arg0), str(arg1), arg2'
    functrace 'libc:str*' -- ls /                        # a command from its first call";

/// Trace function calls with arguments, results and latencies.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Show only calls for which EXPR is true
    #[arg(long = "where", value_name = "EXPR", allow_hyphen_values = true)]
    condition: Option<String>,
    /// Show these expressions instead of the parameters
    #[arg(long, value_name = "EXPR,...")]
    args: Option<String>,
    /// Add result and duration; rows are printed at return
    #[arg(long)]
    ret: bool,
    /// Show only calls that took at least TIME: 10ms, 500us
    #[arg(long, value_name = "TIME", value_parser = parse_latency)]
    min_latency: Option<Duration>,
    /// Add the user stack
    #[arg(long)]
    stack: bool,
    /// Indent calls by their depth
    #[arg(long)]
    indent: bool,
    /// Truncate strings to SIZE bytes (max 64K)
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_text_length)]
    str_len: u32,
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub command: CommandArgs,
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
    Column::right("CERTAIN", "stack_certain", 7).data_only(),
];

const MAX_TEXT: u64 = types::expr_limit::EXPR_TEXT.0 as u64;

fn parse_text_length(text: &str) -> Result<u32, String> {
    match parse_size(text)? {
        bytes @ 1..=MAX_TEXT => Ok(bytes as u32),
        _ => Err("expected a length from 1 to 64K".to_owned()),
    }
}

// SAFETY: integers and arrays of integers; every bit pattern is valid.
unsafe impl Plain for types::expr_record {}
// SAFETY: as above.
unsafe impl Plain for types::stack {}

pub fn run(run: Run, args: Args) -> Result<u8> {
    let specs = args.functions.specs()?;
    let mut request = request(&args, &specs)?;
    let ends = ends(&request);
    // `r:FUNCTION` asks for the result, unless --args says what to show.
    request.result |= args.args.is_none() && specs.iter().any(|spec| spec.moment == ProbeMoment::Return);
    let table = table(&args, &request);
    let shows_entries = request.is_nesting();
    let is_nesting = request.is_nesting();
    let mut finder = FunctionFinder::new(specs, ends, CallPlans::new(request, args.stack));
    if is_nesting {
        finder = finder.for_nesting();
    }
    let loaded = load(run.search(finder)?, &args)?;
    let undecided = undecided_counter(loaded.skel)?;
    loaded.run(CallPrinter {
        shows_entries,
        ..CallPrinter::new(&args, table, undecided)
    })
}

/// Loads the programs, and the plan of each function into their maps.
fn load(
    mut found: FoundFunctions<PlannedFunctions>,
    args: &Args,
) -> Result<LoadedObject<PlannedFunctions, FunctraceSkel<'static>>> {
    let may_grow = found.may_grow();
    let functions = found.finder().capacity();
    let follows_calls = found.finder().ends().both;
    let traced = &mut found.finder().traced.on_found;
    traced.forget_file();
    let remarks = [
        traced.unread.take(),
        without_result(&traced.without_result),
        traced.plans.take_remark(),
    ];
    let refused = traced.plans.take_problem()?;
    let remarks = remarks.iter().flatten();
    refused
        .iter()
        .chain(remarks)
        .for_each(|problem| found.warn(problem));

    let mut open = found.open::<FunctraceSkelBuilder>()?;
    let ring_bytes = open.ring_bytes();
    let plans = &mut open.finder().traced.on_found.plans;
    let reads = plans.reads();
    let sizes = plans.sizes(args.str_len, ring_bytes, may_grow);
    if reads {
        open.allow_sleep();
    }
    let rodata = open.rodata()?;
    rodata.min_latency = args.min_latency.map_or(0, |time| time.as_nanos() as u64);
    rodata.with_stack = args.stack;
    rodata.follows_calls = follows_calls;
    rodata.expr_config = sizes.config();
    size_maps(&mut open.skel, &sizes, functions)?;

    let mut loaded = open.load()?;
    let maps = &loaded.skel.maps;
    let maps = ProgramMaps {
        functions: MapHandle::try_from(&maps.functions)?,
        ops: MapHandle::try_from(&maps.expr_ops)?,
        literals: MapHandle::try_from(&maps.expr_literals)?,
        free: MapHandle::try_from(&maps.expr_free)?,
    };
    loaded.finder().traced.on_found.plans.load(maps, sizes.machines)?;
    Ok(loaded)
}

const NO_STACK: u32 = types::expr_stack_at::NO_STACK.0;
const KIND_CALL_JUMPED: u16 = types::expr_kind::KIND_CALL_JUMPED.0 as u16;

/// What to do with every function.
fn request(args: &Args, specs: &[ProbeSpec]) -> Result<TraceRequest> {
    let mut request = TraceRequest::parse(args.condition.as_deref(), args.args.as_deref())?;
    // With --indent, all rows come at one end of calls, or the nesting would not show.
    let nested_returns = args.indent && specs.iter().any(|spec| spec.moment == ProbeMoment::Return);
    request.returns |= args.ret || args.min_latency.is_some() || nested_returns;
    request.result = args.ret;
    request.depth = args.indent;
    Ok(request)
}

/// Which ends of calls to watch for the moment that a spec names.
fn ends(request: &TraceRequest) -> impl Fn(ProbeMoment) -> Ends + use<> {
    let return_only = request.needs_no_entry();
    let both = request.returns || request.depth;
    move |at| match at {
        ProbeMoment::Return if return_only => Ends::Return,
        ProbeMoment::Return => Ends::Both,
        ProbeMoment::Any | ProbeMoment::Entry if both => Ends::Both,
        ProbeMoment::Any | ProbeMoment::Entry => Ends::Entry,
    }
}

type PlannedFunctions = FunctionFinder<CallPlans>;

/// Plans what to read at the calls of each function.
struct CallPlans {
    plans: FunctionPrograms,
    /// What the probe of every function reads.
    needs: Needs,
    /// The signatures of the last file: functions are found file by file.
    file: Option<(FileId, SignatureSource)>,
    /// Why the debug information of the first such function was not read.
    unread: Option<String>,
    uses_results: bool,
    /// Functions whose results the compiler may have removed.
    without_result: FunctionNames,
}

impl CallPlans {
    fn new(request: TraceRequest, stack: bool) -> Self {
        Self {
            uses_results: request.uses_results(),
            plans: FunctionPrograms::new(request),
            needs: if stack { Needs::STACK } else { Needs::NOTHING },
            file: None,
            unread: None,
            without_result: FunctionNames::default(),
        }
    }

    /// Frees the debug information that was read, which can be large.
    fn forget_file(&mut self) {
        self.file = None;
        return_memory();
    }

    fn note_result(&mut self, symbol: &str) {
        if self.uses_results && symbol.contains(".isra.") {
            self.without_result.add(symbol);
        }
    }

    /// The signatures of a file.
    fn signatures(&mut self, object: &ObjectFile, elf: &ElfFile) -> Option<&SignatureSource> {
        if self.file.as_ref().is_none_or(|(id, _)| *id != object.id) {
            let signatures = SignatureSource::open(&object.file, elf, &object.path);
            self.file = Some((object.id, signatures));
        }
        self.file.as_ref().map(|(_, signatures)| signatures)
    }

    /// The signature from the debug information of the file, if it has any.
    fn in_file(
        &mut self,
        probe: &ResolvedProbe,
        object: &ObjectFile,
        elf: &ElfFile,
    ) -> Option<FunctionSignature> {
        let symbol = probe.symbol.as_ref()?;
        let signatures = self.signatures(object, elf)?;
        let signature = signatures.at(probe.addr, symbol);
        let unread = signatures.unread(probe.addr, signature.as_ref());
        self.unread = self.unread.take().or(unread);
        signature
    }
}

/// GCC's interprocedural optimization removes results that no caller uses, and debug information does not tell.
fn without_result(functions: &FunctionNames) -> Option<String> {
    let results = match functions.count {
        0 => return None,
        1 => "the result",
        _ => "results",
    };
    Some(format!(
        "{results} of {functions} may be what was left in a register: GCC removes results that no caller uses"
    ))
}

impl OnFound for CallPlans {
    fn on_search(&mut self, name: &NamePattern, object: &ObjectFile, elf: &ElfFile) {
        if let NamePattern::Exact(symbol) = name
            && signatures::well_known(elf, &object.path, symbol).is_none()
            && let Some(signatures) = self.signatures(object, elf)
        {
            signatures.read_ahead();
        }
    }

    fn on_found(&mut self, probe: &ResolvedProbe, ends: Ends, object: &ObjectFile, elf: &ElfFile) -> Needs {
        let scope = NameScope {
            function: &probe.name,
            signature: None,
            probe: probe.usdt.as_deref(),
            is_go: probe.is_go,
        };
        let symbol = probe.symbol.as_deref();
        symbol.into_iter().for_each(|symbol| self.note_result(symbol));
        let well_known = symbol.and_then(|symbol| signatures::well_known(elf, &object.path, symbol));
        // Expressions may use the names in debug information.
        let signature = well_known
            .filter(|signature| {
                self.plans.has_names_of(&NameScope {
                    signature: Some(signature),
                    ..scope
                })
            })
            .or_else(|| self.in_file(probe, object, elf));
        let scope = NameScope {
            signature: signature.as_ref(),
            ..scope
        };
        let returns_seen = !matches!(
            probe.returns,
            ReturnMethod::Instructions(_, NoReturnProbe::Unseen)
        );
        self.plans.add(scope, ends, returns_seen).and(self.needs)
    }
}

fn size_maps(open: &mut OpenFunctraceSkel<'static>, sizes: &MapSizes, functions: u32) -> Result<()> {
    let maps = &mut open.maps;
    maps.functions.set_max_entries(functions)?;
    maps.expr_ops.set_max_entries(sizes.ops)?;
    maps.expr_machines.set_value_size(sizes.machine_bytes)?;
    maps.expr_machines.set_max_entries(sizes.machines)?;
    maps.expr_free.set_max_entries(sizes.machines)?;
    Ok(())
}

fn table(args: &Args, request: &TraceRequest) -> Table {
    let mut table = Table::new("event", COLUMNS);
    if !request.result {
        table = table.without("retval");
    }
    if !(args.ret || args.min_latency.is_some()) {
        table = table.in_text("lat_ns", false);
    }
    if !request.returns {
        table = table.without("lat_ns");
    }
    if !args.indent {
        table = table.without("depth");
    }
    if !args.stack {
        table = table.without("stack").without("stack_certain");
    }
    table
}

fn undecided_counter(skel: &'static FunctraceSkel<'static>) -> Result<BpfCounter<'static>> {
    let bss = skel.maps.bss_data.as_ref();
    let bss = bss.context("the BPF object has no counters")?;
    Ok(BpfCounter::new(&bss.undecided))
}

/// Turns records into rows.
struct CallPrinter {
    /// Calls for which `--where` could not be evaluated.
    undecided: BpfCounter<'static>,
    table: Table,
    with_stack: bool,
    /// Rows come when calls begin.
    shows_entries: bool,
    indent: bool,
    /// Buffers for the values of a record.
    values: CallValues,
    /// The name of the function, indented by its depth.
    indented: String,
}

impl CallPrinter {
    fn new(args: &Args, table: Table, undecided: BpfCounter<'static>) -> Self {
        Self {
            undecided,
            table,
            with_stack: args.stack,
            shows_entries: false,
            indent: args.indent,
            values: CallValues::default(),
            indented: String::new(),
        }
    }

    /// None if the record is malformed.
    fn print(&mut self, event: Event<'_, PlannedFunctions>) -> Option<()> {
        let header = decode::<Header>(event.record)?;
        let record = decode::<types::expr_record>(event.record)?;
        let words = event
            .record
            .get(size_of::<types::expr_record>()..)?
            .get(..record.used as usize)?;
        let functions = event.finder;
        let function = functions.get(record.function as usize)?;
        let plan = functions.traced.on_found.plans.get(record.function as usize)?;
        let stack = match record.stack_at {
            NO_STACK => None,
            at => {
                let stack = raw_stack(words.get(at as usize..)?, function.is_inside)?;
                Some(event.stacks.name(header, &stack))
            }
        };
        let call = CallRecord {
            words,
            faulted: record.faulted,
            truncated: record.truncated,
            comm: header.comm(),
            no_result: header.kind == KIND_CALL_JUMPED,
        };
        let shown = self.values.read(plan, &call);
        let name = function.name.as_bytes();
        let shown_name = match self.indent {
            true => indent(&mut self.indented, record.depth, &function.name),
            false => name,
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
                Value::Micros(record.lat_ns),
                Value::Bytes(shown_name),
                Value::Bytes(name),
                Value::Bytes(function.file_name.as_bytes()),
                Value::U64(record.depth.into()),
                shown.result.as_ref().map_or(Value::Null, Value::Datum),
                Value::Fields(&shown.args),
                Value::Lines(&self.values.faults),
                Value::Lines(&self.values.truncated),
                stack.map_or(Value::Null, Value::Stack),
                stack.map_or(Value::Null, StackLines::certain),
            ],
        );
        self.values.reuse(shown);
        Some(())
    }
}

impl EventHandler<PlannedFunctions> for CallPrinter {
    fn needs(&self) -> SessionNeeds {
        SessionNeeds {
            stacks: self.with_stack,
            shows_entries: self.shows_entries,
            ..SessionNeeds::default()
        }
    }

    fn begin(&mut self, out: &mut Output) {
        out.header(&self.table);
    }

    fn event(&mut self, event: Event<'_, PlannedFunctions>) {
        let _ = self.print(event);
    }

    fn end(&mut self, state: RunState<'_, PlannedFunctions>) -> Result<()> {
        let calls = self.undecided.get();
        if calls > 0 {
            state.out.record("undecided", &[("count", Value::U64(calls))]);
            state.messages.warn(&format!(
                "{calls} calls are not shown: --where could not be evaluated, because memory could not be read or a \
                 divisor was 0"
            ));
        }
        if let Some(problem) = state.finder.traced.on_found.plans.take_problem()? {
            state.messages.warn(&problem);
        }
        Ok(())
    }
}

/// The stack in a record. `is_inside`: the probe is not at the start of a function.
fn raw_stack(words: &[u8], is_inside: bool) -> Option<RawStack<'_>> {
    let stack = decode::<types::stack>(words)?;
    Some(RawStack {
        moment: match is_inside {
            true => StackMoment::Inside,
            false => StackMoment::from_record(stack.moment),
        },
        caller: stack.caller,
        bytes: stack.bytes,
        frames: &stack.frames,
    })
}

/// The name of a function behind two spaces for each call that it is nested in.
fn indent<'a>(buffer: &'a mut String, depth: u32, name: &str) -> &'a [u8] {
    buffer.clear();
    buffer.extend((0..depth).map(|_| "  "));
    buffer.push_str(name);
    buffer.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_may_have_no_result_are_named() {
        let warning = |names: &[&str]| without_result(&names.iter().copied().collect()).unwrap_or_default();
        assert_eq!(warning(&[]), "");
        assert!(warning(&["f.isra.0"]).starts_with("the result of f.isra.0 may be"));
        assert!(warning(&["f.isra.0", "g.isra.0"]).starts_with("results of f.isra.0, g.isra.0 may be"));
    }
}
