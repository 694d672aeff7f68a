// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which files the target of a spec means: `libc` in `libc:malloc`.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::errors::no_such_file;
use super::finder::{SearchPlace, SearchPlan, SearchRequest};
use super::finder::{open_named, open_path};
use crate::error::Failure;
use crate::find::host::loader;
use crate::find::host::object_file::{FileId, ObjectFile};
use crate::find::host::proc::Proc;
use crate::find::spec::{ProbeSpec, ProbeSubject};

const C_LIBRARY: &str = "libc";

/// The files that a spec is about.
pub enum SpecTarget {
    /// Every file of the chosen processes.
    Any,
    /// Files with these names.
    Named(Vec<String>),
    File(FileAtPath),
}

/// The file that a path means, and those that replace it.
pub struct FileAtPath {
    id: FileId,
    /// Absolute, as it was given.
    path: PathBuf,
    /// Where it led at the start.
    real: PathBuf,
    /// Processes of the user's choice map what they know by this path, maybe in another mount namespace.
    of_processes: bool,
}

impl FileAtPath {
    fn new(id: FileId, path: &Path, of_processes: bool) -> Result<Self> {
        let path = std::path::absolute(path)?;
        Ok(Self {
            id,
            real: path.canonicalize().unwrap_or_else(|_| path.clone()),
            path,
            of_processes,
        })
    }

    /// Whether a file that a process maps from this path can be meant.
    fn is_called(&self, path: &Path) -> bool {
        let is_link = self.path != self.real;
        path == self.real
            || path == self.path
            || (is_link && self.path.canonicalize().is_ok_and(|real| real == path))
    }

    /// Whether a file with such a path has replaced this one, rather than being that of a container.
    fn is_replaced_by(&self, object: &ObjectFile) -> bool {
        if self.of_processes || ObjectFile::at(&self.path).is_ok_and(|now| now.id == object.id) {
            return true;
        }
        // It may itself have been replaced since.
        let device = self.real.parent().and_then(|folder| folder.metadata().ok());
        let mapped = object.file.metadata();
        mapped.is_ok_and(|mapped| {
            mapped.nlink() == 0 && device.is_some_and(|folder| folder.dev() == mapped.dev())
        })
    }
}

impl SpecTarget {
    /// Whether an opened file is a target.
    pub fn matches(&self, object: &ObjectFile) -> bool {
        match self {
            SpecTarget::File(file) => {
                file.id == object.id || (file.is_called(&object.path) && file.is_replaced_by(object))
            }
            SpecTarget::Any | SpecTarget::Named(_) => self.may_match(&object.path),
        }
    }

    /// Whether a file that appears at this path can be a target.
    pub fn may_match(&self, path: &Path) -> bool {
        match self {
            SpecTarget::Any => true,
            SpecTarget::Named(names) => names.iter().any(|name| loader::is_called(path, name)),
            SpecTarget::File(file) => file.is_called(path),
        }
    }
}

/// The target of each spec, and where to look for all of them.
///
/// # Errors
/// A name matches no file, or a spec has no target and the options name no processes.
pub fn plan_targets(
    specs: &[&ProbeSpec],
    request: &SearchRequest<'_>,
) -> Result<(Vec<SpecTarget>, SearchPlan)> {
    let mut named = NamedFiles::default();
    let targets = specs.iter().map(|spec| target_of(spec, request, &mut named));
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let mut plan = SearchPlan::new(place(&targets, request));
    plan.named = named.files;
    plan.moved = named.moved;
    Ok((targets, plan))
}

/// Files to trace even if no process maps them yet.
#[derive(Default)]
struct NamedFiles {
    files: Vec<ObjectFile>,
    /// Warnings about names of former libraries, each once.
    moved: Vec<String>,
}

impl NamedFiles {
    /// Opens a file, or the one that its functions moved to. Returns that one's path if they did.
    fn add(&mut self, path: &Path) -> Result<(FileId, Option<PathBuf>)> {
        self.add_file(open_named(path)?)
    }

    /// As [`NamedFiles::add`], for a file that is open already.
    fn add_file(&mut self, file: ObjectFile) -> Result<(FileId, Option<PathBuf>)> {
        let home = moved_to(&file);
        let file = match &home {
            Some(home) => {
                let warning = moved_warning(&file.path, home);
                if !self.moved.contains(&warning) {
                    self.moved.push(warning);
                }
                open_named(home)?
            }
            None => file,
        };
        let id = file.id;
        self.files.push(file);
        Ok((id, home))
    }
}

