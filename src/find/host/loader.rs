//! What the dynamic loader and the shell would find under a name, without running them: no `ldd`, no `which`.
//!
//! glibc's rules, and musl's where the program asks for musl's loader. Programs that gain privileges when they
//! start, for which the loader ignores the environment, are not told apart.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::find::elf::ElfFile;
use crate::find::host::proc::{FileId, open_regular};

#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
mod arch {
    pub const NAME: &str = "x86_64";
    /// The ABI byte of entries in the loader's cache.
    pub const CACHE_ABI: u32 = 0x0300;
    pub const LIBRARY_DIRS: [&str; 6] = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ];
    /// What `$LIB` stands for, on Debian and elsewhere.
    pub const LIB: [&str; 2] = ["lib/x86_64-linux-gnu", "lib64"];
}
#[cfg(target_arch = "aarch64")]
mod arch {
    pub const NAME: &str = "aarch64";
    /// The ABI byte of entries in the loader's cache.
    pub const CACHE_ABI: u32 = 0x0a00;
    pub const LIBRARY_DIRS: [&str; 6] = [
        "/lib/aarch64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ];
    /// What `$LIB` stands for, on Debian and elsewhere.
    pub const LIB: [&str; 2] = ["lib/aarch64-linux-gnu", "lib64"];
}

const CACHE_FILE: &str = "/etc/ld.so.cache";
const PRELOAD_FILE: &str = "/etc/ld.so.preload";
const MUSL_DIRS: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Largest cache that is read, in bytes. Ten thousand libraries make about one million.
const MAX_CACHE: u64 = 64 << 20;
/// Most files that one program may consist of.
const MAX_FILES: usize = 1024;
/// Most libraries that are looked for on behalf of one program, found or not.
const MAX_REQUESTS: usize = 16 * 1024;
/// How many scripts may interpret one another: the kernel's limit.
const MAX_SCRIPTS: usize = 4;
/// How much of a script's first line the kernel reads, in bytes.
const FIRST_LINE: u64 = 256;

/// The file of a library by its short name (`c`, `libc`, `libssl`), or by its soname (`libc.so.6`). If there are
/// several versions, the newest.
pub fn find_library(name: &str) -> Option<PathBuf> {
    let cache = LoaderCache::load(Path::new(CACHE_FILE));
    let dirs = arch::LIBRARY_DIRS.map(PathBuf::from);
    library_stems(name).iter().find_map(|stem| {
        newest(stem, cache.candidates(stem))
            .or_else(|| {
                newest(
                    stem,
                    dirs.iter().flat_map(|dir| libraries_in(dir, stem)).collect(),
                )
            })
            .or_else(|| (stem == "libc").then(musl_libc).flatten())
    })
}

/// Is this file the library or program of that name: `libc` for `libc.so.6`, `ssl` for `libssl.so.3`? musl's loader is
/// its C library.
pub fn is_called(path: &Path, name: &str) -> bool {
    let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let stem = file.split(".so").next().unwrap_or(file);
    // libc-2.31.so
    let unversioned = stem
        .trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
        .strip_suffix('-');
    let is_library = [Some(stem), unversioned]
        .into_iter()
        .flatten()
        .any(|stem| stem == name || stem.strip_prefix("lib") == Some(name));
    let is_musl = file.starts_with("ld-musl-") || file.starts_with("libc.musl-");
    file == name || (file.contains(".so") && is_library) || (is_musl && matches!(name, "c" | "libc"))
}

/// The program that a shell would run for `name`: a path if there is a slash in it, else the first in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    find_program_in(OsStr::new(name), &path)
}

/// What [`find_library`] and [`find_program`] know, less versions: `libssl`, `bash`. In no order.
pub fn names() -> Vec<String> {
    let cache = LoaderCache::load(Path::new(CACHE_FILE));
    let stem = |(soname, ..): (&str, _, _)| soname.split(".so").next().map(str::to_owned);
    let libraries = cache.entries().filter_map(stem);
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let programs = std::env::split_paths(&path)
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| entry.ok())
        .filter(|entry| is_program(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok());
    libraries.chain(programs).collect()
}

