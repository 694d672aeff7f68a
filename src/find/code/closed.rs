// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Whether the kernel's return probe on a function can hurt a program.
//!
//! A return probe replaces the return address with that of a trampoline. Code that reads it, unwinds through the
//! frame or switches stacks then meets the trampoline. That cannot happen in a *closed* function: neither it nor
//! anything that it calls leaves its file, calls through a pointer, reads its return address, or moves the stack
//! pointer elsewhere. All code that runs between entry and return is then known, apart from signal handlers.
//!
//! Functions that never return, such as `abort`, are followed only to see whether they end in unwinding, as those that
//! cancel a thread do. Otherwise no frame below them is used again.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use super::instructions;
use crate::find::elf::ElfFile;
use crate::find::elf::relocation::SlotBinding;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as machine;

/// Instructions that are decoded for one function with all that it calls.
const MOST_INSTRUCTIONS: usize = 200_000;
/// Functions of a file that are looked at for all that call them. Each call chain is followed once, so that only call
/// graphs made for the purpose need more.
const MOST_VISITS: usize = 4_000_000;
/// Longer functions are not examined, bytes.
const MOST_CODE: u64 = 256 << 10;

/// Why a function is not known to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenReason {
    /// It calls this function of another file, or one that another file may replace.
    CallsOther(String),
    CallsPointer,
    ReadsReturnAddress,
    MovesStack,
    Unwinds,
    NeverReturns,
    /// Part of it cannot be decoded, or its end is unknown.
    Unknown,
    TooLarge,
    /// On this machine, code is not followed.
    #[cfg(target_arch = "aarch64")]
    NotFollowed,
}

impl fmt::Display for OpenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenReason::CallsOther(name) => write!(f, "it may call {name}"),
            OpenReason::CallsPointer => f.write_str("it may call through a pointer"),
            OpenReason::ReadsReturnAddress => f.write_str("it may read its return address"),
            OpenReason::MovesStack => f.write_str("it may switch stacks"),
            OpenReason::NeverReturns => f.write_str("it never returns"),
            OpenReason::Unwinds => f.write_str("its thread may be cancelled in it"),
            OpenReason::Unknown => f.write_str("part of its code is unknown"),
            OpenReason::TooLarge => f.write_str("it calls too much code"),
            #[cfg(target_arch = "aarch64")]
            OpenReason::NotFollowed => f.write_str("code is not followed on this machine"),
        }
    }
}

/// Functions of other files that never return, and do not unwind either.
const NEVER_RETURN: [&str; 7] = [
    "__assert_fail",
    "__chk_fail",
    "__fortify_fail",
    "__stack_chk_fail",
    "_exit",
    "abort",
    "exit",
];
/// Functions that unwind the stack, of the C library and of others.
const UNWINDERS: [&str; 8] = [
    "_Unwind_ForcedUnwind",
    "_Unwind_RaiseException",
    "_Unwind_Resume",
    "__cxa_throw",
    "__pthread_unwind",
    "__pthread_unwind_next",
    "pthread_exit",
    "thrd_exit",
];
/// Functions that are followed to see whether one that never returns unwinds.
const MOST_ENDLESS: usize = 64;
/// Reads a setting of the C library, once per process. Functions that call it are set-up, as for the first allocation
/// (glibc's malloc/arena.c), and not followed.
const READS_SETTING: &str = "__tunable_get_val";
/// Functions of the C library that call the kernel's vDSO through a pointer, and nothing else.
const VDSO_CALLERS: [&str; 5] = ["clock_getres", "clock_gettime", "getcpu", "gettimeofday", "time"];
/// Functions that jump to one another until one does not return.
const MOST_JUMPS: usize = 4;

/// What one function does, without those that it calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FunctionScan {
    /// Virtual addresses that it calls or jumps to.
    pub calls: Vec<u64>,
    /// Virtual addresses of pointers that it calls through, as the GOT has them.
    pub slots: Vec<u64>,
    pub instructions: usize,
}

