// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Finds allocators, and says which of their functions call one another.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::Args;
use super::functions::{AllocCall, AllocSymbol, FAMILIES, needs};
use crate::bpf::mallocsnoop::types::{self, alloc_limits, alloc_shape, alloc_site, inner_code};
use crate::find::code::placement::Needs;
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::host::loader;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::inner::InnerCode;
use crate::find::returns::{EntryMatching, ReturnMethod, ReturnPolicy, ReturnWatcher};
use crate::probe::point::{Cookie, Ends, ProbePoint};
use crate::probe::search::finder::{Finder, SearchPlan, SearchRequest, SearchSubject, WatchedEnds};
use crate::probe::search::spec_target::find_file;
use crate::wording::FunctionNames;

const INNER_RANGES: usize = alloc_limits::INNER_RANGES.0 as usize;

/// Room for files that appear later.
const SPARE_FILES: usize = 64;
const SPARE_SITES: usize = 1024;

/// A function of an allocator; its index is the cookie.
pub struct AllocFunction {
    /// All names that the file has for it: `memalign/aligned_alloc`.
    pub name: Rc<str>,
    pub shape: alloc_shape,
}

/// The maps that say what is known of probes.
pub struct SiteMaps {
    pub sites: MapHandle,
    pub inner_code: MapHandle,
}

/// How many entries [`SiteMaps`] have.
#[derive(Clone, Copy)]
pub struct SiteMapSizes {
    pub sites: u32,
    pub files: u32,
}

/// Finds the allocator that a process calls: the first in the loader's lookup order, and all that have prefixes.
pub struct Allocators {
    library: Option<PathBuf>,
    calls: Vec<AllocCall>,
    /// What probes read beside the arguments.
    needs: Needs,
    /// Calls of allocator functions by one another are rows, too.
    nested: bool,
    /// How returns are watched; None if they are not.
    returns: Option<ReturnPolicy>,
    /// Some returns are observed at return instructions.
    at_instructions: bool,
    /// Files with functions for unprefixed names.
    final_objects: HashSet<FileId>,
    functions: Vec<AllocFunction>,
    /// Functions, by their index, and calls among them, of the file that is examined.
    placing: Vec<FoundFunction>,
    inner: InnerCode,
    tables: SiteTables,
    warnings: Vec<String>,
}

/// The content of [`SiteMaps`].
#[derive(Default)]
struct SiteTables {
    /// None for a function that has no probe yet.
    sites: Vec<Option<alloc_site>>,
    inner: Vec<inner_code>,
    limit: Option<SiteMapSizes>,
    maps: Option<SiteMaps>,
}

/// A function of a file, with all symbols at its address.
struct FoundFunction {
    symbol: FunctionSymbol,
    names: Vec<&'static str>,
    calls: Vec<AllocCall>,
    shape: alloc_shape,
    /// Its returns are observed at return instructions.
    at_instructions: bool,
    /// Its index, if it is traced.
    index: Option<u32>,
}

impl FoundFunction {
    fn add(&mut self, symbol: &AllocSymbol) {
        self.calls.push(symbol.call);
        // A program may free in several ways, which are one function in some allocators.
        if !self.names.contains(&symbol.name) && self.shape != alloc_shape::SHAPE_FREE {
            self.names.push(symbol.name);
        }
    }
}

impl Allocators {
    pub fn new(args: &Args) -> Self {
        let calls = <AllocCall as clap::ValueEnum>::value_variants().iter();
        Self {
            library: args.library.clone(),
            calls: calls.copied().filter(|&call| args.traces(call)).collect(),
            // The return address tells a nested call.
            needs: match args.ret || args.stack || !args.nested {
                true => Needs::STACK,
                false => Needs::NOTHING,
            },
            nested: args.nested,
            returns: args.ret.then(ReturnPolicy::default),
            at_instructions: false,
            final_objects: HashSet::new(),
            functions: Vec::new(),
            placing: Vec::new(),
            inner: InnerCode::default(),
            tables: SiteTables::default(),
            warnings: Vec::new(),
        }
    }

    /// The function with this cookie.
    pub fn function(&self, index: u32) -> Option<&AllocFunction> {
        self.functions.get(index as usize)
    }