/// The C library, if its functions used to be in this file of glibc. Since glibc 2.34, libpthread, libdl, librt,
/// libutil and libanl only have a symbol for programs that were linked before.
pub fn moved_to(file: &ObjectFile) -> Option<PathBuf> {
    const FORMER: [&str; 5] = ["libpthread", "libdl", "librt", "libutil", "libanl"];
    let name = FORMER
        .into_iter()
        .find(|name| loader::is_called(&file.path, name))?;
    let is_empty = file.elf().ok()?.defines(&format!("__{name}_version_placeholder"));
    let home = file.path.with_file_name("libc.so.6");
    (is_empty && home.exists()).then_some(home)
}

/// What to do about [`moved_warning`].
pub const MOVED_HINT: &str = "write libc:FUNCTION";

/// The warning about a name of a former library.
pub fn moved_warning(path: &Path, home: &Path) -> String {
    format!(
        "{} has no functions since glibc 2.34; {} is searched instead",
        path.display(),
        home.display()
    )
}

fn place(targets: &[SpecTarget], request: &SearchRequest<'_>) -> SearchPlace {
    let by_options = request.place();
    if !matches!(by_options, SearchPlace::Everywhere) {
        return by_options;
    }
    let any = targets.iter().any(|target| matches!(target, SpecTarget::Any));
    let by_name = targets
        .iter()
        .any(|target| matches!(target, SpecTarget::Named(_)));
    match (any, by_name) {
        (true, _) => SearchPlace::Processes(request.filter.container_pids.clone()),
        (false, true) => SearchPlace::Everywhere,
        (false, false) => SearchPlace::Paths,
    }
}

