//! Processes: what they map, and the files behind it, each once.
//!
//! Paths in `/proc/PID/maps` are names that some process used once, in its own mount namespace; the file may
//! have been replaced since. So files are opened through `/proc/PID/map_files`, which leads to the very inode
//! that is mapped, and a path is the second choice and believed only if the inode number agrees.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use crate::find::elf::ElfFile;

#[cfg(test)]
mod tests;

/// Most entries of a loader's list that are followed.
const MAX_LINKS: usize = 4096;
/// Most entries of a dynamic section or an auxiliary vector that are read; real ones have some thirty.
const MAX_ENTRIES: u64 = 1024;
/// How much of a file on overlayfs is compared, in bytes: ELF header, segments and build id.
const HEAD: usize = 4096;

/// A `proc` file system.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcMapping {
    /// First address.
    pub start: u64,
    /// First address after the mapping.
    pub end: u64,
    /// Where in the file the mapping begins, in bytes.
    pub offset: u64,
    /// Whether its content can be executed.
    pub exec: bool,
    /// Device, major and minor number. Not always what `stat` says: btrfs and overlayfs have two opinions.
    pub dev: (u32, u32),
    /// Inode number; 0 if no file is behind the mapping.
    pub inode: u64,
    /// The file as the kernel names it, or a label such as `[heap]`, or nothing.
    pub path: PathBuf,
    /// Whether the name was removed after the file was opened.
    pub deleted: bool,
}

impl ProcMapping {
    /// Whether a file is behind the mapping.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.as_os_str().as_bytes().starts_with(b"/")
    }
}

/// The mappings that have a file behind them.
pub fn files(mappings: &[ProcMapping]) -> impl Iterator<Item = &ProcMapping> {
    mappings.iter().filter(|mapping| mapping.is_file())
}

/// The mapping that contains an address, among mappings in address order.
fn mapping_at(mappings: &[ProcMapping], addr: u64) -> Option<&ProcMapping> {
    let after = mappings.partition_point(|mapping| mapping.start <= addr);
    mappings[..after].last().filter(|mapping| addr < mapping.end)
}

/// What makes two opened files one inode to the kernel's uprobes.
///
/// On most file systems that is device and inode number. A file on overlayfs stands for a file of a lower file
/// system, to which the probe is attached; N containers of one image are N overlays, hence N devices, above one
/// file. The lower file cannot be asked for, but all its times, its size and its content show through, and its
/// change time (set when the image was unpacked, and by nobody else) tells copies in different images apart. Its
/// inode number shows through as well; overlayfs may put a number of its own in the upper half, so only the
/// lower half counts. The head of the file guards against what is left to chance.
///
/// Known limit: with `metacopy=on`, a file whose owner was changed in a container has attributes of its own over
/// shared content and is taken for another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(InodeIdentity);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InodeIdentity {
    Inode { dev: u64, ino: u64 },
    Overlay(FileFingerprint),
}

/// What of a file shows through an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileFingerprint {
    ino: u32,
    changed: (i64, i64),
    modified: (i64, i64),
    size: u64,
    head: u64,
}