/// The files that running `exe` with the environment `env` would map, in the order in which the loader searches
/// them for symbols: the program (of a script, its interpreter), preloaded libraries, needed libraries breadth
/// first, and last the loader. Libraries that cannot be found are left out.
///
/// # Errors
/// `exe` or its interpreter cannot be read, or is no program for this machine.
pub fn closure(exe: &Path, env: &[(OsString, OsString)]) -> Result<Vec<PathBuf>> {
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

/// The file names, less version, that `name` can mean: `ssl` is `libssl.so...`, `ld-linux` is itself.
fn library_stems(name: &str) -> Vec<String> {
    if name.is_empty() || name.contains('/') {
        Vec::new()
    } else if name.starts_with("lib") {
        vec![name.to_owned()]
    } else {
        vec![format!("lib{name}"), name.to_owned()]
    }
}

/// The version of `soname` if it belongs to `stem`, e.g. `libssl.so.1.1` to `libssl` or to `libssl.so.1`. A soname
/// that does not fit is `None`, one without version the lowest.
fn version_of(soname: &str, stem: &str) -> Option<Vec<u64>> {
    let rest = soname.strip_prefix(stem)?;
    let rest = if stem.contains(".so") {
        rest
    } else {
        rest.strip_prefix(".so")?
    };
    if rest.is_empty() {
        return Some(Vec::new());
    }
    let version = rest.strip_prefix('.')?;
    Some(version.split('.').map(|part| part.parse().unwrap_or(0)).collect())
}

/// A library that fits a name: the name it is known by, how well the processor suits it, and its file.
struct LibraryCandidate {
    soname: String,
    level: usize,
    path: PathBuf,
}

/// The newest version, in the variant for the best processor. Files that are not libraries for this machine (a
/// linker script is called `libc.so` too) do not count.
fn newest(stem: &str, mut candidates: Vec<LibraryCandidate>) -> Option<PathBuf> {
    candidates.sort_by_cached_key(|candidate| {
        std::cmp::Reverse((version_of(&candidate.soname, stem), candidate.level))
    });
    candidates
        .into_iter()
        .map(|candidate| candidate.path)
        .find(|path| open_elf(path).is_ok())
}

fn libraries_in(dir: &Path, stem: &str) -> Vec<LibraryCandidate> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let fitting = names.filter(|name| version_of(name, stem).is_some());
    fitting
        .map(|name| LibraryCandidate {
            path: dir.join(&name),
            soname: name,
            level: 0,
        })
        .collect()
}

/// musl's loader is its C library.
fn musl_libc() -> Option<PathBuf> {
    let path = PathBuf::from(format!("/lib/ld-musl-{}.so.1", arch::NAME));
    path.exists().then_some(path)
}

fn find_program_in(name: &OsStr, path: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|file| is_program(file));
    }
    if name.is_empty() {
        return None;
    }
    std::env::split_paths(path)
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn open_elf(path: &Path) -> Result<(ElfFile, FileId)> {
    let file = open_regular(path).with_context(|| format!("failed to open {}", path.display()))?;
    let id = FileId::of(&file).with_context(|| format!("failed to read {}", path.display()))?;
    Ok((ElfFile::open(file, path)?, id))
}

/// The program named in the first line of a script, or `None` if `path` is no script. A script for `env` is one
/// for the program that `env` runs.
fn script_interpreter(path: &Path, env: &[(OsString, OsString)]) -> Result<Option<PathBuf>> {
    let mut head = Vec::new();
    let file = open_regular(path).with_context(|| format!("failed to open {}", path.display()))?;
    file.take(FIRST_LINE)
        .read_to_end(&mut head)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let Some(line) = head.strip_prefix(b"#!") else {
        return Ok(None);
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

fn variable<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    env.iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_os_str())
}

/// A file that was loaded.
struct LoadedFile {
    elf: ElfFile,
    path: PathBuf,
    /// The folder it is in, which `$ORIGIN` stands for.
    origin: PathBuf,
    /// Which file asked for it first; `None` for the program.
    parent: Option<usize>,
    /// Folders for its own needs; only in use if there is no `runpath`, but then for the needs of its needs too.
    rpath: Vec<PathBuf>,
    runpath: Vec<PathBuf>,
}

