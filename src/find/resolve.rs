// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Resolves a spec to instructions of one file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail};

use super::aliases::Aliases;
use super::returns::{EntryMatching, ReturnMethod, ReturnPolicy, ReturnWatcher};
use super::spec::{NamePattern, ProbeSubject};
use super::usdt::UsdtProbe;
use super::{functions, ifunc, usdt};
use crate::error::Failure;
use crate::find::code::call_start::CallStart;
use crate::find::code::instructions;
use crate::find::code::placement::inner_address;
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::host::object_file::ObjectFile;
use crate::find::host::proc::Proc;
use crate::wording::FunctionNames;

/// An instruction to probe.
#[derive(Clone, Debug)]
pub struct ResolvedProbe {
    /// The demangled function, `NAME+0x10` for an instruction inside it, or `PROVIDER:NAME`. Untrusted.
    pub name: Rc<str>,
    /// Other names of the function that programs may call it by. Untrusted.
    pub aliases: Vec<Rc<str>>,
    /// File offset of the instruction.
    pub offset: u64,
    /// Virtual address of the instruction, before relocation.
    pub addr: u64,
    /// The function's name in the symbol table; `None` unless this is the start of a function.
    pub symbol: Option<Rc<str>>,
    /// Length of the function in bytes; 0 if unknown, or if this is not the start of a function.
    pub size: u64,
    pub returns: ReturnMethod,
    /// Which hits begin a call.
    pub call_start: CallStart,
    /// The function belongs to a Go program: calls are made by goroutines, which change threads.
    pub is_go: bool,
    pub usdt: Option<Rc<UsdtProbe>>,
}

/// Functions and USDT probes that a spec means in a file but that cannot be probed.
#[derive(Debug, Default)]
pub struct SkippedProbes {
    names: FunctionNames,
    /// Why the first one cannot be probed.
    reason: Option<anyhow::Error>,
}

impl SkippedProbes {
    fn add(&mut self, name: &str, error: anyhow::Error) {
        self.names.add(name);
        self.reason.get_or_insert(error);
    }

    /// A warning, if there are any.
    pub fn warning(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(self.names.skipped(&format_args!("{reason:#}")))
    }

    /// The reason as an error if no other probe was `found`.
    fn unless_all(mut self, found: bool) -> Result<SkippedProbes> {
        match self.reason.take_if(|_| !found) {
            Some(reason) => Err(reason),
            None => Ok(self),
        }
    }
}

/// Length in bytes of functions, by virtual address.
type FunctionSizes = HashMap<u64, u64>;

/// How returns are to be observed.
pub type ReturnRequest = (ReturnPolicy, EntryMatching);

/// Passes the probes that `subject` means in a file to `on_found`, by address: large programs have hundreds of
/// thousands, too many to be kept twice. With `at_return` the returns of calls are observed too, as it says. `pids` are
/// processes that use the file; they are searched first for the targets of IFUNC symbols.
///
/// # Errors
/// The file cannot be read, or nothing that matches can be probed.
pub fn resolve(
    object: &ObjectFile,
    elf: &ElfFile,
    subject: &ProbeSubject,
    at_return: Option<ReturnRequest>,
    pids: &[u32],
    on_found: &mut dyn FnMut(ResolvedProbe),
) -> Result<SkippedProbes> {
    match subject {
        ProbeSubject::Usdt { provider, name } => {
            usdt_probes(elf, provider, name, at_return.is_some(), on_found)
        }
        ProbeSubject::Address(addr) => probe_at_address(object, elf, *addr, at_return, on_found),
        ProbeSubject::Function { name, offset } => {
            let selected = functions::select(elf, &object.path, name)?;
            let (found, sizes) = without_ifuncs(object, elf, selected, pids, name.exact().is_some())?;
            if *offset == 0 {
                let aliases = Aliases::of(elf, &found, sizes.as_ref());
                let mut with_aliases = |mut probe: ResolvedProbe| {
                    probe.aliases = aliases.beside(probe.addr, &probe.name);
                    on_found(probe);
                };
                return function_starts(object, elf, found, at_return, &mut with_aliases);
            }
            reject_return_inside(at_return.is_some())?;
            let probes: Result<Vec<ResolvedProbe>> = found
                .iter()
                .map(|function| probe_inside(elf, function, *offset))
                .collect();
            probes?.into_iter().for_each(on_found);
            Ok(SkippedProbes::default())
        }
    }
}

