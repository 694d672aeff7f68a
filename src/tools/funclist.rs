// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Functions and USDT probes of a program or library. Needs no privileges for readable files.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::Parser;

use crate::cli::{OutputArgs, process_of};
use crate::error::Failure;
use crate::find::code::instructions;
use crate::find::debug::signatures::{self, SignatureSource};
use crate::find::debug::types::{FunctionParameter, FunctionSignature};
use crate::find::demangle::ReadableName;
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::functions;
use crate::find::host::containers::find_container;
use crate::find::host::object_file::{FileSet, ObjectFile};
use crate::find::host::proc::Proc;
use crate::find::ifunc;
use crate::find::spec::{NamePattern, ProbeSpec, ProbeSubject, parse_list};
use crate::find::usdt::{self, NumberKind, UsdtArgument, UsdtProbe};
use crate::output::messages::{self, Messages};
use crate::output::{Column, Output, Table, Value};
use crate::probe::search::errors::{no_process, skipped_names};
use crate::probe::search::spec_target::{MOVED_HINT, find_file, moved_to, moved_warning};

const EXAMPLES: &str = "\
EXAMPLES:
    funclist libc                         # all functions of the C library
    funclist 'libc:*alloc*'               # functions that match a pattern
    funclist 'app:net::*' 'app:/send$/'   # C++ and Rust names; a regular expression
    funclist -p 1234 ':SSL_*'             # in all files that a process maps
    funclist libc:malloc+4                # whether an instruction starts there
    funclist --usdt python3               # USDT probes";

/// List the functions and USDT probes of a program or library.
#[derive(Parser, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// File to list, such as libc, and which functions
    ///
    /// TARGET is a library (libc, ssl), a program (bash) or a path. PATTERN is a name, a pattern with *, ?, [a-c] and
    /// {malloc,free}, /REGEX/, NAME@VERSION, NAME+OFFSET or 0xADDRESS; without it, all functions are listed. A name is
    /// tried before a pattern; \* is a star.
    #[arg(value_name = "TARGET[:PATTERN]")]
    specs: Vec<String>,
    /// List USDT probes; PATTERN is [PROVIDER:]NAME
    #[arg(long)]
    usdt: bool,
    /// Search files that these processes map; TARGET is optional
    #[arg(short, long, value_name = "PID,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    /// Search files that the processes of this container map
    #[arg(long, value_name = "NAME|ID", conflicts_with = "pid")]
    container: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

const FUNCTIONS: &[Column] = &[
    Column::right("ADDR", "addr", 10),
    Column::right("SIZE", "size_bytes", 7),
    Column::left("FILE", "file", 36).data_only(),
    Column::left("FUNCTION", "", 0).text_only(),
    Column::left("FUNCTION", "function", 0).data_only(),
    Column::left("", "symbol", 0).data_only(),
    Column::left("", "params", 0).data_only(),
    Column::left("", "returns", 0).data_only(),
    Column::left("", "ifunc", 0).data_only(),
    Column::left("", "ifunc_target", 0).data_only(),
];

const PROBES: &[Column] = &[
    Column::right("ADDR", "addr", 10),
    Column::left("FILE", "file", 36).data_only(),
    Column::left("PROVIDER", "provider", 10),
    Column::left("NAME", "name", 24),
    Column::left("", "semaphore", 0).data_only(),
    Column::left("ARGS", "args", 0).text_only(),
    Column::left("ARGS", "args", 0).data_only(),
];

pub fn run(args: Args) -> Result<u8> {
    let pids = args.processes()?;
    let specs = args.parsed(!pids.is_empty())?;
    let many = specs.len() > 1 || specs.iter().any(|spec| spec.target.is_none());
    let mut list = FunctionList {
        out: args.output.open(None)?,
        messages: args.output.messages(),
        functions: Table::new("function", FUNCTIONS).in_text("file", many),
        probes: Table::new("usdt", PROBES).in_text("file", many),
        headed: None,
        proc: Proc::host(),
        pids,
    };
    for spec in &specs {
        list.spec(spec)?;
    }
    list.out.flush()?;
    Ok(0)
}