/// The loader's work on one program.
struct LoaderSearch {
    loaded: Vec<LoadedFile>,
    ids: HashSet<FileId>,
    /// Names that were asked for or are provided.
    names: HashSet<String>,
    preload: Vec<String>,
    library_path: Vec<PathBuf>,
    interpreter: Option<PathBuf>,
    musl: bool,
    default_dirs: Vec<PathBuf>,
    cache: LoaderCache,
    levels: Vec<&'static str>,
}

impl LoaderSearch {
    fn new(exe: PathBuf, env: &[(OsString, OsString)]) -> Result<LoaderSearch> {
        let (elf, id) = open_elf(&exe)?;
        let interpreter = elf.interpreter();
        let musl = interpreter.as_deref().is_some_and(is_musl);
        let library_path = variable(env, "LD_LIBRARY_PATH").unwrap_or_default();
        let mut loading = LoaderSearch {
            loaded: Vec::new(),
            ids: HashSet::new(),
            names: HashSet::new(),
            preload: preloads(env, musl),
            library_path: split(library_path, b":;").map(PathBuf::from).collect(),
            interpreter,
            musl,
            default_dirs: if musl {
                musl_dirs()
            } else {
                arch::LIBRARY_DIRS.map(PathBuf::from).to_vec()
            },
            cache: if musl {
                LoaderCache::default()
            } else {
                LoaderCache::load(Path::new(CACHE_FILE))
            },
            levels: if musl { Vec::new() } else { processor_levels() },
        };
        // The kernel tells the loader the real path of the program, symbolic links resolved.
        let real = exe
            .canonicalize()
            .with_context(|| format!("failed to find {}", exe.display()))?;
        loading.add(elf, id, exe, &real, None);
        Ok(loading)
    }

    fn run(mut self) -> Result<Vec<PathBuf>> {
        // A static program has no loader that would look at the environment.
        let Some(interpreter) = self.interpreter.take() else {
            return Ok(self.paths(None));
        };
        let (loader, id) = open_elf(&interpreter)?;
        // The loader is there already when a library asks for it. Its place is the last.
        self.ids.insert(id);
        self.names.extend(loader.soname());
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
            let Some(object) = self.loaded.get(next) else {
                break;
            };
            requests.extend(object.elf.needed().into_iter().map(|name| (next, name)));
            next += 1;
        }
        Ok(self.paths(Some(interpreter)))
    }

    fn paths(self, interpreter: Option<PathBuf>) -> Vec<PathBuf> {
        self.loaded
            .into_iter()
            .map(|object| object.path)
            .chain(interpreter)
            .collect()
    }

    /// Loads what `parent` asks for, unless it is there already or cannot be found.
    fn load(&mut self, parent: usize, name: &str) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let found = self
            .places(parent, name)
            .find_map(|path| Some((open_elf(&path).ok()?, path)));
        if let Some(((elf, id), path)) = found {
            let real = path.clone();
            self.add(elf, id, path, &real, Some(parent));
        }
    }

    /// Notes a file as loaded, unless it is already; `real` is its path as far as `$ORIGIN` is concerned.
    fn add(&mut self, elf: ElfFile, id: FileId, path: PathBuf, real: &Path, parent: Option<usize>) {
        if !self.ids.insert(id) {
            return;
        }
        self.names.extend(elf.soname());
        let origin = real.parent().unwrap_or(Path::new("/")).to_path_buf();
        let expanded = |list: Vec<String>| list.iter().flat_map(|text| expand(text, &origin)).collect();
        let (rpath, runpath) = (expanded(elf.rpath()), expanded(elf.runpath()));
        self.loaded.push(LoadedFile {
            elf,
            path,
            origin,
            parent,
            rpath,
            runpath,
        });
    }

    /// The files that can be meant when `parent` asks for `name`, in the order of preference.
    fn places(&self, parent: usize, name: &str) -> impl Iterator<Item = PathBuf> {
        let mut places = Vec::new();
        if name.contains('/') {
            places.extend(expand(name, &self.loaded[parent].origin));
            return places.into_iter();
        }
        let inherited = self.inherited(parent);
        let runpath = &self.loaded[parent].runpath;
        let before: Vec<&PathBuf> = if self.musl {
            self.library_path.iter().chain(inherited).collect()
        } else {
            inherited
                .into_iter()
                .chain(&self.library_path)
                .chain(runpath)
                .collect()
        };
        places.extend(before.into_iter().flat_map(|dir| self.variants(dir, name)));
        places.extend(self.cache.exactly(name));
        places.extend(self.default_dirs.iter().flat_map(|dir| self.variants(dir, name)));
        places.into_iter()
    }

    /// The run paths of a file, of the one that asked for it, and so on up to the program. glibc hands on only the
    /// old `RPATH`, and that not to files with a `RUNPATH`; musl makes no difference between the two.
    fn inherited(&self, object: usize) -> Vec<&PathBuf> {
        let mut dirs = Vec::new();
        if !self.musl && !self.loaded[object].runpath.is_empty() {
            return dirs;
        }
        let mut next = Some(object);
        while let Some(index) = next {
            let object = &self.loaded[index];
            if object.runpath.is_empty() {
                dirs.extend(&object.rpath);
            } else if self.musl {
                dirs.extend(&object.runpath);
            }
            next = object.parent;
        }
        dirs
    }

    /// A library in a folder, after its variants for better processors.
    fn variants(&self, dir: &Path, name: &str) -> Vec<PathBuf> {
        let better = self
            .levels
            .iter()
            .map(|level| dir.join("glibc-hwcaps").join(level).join(name));
        better.chain([dir.join(name)]).collect()
    }
}