/// The functions of a file whose code has been followed.
pub struct ClosedFunctions<'e> {
    elf: &'e ElfFile,
    /// Size by address.
    sizes: HashMap<u64, u64>,
    slots: HashMap<u64, SlotBinding>,
    /// Addresses of [`VDSO_CALLERS`] and of [`UNWINDERS`].
    vdso_callers: HashSet<u64>,
    unwinders: HashSet<u64>,
    scans: HashMap<u64, Rc<Result<FunctionScan, OpenReason>>>,
    /// Whether calls to an address never return.
    endless: HashMap<u64, bool>,
    /// Whether they end in unwinding.
    unwinding: HashMap<u64, bool>,
    /// Functions that are closed with all that they call, and why others are not.
    closed: HashSet<u64>,
    open: HashMap<u64, OpenReason>,
    /// Functions that may still be looked at, each once for every function that calls it, directly or not.
    visits: usize,
    /// Where jumps to the functions of these names lead.
    bodies: RefCell<HashMap<String, Option<u64>>>,
}

impl<'e> ClosedFunctions<'e> {
    /// `sizes` has the functions of the file, by their virtual address.
    pub fn new(elf: &'e ElfFile, sizes: HashMap<u64, u64>) -> Self {
        let slots = elf.slots().unwrap_or_default();
        let is_libc = elf.soname().is_some_and(|name| name.starts_with("libc.so"));
        let addresses = |names: &[&str]| {
            let found = elf.lookup(names).unwrap_or_default().into_iter().flatten();
            found.map(|function| function.addr).collect()
        };
        ClosedFunctions {
            elf,
            sizes,
            slots: slots.into_iter().map(|slot| (slot.addr, slot.binding)).collect(),
            vdso_callers: if is_libc {
                addresses(&VDSO_CALLERS)
            } else {
                HashSet::new()
            },
            unwinders: addresses(&UNWINDERS),
            scans: HashMap::new(),
            endless: HashMap::new(),
            unwinding: HashMap::new(),
            closed: HashSet::new(),
            open: HashMap::new(),
            visits: MOST_VISITS,
            bodies: RefCell::default(),
        }
    }

    /// Checks that the function at a virtual address is closed.
    ///
    /// # Errors
    /// It is not, or not known to be.
    pub fn check(&mut self, addr: u64) -> Result<(), OpenReason> {
        if self.vdso_callers.contains(&addr) {
            return Ok(());
        }
        if self.is_endless(addr, MOST_JUMPS) {
            return Err(OpenReason::NeverReturns);
        }
        if matches!(&*self.scan(addr), Ok(scan) if self.is_set_up(scan)) {
            return Err(OpenReason::CallsOther(READS_SETTING.to_owned()));
        }
        let mut callers = HashMap::from([(addr, addr)]);
        let mut last = addr;
        let result = self.check_called(&mut callers, &mut last);
        match &result {
            Ok(()) => self.closed.extend(callers.into_keys()),
            // What is in the way of a function is in the way of all between it and the first.
            Err(reason) => loop {
                self.open.insert(last, reason.clone());
                match callers.get(&last) {
                    Some(&caller) if caller != last => last = caller,
                    _ => break,
                }
            },
        }
        result
    }

    /// Checks the function `last` and all that it calls: `callers` gets one caller of each. After an error, `last` is
    /// where it was found.
    fn check_called(&mut self, callers: &mut HashMap<u64, u64>, last: &mut u64) -> Result<(), OpenReason> {
        let mut waiting = vec![*last];
        let first = *last;
        let mut instructions = 0;
        while let Some(addr) = waiting.pop() {
            *last = addr;
            if let Some(reason) = self.open.get(&addr) {
                return Err(reason.clone());
            }
            if self.closed.contains(&addr) {
                continue;
            }
            let scan = self.scan(addr);
            let scan = scan.as_ref().as_ref().map_err(OpenReason::clone)?;
            instructions += scan.instructions;
            self.visits = self.visits.saturating_sub(1);
            if instructions > MOST_INSTRUCTIONS || self.visits == 0 {
                // It is all of them together that are too large.
                *last = first;
                return Err(OpenReason::TooLarge);
            }
            if self.is_set_up(scan) {
                // Not closed itself.
                callers.remove(&addr);
                continue;
            }
            scan.slots.iter().try_for_each(|&slot| self.check_slot(slot))?;
            for &called in &scan.calls {
                if callers.contains_key(&called) || self.vdso_callers.contains(&called) {
                    continue;
                }
                callers.insert(called, addr);
                match self.slot_of_stub(called) {
                    Some(slot) => self.check_slot(slot)?,
                    None => waiting.push(called),
                }
            }
        }
        Ok(())
    }