impl FileFingerprint {
    fn of(file: &File) -> io::Result<FileFingerprint> {
        let meta = file.metadata()?;
        Ok(FileFingerprint {
            ino: meta.ino() as u32,
            changed: (meta.ctime(), meta.ctime_nsec()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
            head: hash_of_head(file)?,
        })
    }
}

impl FileId {
    /// The identity of an opened file.
    ///
    /// # Errors
    /// The file cannot be examined or read.
    pub fn of(file: &File) -> io::Result<FileId> {
        let meta = file.metadata()?;
        if fstatfs(file)?.filesystem_type() != OVERLAYFS_SUPER_MAGIC {
            return Ok(FileId(InodeIdentity::Inode {
                dev: meta.dev(),
                ino: meta.ino(),
            }));
        }
        Ok(FileId(InodeIdentity::Overlay(FileFingerprint::of(file)?)))
    }
}

/// Files that were met, each inode once, also when a container shows it through an overlay and the host does not.
#[derive(Default, Debug)]
pub struct FileSet {
    ids: HashSet<FileId>,
    /// Whether one of the files of this shape was met through an overlay: two that were not are told apart by `ids`.
    shapes: HashMap<FileFingerprint, bool>,
}

impl FileSet {
    /// False when the file's inode is in the set already.
    ///
    /// # Errors
    /// The file cannot be examined or read.
    pub fn insert(&mut self, object: &ObjectFile) -> io::Result<bool> {
        let through_overlay = matches!(object.id, FileId(InodeIdentity::Overlay(_)));
        let met = self.shapes.entry(FileFingerprint::of(&object.file)?);
        let is_alias = matches!(&met, Entry::Occupied(met) if through_overlay || *met.get());
        *met.or_default() |= through_overlay;
        Ok(self.ids.insert(object.id) && !is_alias)
    }
}

/// An opened file that some process maps or could map.
#[derive(Debug)]
pub struct ObjectFile {
    /// Open for reading.
    pub file: File,
    /// Which inode it is.
    pub id: FileId,
    /// The name its process has for it, for display.
    pub path: PathBuf,
}

impl ObjectFile {
    /// A file that is open already.
    ///
    /// # Errors
    /// It cannot be examined.
    pub fn new(file: File, path: PathBuf) -> io::Result<ObjectFile> {
        let id = FileId::of(&file)?;
        Ok(ObjectFile { file, id, path })
    }

    /// A file by its path.
    ///
    /// # Errors
    /// As [`open_regular`].
    pub fn at(path: &Path) -> io::Result<ObjectFile> {
        ObjectFile::new(open_regular(path)?, path.to_path_buf())
    }
}

impl Proc {
    /// This machine's processes.
    pub fn host() -> Proc {
        Proc::at("/proc")
    }

    /// Processes described by a folder that looks like `/proc`.
    pub fn at(root: impl Into<PathBuf>) -> Proc {
        Proc { root: root.into() }
    }

    /// When the file behind a mapping last changed. None when the process is gone.
    pub fn changed(&self, pid: u32, start: u64, end: u64) -> Option<(i64, i64)> {
        let meta = std::fs::metadata(self.path(pid, &format!("map_files/{start:x}-{end:x}"))).ok()?;
        Some((meta.ctime(), meta.ctime_nsec()))
    }

    /// The processes that exist now, in ascending order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids: Vec<u32> = std::fs::read_dir(&self.root)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Whether there is such a process or thread.
    pub fn exists(&self, pid: u32) -> bool {
        self.path(pid, "status").exists()
    }

    /// The process that a thread belongs to; a process's own number for itself.
    ///
    /// # Errors
    /// There is no such thread.
    pub fn tgid(&self, tid: u32) -> io::Result<u32> {
        let status = std::fs::read(self.path(tid, "status"))?;
        let line = status
            .split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(b"Tgid:"));
        let number = line.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
        number.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no Tgid line"))
    }

