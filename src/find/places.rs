//! What a spec means in one file: the instructions to probe.

use std::rc::Rc;

use anyhow::{Context, Result, bail};

use super::demangle::demangle;
use super::elf::{ElfFile, Function};
use super::spec::{NamePattern, What};
use super::target::{Object, Proc};
use super::usdt::UsdtProbe;
use super::{functions, ifunc, instructions, usdt};

/// An instruction that a probe can be put on.
#[derive(Clone, Debug)]
pub struct Place {
    /// The function as its author wrote it, `NAME+0x10` behind its start, or `PROVIDER:NAME`. Untrusted.
    pub name: Rc<str>,
    /// Where in the file the instruction is, in bytes.
    pub offset: u64,
    /// Its virtual address, before relocation.
    pub addr: u64,
    /// The function's name in the symbol table; None for what is no start of a function.
    pub symbol: Option<Rc<str>>,
    pub usdt: Option<Rc<UsdtProbe>>,
}

/// The places that `what` names in a file, in the order of their addresses; none when it names nothing there.
/// `at_return` says that the returns of calls are to be seen as well; `pids` are processes that use the file.
///
/// # Errors
/// The file cannot be read, or no probe can be put there, and why.
pub fn places(
    object: &Object,
    elf: &ElfFile,
    what: &What,
    at_return: bool,
    pids: &[u32],
) -> Result<Vec<Place>> {
    match what {
        What::Usdt { provider, name } => usdt_places(elf, provider, name, at_return),
        What::Address(addr) => {
            address_place(object, elf, *addr, at_return).map(|place| place.into_iter().collect())
        }
        What::Function { name, offset } => {
            let found = functions::select(elf, &object.path, name)?;
            if !found.is_empty() && at_return {
                refuse_go(elf, object)?;
            }
            let found = resolved(object, elf, name, found, pids)?;
            if *offset == 0 {
                return Ok(found.iter().map(start).collect());
            }
            no_return_inside(at_return)?;
            found
                .iter()
                .map(|function| inside(elf, function, *offset))
                .collect()
        }
    }
}

fn start(function: &Function) -> Place {
    Place {
        name: demangle(&function.name).as_ref().into(),
        offset: function.offset,
        addr: function.addr,
        symbol: Some(function.name.as_str().into()),
        usdt: None,
    }
}

/// The instruction `offset` bytes behind the start of a function.
fn inside(elf: &ElfFile, function: &Function, offset: u64) -> Result<Place> {
    let name = demangle(&function.name);
    let code = elf.code(function.addr, function.size)?;
    instructions::check(&code, offset).with_context(|| format!("failed to probe {name}+{offset:#x}"))?;
    Ok(Place {
        name: format!("{name}+{offset:#x}").into(),
        offset: function.offset + offset,
        addr: function.addr + offset,
        symbol: None,
        usdt: None,
    })
}

/// The instruction at an address; None when the file has none there.
fn address_place(object: &Object, elf: &ElfFile, addr: u64, at_return: bool) -> Result<Option<Place>> {
    if elf.offset_of(addr).is_none() {
        return Ok(None);
    }
    let Some(function) = functions::containing(elf, &object.path, addr)? else {
        bail!(
            "failed to probe {addr:#x}: no function is known there, so that nothing tells whether an instruction begins \
             at that address"
        );
    };
    if function.addr == addr {
        return Ok(Some(start(&function)));
    }
    no_return_inside(at_return)?;
    inside(elf, &function, addr - function.addr).map(Some)
}

fn no_return_inside(at_return: bool) -> Result<()> {
    if at_return {
        bail!(
            "failed to probe the return: inside of a function the return address is no longer where the kernel expects it\n\
             hint: name the function without an offset"
        );
    }
    Ok(())
}

/// Go moves the stacks of its threads, and does not know the return address that the kernel puts there.
fn refuse_go(elf: &ElfFile, object: &Object) -> Result<()> {
    if functions::is_go(elf) {
        bail!(
            "failed to probe returns in {}: it is written in Go, whose programs crash under return probes\n\
             hint: entries of Go functions can be traced: funccount, or functrace without --ret",
            object.path.display()
        );
    }
    Ok(())
}

/// With IFUNC symbols replaced by the functions that they stand for.
fn resolved(
    object: &Object,
    elf: &ElfFile,
    name: &NamePattern,
    mut found: Vec<Function>,
    pids: &[u32],
) -> Result<Vec<Function>> {
    if !found.iter().any(|function| function.ifunc) {
        return Ok(found);
    }
    let real = ifunc::resolve(&Proc::host(), object, elf, &found, pids);
    let mut missing = None;
    found.retain_mut(|function| {
        if !function.ifunc {
            return true;
        }
        let target = real
            .get(&function.addr)
            .and_then(|&addr| Some((addr, elf.offset_of(addr)?)));
        match target {
            Some((addr, offset)) => (function.addr, function.offset) = (addr, offset),
            None => missing = Some(function.name.clone()),
        }
        target.is_some()
    });
    match missing {
        Some(missing) if name.exact().is_some() && found.is_empty() => bail!(
            "failed to trace {missing}: it is an IFUNC symbol, which the loader replaces by the implementation for this \
             processor, and no process here has done so\n\
             hint: trace a process that uses it, with -p PID"
        ),
        _ => Ok(found),
    }
}

fn usdt_places(
    elf: &ElfFile,
    provider: &NamePattern,
    name: &NamePattern,
    at_return: bool,
) -> Result<Vec<Place>> {
    let probes = usdt::probes(elf)?;
    let wanted = probes
        .into_iter()
        .filter(|probe| provider.matches(&probe.provider) && name.matches(&probe.name));
    let places: Vec<Place> = wanted
        .map(|probe| Place {
            name: format!("{}:{}", probe.provider, probe.name).into(),
            offset: probe.offset,
            addr: probe.addr,
            symbol: None,
            usdt: Some(Rc::new(probe)),
        })
        .collect();
    if at_return && !places.is_empty() {
        bail!(
            "failed to trace {}: a USDT probe is a moment, and has no return",
            places[0].name
        );
    }
    Ok(places)
}
