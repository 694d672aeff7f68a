// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The files that a program consists of once its loader has run.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};

use super::arch::{self, processor_levels};
use super::cache::LoaderCache;
use super::programs::{DEFAULT_PATH, find_program_in};
use super::search_path::{expand, musl_dirs, preloads, split, variable};
use crate::find::elf::ElfFile;
use crate::find::host::object_file::{FileId, ObjectFile, open_regular};

/// Most files that one program may consist of.
const MAX_FILES: usize = 1024;
/// Most libraries that are looked for on behalf of one program, found or not.
const MAX_REQUESTS: usize = 16 * 1024;
/// How many scripts may interpret one another: the kernel's limit.
const MAX_SCRIPTS: usize = 4;
const SHELL: &str = "/bin/sh";
/// Bytes of a script's first line that the kernel reads.
const FIRST_LINE: u64 = 256;

/// The files that running `exe` with the environment `env` would map, in the order in which the loader
/// searches them for symbols: the program (for a script, its interpreter), preloaded libraries, needed
/// libraries breadth first, and last the loader. Libraries that cannot be found are skipped.
///
/// # Errors
/// `exe` or its interpreter cannot be read, or is not a program for this machine.
pub fn closure(exe: &Path, env: &[(OsString, OsString)]) -> Result<Vec<ObjectFile>> {
    let mut exe = exe.to_path_buf();
    for _ in 0..=MAX_SCRIPTS {
        match script_interpreter(&exe, env)? {
            Some(interpreter) => exe = interpreter,
            None => return LoaderSearch::new(exe, env)?.run(),
        }
    }
    bail!(
        "failed to run {}: too many scripts that interpret one another",
        exe.display()
    )
}

/// The program named in the first line of a script, or `None` if `path` is not a script. For `#!/usr/bin/env
/// NAME` it is the program that `env` runs. execvp runs text without such a line by the shell.
fn script_interpreter(path: &Path, env: &[(OsString, OsString)]) -> Result<Option<PathBuf>> {
    let mut head = Vec::new();
    let file = open_regular(path).with_context(|| format!("failed to open {}", path.display()))?;
    file.take(FIRST_LINE)
        .read_to_end(&mut head)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let Some(line) = head.strip_prefix(b"#!") else {
        let is_text = !head.is_empty() && !head.contains(&0) && !head.starts_with(b"\x7fELF");
        return Ok(is_text.then(|| SHELL.into()));
    };
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|word| !word.is_empty());
    let Some(interpreter) = words.next() else {
        bail!("failed to run {}: no interpreter", path.display())
    };
    let interpreter = Path::new(OsStr::from_bytes(interpreter));
    if interpreter.file_name() == Some(OsStr::new("env")) {
        let program = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
        let search = variable(env, "PATH").unwrap_or(OsStr::new(DEFAULT_PATH));
        if let Some(found) = program.and_then(|word| find_program_in(OsStr::from_bytes(word), search)) {
            return Ok(Some(found));
        }
    }
    Ok(Some(interpreter.to_path_buf()))
}

/// A file that the loader has loaded.
struct LoadedFile {
    object: ObjectFile,
    elf: Rc<ElfFile>,
    /// Its directory, the value of `$ORIGIN`.
    origin: PathBuf,
    /// The file that first needed it, by index; `None` for the program.
    parent: Option<usize>,
    /// `DT_RPATH`: used only if `runpath` is empty, but then also for dependencies of dependencies.
    rpath: Vec<PathBuf>,
    runpath: Vec<PathBuf>,
}

/// The loader's search for the files of one program.
struct LoaderSearch {
    loaded: Vec<LoadedFile>,
    ids: HashSet<FileId>,
    /// Names that were requested, and sonames of loaded files.
    names: HashSet<String>,
    preload: Vec<String>,
    library_path: Vec<PathBuf>,
    interpreter: Option<PathBuf>,
    is_musl: bool,
    default_dirs: Vec<PathBuf>,
    cache: LoaderCache,
    /// Directories below `glibc-hwcaps`, best first.
    levels: Vec<&'static str>,
}

impl LoaderSearch {
    fn new(exe: PathBuf, env: &[(OsString, OsString)]) -> Result<LoaderSearch> {
        let (object, elf) = ObjectFile::with_elf(&exe)?;
        let interpreter = elf.interpreter();
        let is_musl = interpreter.as_deref().is_some_and(is_musl_loader);
        let library_path = variable(env, "LD_LIBRARY_PATH").unwrap_or_default();
        let (default_dirs, cache, levels) = match is_musl {
            true => (musl_dirs(), LoaderCache::default(), Vec::new()),
            false => (
                arch::LIBRARY_DIRS.map(PathBuf::from).to_vec(),
                LoaderCache::host(),
                processor_levels(),
            ),
        };
        let mut search = LoaderSearch {
            loaded: Vec::new(),
            ids: HashSet::new(),
            names: HashSet::new(),
            preload: preloads(env, is_musl),
            library_path: split(library_path, b":;").map(PathBuf::from).collect(),
            interpreter,
            is_musl,
            default_dirs,
            cache,
            levels,
        };
        // The kernel passes the real path of the program to the loader, with symbolic links resolved.
        let real = exe
            .canonicalize()
            .with_context(|| format!("failed to find {}", exe.display()))?;
        search.add(object, elf, &real, None);
        Ok(search)
    }

