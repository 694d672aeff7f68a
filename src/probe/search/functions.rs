//! The functions that a run is about: from what a person wrote to probe points, and from cookies back to names.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use crate::error::{FAILED, Failure, USAGE};
use crate::find::code::placement::Needs;
use crate::find::debug::signatures::Signatures;
use crate::find::elf::ElfFile;
use crate::find::functions;
use crate::find::host::loader;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::host::proc::Proc;
use crate::find::resolve::{self, ReturnMethod};
use crate::find::similar::similar;
use crate::find::spec::{NamePattern, ProbeMoment, ProbeSpec, ProbeSubject};
use crate::find::usdt;
use crate::output::escape::printable;
use crate::probe::attach::{Ends, GOROUTINE, JUMPING, LEAVING, Movable, ProbePoint};
use crate::probe::command::Command;
use crate::probe::scope::filter::Filter;
use crate::probe::search::files::{Place, Targets, Wanted};
use crate::probe::search::placing::Placing;

/// Functions of files that appear later, for which there is room.
const LATER: usize = 4096;
/// Files in which names similar to one that was not found are looked for.
const SEARCHED: usize = 8;
/// How many similar names a hint has.
const NEAR: usize = 3;

/// A place that is probed. Its index is the cookie.
#[derive(Clone, Debug)]
pub struct Site {
    pub place: resolve::ResolvedProbe,
    /// The file's name, without folders.
    pub module: Rc<str>,
    pub ends: Ends,
}

impl Site {
    /// What to call it: the return of a function that was asked for alone is marked.
    pub fn name(&self) -> Rc<str> {
        match self.ends {
            Ends::Return => format!("r:{}", self.place.name).into(),
            _ => Rc::clone(&self.place.name),
        }
    }
}

/// What was asked for, and what has been found of it.
pub struct Functions {
    asked: Vec<Asked>,
    sites: Vec<Site>,
    /// What each site's probe reads.
    needs: Vec<Needs>,
    cookies: HashMap<(FileId, u64, Ends), usize>,
    /// Processes that were named.
    pids: Vec<u32>,
    /// No more sites than these can be counted; None until the maps are made.
    capacity: Option<usize>,
    learn: Box<Learn>,
}

/// Told of each site when it is found, with its file; tells what its probe reads at the beginning of the function.
pub type Learn = dyn FnMut(usize, &Site, &ObjectFile, &ElfFile) -> Needs;

struct Asked {
    spec: ProbeSpec,
    ends: Ends,
    target: Target,
    found: bool,
    /// Files in which it was looked for, the first of them.
    searched: Vec<(PathBuf, File)>,
    /// Why it cannot be traced where it was found.
    problem: Option<Failure>,
}

enum Target {
    /// Every file of the processes that were chosen.
    Any,
    /// Files of these names.
    Named(Vec<String>),
    File(FileId),
}

impl Asked {
    fn concerns(&self, object: &ObjectFile) -> bool {
        match &self.target {
            Target::Any => true,
            Target::Named(_) => self.may_be_in(&object.path),
            Target::File(id) => *id == object.id,
        }
    }

    fn may_be_in(&self, path: &Path) -> bool {
        match &self.target {
            Target::Any => true,
            Target::Named(names) => names.iter().any(|name| loader::is_called(path, name)),
            Target::File(_) => false,
        }
    }
}

/// Where the functions of a run are looked for.
pub struct Scope<'a> {
    pub filter: &'a Filter,
    pub command: Option<(&'a [std::ffi::OsString], &'a Command)>,
    pub placing: Placing,
}

impl Functions {
    /// Reads what a person wrote and looks for the files that are meant. `ends` says which ends of its calls are
    /// watched for a moment that was asked for. The second value finds the functions in those files.
    ///
    /// # Errors
    /// A spec is not understood, or names a file that there is not.
    pub fn resolve(
        specs: Vec<ProbeSpec>,
        scope: &Scope<'_>,
        ends: impl Fn(ProbeMoment) -> Ends,
        learn: Box<Learn>,
    ) -> Result<(Rc<RefCell<Functions>>, Targets)> {
        let mut asked = Vec::new();
        let mut files = Vec::new();
        for spec in specs {
            let target = target_of(&spec, scope, &mut files)?;
            asked.push(Asked {
                ends: ends(spec.moment),
                spec,
                target,
                found: false,
                searched: Vec::new(),
                problem: None,
            });
        }
        let place = place(&asked, scope, &files);
        let functions = Rc::new(RefCell::new(Functions {
            asked,
            sites: Vec::new(),
            needs: Vec::new(),
            cookies: HashMap::new(),
            pids: scope.filter.pids.clone(),
            capacity: None,
            learn,
        }));
        let [in_path, in_object, names] = [(); 3].map(|()| Rc::clone(&functions));
        let wanted = Wanted {
            what: "functions",
            names: Vec::new(),
            may_hold: Box::new(move |path| in_path.borrow().asked.iter().any(|asked| asked.may_be_in(path))),
            points: Box::new(move |object, elf| in_object.borrow_mut().points(object, elf)),
            first_only: false,
            likely: Vec::new(),
            named: files,
            name: Box::new(move |cookie| {
                let functions = names.borrow();
                functions
                    .site(cookie as u32 as usize)
                    .map_or_else(|| "?".into(), Site::name)
            }),
        };
        let mut targets = Targets::new(wanted, place, scope.placing, scope.filter.follow);
        targets.find()?;
        functions.borrow_mut().require_all()?;
        let spare = if targets.may_grow() { LATER } else { 0 };
        let mut all = functions.borrow_mut();
        all.capacity = Some(all.sites.len() + spare);
        drop(all);
        Ok((functions, targets))
    }