impl Args {
    fn processes(&self) -> Result<Vec<u32>> {
        if let Some(container) = &self.container {
            return Ok(find_container(container)?.pids);
        }
        self.pid.iter().map(|&pid| process_of(pid)).collect()
    }

    /// What to list: everything if only processes are given.
    fn parsed(&self, has_processes: bool) -> Result<Vec<ProbeSpec>> {
        let everything = || vec![":*".to_owned()];
        let texts = match self.specs.is_empty() && has_processes {
            true => everything(),
            false => self.specs.clone(),
        };
        let is_usdt = |text: &str| text.starts_with("usdt:") || text.starts_with("u:");
        let specs = texts.iter().map(|text| match self.usdt && !is_usdt(text) {
            true => parse_list(&format!("usdt:{text}")),
            false => parse_list(text),
        });
        let specs: Vec<ProbeSpec> = specs
            .collect::<Result<_>>()
            .map_err(|error| Failure::usage(format!("{error:#}")))?;
        if specs.is_empty() || (!has_processes && specs.iter().any(|spec| spec.target.is_none())) {
            let message = "failed to choose a file: no TARGET, no process";
            let hint = "name a program or library, such as libc, or a process with -p";
            return Err(Failure::usage(message).hint(hint).into());
        }
        Ok(specs)
    }
}

/// A file to list.
struct ListedFile {
    object: ObjectFile,
    elf: ElfFile,
    /// A path that this process can open.
    path: PathBuf,
}

impl ListedFile {
    fn new(object: ObjectFile, path: PathBuf) -> Result<ListedFile> {
        let elf = ElfFile::open(object.file.try_clone()?, &object.path)?;
        Ok(ListedFile { object, elf, path })
    }

    fn signatures(&self) -> SignatureSource {
        SignatureSource::open(&self.object.file, &self.elf, &self.path)
    }

    /// The path as its processes see it.
    fn shown(&self) -> Value<'_> {
        Value::Bytes(self.object.path.as_os_str().as_bytes())
    }
}

struct FunctionList {
    out: Output,
    messages: Messages,
    functions: Table,
    probes: Table,
    /// Whether the last header was that of probes.
    headed: Option<bool>,
    proc: Proc,
    pids: Vec<u32>,
}

impl FunctionList {
    fn spec(&mut self, spec: &ProbeSpec) -> Result<()> {
        let files = match &spec.target {
            Some(target) => vec![self.named(target)?],
            None => self.mapped()?,
        };
        self.header(matches!(spec.subject, ProbeSubject::Usdt { .. }));
        let rows = self.out.rows();
        let mut failed = None;
        for file in &files {
            match SpecMatch::new(file, &spec.subject) {
                Ok(SpecMatch::Functions(functions)) => self.functions(file, &functions)?,
                Ok(SpecMatch::Probes(probes)) => self.usdt(file, &probes)?,
                // Programs map odd files: one of many does not end the listing.
                Err(error) if spec.target.is_none() => _ = failed.get_or_insert(error),
                Err(error) => return Err(error),
            }
        }
        for file in files.iter().filter(|file| file.elf.has_skipped_names()) {
            self.messages.warn(&skipped_names(&file.object.path));
        }
        match self.out.rows() == rows {
            true => Err(failed.unwrap_or_else(|| nothing(spec, &files).into())),
            false => Ok(()),
        }
    }

    fn header(&mut self, of_probes: bool) {
        if self.headed.replace(of_probes) != Some(of_probes) {
            self.out
                .header(if of_probes { &self.probes } else { &self.functions });
        }
    }

    fn named(&self, target: &str) -> Result<ListedFile> {
        let path = find_file(Path::new(target), &self.pids)?;
        let open =
            |path: &Path| ObjectFile::at(path).with_context(|| format!("failed to open {}", path.display()));
        let object = open(&path)?;
        match moved_to(&object) {
            Some(home) => {
                self.messages.warn(&moved_warning(&path, &home));
                messages::hint(MOVED_HINT);
                ListedFile::new(open(&home)?, home)
            }
            None => ListedFile::new(object, path),
        }
    }