/// The starts of functions. Functions that cannot be probed are skipped; if none is left, the first error is
/// returned.
fn function_starts(
    object: &ObjectFile,
    elf: &ElfFile,
    functions: Vec<FunctionSymbol>,
    at_return: Option<ReturnRequest>,
    on_found: &mut dyn FnMut(ResolvedProbe),
) -> Result<SkippedProbes> {
    let is_go = elf.is_go();
    let sees_entries = !matches!(at_return, Some((_, EntryMatching::ReturnsAlone)));
    let mut watcher = at_return.map(|(policy, matching)| (ReturnWatcher::new(object, elf, policy), matching));
    let mut skipped = SkippedProbes::default();
    let mut found = false;
    for function in functions {
        let returns = match &mut watcher {
            Some((watcher, matching)) => watcher.method(&function, *matching),
            None => Ok(ReturnMethod::Unwatched),
        };
        match returns {
            Ok(returns) => {
                let call_start = match sees_entries {
                    true => call_start(elf, &function, is_go),
                    false => CallStart::Once,
                };
                on_found(probe_at_start(function, returns, call_start, is_go));
            }
            Err(error) => {
                skipped.add(&function.demangled(), error);
                continue;
            }
        }
        found = true;
    }
    skipped.unless_all(found)
}

fn call_start(elf: &ElfFile, function: &FunctionSymbol, is_go: bool) -> CallStart {
    let code = elf.code(function.addr, function.size).unwrap_or_default();
    CallStart::of(&code, is_go)
}

fn probe_at_start(
    function: FunctionSymbol,
    returns: ReturnMethod,
    call_start: CallStart,
    is_go: bool,
) -> ResolvedProbe {
    let name = match function.demangled() {
        Cow::Borrowed(_) => Rc::clone(&function.name),
        Cow::Owned(demangled) => demangled.into(),
    };
    ResolvedProbe {
        name,
        aliases: Vec::new(),
        offset: function.offset,
        addr: function.addr,
        symbol: Some(function.name),
        size: function.size,
        returns,
        call_start,
        is_go,
        usdt: None,
    }
}

/// The instruction `offset` bytes after the start of a function.
fn probe_inside(elf: &ElfFile, function: &FunctionSymbol, offset: u64) -> Result<ResolvedProbe> {
    let name = function.demangled();
    instructions::check_function(elf, function, offset)?;
    let failed = || format!("failed to probe {name}+{offset:#x}");
    let addr = inner_address(elf, function.addr + offset);
    let addr = addr.with_context(|| format!("{}: {REWRITTEN}", failed()))?;
    instructions::check_decodable(elf, addr).with_context(failed)?;
    Ok(ResolvedProbe {
        name: format!("{name}+{offset:#x}").into(),
        aliases: Vec::new(),
        offset: function.offset + (addr - function.addr),
        addr,
        symbol: None,
        size: 0,
        returns: ReturnMethod::Unwatched,
        call_start: CallStart::Once,
        is_go: false,
        usdt: None,
    })
}

const REWRITTEN: &str = "kernels since 6.18 replace a five-byte nop by a call, which overwrites the stack";

/// The instruction at a virtual address. None if the file has no code there.
fn probe_at_address(
    object: &ObjectFile,
    elf: &ElfFile,
    addr: u64,
    at_return: Option<ReturnRequest>,
    on_found: &mut dyn FnMut(ResolvedProbe),
) -> Result<SkippedProbes> {
    if elf.offset_of(addr).is_none() {
        return Ok(SkippedProbes::default());
    }
    let function = functions::containing(elf, &object.path, addr)?.with_context(|| {
        format!("failed to probe {addr:#x}: it is in no known function, so the start of its instruction cannot be verified")
    })?;
    if function.addr == addr {
        return function_starts(object, elf, vec![function], at_return, on_found);
    }
    reject_return_inside(at_return.is_some())?;
    on_found(probe_inside(elf, &function, addr - function.addr)?);
    Ok(SkippedProbes::default())
}

