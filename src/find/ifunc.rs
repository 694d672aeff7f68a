// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The function that an IFUNC symbol resolves to.
//!
//! The code at such a symbol, for example `strlen` in glibc, is a resolver: the dynamic loader calls it once,
//! and it returns the address of the implementation for this processor. The symbol of the implementation is
//! local, and distributions strip it. But the loader writes its address into slots of every process that uses
//! it, where it can be read. Before a process runs, the code of the resolver shows what it can return.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use crate::find::code::instructions::check_decodable;
use crate::find::code::loads::{LoadedAddress, loads};
use crate::find::elf::relocation::{PointerSlot, SlotBinding};
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::host::loader::is_called;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::host::proc::{Proc, ProcMapping, ProcMemory};

#[cfg(test)]
mod tests;

/// Most processes that are inspected. The first one usually has all targets.
const MAX_PROCESSES: usize = 16;

/// The targets of the IFUNC symbols among `functions`, which are functions of `object`: virtual address of
/// the target by virtual address of the symbol. Searches the processes `pids` first, then the parent of this
/// process, then all others. Missing are targets that no process uses, that only processes without access
/// use, and targets outside of the file, such as `time` in the vDSO.
pub fn resolve(
    proc: &Proc,
    object: &ObjectFile,
    elf: &ElfFile,
    functions: &[FunctionSymbol],
    pids: &[u32],
) -> HashMap<u64, u64> {
    let mut search = IfuncSearch::new(proc, object, elf, functions);
    let parent = nix::unistd::getppid().as_raw() as u32;
    let mut seen = HashSet::new();
    let mut visited = 0;
    let named = pids.iter().copied().chain([parent]);
    let others = std::iter::once_with(|| proc.pids().unwrap_or_default()).flatten();
    for pid in named.chain(others).filter(|&pid| seen.insert(pid)) {
        if visited == MAX_PROCESSES || !search.is_missing() {
            break;
        }
        visited += usize::from(search.visit(pid).is_some());
    }
    search.found
}

/// Functions of glibc that resolve to those of the vDSO, which is memory of the kernel without a file.
const IN_VDSO: [&str; 2] = ["time", "gettimeofday"];

/// Whether processes call this IFUNC symbol of a C library in the vDSO.
pub fn is_in_vdso(object: &ObjectFile, function: &FunctionSymbol) -> bool {
    is_called(&object.path, "libc") && IN_VDSO.contains(&&*function.name)
}

/// The implementations that IFUNC symbols among `functions` can resolve to, by virtual address of the symbol: the one
/// that processes use, as [`resolve`] finds it, and those that the resolver chooses from, if none is found or `all` are
/// wanted: other processes may use those, by a setting for example. `sizes` has the functions of the file.
pub fn implementations(
    (proc, object, elf): (&Proc, &ObjectFile, &ElfFile),
    functions: &[FunctionSymbol],
    pids: &[u32],
    sizes: &HashMap<u64, u64>,
    all: bool,
) -> HashMap<u64, BTreeSet<u64>> {
    let used = resolve(proc, object, elf, functions, pids);
    let ifuncs = functions.iter().filter(|function| function.ifunc);
    let found = ifuncs.map(|function| {
        let used = used.get(&function.addr).copied();
        let mut found = match is_in_vdso(object, function) || (used.is_some() && !all) {
            true => BTreeSet::new(),
            false => choices(elf, function, sizes),
        };
        // What cannot be probed is reported, unless it is known not to be chosen.
        found.retain(|&addr| used.is_none() || check_decodable(elf, addr).is_ok());
        found.extend(used);
        (function.addr, found)
    });
    found.collect()
}

/// The functions of the file whose addresses a resolver loads.
pub fn choices(elf: &ElfFile, resolver: &FunctionSymbol, sizes: &HashMap<u64, u64>) -> BTreeSet<u64> {
    let size = Some(resolver.size).filter(|&size| size > 0);
    let size = size.or_else(|| sizes.get(&resolver.addr).copied()).unwrap_or(0);
    let code = elf.code(resolver.addr, size).unwrap_or_default();
    let loaded = loads(&code, resolver.addr).into_iter();
    let addresses = loaded.filter_map(|loaded| match loaded {
        LoadedAddress::Value(addr) => Some(addr),
        LoadedAddress::PointerAt(addr) => elf.pointer_at(addr),
    });
    addresses
        .filter(|addr| *addr != resolver.addr && sizes.contains_key(addr))
        .collect()
}

struct IfuncSearch<'a> {
    proc: &'a Proc,
    object: &'a ObjectFile,
    elf: &'a ElfFile,
    /// The lower half of the inode number, which is the same on overlays.
    inode: u32,
    slots: Vec<PointerSlot>,
    /// The virtual addresses of the symbols, and those of symbols with a unique name by name.
    resolvers: HashSet<u64>,
    by_name: HashMap<&'a str, u64>,
    found: HashMap<u64, u64>,
}

/// The file as mapped by one process.
struct MappedImage<'a> {
    memory: ProcMemory,
    /// Mappings of its code.
    code: Vec<&'a ProcMapping>,
    load_bias: u64,
}

