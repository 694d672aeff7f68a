// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The functions of a run: from specs to probe points, and from cookies back to names.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;

use super::alternatives::MissingAlternatives;
use super::errors::MAX_SIMILAR;
use super::finder::{Finder, SearchPlan, SearchRequest, Uncalled, WatchedEnds};
use super::spec_target::{SpecTarget, plan_targets};
use super::traced::{OnFound, TracedFunction, TracedFunctions};
use super::uncalled::{self, FunctionSet};
use crate::error::Failure;
use crate::find::code::call_start::CallStart;
use crate::find::code::placement::Needs;
use crate::find::debug::signatures::SignatureSource;
use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::host::object_file::ObjectFile;
use crate::find::resolve::{self, ResolvedProbe};
use crate::find::returns::{EntryMatching, ReturnPolicy};
use crate::find::spec::{NamePattern, ProbeMoment, ProbeSpec, ProbeSubject};
use crate::find::usdt;
use crate::probe::called::CalledFunctions;
use crate::probe::point::{Cookie, Ends, MovableFunction, ProbePoint, begin_calls};
use crate::wording::{FunctionNames, MOST_NAMES, counted, first_names};

/// Room for functions of files that appear later.
const LATER: usize = 4096;
/// How many files are searched for names similar to one that was not found.
const MAX_SEARCHED: usize = 8;

/// Finds the functions that specs name.
pub struct FunctionFinder<O = Needs> {
    specs: Vec<SpecSearch>,
    pub traced: TracedFunctions<O>,
    /// Processes that the user named.
    pids: Vec<u32>,
    returns: ReturnPolicy,
    /// How entries are matched where both ends of calls are watched.
    matching: EntryMatching,
    warnings: Vec<String>,
}

/// A spec, and the results of its search.
struct SpecSearch {
    spec: ProbeSpec,
    ends: Ends,
    target: SpecTarget,
    /// Its functions.
    found: FunctionSet,
    missing: MissingAlternatives,
    /// The first files that were searched.
    searched: Vec<(PathBuf, File)>,
    /// Some of its functions were skipped.
    has_skipped: bool,
    /// Why it cannot be traced where it was found.
    problem: Option<Failure>,
}

impl<O: OnFound> FunctionFinder<O> {
    /// `ends` says which ends of calls to watch for the moment that a spec names.
    pub fn new(specs: Vec<ProbeSpec>, ends: impl Fn(ProbeMoment) -> Ends, on_found: O) -> Self {
        let specs = specs.into_iter().map(|spec| SpecSearch {
            ends: ends(spec.moment),
            missing: MissingAlternatives::of(&spec.subject),
            spec,
            target: SpecTarget::Any,
            found: FunctionSet::default(),
            searched: Vec::new(),
            has_skipped: false,
            problem: None,
        });
        FunctionFinder {
            specs: specs.collect(),
            traced: TracedFunctions::new(on_found),
            pids: Vec::new(),
            returns: ReturnPolicy::default(),
            matching: EntryMatching::Matched,
            warnings: Vec::new(),
        }
    }

    /// Returns only serve to know which calls are nested.
    pub fn for_nesting(self) -> Self {
        FunctionFinder {
            matching: EntryMatching::Nesting,
            ..self
        }
    }

    /// How many functions there may be: the entries of a map with one for each.
    pub fn capacity(&self) -> u32 {
        self.traced.capacity() as u32
    }

    /// The function with this cookie.
    pub fn get(&self, cookie: usize) -> Option<&TracedFunction> {
        self.traced.all().get(cookie)
    }

    /// The functions found so far; the index is the cookie.
    pub fn all(&self) -> &[TracedFunction] {
        self.traced.all()
    }