fn reject_return_inside(at_return: bool) -> Result<()> {
    if at_return {
        let message = "failed to trace returns: inside a function the return address is no longer where the kernel \
                       expects it";
        bail!(Failure::failed(message).hint("name the function without an offset"));
    }
    Ok(())
}

/// Replaces IFUNC symbols with the functions that they can resolve to; unless `all` are wanted, with those that
/// processes use, if some do. Symbols for which there is none are dropped, or an error if nothing else was found. If
/// there was an IFUNC symbol, also returns the sizes of all functions of the file.
fn without_ifuncs(
    object: &ObjectFile,
    elf: &ElfFile,
    found: Vec<FunctionSymbol>,
    pids: &[u32],
    all: bool,
) -> Result<(Vec<FunctionSymbol>, Option<FunctionSizes>)> {
    if !found.iter().any(|function| function.ifunc) {
        return Ok((found, None));
    }
    let sizes = functions::sizes(elf);
    let known = ifunc::implementations((&Proc::host(), object, elf), &found, pids, &sizes, all);
    let mut real = Vec::with_capacity(found.len());
    let mut missing = None;
    for function in found {
        if !function.ifunc {
            real.push(function);
            continue;
        }
        let before = real.len();
        for &addr in known.get(&function.addr).into_iter().flatten() {
            // The size of the symbol is that of its resolver.
            real.extend(elf.offset_of(addr).map(|offset| FunctionSymbol {
                addr,
                offset,
                size: sizes.get(&addr).copied().unwrap_or(0),
                ..function.clone()
            }));
        }
        if real.len() == before {
            missing.get_or_insert(function);
        }
    }
    match missing.filter(|_| real.is_empty()) {
        Some(missing) => Err(unresolved(object, &missing).into()),
        None => {
            real.sort_by_key(|function| function.addr);
            Ok((real, Some(sizes)))
        }
    }
}

/// The error for an IFUNC symbol without implementation.
fn unresolved(object: &ObjectFile, function: &FunctionSymbol) -> Failure {
    let name = &function.name;
    if ifunc::is_in_vdso(object, function) {
        let message = format!("failed to trace {name}: programs call it in the vDSO, which cannot be probed");
        return Failure::failed(message).hint("trace a function that calls it");
    }
    let message = format!(
        "failed to trace {name}: it is an IFUNC symbol, which the loader replaces with the implementation for this \
         processor, and no running process has done so"
    );
    Failure::failed(message).hint("trace a process that uses it, with -p PID")
}

fn usdt_probes(
    elf: &ElfFile,
    provider: &NamePattern,
    name: &NamePattern,
    at_return: bool,
    on_found: &mut dyn FnMut(ResolvedProbe),
) -> Result<SkippedProbes> {
    let wanted = usdt::probes(elf)?
        .into_iter()
        .filter(|probe| provider.matches(&probe.provider) && name.matches(&probe.name));
    let mut skipped = SkippedProbes::default();
    let mut found = false;
    for probe in wanted {
        let name = format!("{}:{}", probe.provider, probe.name);
        match usdt_probe(elf, probe, &name) {
            Ok(probe) if at_return => bail!("failed to trace {}: USDT probes have no return", probe.name),
            Ok(probe) => on_found(probe),
            Err(error) => {
                skipped.add(&name, error);
                continue;
            }
        }
        found = true;
    }
    skipped.unless_all(found)
}

fn usdt_probe(elf: &ElfFile, mut probe: UsdtProbe, name: &str) -> Result<ResolvedProbe> {
    let addr = inner_address(elf, probe.addr);
    let addr = addr.with_context(|| format!("failed to probe {name}: {REWRITTEN}"))?;
    instructions::check_decodable(elf, addr).with_context(|| format!("failed to probe {name}"))?;
    probe.move_to(addr);
    Ok(ResolvedProbe {
        name: name.into(),
        aliases: Vec::new(),
        offset: probe.offset,
        addr,
        symbol: None,
        size: 0,
        returns: ReturnMethod::Unwatched,
        call_start: CallStart::Once,
        is_go: false,
        usdt: Some(Rc::new(probe)),
    })
}