/// The files that a spec names.
fn target_of(spec: &ProbeSpec, request: &SearchRequest<'_>, named: &mut NamedFiles) -> Result<SpecTarget> {
    let filter = request.filter;
    let Some(name) = &spec.target else {
        if filter.pids.is_empty() && filter.container_pids.is_empty() {
            return Err(no_target(spec));
        }
        return Ok(SpecTarget::Any);
    };
    if name.contains('/') {
        let (id, home) = match running_file(Path::new(name), &filter.pids) {
            Some(file) => named.add_file(file)?,
            None => named.add(&path_in_process(name, &filter.pids))?,
        };
        let path = home.as_deref().unwrap_or(Path::new(name));
        return Ok(SpecTarget::File(FileAtPath::new(
            id,
            path,
            !filter.pids.is_empty(),
        )?));
    }
    let mut names = vec![name.clone()];
    if let Some(path) = mapped_file(name, &filter.pids) {
        if ObjectFile::at(&path).is_ok_and(|file| moved_to(&file).is_some()) {
            named.add(&path)?;
            names.push(C_LIBRARY.to_owned());
        }
        names.extend(file_name(&path));
        return Ok(SpecTarget::Named(names));
    }
    let program = command_program(name, request).or_else(|| loader::find_program(name));
    match loader::find_library(name).or_else(|| program.clone()) {
        Some(path) => match named.add(&path) {
            Ok((_, Some(_))) => names.push(C_LIBRARY.to_owned()),
            Ok((_, None)) => {}
            // A script, such as pyenv's python3, is not the program that it runs.
            Err(_) if is_running(name) => {}
            Err(_) if is_script(&path) => return Err(script(name, &path)),
            Err(error) => return Err(error),
        },
        None if request.command.is_some() || (filter.pids.is_empty() && is_running(name)) => {}
        None => return Err(no_such_file(name)),
    }
    // `python3` is a link to `python3.11`, and processes map it under that name.
    let real = program.and_then(|path| path.canonicalize().ok());
    names.extend(real.as_deref().and_then(file_name));
    Ok(SpecTarget::Named(names))
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// The program of the command if it has this name.
fn command_program(name: &str, request: &SearchRequest<'_>) -> Option<PathBuf> {
    let (argv, _) = request.command?;
    let program = loader::find_program(argv.first()?.to_str()?)?;
    loader::is_called(&program, name).then_some(program)
}

/// The file that a path or name means: a path, else what the processes in `pids` map under that name, else what
/// the loader finds, else what PATH has.
///
/// # Errors
/// There is none.
pub fn find_file(name: &Path, pids: &[u32]) -> Result<PathBuf> {
    let text = name.to_string_lossy();
    if text.contains('/') {
        return Ok(name.to_owned());
    }
    let found = mapped_file(&text, pids)
        .or_else(|| loader::find_library(&text))
        .or_else(|| loader::find_program(&text))
        .ok_or_else(|| no_such_file(&text))?;
    match is_script(&found) {
        true => Err(script(&text, &found)),
        false => Ok(found),
    }
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = open_path(path).and_then(|object| Ok((&object.file).read_exact(&mut start)?));
    read.is_ok() && start == *b"#!"
}

/// The error for a name that is that of a script, which has no functions.
fn script(name: &str, path: &Path) -> anyhow::Error {
    let programs = loader::programs_named(name).into_iter();
    let program = programs
        .filter(|path| open_named(path).is_ok())
        .find_map(|path| path.canonicalize().ok());
    let hint = match program {
        Some(program) => format!(
            "name the program that it runs, such as {}, or a process with -p PID",
            program.display()
        ),
        None => "name the program that it runs, or a process with -p PID".to_owned(),
    };
    let message = format!(
        "failed to read {}: a script has no functions that can be traced",
        path.display()
    );
    Failure::failed(message).hint(hint).into()
}

/// A path as the first named process sees it, if this process does not.
fn path_in_process(name: &str, pids: &[u32]) -> PathBuf {
    let path = PathBuf::from(name);
    match pids.first() {
        Some(&pid) if !path.exists() && path.is_absolute() => {
            Proc::host().root(pid).join(name.trim_start_matches('/'))
        }
        _ => path,
    }
}

/// The file that one of the processes maps from this path, which may lead to another file since.
fn running_file(path: &Path, pids: &[u32]) -> Option<ObjectFile> {
    let absolute = std::path::absolute(path).ok()?;
    let real = path.canonicalize().unwrap_or_else(|_| absolute.clone());
    let proc = Proc::host();
    let mapped = |&pid: &u32| proc.mapped_file(pid, |mapped| *mapped == *absolute || *mapped == *real);
    let object = pids.iter().find_map(mapped)?;
    object.elf().is_ok().then_some(object)
}

/// A file of this name that one of the processes maps as code, else its program in a version of that name.
fn mapped_file(name: &str, pids: &[u32]) -> Option<PathBuf> {
    pids.iter().find_map(|&pid| {
        let mappings = Proc::host().mappings(pid).unwrap_or_default();
        let mapped = mappings
            .into_iter()
            .find(|mapping| mapping.exec && loader::is_called(&mapping.path, name))
            .map(|mapping| mapping.path);
        let found = mapped.or_else(|| {
            let program = Proc::host().executable(pid).ok()?.path;
            loader::is_version_of(&program, name).then_some(program)
        })?;
        let root = Proc::host().root(pid);
        Some(root.join(found.strip_prefix("/").unwrap_or(&found)))
    })
}

/// Whether any process maps a file of this name.
fn is_running(name: &str) -> bool {
    !Proc::host()
        .all_objects(|mapping| loader::is_called(&mapping.path, name))
        .is_empty()
}

/// The spec has no target, and no process was chosen.
fn no_target(spec: &ProbeSpec) -> anyhow::Error {
    let (usdt, name) = match &spec.subject {
        ProbeSubject::Function { name, .. } => ("", name.to_string()),
        ProbeSubject::Address(addr) => ("", format!("{addr:#x}")),
        ProbeSubject::Usdt { name, .. } => ("usdt:", name.to_string()),
    };
    let is_file = loader::find_library(&name).is_some() || loader::find_program(&name).is_some();
    let failure = match is_file {
        true => Failure::usage(format!("{} names a file but no function", spec.text))
            .hint(format!("write {usdt}{name}:NAME; funclist lists the names")),
        false => Failure::usage(format!("{} names no program or library", spec.text)).hint(format!(
            "write {usdt}TARGET:{name}, such as {usdt}{}:{name}, or choose a process with -p PID",
            if usdt.is_empty() { "libc" } else { "python3" }
        )),
    };
    failure.into()
}