    /// Everything a process maps, in address order. Empty for kernel threads and zombies.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    pub fn mappings(&self, pid: u32) -> io::Result<Vec<ProcMapping>> {
        let mut mappings = Vec::new();
        self.each_mapping(pid, |mapping| mappings.push(mapping))?;
        Ok(mappings)
    }

    /// Line by line, since a hostile process can have tens of thousands of mappings with long names.
    fn each_mapping(&self, pid: u32, mut take: impl FnMut(ProcMapping)) -> io::Result<()> {
        let mut maps = BufReader::with_capacity(64 * 1024, File::open(self.path(pid, "maps"))?);
        let mut line = Vec::new();
        while maps.read_until(b'\n', &mut line)? > 0 {
            if let Some(mapping) = parse_mapping(line.strip_suffix(b"\n").unwrap_or(&line)) {
                take(mapping);
            }
            line.clear();
        }
        Ok(())
    }

    /// Opens the very file that is mapped.
    ///
    /// # Errors
    /// The process is gone, the file is not a regular one, or only another file can be found under its name.
    pub fn open(&self, pid: u32, mapping: &ProcMapping) -> io::Result<File> {
        let range = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        match open_regular(&self.path(pid, &range)) {
            Ok(file) => Ok(file),
            Err(error) if mapping.deleted => Err(error),
            Err(_) => self.open_by_path(pid, mapping),
        }
    }

    /// Opens the mapped file by its name, if it still is that file. The name belongs to the process, so no
    /// symbolic link in it may lead out of the root folder of the process.
    fn open_by_path(&self, pid: u32, mapping: &ProcMapping) -> io::Result<File> {
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(self.path(pid, "root"))?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = reopen(&File::from(openat2(&root, &mapping.path, how)?))?;
        let meta = file.metadata()?;
        if meta.ino() != mapping.inode || meta.size() <= mapping.offset {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                "the file was replaced after it was mapped",
            ));
        }
        Ok(file)
    }

    /// The program that a process runs.
    ///
    /// # Errors
    /// The process is gone or is a kernel thread.
    pub fn executable(&self, pid: u32) -> io::Result<ObjectFile> {
        let link = self.path(pid, "exe");
        let path = std::fs::read_link(&link)?.into_os_string().into_vec();
        let path = path.strip_suffix(DELETED).unwrap_or(&path);
        ObjectFile::new(open_regular(&link)?, OsString::from_vec(path.to_vec()).into())
    }

    /// Every file that a process maps for execution, each once, in address order. Files that cannot be opened
    /// are left out.
    ///
    /// # Errors
    /// There is no such process, or none of its files can be opened; the first error is reported.
    pub fn objects(&self, pid: u32) -> io::Result<Vec<ObjectFile>> {
        let mut seen = HashSet::new();
        let mut mappings = Vec::new();
        self.each_mapping(pid, |mapping| {
            if mapping.exec && mapping.is_file() && seen.insert(text_key(&mapping)) {
                mappings.push(mapping);
            }
        })?;
        let opened: Vec<_> = mappings
            .into_iter()
            .map(|mapping| self.open_object(pid, mapping))
            .collect();
        if opened.iter().all(Result::is_err) {
            return opened.into_iter().collect();
        }
        Ok(unique(opened.into_iter().flatten()))
    }

    /// Every file that any process maps for execution and that `wanted` accepts, each inode once. Processes that
    /// end meanwhile and files that cannot be opened are left out.
    ///
    /// Opening is what costs, so a file is opened once for each mount namespace and name, not for each process.
    /// The namespace counts because device and inode number do not identify a file everywhere: two subvolumes of
    /// btrfs share the device that `maps` shows.
    pub fn all_objects(&self, mut wanted: impl FnMut(&ProcMapping) -> bool) -> Vec<ObjectFile> {
        let mut seen = HashSet::new();
        let mut objects = Vec::new();
        for pid in self.pids().unwrap_or_default() {
            let namespace = std::fs::metadata(self.path(pid, "ns/mnt")).map_or(0, |meta| meta.ino());
            let mut fresh = Vec::new();
            // An error here is a process that ended.
            let _ = self.each_mapping(pid, |mapping| {
                if mapping.exec
                    && mapping.is_file()
                    && wanted(&mapping)
                    && seen.insert((namespace, text_key(&mapping)))
                {
                    fresh.push(mapping);
                }
            });
            objects.extend(
                fresh
                    .into_iter()
                    .flat_map(|mapping| self.open_object(pid, mapping)),
            );
        }
        unique(objects)
    }

    /// The files of a process in the order in which its dynamic loader looks for symbols, the program first. If
    /// the loader has not run yet, or there is none, or the memory of the process cannot be read: in address
    /// order, the program first.
    ///
    /// # Errors
    /// The process is gone, or its files cannot be opened.
    pub fn link_order(&self, pid: u32) -> io::Result<Vec<ObjectFile>> {
        let executable = self.executable(pid)?;
        let mappings: Vec<ProcMapping> = files(&self.mappings(pid)?).cloned().collect();
        let linked: Vec<ObjectFile> = self
            .linked_addresses(pid, &executable, &mappings)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|addr| mapping_at(&mappings, addr))
            .filter_map(|mapping| self.open_object(pid, mapping.clone()).ok())
            .collect();
        // A program started as an argument of the loader is not the executable, which is the loader.
        if linked.iter().any(|object| object.id == executable.id) {
            return Ok(unique(linked));
        }
        let others = if linked.is_empty() {
            self.objects(pid)?
        } else {
            linked
        };
        Ok(unique(std::iter::once(executable).chain(others)))
    }

    /// Addresses of the dynamic sections in the loader's list: each lies in a mapping of its file.
    fn linked_addresses(
        &self,
        pid: u32,
        executable: &ObjectFile,
        mappings: &[ProcMapping],
    ) -> Option<Vec<u64>> {
        let memory = self.memory(pid).ok()?;
        let debug = self
            .program_dynamic(pid, executable)
            .and_then(|dynamic| memory.debug_address(dynamic))
            .or_else(|| self.debug_of_any(pid, &memory, mappings))?;
        Some(memory.link_map(debug))
    }

    /// Where the dynamic section of the program is in memory: its entry point tells how far it was moved.
    fn program_dynamic(&self, pid: u32, executable: &ObjectFile) -> Option<u64> {
        let elf = ElfFile::open(executable.file.try_clone().ok()?, &executable.path).ok()?;
        let moved = self.auxv(pid, libc::AT_ENTRY)?.wrapping_sub(elf.entry());
        Some(elf.dynamic_address()?.wrapping_add(moved))
    }

    /// For a program that was started as an argument of the loader (`ld.so PROGRAM`): then the executable is the
    /// loader, and the program is one of the other files.
    fn debug_of_any(&self, pid: u32, memory: &ProcMemory, mappings: &[ProcMapping]) -> Option<u64> {
        let mut seen = HashSet::new();
        let code = mappings
            .iter()
            .filter(|mapping| mapping.exec && seen.insert(text_key(mapping)));
        code.take(MAX_LINKS)
            .filter_map(|mapping| {
                let elf = ElfFile::open(self.open(pid, mapping).ok()?, &mapping.path).ok()?;
                elf.interpreter()?;
                let moved = mapping.start.wrapping_sub(elf.address_of(mapping.offset)?);
                memory.debug_address(elf.dynamic_address()?.wrapping_add(moved))
            })
            .next()
    }

    /// An entry of the vector that the kernel gave the program at its start.
    fn auxv(&self, pid: u32, wanted: u64) -> Option<u64> {
        let vector = ProcMemory(File::open(self.path(pid, "auxv")).ok()?);
        vector.entry(0, wanted)
    }

    /// Opens the memory of a process for reading.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked into.
    pub(in crate::find) fn memory(&self, pid: u32) -> io::Result<ProcMemory> {
        File::open(self.path(pid, "mem")).map(ProcMemory)
    }

    fn open_object(&self, pid: u32, mapping: ProcMapping) -> io::Result<ObjectFile> {
        ObjectFile::new(self.open(pid, &mapping)?, mapping.path)
    }

    fn path(&self, pid: u32, entry: &str) -> PathBuf {
        self.root.join(format!("{pid}/{entry}"))
    }
}