    /// Adds the points of the spec `index` in a file. `placed` has the functions that have points already.
    fn add_points(
        &mut self,
        index: usize,
        object: &ObjectFile,
        elf: &ElfFile,
        placed: &mut HashSet<u32>,
        points: &mut Vec<ProbePoint>,
    ) -> Result<()> {
        let search = &mut self.specs[index];
        if !search.target.matches(object) {
            return Ok(());
        }
        search.remember(object)?;
        if let Some(name) = search.function() {
            self.traced.on_found.on_search(name, object, elf);
        }
        let ends = search.ends;
        let at_return = matching(ends, self.matching).map(|matching| (self.returns, matching));
        elf.renew_budget();
        let file_name = Rc::from(&*object.path.file_name().unwrap_or_default().to_string_lossy());
        let (mut added, mut unknown_starts) = (Ok(()), FunctionNames::default());
        let mut on_found = |probe: ResolvedProbe| {
            if added.is_ok() {
                search.missing.on_found(&probe);
                added = self
                    .traced
                    .add(&probe, ends, &file_name, object, elf)
                    .map(|function| {
                        search.found.add(function);
                        if placed.insert(function) {
                            if probe.call_start == CallStart::Unknown {
                                unknown_starts.add(&probe.name);
                            }
                            let needs = self.traced.all()[function as usize].needs;
                            points.extend(points_of(&probe, ends, Cookie::of_function(function), needs));
                        }
                    });
            }
        };
        let subject = &search.spec.subject;
        let resolved = resolve::resolve(object, elf, subject, at_return, &self.pids, &mut on_found);
        self.warnings.extend(repeated_starts(&unknown_starts));
        match resolved {
            Ok(skipped) => {
                search.missing.search(elf, &object.path)?;
                let warning = skipped.warning();
                search.has_skipped |= warning.is_some();
                self.warnings.extend(warning);
                added
            }
            Err(error) => {
                search.problem.get_or_insert_with(|| Failure::of(&error));
                match search.target {
                    // One of many files that a process happens to map.
                    SpecTarget::Any => Ok(()),
                    _ => Err(error),
                }
            }
        }
    }
}

impl<O: OnFound> Finder for FunctionFinder<O> {
    fn plan(&mut self, request: &SearchRequest<'_>) -> Result<SearchPlan> {
        self.pids.clone_from(&request.filter.pids);
        self.returns = request.returns;
        if request.details {
            self.traced.keep_details();
        }
        let specs: Vec<&ProbeSpec> = self.specs.iter().map(|search| &search.spec).collect();
        let (targets, plan) = plan_targets(&specs, request)?;
        for (search, target) in self.specs.iter_mut().zip(targets) {
            search.target = target;
        }
        Ok(plan)
    }

    fn may_hold(&self, path: &Path) -> bool {
        self.specs.iter().any(|search| search.target.may_match(path))
    }