fn is_musl(interpreter: &Path) -> bool {
    interpreter
        .file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"ld-musl-"))
}

/// Where musl's loader looks: its configuration file replaces the built-in list.
fn musl_dirs() -> Vec<PathBuf> {
    let configured = std::fs::read(format!("/etc/ld-musl-{}.path", arch::NAME)).unwrap_or_default();
    let dirs: Vec<PathBuf> = split(OsStr::from_bytes(&configured), b":\n")
        .map(PathBuf::from)
        .collect();
    if dirs.is_empty() {
        MUSL_DIRS.map(PathBuf::from).to_vec()
    } else {
        dirs
    }
}

/// The libraries to load before all others, by environment and, with glibc, for every program of the machine.
fn preloads(env: &[(OsString, OsString)], musl: bool) -> Vec<String> {
    let mut lists = vec![variable(env, "LD_PRELOAD").unwrap_or_default().to_owned()];
    if !musl {
        lists.push(OsString::from_vec(
            std::fs::read(PRELOAD_FILE).unwrap_or_default(),
        ));
    }
    let words = lists.iter().flat_map(|list| split(list, b": \t\n"));
    words
        .filter(|word| !word.is_empty())
        .filter_map(|word| word.to_str().map(str::to_owned))
        .collect()
}

/// The parts between `separators`; nothing for an empty list. An empty part of a longer list stands for the
/// current folder.
fn split<'a>(list: &'a OsStr, separators: &'a [u8]) -> impl Iterator<Item = &'a OsStr> {
    let parts = list.as_bytes().split(|byte| separators.contains(byte));
    parts.filter(|_| !list.is_empty()).map(OsStr::from_bytes)
}

/// Replaces `$ORIGIN`, `$LIB` and `$PLATFORM`, with or without braces. `$LIB` differs between distributions, so
/// there can be several results.
fn expand(text: &str, origin: &Path) -> Vec<PathBuf> {
    if !text.contains('$') {
        return vec![PathBuf::from(text)];
    }
    let mut results: Vec<PathBuf> = arch::LIB
        .iter()
        .map(|lib| expand_with(text, origin, lib))
        .collect();
    results.dedup();
    results
}

fn expand_with(text: &str, origin: &Path, lib: &str) -> PathBuf {
    let mut result = OsString::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push(before);
        let (name, behind) = token(after);
        match name {
            "ORIGIN" => result.push(origin),
            "LIB" => result.push(lib),
            "PLATFORM" => result.push(arch::NAME),
            _ => {
                result.push("$");
                rest = after;
                continue;
            }
        }
        rest = behind;
    }
    result.push(rest);
    PathBuf::from(result)
}