    /// The files of the processes, each once. Unreadable files and exited processes are skipped, unless nothing
    /// remains.
    fn mapped(&self) -> Result<Vec<ListedFile>> {
        let mut seen = FileSet::default();
        let mut files = Vec::new();
        let mut failed = None;
        for &pid in &self.pids {
            let objects = self.proc.link_order(pid);
            let objects = objects.map_err(|error| failed.insert(no_process(&self.proc, pid, error)));
            let objects = objects.unwrap_or_default();
            for object in objects {
                if seen.insert(&object)? {
                    let below = object.path.strip_prefix("/").unwrap_or(&object.path);
                    let path = self.proc.root(pid).join(below);
                    files.extend(ListedFile::new(object, path));
                }
            }
        }
        match failed {
            Some(error) if files.is_empty() => Err(error),
            _ => Ok(files),
        }
    }

    fn functions(&mut self, file: &ListedFile, functions: &[FunctionSymbol]) -> Result<()> {
        let targets = match functions.iter().any(|function| function.ifunc) {
            true => ifunc::resolve(&self.proc, &file.object, &file.elf, functions, &self.pids),
            false => HashMap::new(),
        };
        let debug = OnceCell::new();
        let mut unread = None;
        for function in functions {
            let target = targets.get(&function.addr).copied();
            let signature = signatures::well_known(&file.elf, &file.object.path, &function.name)
                .or_else(|| debug.get_or_init(|| file.signatures()).of(function));
            if let (None, Some(debug)) = (&unread, debug.get()) {
                unread = debug.unread(function.addr, signature.as_ref());
            }
            self.function(file, function, signature, target)?;
        }
        if let Some(reason) = unread {
            self.messages.detail(&reason);
        }
        Ok(())
    }

    /// `target`: the implementation that an IFUNC symbol resolves to, if known.
    fn function(
        &mut self,
        file: &ListedFile,
        function: &FunctionSymbol,
        signature: Option<FunctionSignature>,
        target: Option<u64>,
    ) -> Result<()> {
        let name = function.demangled();
        let params = signature.as_ref().map(params);
        let returns = signature
            .as_ref()
            .and_then(|signature| signature.returns.as_ref());
        let returns = returns.map(|returned| &returned.ty);
        let mut shown = match &params {
            Some(params) => format!("{}({})", bare(&function.name), params.join(", ")),
            None => name.clone().into_owned(),
        };
        if let Some(returns) = returns {
            shown.push_str(" -> ");
            shown.push_str(&returns.name);
        }
        match target {
            Some(addr) => shown.push_str(&format!(" [ifunc: {addr:#x}]")),
            None if function.ifunc => shown.push_str(" [ifunc]"),
            None => {}
        }
        let values = [
            Value::Hex(function.addr),
            Some(function.size)
                .filter(|&size| size != 0)
                .map_or(Value::Null, Value::U64),
            file.shown(),
            Value::Bytes(shown.as_bytes()),
            Value::Bytes(name.as_bytes()),
            Value::Bytes(function.name.as_bytes()),
            params.as_deref().map_or(Value::Null, Value::Lines),
            returns.map_or(Value::Null, |returns| Value::Bytes(returns.name.as_bytes())),
            Value::Bool(function.ifunc),
            target.map_or(Value::Null, Value::Hex),
        ];
        push(&mut self.out, &self.functions, &values)
    }

    fn usdt(&mut self, file: &ListedFile, probes: &[UsdtProbe]) -> Result<()> {
        for probe in probes {
            let arguments: Vec<Rc<str>> = probe.arguments.iter().map(described).collect();
            let joined = arguments.join(", ");
            let values = [
                Value::Hex(probe.addr),
                file.shown(),
                Value::Bytes(probe.provider.as_bytes()),
                Value::Bytes(probe.name.as_bytes()),
                probe.semaphore.map_or(Value::Null, Value::Hex),
                Value::Bytes(joined.as_bytes()),
                Value::Lines(&arguments),
            ];
            push(&mut self.out, &self.probes, &values)?;
        }
        Ok(())
    }
}

/// What a spec means in one file.
enum SpecMatch {
    /// Functions, or instructions in them.
    Functions(Vec<FunctionSymbol>),
    Probes(Vec<UsdtProbe>),
}

