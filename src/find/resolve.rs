//! What a spec means in one file: the instructions to probe.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::spec::{NamePattern, What};
use super::usdt::UsdtProbe;
use super::{functions, ifunc, usdt};
use crate::find::code::instructions;
use crate::find::code::instructions::FunctionExit;
use crate::find::elf::{ElfFile, Function};
use crate::find::host::proc::{Object, Proc};

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
    /// Bytes of the function; 0 when that is not known, or for what is no start of a function.
    pub size: u64,
    pub returns: Returns,
    /// The function belongs to a Go program: not the thread is what calls it, but a goroutine.
    pub is_go: bool,
    pub usdt: Option<Rc<UsdtProbe>>,
}

/// What a spec means in a file.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of their addresses; none when it means nothing there.
    pub places: Vec<Place>,
    /// Why others cannot be probed.
    pub left_out: Vec<anyhow::Error>,
}

impl From<Vec<Place>> for Found {
    fn from(places: Vec<Place>) -> Found {
        Found {
            places,
            left_out: Vec::new(),
        }
    }
}

/// How the returns of a function can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Returns {
    /// Not asked for.
    Unseen,
    /// By return probes: the kernel puts the address of its own code in the place of the return address.
    ReturnProbe,
    /// By probes on the instructions that end calls, at these offsets in the file. Exceptions and panics unwind by return
    /// addresses, and end the program when they meet the kernel's; Go programs, whose stacks move, and functions that
    /// keep it to return a second time, do likewise.
    Instructions(Vec<FunctionExit>),
}

/// The places that `what` names in a file.
/// `at_return` says that the returns of calls are to be seen as well; `pids` are processes that use the file.
///
/// # Errors
/// The file cannot be read, or no probe can be put there, and why.
pub fn places(object: &Object, elf: &ElfFile, what: &What, at_return: bool, pids: &[u32]) -> Result<Found> {
    match what {
        What::Usdt { provider, name } => Ok(usdt_places(elf, provider, name, at_return)?.into()),
        What::Address(addr) => address_place(object, elf, *addr, at_return),
        What::Function { name, offset } => {
            let found = functions::select(elf, &object.path, name)?;
            let found = resolved(object, elf, name, found, pids)?;
            if *offset == 0 {
                return starts(object, elf, &found, at_return);
            }
            no_return_inside(at_return)?;
            let places: Result<Vec<Place>> = found
                .iter()
                .map(|function| inside(elf, function, *offset))
                .collect();
            Ok(places?.into())
        }
    }
}

/// The starts of functions. Those that cannot be probed, or whose returns cannot be seen, are left out, unless they are
/// all.
fn starts(object: &Object, elf: &ElfFile, functions: &[Function], at_return: bool) -> Result<Found> {
    let by_instructions = at_return && (elf.is_go() || elf.may_unwind());
    let cold = match by_instructions {
        true => functions::cold_parts(elf, &object.path)?,
        false => HashMap::new(),
    };
    let called = match at_return && !by_instructions {
        true => functions::called_starts(elf),
        false => HashSet::new(),
    };
    let mut found = Found::default();
    for function in functions {
        let returns = match (at_return, by_instructions) {
            (false, _) => Ok(Returns::Unseen),
            (true, false) if !called.contains(&function.addr) || keeps_return_address(elf, function) => {
                return_instructions(elf, function, &[])
            }
            (true, false) => Ok(Returns::ReturnProbe),
            (true, true) => {
                let parts = cold.get(&function.name).map_or(&[][..], Vec::as_slice);
                return_instructions(elf, function, parts)
            }
        };
        match returns {
            Ok(returns) => found.places.push(start(elf, function, returns)),
            Err(error) if functions.len() == 1 => return Err(error),
            Err(error) => found.left_out.push(error),
        }
    }
    match found.left_out.pop() {
        Some(error) if found.places.is_empty() => Err(error),
        last => {
            found.left_out.extend(last);
            Ok(found)
        }
    }
}