    fn run(mut self) -> Result<Vec<ObjectFile>> {
        // A static program has no loader that would read the environment.
        let Some(interpreter) = self.interpreter.take() else {
            return Ok(self.objects(None));
        };
        let (loader, elf) = ObjectFile::with_elf(&interpreter)?;
        // The loader is already loaded when a library needs it. It comes last.
        self.ids.insert(loader.id);
        self.names.extend(elf.soname());
        let mut requests: VecDeque<(usize, String)> = self.preload.drain(..).map(|name| (0, name)).collect();
        let mut next = 0;
        let mut count = 0;
        loop {
            while let Some((parent, name)) = requests.pop_front() {
                count += 1;
                if count <= MAX_REQUESTS && self.loaded.len() < MAX_FILES {
                    self.load(parent, &name);
                }
            }
            let Some(file) = self.loaded.get(next) else {
                break;
            };
            requests.extend(file.elf.needed().into_iter().map(|name| (next, name)));
            next += 1;
        }
        Ok(self.objects(Some(loader)))
    }

    fn objects(self, loader: Option<ObjectFile>) -> Vec<ObjectFile> {
        self.loaded
            .into_iter()
            .map(|file| file.object)
            .chain(loader)
            .collect()
    }

    /// Loads the library `name` for `parent`, unless it is loaded already or cannot be found.
    fn load(&mut self, parent: usize, name: &str) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let found = self
            .candidates(parent, name)
            .find_map(|path| ObjectFile::with_elf(&path).ok());
        if let Some((object, elf)) = found {
            let real = object.path.clone();
            self.add(object, elf, &real, Some(parent));
        }
    }

    /// Adds a file unless it is loaded already. `real` is the path that `$ORIGIN` is derived from.
    fn add(&mut self, object: ObjectFile, elf: Rc<ElfFile>, real: &Path, parent: Option<usize>) {
        if !self.ids.insert(object.id) {
            return;
        }
        self.names.extend(elf.soname());
        let origin = real.parent().unwrap_or(Path::new("/")).to_path_buf();
        let expanded = |list: Vec<String>| list.iter().flat_map(|text| expand(text, &origin)).collect();
        let (rpath, runpath) = (expanded(elf.rpath()), expanded(elf.runpath()));
        self.loaded.push(LoadedFile {
            object,
            elf,
            origin,
            parent,
            rpath,
            runpath,
        });
    }

    /// The paths to try when `parent` needs `name`, in order of preference.
    fn candidates(&self, parent: usize, name: &str) -> impl Iterator<Item = PathBuf> {
        let mut paths = Vec::new();
        if name.contains('/') {
            paths.extend(expand(name, &self.loaded[parent].origin));
            return paths.into_iter();
        }
        let inherited = self.inherited_dirs(parent);
        let runpath = &self.loaded[parent].runpath;
        let dirs: Vec<&PathBuf> = if self.is_musl {
            self.library_path.iter().chain(inherited).collect()
        } else {
            inherited
                .into_iter()
                .chain(&self.library_path)
                .chain(runpath)
                .collect()
        };
        paths.extend(dirs.into_iter().flat_map(|dir| self.variants(dir, name)));
        paths.extend(self.cache.files_of(name));
        paths.extend(self.default_dirs.iter().flat_map(|dir| self.variants(dir, name)));
        paths.into_iter()
    }

    /// The run paths of a file, of its parent, and so on up to the program. In glibc only `DT_RPATH` is
    /// inherited, and not by files with a `DT_RUNPATH`; musl treats both alike.
    fn inherited_dirs(&self, file: usize) -> Vec<&PathBuf> {
        let mut dirs = Vec::new();
        if !self.is_musl && !self.loaded[file].runpath.is_empty() {
            return dirs;
        }
        let mut next = Some(file);
        while let Some(index) = next {
            let file = &self.loaded[index];
            if file.runpath.is_empty() {
                dirs.extend(&file.rpath);
            } else if self.is_musl {
                dirs.extend(&file.runpath);
            }
            next = file.parent;
        }
        dirs
    }

    /// A library in a directory, after its variants for better processors.
    fn variants(&self, dir: &Path, name: &str) -> Vec<PathBuf> {
        let better = self
            .levels
            .iter()
            .map(|level| dir.join("glibc-hwcaps").join(level).join(name));
        better.chain([dir.join(name)]).collect()
    }
}

fn is_musl_loader(interpreter: &Path) -> bool {
    interpreter
        .file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"ld-musl-"))
}