    fn scan(&mut self, addr: u64) -> Rc<Result<FunctionScan, OpenReason>> {
        if let Some(known) = self.scans.get(&addr) {
            return Rc::clone(known);
        }
        let scan = self.code(addr).and_then(|code| machine::scan(&code, addr, self));
        let scan = Rc::new(scan);
        self.scans.insert(addr, Rc::clone(&scan));
        scan
    }

    fn code(&self, addr: u64) -> Result<Vec<u8>, OpenReason> {
        let size = self.sizes.get(&addr).copied().filter(|&size| size > 0);
        let size = size.ok_or(OpenReason::Unknown)?;
        if size > MOST_CODE {
            return Err(OpenReason::TooLarge);
        }
        self.elf.code(addr, size).map_err(|_| OpenReason::Unknown)
    }

    fn is_set_up(&self, scan: &FunctionScan) -> bool {
        let stubs = scan.calls.iter().filter_map(|&called| self.slot_of_stub(called));
        let mut slots = scan.slots.iter().copied().chain(stubs);
        slots.any(
            |slot| matches!(self.slots.get(&slot), Some(SlotBinding::Named(name)) if name == READS_SETTING),
        )
    }

    /// A pointer that the loader sets may lead to another file, unless a resolver of this file selects one of several
    /// implementations of a function.
    fn check_slot(&self, slot: u64) -> Result<(), OpenReason> {
        match self.slots.get(&slot) {
            Some(SlotBinding::Resolver(_)) => Ok(()),
            Some(SlotBinding::Named(name)) => Err(OpenReason::CallsOther(name.clone())),
            None => Err(OpenReason::CallsPointer),
        }
    }

    /// The pointer that a PLT stub jumps through.
    fn slot_of_stub(&self, addr: u64) -> Option<u64> {
        if self.sizes.contains_key(&addr) {
            return None;
        }
        machine::slot_of_stub(&self.elf.code(addr, machine::STUB_BYTES).ok()?, addr)
    }

    /// The addresses of the function that a jump to `target` leads to: directly, or through a PLT stub for a function
    /// that this file defines. Where another file replaces that one, the jump leads elsewhere.
    pub fn body_at(&self, target: u64) -> Option<Range<u64>> {
        let addr = match self.slot_of_stub(target).and_then(|slot| self.slots.get(&slot)) {
            Some(SlotBinding::Named(name)) => self.body_named(name)?,
            Some(SlotBinding::Resolver(_)) => return None,
            None => target,
        };
        Some(addr..addr.checked_add(*self.sizes.get(&addr)?)?)
    }

    /// The address of the function of that name. It takes time to learn that another file defines it.
    fn body_named(&self, name: &str) -> Option<u64> {
        if let Some(&known) = self.bodies.borrow().get(name) {
            return known;
        }
        let found = self.elf.dynamic_function(name).ok().flatten();
        let addr = found.map(|function| function.addr);
        self.bodies.borrow_mut().insert(name.to_owned(), addr);
        addr
    }

    /// Whether a function calls itself, directly or through a PLT stub.
    pub fn calls_itself(&self, addr: u64) -> bool {
        let code = self.code(addr).unwrap_or_default();
        let is_own = |called: &u64| self.body_at(*called).is_some_and(|body| body.start == addr);
        machine::has_own_call(&code, addr) || machine::calls(&code, addr).iter().any(is_own)
    }

    /// Whether a function is known to begin at an address.
    pub fn is_function(&self, addr: u64) -> bool {
        self.sizes.contains_key(&addr)
    }

    /// Whether an address begins a function or a PLT stub.
    pub fn is_called(&self, addr: u64) -> bool {
        self.is_function(addr) || self.slot_of_stub(addr).is_some()
    }

    /// The bytes of one instruction, and of some after it.
    fn instruction(&self, addr: u64) -> Option<Vec<u8>> {
        const LONGEST: u64 = 15;
        let end = self.elf.code_segment(addr)?.end;
        self.elf.code(addr, LONGEST.min(end - addr)).ok()
    }