    /// How many sites there may be: what a map with an entry for each needs.
    pub fn capacity(&self) -> u32 {
        self.capacity.unwrap_or(self.sites.len()) as u32
    }

    /// The place with this cookie.
    pub fn site(&self, cookie: usize) -> Option<&Site> {
        self.sites.get(cookie)
    }

    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Are calls watched at just these ends? All that was asked for has been found somewhere, so none is to come.
    pub fn watch(&self, ends: Ends) -> bool {
        self.sites.iter().any(|site| site.ends == ends)
    }

    /// Can there be functions whose returns are seen at their instructions, in files that are known or in those to come?
    pub fn may_return_at_instructions(&self, targets: &Targets) -> bool {
        let at_instructions = |site: &Site| matches!(site.place.returns, ReturnMethod::Instructions(_));
        let may_come = |asked: &Asked| !matches!(asked.target, Target::File(_));
        self.sites.iter().any(at_instructions) || (targets.may_grow() && self.asked.iter().any(may_come))
    }

    /// The points of a file.
    fn points(&mut self, object: &ObjectFile, elf: &ElfFile) -> Result<Vec<ProbePoint>> {
        let mut points: Vec<ProbePoint> = Vec::new();
        for index in 0..self.asked.len() {
            for place in self.places(index, object, elf)? {
                let ends = self.asked[index].ends;
                let site = self.cookie(object, elf, place.clone(), ends)?;
                let (cookie, needs) = (site as u64, self.needs[site]);
                if points
                    .iter()
                    .all(|point| u64::from(point.cookie as u32) != cookie)
                {
                    points.extend(points_of(&place, ends, cookie, needs));
                }
            }
        }
        Ok(points)
    }

    /// What the spec `index` means in a file.
    fn places(
        &mut self,
        index: usize,
        object: &ObjectFile,
        elf: &ElfFile,
    ) -> Result<Vec<resolve::ResolvedProbe>> {
        let asked = &mut self.asked[index];
        if !asked.concerns(object) {
            return Ok(Vec::new());
        }
        if asked.searched.len() < SEARCHED {
            asked
                .searched
                .push((object.path.clone(), object.file.try_clone()?));
        }
        match resolve::resolve(
            object,
            elf,
            &asked.spec.subject,
            asked.ends != Ends::Entry,
            &self.pids,
        ) {
            Ok(found) => {
                asked.found |= !found.probes.is_empty();
                if let Some(first) = found.skipped.first() {
                    let reason = format!("{first:#}");
                    let count = found.skipped.len();
                    eprintln!(
                        "warning: {count} functions are left out: {}",
                        printable(reason.as_bytes())
                    );
                }
                Ok(found.probes)
            }
            Err(error) => {
                asked.problem.get_or_insert_with(|| Failure::of(&error));
                match asked.target {
                    // One of many files that a process happens to map.
                    Target::Any => Ok(Vec::new()),
                    _ => Err(error),
                }
            }
        }
    }

    fn cookie(
        &mut self,
        object: &ObjectFile,
        elf: &ElfFile,
        place: resolve::ResolvedProbe,
        ends: Ends,
    ) -> Result<usize> {
        let key = (object.id, place.offset, ends);
        if let Some(&cookie) = self.cookies.get(&key) {
            return Ok(cookie);
        }
        let cookie = self.sites.len();
        if self.capacity.is_some_and(|capacity| cookie >= capacity) {
            return Err(Failure::new(FAILED, "too many functions appeared: some are not traced").into());
        }
        let module = object.path.file_name().unwrap_or_default().to_string_lossy();
        let site = Site {
            place,
            module: module.as_ref().into(),
            ends,
        };
        self.needs.push((self.learn)(cookie, &site, object, elf));
        self.sites.push(site);
        self.cookies.insert(key, cookie);
        Ok(cookie)
    }