    /// Called after the first search: the sizes that the maps must have.
    pub fn limit(&mut self, may_grow: bool) -> SiteMapSizes {
        let spare = |spare: usize| if may_grow { spare } else { 0 };
        let sizes = SiteMapSizes {
            sites: (self.functions.len() + spare(SPARE_SITES)).max(1) as u32,
            files: (self.tables.inner.len() + spare(SPARE_FILES)).max(1) as u32,
        };
        self.tables.limit = Some(sizes);
        sizes
    }

    /// Fills the maps, and later adds to them.
    ///
    /// # Errors
    /// The kernel refuses an update.
    pub fn use_maps(&mut self, maps: SiteMaps) -> Result<()> {
        self.tables.maps = Some(maps);
        self.tables.write(0, 0)
    }

    /// The functions of all families in a file, each address once.
    fn found(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<FoundFunction>> {
        let mallocs = FAMILIES.map(|family| format!("{}malloc", family.prefix));
        let here = elf.lookup(&mallocs.each_ref().map(String::as_str))?;
        let families = FAMILIES.iter().zip(&here).filter(|(_, malloc)| malloc.is_some());
        let symbols: Vec<(String, &AllocSymbol)> = families
            .flat_map(|(family, _)| {
                let symbols = family.symbols.iter().copied().flatten();
                symbols.map(|symbol| (format!("{}{}", family.prefix, symbol.symbol), symbol))
            })
            .collect();
        if symbols.is_empty() {
            return Ok(Vec::new());
        }
        if here.first().is_some_and(Option::is_some) {
            self.final_objects.insert(object.id);
        }
        let names: Vec<&str> = symbols.iter().map(|(name, _)| name.as_str()).collect();
        let mut found: Vec<FoundFunction> = Vec::new();
        for (function, (_, symbol)) in elf.lookup(&names)?.into_iter().zip(symbols) {
            let Some(function) = function.filter(|function| !function.ifunc) else {
                continue;
            };
            match found
                .iter_mut()
                .find(|known| known.symbol.offset == function.offset)
            {
                Some(known) => known.add(symbol),
                None => found.push(FoundFunction {
                    symbol: function,
                    names: vec![symbol.name],
                    calls: vec![symbol.call],
                    shape: symbol.shape,
                    at_instructions: false,
                    index: None,
                }),
            }
        }
        Ok(found)
    }

    /// How the returns of a function are observed. None if they cannot be: then `skipped` gets the reason.
    fn returns(
        &self,
        watcher: &mut ReturnWatcher<'_>,
        function: &FoundFunction,
        elf: &ElfFile,
        skipped: &mut Vec<(Rc<str>, String)>,
    ) -> Option<ReturnMethod> {
        if self.returns.is_none() {
            return Some(ReturnMethod::Unwatched);
        }
        let name = &function.symbol.name;
        match watcher.method(&function.symbol, EntryMatching::Matched) {
            Ok(returns) if returns.has_results() => Some(returns),
            // glibc's calloc ends with a jump to memset. Allocators in C do not unwind.
            Ok(_) if !elf.may_unwind() => Some(ReturnMethod::ReturnProbe),
            Ok(_) => {
                skipped.push((Rc::clone(name), jumps_away(name)));
                None
            }
            Err(error) => {
                skipped.push((Rc::clone(name), format!("{error:#}")));
                None
            }
        }
    }

    fn add(&mut self, function: &FoundFunction) -> Result<u32> {
        let index = self.functions.len();
        let limit = self
            .tables
            .limit
            .map_or(usize::from(u16::MAX), |limit| limit.sites as usize);
        ensure!(
            index < limit,
            "too many allocators in files that appeared later: some are not traced"
        );
        self.functions.push(AllocFunction {
            name: function.names.join("/").into(),
            shape: function.shape,
        });
        Ok(index as u32)
    }

    /// Points on jumps from one function of the file into another.
    fn jump_points(&self, jumps: &InnerCode, points: &[ProbePoint]) -> Vec<ProbePoint> {
        let of_function = |addr| {
            let target = self
                .placing
                .iter()
                .find(|function| function.symbol.addr == addr)?;
            let index = target.index?;
            points
                .iter()
                .find(|point| point.cookie == Cookie::of_function(index) && point.movable.is_some())
        };
        let jumps = jumps.jumps.iter().filter_map(|jump| {
            let mut point = of_function(jump.to)?.at_exit(&jump.exit);
            point.cookie = point.cookie.of_jump_into();
            Some(point)
        });
        jumps.collect()
    }
}

impl Finder for Allocators {
    fn plan(&mut self, request: &SearchRequest<'_>) -> Result<SearchPlan> {
        self.returns = self.returns.map(|_| request.returns);
        match &self.library {
            Some(name) => SearchPlan::file(&find_file(name, &request.filter.pids)?),
            None => Ok(SearchPlan::new(request.place()).likely(loader::find_library("libc"))),
        }
    }