impl<'a> IfuncSearch<'a> {
    fn new(
        proc: &'a Proc,
        object: &'a ObjectFile,
        elf: &'a ElfFile,
        functions: &'a [FunctionSymbol],
    ) -> IfuncSearch<'a> {
        let ifuncs = || functions.iter().filter(|function| function.ifunc);
        let versioned = elf.versioned_names().unwrap_or_default();
        IfuncSearch {
            proc,
            object,
            elf,
            inode: object.file.metadata().map_or(0, |meta| meta.ino() as u32),
            slots: elf.slots().unwrap_or_default(),
            resolvers: ifuncs().map(|function| function.addr).collect(),
            by_name: ifuncs()
                .map(|function| (&*function.name, function.addr))
                .filter(|(name, _)| !versioned.contains(*name))
                .collect(),
            found: HashMap::new(),
        }
    }

    fn is_missing(&self) -> bool {
        self.found.len() < self.resolvers.len()
    }

    /// Reads the slots of a process. `None` if it does not map the file, or may not be inspected.
    fn visit(&mut self, pid: u32) -> Option<()> {
        let mappings = self.proc.mappings(pid).ok()?;
        let image = self.image(pid, &mappings)?;
        let slots = std::mem::take(&mut self.slots);
        self.read(self.elf, &slots, image.load_bias, &image);
        self.slots = slots;
        let mut seen = HashSet::new();
        for mapping in &mappings {
            let other = mapping.exec && mapping.is_file() && mapping.inode as u32 != self.inode;
            if !self.is_missing() {
                break;
            }
            if other && seen.insert((mapping.dev, mapping.inode)) {
                self.read_importer(pid, mapping, &image);
            }
        }
        Some(())
    }

    fn image<'m>(&self, pid: u32, mappings: &'m [ProcMapping]) -> Option<MappedImage<'m>> {
        // Other files may have the same inode number.
        let is_ours = |mapping: &&ProcMapping| {
            let file = self.proc.open(pid, mapping).and_then(|file| FileId::of(&file));
            file.is_ok_and(|id| id == self.object.id)
        };
        let numbered =
            |mapping: &&ProcMapping| mapping.exec && mapping.is_file() && mapping.inode as u32 == self.inode;
        let first = mappings.iter().filter(numbered).find(is_ours)?;
        let same = |mapping: &&ProcMapping| {
            (mapping.dev, mapping.inode, &mapping.path) == (first.dev, first.inode, &first.path)
        };
        Some(MappedImage {
            memory: self.proc.memory(pid).ok()?,
            load_bias: load_bias(self.elf, first)?,
            code: mappings.iter().filter(numbered).filter(same).collect(),
        })
    }

    /// Reads the slots of another file of the process that import the functions by name.
    fn read_importer(&mut self, pid: u32, mapping: &ProcMapping, image: &MappedImage) -> Option<()> {
        let file = self.proc.open(pid, mapping).ok()?;
        let elf = ElfFile::open(file, &mapping.path).ok()?;
        let mut slots = elf.slots().ok()?;
        // Its resolvers are those of other functions.
        slots.retain(|slot| matches!(slot.binding, SlotBinding::Named(_)));
        let load_bias = load_bias(&elf, mapping)?;
        self.read(&elf, &slots, load_bias, image);
        Some(())
    }

    /// Reads `slots`, which are in `holder`.
    fn read(&mut self, holder: &ElfFile, slots: &[PointerSlot], load_bias: u64, image: &MappedImage) {
        for slot in slots {
            let resolver = match &slot.binding {
                SlotBinding::Resolver(addr) => Some(*addr),
                SlotBinding::Named(name) => self.by_name.get(name.as_str()).copied(),
            };
            let wanted = |addr: &u64| self.resolvers.contains(addr) && !self.found.contains_key(addr);
            let Some(resolver) = resolver.filter(wanted) else {
                continue;
            };
            let value = image.memory.words::<1>(slot.addr.wrapping_add(load_bias));
            let Some([value]) = value.map(|words| words.map(u64::from_le)) else {
                continue;
            };
            // Until the first call, a lazily bound slot has the value from the linker, which leads to the
            // loader.
            let is_unbound = holder.word(slot.addr).map(|word| word.wrapping_add(load_bias)) == Some(value);
            if let Some(target) = self.target(value, image)
                && !is_unbound
                && target != resolver
            {
                self.found.insert(resolver, target);
            }
        }
    }

    /// The virtual address in the file of the code at `value` in memory, if it is code of the file.
    fn target(&self, value: u64, image: &MappedImage) -> Option<u64> {
        let mapping = image
            .code
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&value))?;
        let offset = mapping.offset.checked_add(value - mapping.start)?;
        let addr = self.elf.address_of(offset)?;
        self.elf.offset_of(addr).map(|_| addr)
    }
}

/// The difference between addresses in memory and virtual addresses of the file, from a mapping of its code.
fn load_bias(elf: &ElfFile, code: &ProcMapping) -> Option<u64> {
    Some(code.start.wrapping_sub(elf.address_of(code.offset)?))
}