    fn require_all(&self) -> Result<()> {
        match self.asked.iter().find(|asked| !asked.found) {
            Some(asked) => Err(asked.not_found()),
            None => Ok(()),
        }
    }
}

impl Asked {
    fn not_found(&self) -> anyhow::Error {
        if let Some(problem) = &self.problem {
            return problem.clone().into();
        }
        if let (Target::Named(names), []) = (&self.target, &self.searched[..])
            && let Some(name) = names.first()
        {
            return no_such_file(name);
        }
        let (what, name) = match &self.spec.subject {
            ProbeSubject::Function { name, .. } => ("function", name.to_string()),
            ProbeSubject::Address(addr) => ("function at", format!("{addr:#x}")),
            ProbeSubject::Usdt { provider, name } => ("USDT probe", format!("{provider}:{name}")),
        };
        let files: Vec<String> = self
            .searched
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        let place = match &files[..] {
            [] => "any file".to_owned(),
            [file] => file.clone(),
            [first, others @ ..] => format!("{first} and {} more files", others.len()),
        };
        if self.is_inlined() {
            let message =
                format!("failed to trace {name} in {place}: it is inlined everywhere, and has no address");
            return Failure::new(FAILED, message)
                .hint("trace a function that calls it")
                .into();
        }
        Failure::new(FAILED, format!("failed to find {what} {name} in {place}"))
            .hint(self.advice())
            .into()
    }

    /// What a person may have meant.
    fn advice(&self) -> String {
        let near = match &self.spec.subject {
            ProbeSubject::Function { name, .. } => {
                self.near(|elf, path| functions::nearest(elf, path, &name.letters(), NEAR))
            }
            ProbeSubject::Usdt { name, .. } => self.near(|elf, _| usdt::nearest(elf, &name.letters(), NEAR)),
            ProbeSubject::Address(_) => Vec::new(),
        };
        match near.is_empty() {
            true => "funclist shows what there is".to_owned(),
            false => format!("similar names there: {}", near.join(", ")),
        }
    }

    fn is_inlined(&self) -> bool {
        let ProbeSubject::Function {
            name: NamePattern::Exact(name),
            ..
        } = &self.spec.subject
        else {
            return false;
        };
        self.searched.iter().any(|(path, file)| {
            let elf = file
                .try_clone()
                .ok()
                .and_then(|file| ElfFile::open(file, path).ok());
            elf.is_some_and(|elf| Signatures::read(file, &elf, path).inlined(name))
        })
    }

    /// The names that the first file has that has any.
    fn near(&self, nearest: impl Fn(&ElfFile, &Path) -> Vec<String>) -> Vec<String> {
        let of_file = |(path, file): &(PathBuf, File)| {
            let elf = ElfFile::open(file.try_clone().ok()?, path).ok()?;
            Some(nearest(&elf, path)).filter(|names| !names.is_empty())
        };
        self.searched.iter().find_map(of_file).unwrap_or_default()
    }
}

/// Where programs are put for a place.
fn points_of(place: &resolve::ResolvedProbe, ends: Ends, cookie: u64, needs: Needs) -> Vec<ProbePoint> {
    let semaphore = place.usdt.as_ref().and_then(|probe| probe.semaphore);
    let cookie = cookie | if place.is_go { GOROUTINE } else { 0 };
    // Entries that are to be matched with returns are told from others by the stack.
    let needs = match (ends, place.is_go) {
        (Ends::Entry, _) => needs,
        (_, false) => needs.and(Needs::STACK),
        (_, true) => needs.and(Needs::goroutine()),
    };
    let start = place.symbol.is_some().then_some(Movable {
        size: place.size,
        needs,
    });
    let point = |offset, ends, cookie| ProbePoint {
        offset,
        cookie,
        ends,
        semaphore,
        movable: start.filter(|_| offset == place.offset && ends != Ends::Leaving),
        stepped: true,
    };
    match &place.returns {
        ReturnMethod::Instructions(exits) => {
            let entry = (ends == Ends::Both).then(|| point(place.offset, Ends::Entry, cookie));
            let leaving = exits.iter().map(|exit| {
                let jumps = if exit.jumps { JUMPING } else { 0 };
                point(exit.at, Ends::Leaving, cookie | LEAVING | jumps)
            });
            entry.into_iter().chain(leaving).collect()
        }
        ReturnMethod::Unwatched | ReturnMethod::ReturnProbe => vec![point(place.offset, ends, cookie)],
    }
}