    fn may_hold(&self, path: &Path) -> bool {
        is_c_library(path)
    }

    fn points(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<ProbePoint>> {
        // Before 2.34, glibc's loader has a malloc for its own start, which no program calls.
        if elf.soname().is_some_and(|name| name.starts_with("ld-linux")) {
            return Ok(Vec::new());
        }
        self.placing.clear();
        let found = self.found(object, elf)?;
        let mut watcher = ReturnWatcher::new(object, elf, self.returns.unwrap_or_default());
        let (mut points, mut skipped) = (Vec::new(), Vec::new());
        for mut function in found {
            if function.calls.iter().any(|call| self.calls.contains(call)) {
                let Some(returns) = self.returns(&mut watcher, &function, elf, &mut skipped) else {
                    continue;
                };
                let index = self.add(&function)?;
                let needs = needs(function.shape).and(self.needs);
                let point = ProbePoint {
                    // The program for returns is loaded for jumps, too.
                    ends: match self.returns.is_some() {
                        true => Ends::Both,
                        false => Ends::Entry,
                    },
                    ..ProbePoint::function(&function.symbol, Cookie::of_function(index), needs)
                };
                function.at_instructions = matches!(returns, ReturnMethod::Instructions(..));
                self.at_instructions |= function.at_instructions;
                points.extend(point.with_returns(&returns));
                function.index = Some(index);
            }
            self.placing.push(function);
        }
        if let Some((_, reason)) = skipped.first() {
            let names: FunctionNames = skipped.iter().map(|(name, _)| &**name).collect();
            self.warnings.push(names.skipped(reason));
        }
        if !self.nested && !points.is_empty() {
            self.inner = self.inner_code(elf);
            let jumps = self.jump_points(&self.inner, &points);
            self.at_instructions |= !jumps.is_empty();
            points.extend(jumps);
        }
        Ok(points)
    }

    fn on_placed(&mut self, elf: &ElfFile, points: &[ProbePoint]) -> Result<()> {
        let addr_of = |index: u32| {
            let is_entry = |point: &&ProbePoint| point.ends != Ends::ReturnInstruction;
            let mut of_function = points.iter().filter(|point| point.cookie.function() == index);
            of_function
                .find(is_entry)
                .and_then(|point| elf.address_of(point.offset))
        };
        let (mut placed, found) = (Vec::new(), self.placing.len());
        self.placing.retain(|function| {
            let addr = function.index.map(addr_of);
            placed.extend(
                addr.flatten()
                    .zip(function.index)
                    .map(|(addr, index)| (index, addr, function.shape, function.at_instructions)),
            );
            addr.is_none_or(|addr| addr.is_some())
        });
        if !self.nested && self.placing.len() < found {
            // Calls in a function without a probe are not in a row of that.
            self.inner = self.inner_code(elf);
        }
        self.tables.add(&placed, &std::mem::take(&mut self.inner))
    }

    fn name(&self, cookie: Cookie) -> Rc<str> {
        self.function(cookie.function())
            .map_or_else(|| "?".into(), |function| Rc::clone(&function.name))
    }

    fn ends(&self) -> WatchedEnds {
        WatchedEnds {
            entry: self.returns.is_none(),
            at_return: self.returns.is_none() && !self.nested,
            both: self.returns.is_some(),
            instructions: self.returns.is_some() && self.at_instructions,
            ..WatchedEnds::default()
        }
    }

    fn matches_calls(&self) -> bool {
        self.returns.is_some()
    }

    fn first_object_only(&self) -> bool {
        true
    }

    fn is_final(&self, object: FileId) -> bool {
        self.final_objects.contains(&object)
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn sought(&self) -> Option<SearchSubject> {
        let symbols = FAMILIES
            .iter()
            .take(1)
            .flat_map(|family| family.symbols.iter().copied().flatten());
        let mut functions: Vec<&'static str> = Vec::new();
        for symbol in symbols.filter(|symbol| self.calls.contains(&symbol.call)) {
            if !functions.contains(&symbol.name) {
                functions.push(symbol.name);
            }
        }
        Some(SearchSubject {
            what: "an allocator",
            functions,
        })
    }
}

impl Allocators {
    fn inner_code(&self, elf: &ElfFile) -> InnerCode {
        let functions: Vec<FunctionSymbol> = self
            .placing
            .iter()
            .map(|function| function.symbol.clone())
            .collect();
        InnerCode::of(elf, &functions)
    }
}

impl SiteTables {
    /// Adds functions of one file: index, address of the probe, shape, and whether return
    /// instructions show its returns.
    fn add(&mut self, placed: &[(u32, u64, alloc_shape, bool)], inner: &InnerCode) -> Result<()> {
        let (first_site, file) = (self.sites.len(), self.inner.len());
        ensure!(
            self.limit.is_none_or(|limit| file < limit.files as usize),
            "too many allocators in files that appeared later: some are not traced"
        );
        let ranges = &inner.ranges[..inner.ranges.len().min(INNER_RANGES)];
        let mut code = inner_code {
            count: ranges.len() as u64,
            ..inner_code::default()
        };
        for (slot, range) in code.ranges.iter_mut().zip(ranges) {
            *slot = types::inner_range {
                start: range.start,
                end: range.end,
            };
        }
        for &(index, addr, shape, at_instructions) in placed {
            let index = index as usize;
            self.sites.resize(self.sites.len().max(index + 1), None);
            self.sites[index] = Some(alloc_site {
                addr,
                inner_start: ranges.first().map_or(0, |range| range.start),
                inner_end: ranges.last().map_or(0, |range| range.end),
                inner: file as u32,
                shape: shape.0,
                at_instructions: at_instructions.into(),
            });
        }
        self.inner.push(code);
        self.write(first_site, file)
    }

    /// Writes entries from these on, sites last, as they refer to the others.
    fn write(&self, first_site: usize, first_file: usize) -> Result<()> {
        let Some(maps) = &self.maps else { return Ok(()) };
        let put = |map: &MapHandle, index: usize, value: &[u8]| {
            map.update(&(index as u32).to_ne_bytes(), value, MapFlags::ANY)
                .context("failed to write the functions of an allocator to a map")
        };
        for (index, code) in self.inner.iter().enumerate().skip(first_file) {
            // SAFETY: `inner_code` is plain: integers without padding.
            put(&maps.inner_code, index, unsafe { plain::as_bytes(code) })?;
        }
        for (index, site) in self.sites.iter().enumerate().skip(first_site) {
            if let Some(site) = site {
                // SAFETY: as above.
                put(&maps.sites, index, unsafe { plain::as_bytes(site) })?;
            }
        }
        Ok(())
    }
}

fn jumps_away(name: &str) -> String {
    format!("{name} ends with a jump to another file, before which its result is unknown")
}

/// glibc (`libc.so.6`, once `libc-2.31.so`), musl (`ld-musl-x86_64.so.1`, `libc.musl-...`), uClibc.
fn is_c_library(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    ["libc.so", "libc-", "libc.musl-", "ld-musl-", "libuClibc"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_libraries_are_recognized_by_file_name() {
        for path in [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/libc-2.31.so",
            "/lib/ld-musl-x86_64.so.1",
        ] {
            assert!(is_c_library(Path::new(path)), "{path}");
        }
        for path in [
            "/usr/lib/libcap.so.2",
            "/usr/lib/libcrypto.so.3",
            "/usr/bin/libc",
            "/usr/lib/libcurl.so.4",
        ] {
            assert!(!is_c_library(Path::new(path)), "{path}");
        }
    }
}