/// Functions that return twice, the second time to where they were called from the first time.
const RETURN_TWICE: [&str; 10] = [
    "setjmp",
    "_setjmp",
    "__setjmp",
    "sigsetjmp",
    "__sigsetjmp",
    "getcontext",
    "__getcontext",
    "swapcontext",
    "__swapcontext",
    "savectx",
];

/// Would the program end when it returns from this function to the kernel's address a second time?
fn keeps_return_address(elf: &ElfFile, function: &Function) -> bool {
    /// Those that do are short.
    const MOST: u64 = 512;
    RETURN_TWICE.contains(&function.name.as_str())
        || elf
            .code(function.addr, function.size.min(MOST))
            .is_ok_and(|code| instructions::reads_return_address(&code))
}

/// The instructions of a function that return, and of its parts that are elsewhere.
fn return_instructions(elf: &ElfFile, function: &Function, parts: &[Function]) -> Result<Returns> {
    let failed = || format!("failed to see {} return", function.demangled());
    ensure!(
        function.size > 0,
        "{}: where it ends is not known, and a return probe would end the program\n\
         hint: its entry can be traced",
        failed()
    );
    let parts: Vec<&Function> = std::iter::once(function).chain(parts).collect();
    let is_own = |addr: u64| parts.iter().any(|part| addr.wrapping_sub(part.addr) < part.size);
    let mut exits = Vec::new();
    for part in &parts {
        let code = elf.code(part.addr, part.size)?;
        let found = instructions::exits(&code, |at| is_own(part.addr.wrapping_add_signed(at)));
        exits.extend(found.with_context(failed)?.into_iter().map(|exit| FunctionExit {
            at: part.offset + exit.at,
            ..exit
        }));
    }
    ensure!(
        !exits.is_empty(),
        "{}: it has no instruction that returns, and a return probe would end the program\n\
         hint: its entry can be traced",
        failed()
    );
    Ok(Returns::Instructions(exits))
}

fn start(elf: &ElfFile, function: &Function, returns: Returns) -> Place {
    Place {
        name: function.demangled().as_ref().into(),
        offset: function.offset,
        addr: function.addr,
        symbol: Some(function.name.as_str().into()),
        size: function.size,
        returns,
        is_go: elf.is_go(),
        usdt: None,
    }
}

/// The instruction `offset` bytes behind the start of a function.
fn inside(elf: &ElfFile, function: &Function, offset: u64) -> Result<Place> {
    let name = function.demangled();
    instructions::check_function(elf, function, offset)?;
    instructions::check_decodable(elf, function.addr + offset)
        .with_context(|| format!("failed to probe {name}+{offset:#x}"))?;
    Ok(Place {
        name: format!("{name}+{offset:#x}").into(),
        offset: function.offset + offset,
        addr: function.addr + offset,
        symbol: None,
        size: 0,
        returns: Returns::Unseen,
        is_go: false,
        usdt: None,
    })
}

/// The instruction at an address; none when the file has none there.
fn address_place(object: &Object, elf: &ElfFile, addr: u64, at_return: bool) -> Result<Found> {
    if elf.offset_of(addr).is_none() {
        return Ok(Found::default());
    }
    let function = functions::containing(elf, &object.path, addr)?.with_context(|| {
        format!("failed to probe {addr:#x}: no function is known there, so nothing tells where its instructions begin")
    })?;
    if function.addr == addr {
        return starts(object, elf, &[function], at_return);
    }
    no_return_inside(at_return)?;
    Ok(vec![inside(elf, &function, addr - function.addr)?].into())
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
    let sizes = functions::sizes(elf);
    let mut missing = None;
    found.retain_mut(|function| {
        if !function.ifunc {
            return true;
        }
        let target = real
            .get(&function.addr)
            .and_then(|&addr| Some((addr, elf.offset_of(addr)?)));
        match target {
            // The symbol's size is that of the code which chooses.
            Some((addr, offset)) => {
                let size = sizes.get(&addr).copied().unwrap_or(0);
                (function.addr, function.offset, function.size) = (addr, offset, size);
            }
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
            size: 0,
            returns: Returns::Unseen,
            is_go: false,
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