/// The memory of a process. What is in it is up to the process: every walk through it has an end.
pub(in crate::find) struct ProcMemory(File);

impl ProcMemory {
    /// `N` numbers from address `addr` on.
    pub(in crate::find) fn words<const N: usize>(&self, addr: u64) -> Option<[u64; N]> {
        let mut words = [0_u64; N];
        self.0
            .read_exact_at(object::pod::bytes_of_slice_mut(&mut words), addr)
            .ok()?;
        Some(words)
    }

    /// The value to a key in a list of pairs that ends with key 0: a dynamic section, an auxiliary vector.
    fn entry(&self, addr: u64, wanted: u64) -> Option<u64> {
        (0..MAX_ENTRIES)
            .map_while(|index| self.words::<2>(addr.checked_add(index * 16)?))
            .take_while(|&[key, _]| key != 0)
            .find_map(|[key, value]| (key == wanted).then_some(value))
    }

    /// Where the loader keeps its list for debuggers, from the dynamic section of a program. The loader writes
    /// that address when it starts; before, it is 0.
    fn debug_address(&self, dynamic: u64) -> Option<u64> {
        self.entry(dynamic, u64::from(object::elf::DT_DEBUG))
            .filter(|&addr| addr != 0)
    }

    /// The dynamic sections in the loader's list, in its order.
    fn link_map(&self, debug: u64) -> Vec<u64> {
        // struct r_debug { int version; struct link_map *map; ... }
        let [_, mut link] = self.words::<2>(debug).unwrap_or_default();
        let mut seen = HashSet::new();
        let mut dynamics = Vec::new();
        while link != 0 && dynamics.len() < MAX_LINKS && seen.insert(link) {
            // struct link_map { addr, name, dynamic section, next, previous }
            let Some([_, _, dynamic, next]) = self.words::<4>(link) else {
                break;
            };
            dynamics.push(dynamic);
            link = next;
        }
        dynamics
    }
}