    /// Whether a function that never returns ends in one that unwinds.
    fn unwinds(&mut self, called: CallTarget) -> bool {
        let CallTarget::Function(addr) = called else {
            return false;
        };
        if let Some(&known) = self.unwinding.get(&addr) {
            return known;
        }
        let unwinds = self.ends_in_unwinder(addr);
        self.unwinding.insert(addr, unwinds);
        unwinds
    }

    fn ends_in_unwinder(&mut self, addr: u64) -> bool {
        let mut seen = HashSet::from([addr]);
        let mut waiting = vec![addr];
        while let Some(addr) = waiting.pop() {
            if self.is_unwinder(addr) || seen.len() > MOST_ENDLESS {
                return true;
            }
            let code = self.code(addr).unwrap_or_default();
            for called in machine::calls(&code, addr) {
                if self.is_unwinder(called) {
                    return true;
                }
                if self.never_returns(CallTarget::Function(called)) && seen.insert(called) {
                    waiting.push(called);
                }
            }
        }
        false
    }

    /// Whether this is the address of a function that unwinds, or of a PLT stub for one.
    fn is_unwinder(&self, addr: u64) -> bool {
        let named = self.slot_of_stub(addr).and_then(|slot| self.slots.get(&slot));
        self.unwinders.contains(&addr)
            || matches!(named, Some(SlotBinding::Named(name)) if UNWINDERS.contains(&name.as_str()))
    }

    fn never_returns(&mut self, called: CallTarget) -> bool {
        match called {
            CallTarget::Function(addr) => self.is_endless(addr, MOST_JUMPS),
            CallTarget::Slot(slot) => match self.slots.get(&slot) {
                Some(SlotBinding::Named(name)) => NEVER_RETURN.contains(&name.as_str()),
                _ => false,
            },
        }
    }

    /// Whether no instruction of a function, or stub, returns or jumps to a function that does.
    fn is_endless(&mut self, addr: u64, jumps: usize) -> bool {
        if let Some(&known) = self.endless.get(&addr) {
            return known;
        }
        let is_endless = match (self.code(addr), self.slot_of_stub(addr)) {
            (_, Some(slot)) => self.never_returns(CallTarget::Slot(slot)),
            (Ok(code), None) => instructions::never_leaves(&code, |at| {
                let target = addr.wrapping_add_signed(at);
                (at as u64) < code.len() as u64 || (jumps > 0 && self.is_endless(target, jumps - 1))
            }),
            (Err(_), None) => false,
        };
        self.endless.insert(addr, is_endless);
        is_endless
    }
}

/// What a call leads to.
#[derive(Clone, Copy, Debug)]
pub enum CallTarget {
    /// A virtual address.
    Function(u64),
    /// The pointer at a virtual address.
    Slot(u64),
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::{ClosedFunctions, FunctionScan, OpenReason};

    pub const STUB_BYTES: u64 = 16;

    pub fn scan(_: &[u8], _: u64, _: &mut ClosedFunctions<'_>) -> Result<FunctionScan, OpenReason> {
        Err(OpenReason::NotFollowed)
    }

    /// `adrp x16, PAGE; ldr x17, [x16, OFFSET]`, behind a `bti c` or not.
    pub fn slot_of_stub(stub: &[u8], addr: u64) -> Option<u64> {
        const BTI_C: u32 = 0xd503_245f;
        let word = |index: usize| {
            let bytes = stub.get(index * 4..index * 4 + 4)?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        let first = usize::from(word(0)? == BTI_C);
        let (page, load) = (word(first)?, word(first + 1)?);
        let is_stub = page & 0x9f00_001f == 0x9000_0010 && load & 0xffc0_03ff == 0xf940_0211;
        // 19 bits with a sign, and the two below them.
        let pages = i64::from((page << 8) as i32 >> 13) << 2 | i64::from(page >> 29 & 3);
        let start = (addr + 4 * first as u64) & !0xfff;
        let offset = u64::from(load >> 10 & 0xfff) * 8;
        is_stub.then(|| start.wrapping_add_signed(pages << 12).wrapping_add(offset))
    }

    pub fn calls(_: &[u8], _: u64) -> Vec<u64> {
        Vec::new()
    }

    pub fn has_own_call(_: &[u8], _: u64) -> bool {
        false
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