/// The files that a spec is about; adds those that are to be traced although no process has them yet.
fn target_of(spec: &ProbeSpec, scope: &Scope<'_>, files: &mut Vec<PathBuf>) -> Result<Target> {
    let Some(name) = &spec.target else {
        if scope.filter.pids.is_empty() && scope.filter.container_pids.is_empty() {
            return Err(no_target(spec));
        }
        return Ok(Target::Any);
    };
    if name.contains('/') {
        let path = path_of(name, &scope.filter.pids);
        let id = traceable(&path)?;
        files.push(path);
        return Ok(Target::File(id));
    }
    let mut names = vec![name.clone()];
    if is_mapped(name, &scope.filter.pids) {
        return Ok(Target::Named(names));
    }
    let program = loader::find_program(name);
    match loader::find_library(name).or_else(|| program.clone()) {
        Some(path) => {
            // A script of that name, as pyenv has them, does not stand for the program that it runs.
            if let Err(error) = traceable(&path)
                && !runs(name)
            {
                return Err(error);
            }
            files.push(path);
        }
        None if scope.command.is_some() || (scope.filter.pids.is_empty() && runs(name)) => {}
        None => return Err(no_such_file(name)),
    }
    // `python3` is a link to `python3.11`, under which name its processes have it.
    let real = program.and_then(|path| path.canonicalize().ok());
    names.extend(real.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())));
    Ok(Target::Named(names))
}

/// What identifies a file, if it can be read as an ELF file.
fn traceable(path: &Path) -> Result<FileId> {
    let object = ObjectFile::at(path).with_context(|| format!("failed to open {}", path.display()))?;
    ElfFile::open(object.file, path)?;
    Ok(object.id)
}

/// A path as the first process that was named sees it, where this one does not see it.
fn path_of(name: &str, pids: &[u32]) -> PathBuf {
    let path = PathBuf::from(name);
    match pids.first() {
        Some(pid) if !path.exists() && path.is_absolute() => PathBuf::from(format!("/proc/{pid}/root{name}")),
        _ => path,
    }
}

fn is_mapped(name: &str, pids: &[u32]) -> bool {
    pids.iter().any(|&pid| {
        let mapped = Proc::host().mappings(pid).unwrap_or_default();
        mapped
            .iter()
            .any(|mapping| mapping.exec && loader::is_called(&mapping.path, name))
    })
}

/// Does any process map a file of this name?
fn runs(name: &str) -> bool {
    !Proc::host()
        .all_objects(|mapping| loader::is_called(&mapping.path, name))
        .is_empty()
}

/// Nobody knows a library or program of that name.
pub fn no_such_file(name: &str) -> anyhow::Error {
    Failure::new(
        FAILED,
        format!("failed to find {name}: no such library in the loader's cache, no such program in PATH"),
    )
    .hint(match similar(name, loader::names(), NEAR).as_slice() {
        [] => "give its path; `cat /proc/PID/maps` shows what a process uses".to_owned(),
        names => format!("similar names: {}; or give its path", names.join(", ")),
    })
    .into()
}

/// A function, or a file, was named alone.
fn no_target(spec: &ProbeSpec) -> anyhow::Error {
    let (usdt, name) = match &spec.subject {
        ProbeSubject::Function { name, .. } => ("", name.to_string()),
        ProbeSubject::Address(addr) => ("", format!("{addr:#x}")),
        ProbeSubject::Usdt { name, .. } => ("usdt:", name.to_string()),
    };
    let is_file = loader::find_library(&name).is_some() || loader::find_program(&name).is_some();
    match is_file {
        true => Failure::new(USAGE, format!("{} names no function", spec.text))
            .hint(format!("write {usdt}{name}:NAME; funclist shows the names")),
        false => Failure::new(USAGE, format!("{} names no program or library", spec.text)).hint(format!(
            "write {usdt}TARGET:{name}, such as {usdt}{}:{name}, or choose a process with -p PID",
            if usdt.is_empty() { "libc" } else { "python3" }
        )),
    }
    .into()
}

fn place(asked: &[Asked], scope: &Scope<'_>, files: &[PathBuf]) -> Place {
    if let Some((argv, command)) = scope.command {
        return Place::Command(argv.to_vec(), command.pid());
    }
    let named = asked.iter().any(|asked| matches!(asked.target, Target::Named(_)));
    let any = asked.iter().any(|asked| matches!(asked.target, Target::Any));
    match () {
        () if !scope.filter.pids.is_empty() => Place::Processes(scope.filter.pids.clone()),
        () if any => Place::Processes(scope.filter.container_pids.clone()),
        () if named => Place::Everywhere,
        () => Place::Files(files.to_vec()),
    }
}