/// What the kernel puts after the name of a removed file.
const DELETED: &[u8] = b" (deleted)";

/// `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE      PATH`; `None` for anything else.
fn parse_mapping(line: &[u8]) -> Option<ProcMapping> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || fields.next();
    let (start, end) = split_once(field()?, b'-')?;
    let permissions = field()?;
    let offset = number(field()?, 16)?;
    let (major, minor) = split_once(field()?, b':')?;
    let inode = number(field()?, 10)?;
    let path = field().unwrap_or_default();
    let path = &path[path.iter().position(|&byte| byte != b' ').unwrap_or(path.len())..];
    let named = path.strip_suffix(DELETED);
    Some(ProcMapping {
        start: number(start, 16)?,
        end: number(end, 16)?,
        offset,
        exec: *permissions.get(2)? == b'x',
        dev: (
            number(major, 16)?.try_into().ok()?,
            number(minor, 16)?.try_into().ok()?,
        ),
        inode,
        path: OsString::from_vec(unescape(named.unwrap_or(path))).into(),
        deleted: named.is_some(),
    })
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let middle = text.iter().position(|&byte| byte == at)?;
    Some((&text[..middle], &text[middle + 1..]))
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// Undoes the kernel's escaping in `maps`: a newline is `\012`, and nothing else is escaped, not even a backslash.
fn unescape(path: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let newline = rest.strip_prefix(NEWLINE);
        plain.push(if newline.is_some() { b'\n' } else { byte });
        rest = newline.unwrap_or(after);
    }
    plain
}

/// What two lines of one process's `maps` have in common if they are one file.
fn text_key(mapping: &ProcMapping) -> ((u32, u32), u64, PathBuf) {
    (mapping.dev, mapping.inode, mapping.path.clone())
}

/// The first object of each identity.
fn unique(objects: impl IntoIterator<Item = ObjectFile>) -> Vec<ObjectFile> {
    let mut seen = HashSet::new();
    objects
        .into_iter()
        .filter(|object| seen.insert(object.id))
        .collect()
}

/// Opens a regular file for reading, and nothing else.
///
/// # Errors
/// There is no such file, it may not be read, or it is a pipe, a device, ...
pub fn open_regular(path: &Path) -> io::Result<File> {
    reopen(
        &OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?,
    )
}

/// Opens for reading what an `O_PATH` file stands for. That way the type is known before anything is opened:
/// opening a device can do things, and opening a pipe can block.
fn reopen(handle: &File) -> io::Result<File> {
    if !handle.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn hash_of_head(file: &File) -> io::Result<u64> {
    let mut head = [0; HEAD];
    let mut len = 0;
    while len < HEAD {
        match file.read_at(&mut head[len..], len as u64)? {
            0 => break,
            count => len += count,
        }
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(&head[..len]);
    Ok(hasher.finish())
}