/// The name at the start of what follows a dollar sign, and the text behind it.
fn token(text: &str) -> (&str, &str) {
    if let Some((name, behind)) = text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        return (name, behind);
    }
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The folders below `glibc-hwcaps` that glibc would use on this processor, best first.
#[cfg(target_arch = "x86_64")]
fn processor_levels() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("sse4.2") && has!("ssse3");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    let levels = [("x86-64-v4", v4), ("x86-64-v3", v3), ("x86-64-v2", v2)];
    levels
        .into_iter()
        .filter(|&(_, usable)| usable)
        .map(|(name, _)| name)
        .collect()
}

/// glibc has no such folders for this machine.
#[cfg(target_arch = "aarch64")]
fn processor_levels() -> Vec<&'static str> {
    Vec::new()
}

/// The loader's list of libraries, `/etc/ld.so.cache`. Its numbers are checked when they are used: an entry that
/// points outside of the file does not exist.
#[derive(Default)]
struct LoaderCache {
    /// From the header of the current format on: offsets count from there.
    data: Vec<u8>,
}

impl LoaderCache {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    /// Entry for a library of glibc, to be joined with the ABI.
    const LIBC6: u32 = 3;

    /// An unreadable or unknown file is an empty cache: the loader sees it the same way.
    fn load(path: &Path) -> LoaderCache {
        let mut data = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_CACHE).read_to_end(&mut data));
        read.map_or_else(|_| LoaderCache::default(), |_| LoaderCache::parse(data))
    }

    /// The current format may follow a table of the old one, which had 16 bytes of header and 12 an entry.
    fn parse(mut data: Vec<u8>) -> LoaderCache {
        if data.starts_with(Self::OLD_MAGIC) {
            let count = u32_at(&data, 12).unwrap_or(0) as usize;
            let start = (16 + count.saturating_mul(12)).next_multiple_of(8);
            data.drain(..start.min(data.len()));
        }
        if !data.starts_with(Self::MAGIC) {
            data.clear();
        }
        LoaderCache { data }
    }

    /// Soname, path and hardware bits of the entries for this machine's ABI.
    fn entries(&self) -> impl Iterator<Item = (&str, &Path, u64)> {
        let count = u32_at(&self.data, 20).unwrap_or(0) as usize;
        let table = self.data.get(Self::HEADER..).unwrap_or_default();
        table.chunks_exact(Self::ENTRY).take(count).filter_map(|entry| {
            if u32_at(entry, 0)? != arch::CACHE_ABI | Self::LIBC6 {
                return None;
            }
            let soname = std::str::from_utf8(self.string(u32_at(entry, 4)?)?).ok()?;
            let path = Path::new(OsStr::from_bytes(self.string(u32_at(entry, 8)?)?));
            let hardware = u64::from(u32_at(entry, 16)?) | u64::from(u32_at(entry, 20)?) << 32;
            Some((soname, path, hardware))
        })
    }

    /// The entries whose soname belongs to `stem`.
    fn candidates(&self, stem: &str) -> Vec<LibraryCandidate> {
        self.usable(|soname| version_of(soname, stem).is_some())
    }

    /// The files for a soname, best processor first.
    fn exactly(&self, soname: &str) -> impl Iterator<Item = PathBuf> {
        let mut candidates = self.usable(|name| name == soname);
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.level));
        candidates.into_iter().map(|candidate| candidate.path)
    }

    /// The entries that this processor can run. Which processor an entry is for shows in its path; the hardware
    /// bits of older caches name features that no current library uses.
    fn usable(&self, mut wanted: impl FnMut(&str) -> bool) -> Vec<LibraryCandidate> {
        let levels = processor_levels();
        let fitting = self.entries().filter(|(soname, ..)| wanted(soname));
        let candidates = fitting.filter_map(|(soname, path, hardware)| {
            let level = match hardware_folder(path) {
                Some(folder) => levels.len() - levels.iter().position(|&level| folder == level)?,
                None if hardware == 0 => 0,
                None => return None,
            };
            Some(LibraryCandidate {
                soname: soname.to_owned(),
                level,
                path: path.to_path_buf(),
            })
        });
        candidates.collect()
    }

    fn string(&self, at: u32) -> Option<&[u8]> {
        let rest = self.data.get(at as usize..)?;
        Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
    }
}

/// The folder below `glibc-hwcaps` that a path goes through.
fn hardware_folder(path: &Path) -> Option<&OsStr> {
    let mut parts = path.iter();
    parts.find(|part| *part == "glibc-hwcaps")?;
    parts.next()
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