impl SpecMatch {
    fn new(ListedFile { elf, path, .. }: &ListedFile, what: &ProbeSubject) -> Result<SpecMatch> {
        let functions = match what {
            ProbeSubject::Function { name, offset: 0 } => functions::select(elf, path, name)?,
            ProbeSubject::Function { name, offset } => {
                let found = functions::select(elf, path, name)?;
                let places = found.iter().map(|function| place(elf, function, *offset));
                places.collect::<Result<_>>()?
            }
            ProbeSubject::Address(addr) => {
                let function = functions::containing(elf, path, *addr)?;
                let place = function.map(|function| place(elf, &function, addr - function.addr));
                place.into_iter().collect::<Result<_>>()?
            }
            ProbeSubject::Usdt { provider, name } => {
                let mut probes = usdt::probes(elf)?;
                probes.retain(|probe| provider.matches(&probe.provider) && name.matches(&probe.name));
                return Ok(SpecMatch::Probes(probes));
            }
        };
        Ok(SpecMatch::Functions(functions))
    }
}

/// The instruction `offset` bytes into a function, as if it were a function.
fn place(elf: &ElfFile, function: &FunctionSymbol, offset: u64) -> Result<FunctionSymbol> {
    instructions::check_function(elf, function, offset)?;
    if offset == 0 {
        return Ok(function.clone());
    }
    Ok(FunctionSymbol {
        name: format!("{}+{offset:#x}", function.demangled()).into(),
        offset: function.offset + offset,
        addr: function.addr + offset,
        size: function.size - offset,
        ifunc: false,
    })
}

/// A C++ name without its parameters.
fn bare(symbol: &str) -> Cow<'_, str> {
    match ReadableName::new(symbol) {
        Some(readable) => Cow::Owned(readable.bare().to_owned()),
        None => Cow::Borrowed(symbol),
    }
}

/// Type and name of each parameter: `size_t bytes`, `const char *path`.
fn params(signature: &FunctionSignature) -> Vec<Rc<str>> {
    let declared = |param: &FunctionParameter| -> Rc<str> {
        let ty = &param.ty.name;
        match &param.name {
            Some(name) if ty.ends_with(['*', '&']) => format!("{ty}{name}").into(),
            Some(name) => format!("{ty} {name}").into(),
            None => Rc::clone(ty),
        }
    };
    let more = signature.variadic.then(|| Rc::from("..."));
    signature.params.iter().map(declared).chain(more).collect()
}

/// Type and location of an argument: `int32 %edi`.
fn described(argument: &UsdtArgument) -> Rc<str> {
    let kind = match argument.number {
        NumberKind::Signed => "int",
        NumberKind::Unsigned => "uint",
        NumberKind::Float => "float",
    };
    match argument.text.split_once('@') {
        Some((_, place)) if argument.bytes > 0 => {
            format!("{kind}{} {place}", u32::from(argument.bytes) * 8).into()
        }
        _ => Rc::clone(&argument.text),
    }
}

fn push(out: &mut Output, table: &Table, values: &[Value]) -> Result<()> {
    out.row(table, values);
    if out.is_full() {
        out.flush()?;
    }
    Ok(())
}

/// The error if nothing matches.
fn nothing(spec: &ProbeSpec, files: &[ListedFile]) -> Failure {
    let place = match files {
        [file] => file.object.path.display().to_string(),
        _ => "any file of the process".to_owned(),
    };
    let (kind, pattern, near) = match &spec.subject {
        ProbeSubject::Function { name, .. } => ("function", name.to_string(), near_functions(files, name)),
        ProbeSubject::Address(addr) => ("function", format!("at {addr:#x}"), Vec::new()),
        ProbeSubject::Usdt { provider, name } => (
            "USDT probe",
            format!("{provider}:{name}"),
            near_probes(files, name),
        ),
    };
    if let ProbeSubject::Function { name, .. } = &spec.subject
        && name
            .exact()
            .is_some_and(|name| files.iter().any(|file| file.signatures().inlined(name)))
    {
        let why = "the compiler put it into all of its callers";
        return Failure::failed(format!("failed to find function {name} in {place}: {why}"));
    }
    let hint = match near.is_empty() {
        true => "without a pattern, everything is listed".to_owned(),
        false => format!("similar names there: {}", near.join(", ")),
    };
    match pattern.trim_matches(['*', ':']).is_empty() {
        true => Failure::failed(format!("failed to find any {kind} in {place}")),
        false => Failure::failed(format!("failed to find {kind} {pattern} in {place}")).hint(hint),
    }
}