    fn points(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<ProbePoint>> {
        let mut points: Vec<ProbePoint> = Vec::new();
        // Several specs may name one function. Large programs have hundreds of thousands of functions.
        let mut placed = HashSet::new();
        for index in 0..self.specs.len() {
            self.add_points(index, object, elf, &mut placed, &mut points)?;
        }
        Ok(points)
    }

    fn name(&self, cookie: Cookie) -> Rc<str> {
        self.get(cookie.function() as usize)
            .map_or_else(|| "?".into(), |function| Rc::clone(&function.name))
    }

    fn ends(&self) -> WatchedEnds {
        let all = self.traced.all();
        let any = |ends| all.iter().any(|function| function.ends == ends);
        let mut both = all.iter().filter(|function| function.ends == Ends::Both);
        WatchedEnds {
            entry: any(Ends::Entry),
            at_return: any(Ends::Return),
            both: any(Ends::Both),
            instructions: all
                .iter()
                .any(|function| function.at_instructions || function.repeats),
            only_instructions: any(Ends::Both) && both.all(|function| function.at_instructions),
            repeats: all.iter().any(|function| function.repeats),
        }
    }

    fn matches_calls(&self) -> bool {
        self.specs.iter().any(|search| search.ends == Ends::Both)
    }

    fn finish(&mut self, may_grow: bool) -> Result<()> {
        if let Some(search) = self.specs.iter().find(|search| search.found.is_empty()) {
            return Err(search.not_found());
        }
        self.warnings
            .extend(self.specs.iter().filter_map(SpecSearch::missing_names));
        self.traced.limit(if may_grow { LATER } else { 0 });
        Ok(())
    }

    fn on_placed(&mut self, _: &ElfFile, points: &[ProbePoint]) -> Result<()> {
        self.traced.set_probed(points);
        Ok(())
    }

    fn uncalled(&self, called: &CalledFunctions<'_>, refused: &BTreeSet<u32>) -> Option<Uncalled> {
        let specs = self
            .specs
            .iter()
            .map(|search| (&search.spec, &search.found, search.has_skipped));
        Some(uncalled::uncalled(specs, self.traced.all(), called, refused))
    }

    fn take_details(&mut self) -> Vec<String> {
        self.traced.take_details()
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

impl SpecSearch {
    /// Keeps a file to look for similar names.
    fn remember(&mut self, object: &ObjectFile) -> Result<()> {
        if self.searched.len() < MAX_SEARCHED {
            let file = object.file.try_clone()?;
            self.searched.push((object.path.clone(), file));
        }
        Ok(())
    }

    /// The name of a function that is in a certain file.
    fn function(&self) -> Option<&NamePattern> {
        match (&self.spec.subject, &self.target) {
            (ProbeSubject::Function { .. }, SpecTarget::Any) => None,
            (ProbeSubject::Function { name, .. }, _) => Some(name),
            _ => None,
        }
    }

    fn not_found(&self) -> anyhow::Error {
        if let Some(problem) = &self.problem {
            return problem.clone().into();
        }
        if let (SpecTarget::Named(names), []) = (&self.target, &self.searched[..])
            && let Some(name) = names.first()
        {
            return super::errors::no_such_file(name);
        }
        let (what, name) = match &self.spec.subject {
            ProbeSubject::Function { name, .. } => ("function", name.to_string()),
            ProbeSubject::Address(addr) => ("function at", format!("{addr:#x}")),
            ProbeSubject::Usdt { provider, name } if *provider == NamePattern::any() => {
                ("USDT probe", name.to_string())
            }
            ProbeSubject::Usdt { provider, name } => ("USDT probe", format!("{provider}:{name}")),
        };
        let place = self.place();
        if let ProbeSubject::Function { name, .. } = &self.spec.subject
            && self.is_inlined(name)
        {
            let message =
                format!("failed to trace {name} in {place}: it is inlined everywhere, and has no address");
            return Failure::failed(message)
                .hint("trace a function that calls it")
                .into();
        }
        Failure::failed(format!("failed to find {what} {name} in {place}"))
            .hint(self.similar_names())
            .into()
    }

    /// The files that were searched.
    fn place(&self) -> String {
        let files: Vec<String> = self
            .searched
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        match &files[..] {
            [] => "any file".to_owned(),
            [file] => file.clone(),
            [first, others @ ..] => format!("{first} and {}", counted(others.len() as u64, "other file")),
        }
    }

    /// A warning of names in braces that match nothing.
    fn missing_names(&self) -> Option<String> {
        let missing = &self.missing.names;
        let (first, others) = missing.split_at(missing.len().min(MOST_NAMES));
        let described = first.iter().map(|name| self.described(name));
        let others = others.iter().map(ToString::to_string);
        let names: Vec<Rc<str>> = described.chain(others).map(Rc::from).collect();
        let what = match self.spec.subject {
            ProbeSubject::Usdt { .. } => "USDT probe",
            _ => "function",
        };
        (!names.is_empty()).then(|| format!("no {what} {} in {}", first_names(&names), self.place()))
    }

    /// A name that was not found, with what may be meant.
    fn described(&self, name: &NamePattern) -> String {
        let similar = self.similar_to(name);
        let is_inlined = |name: NamePattern| self.is_inlined(&name);
        match NamePattern::parse(&name.to_string()).is_ok_and(is_inlined) {
            true => format!("{name} (inlined everywhere)"),
            false if similar.is_empty() => name.to_string(),
            false => format!("{name} (similar: {})", similar.join(", ")),
        }
    }

    fn similar_names(&self) -> String {
        let similar = match &self.spec.subject {
            ProbeSubject::Function { name, .. } | ProbeSubject::Usdt { name, .. } => self.similar_to(name),
            ProbeSubject::Address(_) => Vec::new(),
        };
        match (&self.spec.subject, similar.first()) {
            (ProbeSubject::Usdt { .. }, None) if self.has_no_usdt_probe() => {
                "there are no USDT probes at all".to_owned()
            }
            (ProbeSubject::Usdt { .. }, None) => {
                "`funclist --usdt` lists the USDT probes of a file".to_owned()
            }
            (_, None) => "funclist lists the functions of a file".to_owned(),
            (subject, Some(first)) => match too_long(subject, first) {
                Some(why) => format!("{why}: write {first}"),
                None => format!("similar names there: {}", similar.join(", ")),
            },
        }
    }

    /// Whether all files were searched, and none has a USDT probe.
    fn has_no_usdt_probe(&self) -> bool {
        let first = |elf: &ElfFile| {
            let probes = usdt::probes(elf).unwrap_or_default();
            probes.first().map(|probe| probe.name.to_string())
        };
        let found = self.similar(|elf, _| first(elf).into_iter().collect());
        self.searched.len() < MAX_SEARCHED && found.is_empty()
    }

    fn is_inlined(&self, name: &NamePattern) -> bool {
        let (ProbeSubject::Function { .. }, Some(name)) = (&self.spec.subject, name.exact()) else {
            return false;
        };
        self.searched.iter().any(|(path, file)| {
            let elf = file
                .try_clone()
                .ok()
                .and_then(|file| ElfFile::open(file, path).ok());
            elf.is_some_and(|elf| SignatureSource::open(file, &elf, path).inlined(name))
        })
    }

    /// Names of functions or USDT probes that are similar to `name`.
    fn similar_to(&self, name: &NamePattern) -> Vec<String> {
        let letters = name.letters();
        match self.spec.subject {
            ProbeSubject::Usdt { .. } => self.similar(|elf, _| usdt::nearest(elf, &letters, MAX_SIMILAR)),
            _ => {
                let (name, _) = letters.split_once('@').unwrap_or((&letters, ""));
                self.similar(|elf, path| functions::nearest(elf, path, name, MAX_SIMILAR))
            }
        }
    }

    /// The similar names of the first file that has any.
    fn similar(&self, nearest: impl Fn(&ElfFile, &Path) -> Vec<String>) -> Vec<String> {
        let of_file = |(path, file): &(PathBuf, File)| {
            let elf = ElfFile::open(file.try_clone().ok()?, path).ok()?;
            Some(nearest(&elf, path)).filter(|names| !names.is_empty())
        };
        self.searched.iter().find_map(of_file).unwrap_or_default()
    }
}

/// What a wanted name has that `found`, which is the same up to there, has not.
fn too_long(wanted: &ProbeSubject, found: &str) -> Option<&'static str> {
    let ProbeSubject::Function { name, .. } = wanted else {
        return None;
    };
    match name.letters().strip_prefix(found)?.chars().next()? {
        '(' => Some("the names of C functions have no parameters"),
        '@' => Some("a name without a version stands for all versions"),
        _ => None,
    }
}

/// Whether the returns of calls are matched with entries, if they are observed: `both` says how where both are.
fn matching(ends: Ends, both: EntryMatching) -> Option<EntryMatching> {
    match ends {
        Ends::Entry => None,
        Ends::Both => Some(both),
        Ends::Return | Ends::ReturnInstruction => Some(EntryMatching::ReturnsAlone),
    }
}

/// A warning about functions of which it is not known which hits begin a call.
fn repeated_starts(functions: &FunctionNames) -> Option<String> {
    let what = "each turn of the loop at the start of";
    (!functions.is_empty()).then(|| format!("{what} {functions} is taken for a call"))
}

/// Where programs are attached for a function or USDT probe.
fn points_of(probe: &ResolvedProbe, ends: Ends, cookie: Cookie, needs: Needs) -> Vec<ProbePoint> {
    let semaphore = probe.usdt.as_ref().and_then(|usdt| usdt.semaphore);
    let cookie = match probe.is_go {
        true => cookie.in_goroutine(),
        false => cookie,
    };
    // Entries are matched with returns by the stack pointer.
    let needs = match (ends, probe.is_go) {
        (Ends::Entry, _) => needs,
        (_, false) => needs.and(Needs::STACK),
        (_, true) => needs.and(Needs::goroutine()),
    };
    let movable = probe.symbol.is_some().then_some(MovableFunction {
        size: probe.size,
        needs,
    });
    let start = ProbePoint {
        offset: probe.offset,
        cookie,
        ends,
        semaphore,
        movable,
        stepped: true,
    };
    let mut points = start.with_returns(&probe.returns);
    begin_calls(&mut points, start, &probe.call_start);
    points
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::find::elf::image::{file_with, image_with_functions};
    use crate::find::spec::parse;

    /// Processor time of this thread, which other work on the machine does not change.
    fn used() -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
    }

    #[test]
    fn names_in_braces_that_match_nothing_are_named() {
        let warnings = |spec: &str| {
            let file = file_with(&image_with_functions(&[0x55, 0xc3].repeat(3), 3, 2, 2));
            let object = ObjectFile::new(file, "made-up".into()).unwrap();
            let elf = object.elf().unwrap();
            let mut finder = FunctionFinder::new(vec![parse(spec).unwrap()], |_| Ends::Entry, Needs::NOTHING);
            finder.points(&object, &elf).unwrap();
            finder.finish(false).unwrap();
            finder.take_warnings()
        };
        assert_eq!(
            warnings("{f0,g1,x*}"),
            ["no function g1 (similar: f1), x* in made-up"]
        );
        assert_eq!(warnings("{f0,f[12],fn_*}"), ["no function fn_* in made-up"]);
        assert_eq!(warnings("{f0,f1}"), [""; 0]);
        assert_eq!(warnings("f*"), [""; 0]);
        let ten: Vec<String> = (0..10).map(|number| format!("long_name_{number}")).collect();
        let warning = warnings(&format!("{{f0,{}}}", ten.join(",")));
        assert!(
            warning[0].ends_with("long_name_7 and 2 others in made-up"),
            "{warning:?}"
        );
    }

    #[test]
    fn names_with_too_much_have_hints() {
        let hint = |spec: &str| {
            let file = file_with(&image_with_functions(&[0x55, 0xc3].repeat(3), 3, 2, 2));
            let object = ObjectFile::new(file, "made-up".into()).unwrap();
            let elf = object.elf().unwrap();
            let mut finder = FunctionFinder::new(vec![parse(spec).unwrap()], |_| Ends::Entry, Needs::NOTHING);
            finder.points(&object, &elf).unwrap();
            Failure::of(&finder.finish(false).unwrap_err())
                .hint
                .unwrap_or_default()
        };
        assert_eq!(
            hint("f1(int)"),
            "the names of C functions have no parameters: write f1"
        );
        for version in ["f1@*", "f1@V2"] {
            assert_eq!(
                hint(version),
                "a name without a version stands for all versions: write f1"
            );
        }
        assert_eq!(hint("f3"), "similar names there: f0, f1, f2");
        assert_eq!(hint("usdt::begin*"), "there are no USDT probes at all");
    }

    #[test]
    fn time_is_linear_in_the_number_of_functions() {
        let time = |count: u64| {
            let code = [0x55, 0xc3].repeat(count as usize);
            let file = file_with(&image_with_functions(&code, count, 2, 2));
            let object = ObjectFile::new(file, "made-up".into()).unwrap();
            let elf = object.elf().unwrap();
            let spec = parse("f*").unwrap();
            let mut finder = FunctionFinder::new(vec![spec], |_| Ends::Entry, Needs::NOTHING);
            let start = used();
            assert_eq!(finder.points(&object, &elf).unwrap().len(), count as usize);
            used() - start
        };
        let (few, many) = (time(5_000), time(40_000));
        assert!(many < few * 24, "{few:?}, eight times as many {many:?}");
    }
}