/// How many names a hint lists.
const NEAR: usize = 3;

fn near_functions(files: &[ListedFile], name: &NamePattern) -> Vec<String> {
    let near = |file: &ListedFile| functions::nearest(&file.elf, &file.path, &name.letters(), NEAR);
    files.iter().flat_map(near).take(NEAR).collect()
}

fn near_probes(files: &[ListedFile], name: &NamePattern) -> Vec<String> {
    let near = |file: &ListedFile| usdt::nearest(&file.elf, &name.letters(), NEAR);
    files.iter().flat_map(near).take(NEAR).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::debug::types::{TypeKind, ValueLocation, ValueType};

    fn specs(args: &[&str]) -> Result<Vec<ProbeSpec>> {
        let args = Args::parse_from(["funclist"].iter().chain(args));
        let has_processes = !args.pid.is_empty();
        args.parsed(has_processes)
    }

    #[test]
    fn options_select_what_is_listed() {
        let any = || NamePattern::any();
        let all = ProbeSubject::Function {
            name: any(),
            offset: 0,
        };
        let one = |args| specs(args).unwrap().remove(0);
        assert_eq!(
            (one(&["libc"]).target.as_deref(), one(&["libc"]).subject),
            (Some("libc"), all.clone())
        );
        assert_eq!((one(&["-p", "1"]).target, one(&["-p", "1"]).subject), (None, all));
        let probes = ProbeSubject::Usdt {
            provider: any(),
            name: any(),
        };
        assert_eq!(one(&["--usdt", "python3"]).subject, probes);
        assert_eq!(one(&["--usdt", "-p", "1"]).subject, probes);
        assert_eq!(one(&["--usdt", "usdt:python3"]).subject, probes);
        assert_eq!(specs(&["libc:malloc", "bash"]).unwrap().len(), 2);
        assert!(
            specs(&[]).is_err() && specs(&[":malloc"]).is_err() && specs(&["-p", "1", ":malloc"]).is_ok()
        );
    }

    #[test]
    fn parameters_are_written_as_in_c() {
        let ty = |name: &str| ValueType {
            name: name.into(),
            bytes: 8,
            kind: TypeKind::Other,
        };
        let param = |name: Option<&str>, ty| FunctionParameter {
            name: name.map(Rc::from),
            ty,
            location: ValueLocation::Unavailable("optimized out"),
        };
        let signature = FunctionSignature {
            params: vec![
                param(Some("bytes"), ty("size_t")),
                param(Some("path"), ty("const char *")),
                param(Some("all"), ty("char **")),
                param(Some("value"), ty("T &&")),
                param(None, ty("int")),
            ],
            returns: None,
            variadic: true,
        };
        let params: Vec<Rc<str>> = params(&signature);
        assert_eq!(
            params.join(", "),
            "size_t bytes, const char *path, char **all, T &&value, int, ..."
        );
        assert_eq!(
            (&*bare("_ZN3net4sendEi"), &*bare("malloc")),
            ("net::send", "malloc")
        );
    }

    #[test]
    fn arguments_have_type_and_location() {
        let argument = |bytes, number, text: &str| UsdtArgument {
            bytes,
            number,
            operand: usdt::UsdtOperand::Unknown,
            text: text.into(),
        };
        assert_eq!(
            &*described(&argument(4, NumberKind::Signed, "-4@%edi")),
            "int32 %edi"
        );
        assert_eq!(
            &*described(&argument(8, NumberKind::Unsigned, "8@-16(%rbp)")),
            "uint64 -16(%rbp)"
        );
        assert_eq!(
            &*described(&argument(8, NumberKind::Float, "8f@%xmm0")),
            "float64 %xmm0"
        );
        assert_eq!(
            &*described(&argument(0, NumberKind::Unsigned, "3@%rax")),
            "3@%rax"
        );
        assert_eq!(&*described(&argument(8, NumberKind::Unsigned, "%rax")), "%rax");
    }
}
