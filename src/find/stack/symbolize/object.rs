// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! ELF files from memory maps, kept open so that they can be read after the process has exited, and the functions at
//! their offsets.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use blazesym::symbolize::evict::{self, Evict};
use blazesym::symbolize::source::{self, Source};
use blazesym::symbolize::{InlinedFn, Input, Symbolizer};
use object::{
    Object as _, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache, SegmentFlags, SymbolKind, elf,
};

use super::frame::StackFrame;
use super::memory::{CodeMapping, FileKey, MappedFile};
use crate::find::demangle::demangle_bounded;
use crate::find::elf::{ElfFile, FunctionSymbol};
use crate::find::functions::{FramePointers, FunctionIndex};

/// Files that are kept open. Each takes up to three descriptors: ours, blazesym's, and that of its debug file.
pub const MAX_OPEN: usize = 256;
/// Cached addresses of all files together.
const MAX_FRAMES: usize = 1 << 16;
/// Larger files are not read: their tables may be as large.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// Larger debug information of a file takes longer to read than the names of inlined functions are worth.
const MAX_DEBUG_INFO_BYTES: u64 = 64 << 20;
/// Sections that make a reader of debug information open other files, under names that the author of the file chose.
const LINK_SECTIONS: [&str; 3] = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"];

const PUSH_RBP: [u8; 1] = [0x55];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The open files by device and inode number.
pub struct ObjectCache {
    symbolizer: Symbolizer,
    debug_dir: PathBuf,
    /// The user who runs this tool through sudo.
    sudo_uid: Option<u32>,
    open: HashMap<FileKey, CachedObject>,
    /// Counts look-ups, to find the least recently used file.
    clock: u64,
    cached: usize,
}

impl ObjectCache {
    /// `debug_dir` is where distributions put debug files, each under `.build-id/NN/REST.debug`.
    pub fn new(debug_dir: PathBuf) -> ObjectCache {
        // Paths need no reload: they are those of descriptors, which belong to one file until they are evicted.
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_demangling(false)
            .build();
        ObjectCache {
            symbolizer,
            debug_dir,
            sudo_uid: std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()),
            open: HashMap::new(),
            clock: 0,
            cached: 0,
        }
    }

    /// Whether the file is in the cache.
    pub fn is_open(&self, key: FileKey) -> bool {
        self.open.contains_key(&key)
    }

    /// Adds a file; evicts the least recently used one if there are too many.
    pub fn keep(&mut self, mapped: &MappedFile, OpenedFile { file, path }: OpenedFile) {
        if self.open.len() >= MAX_OPEN {
            let oldest = self
                .open
                .iter()
                .min_by_key(|(_, object)| object.used)
                .map(|(&key, _)| key);
            oldest.into_iter().for_each(|key| self.close(key));
        }
        self.clock += 1;
        let name = object_name(&mapped.path);
        let object = CachedObject {
            file,
            path,
            name,
            layout: None,
            frames: HashMap::new(),
            probed: HashMap::new(),
            used: self.clock,
        };
        self.open.insert(mapped.key, object);
    }

    /// The frames at an offset of a file, innermost first: the functions that are inlined there, and the function
    /// itself. `None` for a file that is not open. For a return address the offset is that of the byte before it.
    pub fn frames(&mut self, key: FileKey, offset: u64, is_return: bool) -> Option<Rc<[StackFrame]>> {
        self.clock += 1;
        let object = self.open.get_mut(&key)?;
        object.used = self.clock;
        if let Some(frames) = object.frames.get(&(offset, is_return)) {
            return Some(Rc::clone(frames));
        }
        if object.layout.is_none() {
            object.layout = Some(ObjectLayout::read(object, &self.debug_dir, self.sudo_uid));
        }
        let mut layout = object.layout.take()?;
        let frames: Rc<[StackFrame]> = layout.frames(&self.symbolizer, object, offset, is_return).into();
        object.layout = Some(layout);
        self.cache(key, (offset, is_return), Rc::clone(&frames));
        Some(frames)
    }

    /// Whether the instruction at an offset is `push %rbp` or `endbr64`. `None` for a file that is not open.
    pub fn begins_frame(&mut self, key: FileKey, offset: u64) -> Option<bool> {
        let object = self.open.get_mut(&key)?;
        let file = &object.file;
        let read = || {
            let mut code = [0; ENDBR64.len()];
            let length = file.read_at(&mut code, offset).unwrap_or(0);
            code[..length].starts_with(&PUSH_RBP) || code == ENDBR64
        };
        Some(*object.probed.entry(offset).or_insert_with(read))
    }

    fn cache(&mut self, key: FileKey, address: (u64, bool), frames: Rc<[StackFrame]>) {
        if self.cached >= MAX_FRAMES {
            self.cached = 0;
            self.open.values_mut().for_each(|object| object.frames.clear());
        }
        if let Some(object) = self.open.get_mut(&key) {
            self.cached += 1;
            object.frames.insert(address, frames);
        }
    }

    fn close(&mut self, key: FileKey) {
        let Some(object) = self.open.remove(&key) else {
            return;
        };
        self.cached -= object.frames.len();
        let debug_file = object.layout.and_then(|layout| layout.debug_file);
        for path in [Some(descriptor_path(&object.file)), debug_file]
            .into_iter()
            .flatten()
        {
            // Evicting a file that was never read is not an error, and there are no others.
            let _ = self.symbolizer.evict(&Evict::from(evict::Elf::new(path)));
        }
    }
}

struct CachedObject {
    file: File,
    /// Where to look for debug files.
    path: PathBuf,
    /// The last component of the path.
    name: String,
    /// Read when the first address is looked up.
    layout: Option<ObjectLayout>,
    /// By offset, and whether that belongs to a return address.
    frames: HashMap<(u64, bool), Rc<[StackFrame]>>,
    /// By the offset of a probed instruction: whether it begins to set up a frame.
    probed: HashMap<u64, bool>,
    used: u64,
}

impl CachedObject {
    /// The file, opened again for a moment: each file that stays open takes descriptors.
    fn elf(&self) -> Option<ElfFile> {
        ElfFile::open(self.file.try_clone().ok()?, &self.path).ok()
    }
}

/// What is known about an ELF file before its symbols are read.
#[derive(Default)]
struct ObjectLayout {
    segments: Vec<CodeSegment>,
    debug_file: Option<PathBuf>,
    functions: FunctionIndex,
    /// Whether `functions` are all that there are.
    has_all: bool,
    frame_pointers: Option<FramePointers>,
    /// Debug information, for inlined functions only: for functions in several parts, which compilers make often,
    /// blazesym returns a wrong offset.
    inlining: Option<Source<'static>>,
    /// Addresses without a symbol, in functions where threads begin.
    bottoms: Vec<Range<u64>>,
}

/// A segment with code.
struct CodeSegment {
    offsets: Range<u64>,
    address: u64,
}

impl ObjectLayout {
    /// A file that is damaged or not ELF has no segments and no symbols.
    fn read(object: &CachedObject, debug_dir: &Path, sudo_uid: Option<u32>) -> ObjectLayout {
        let Some(metadata) = object
            .file
            .metadata()
            .ok()
            .filter(|metadata| metadata.len() <= MAX_FILE_BYTES)
        else {
            return ObjectLayout::default();
        };
        let cache = ReadCache::new(&object.file);
        let Ok(elf) = object::File::parse(&cache) else {
            return ObjectLayout::default();
        };
        let debug_file = match elf.section_by_name(".symtab") {
            Some(_) => None,
            None => debug_file(&elf, debug_dir),
        };
        let inlining = match &debug_file {
            Some(path) => Some(debug_source(path)),
            // Malicious debug information makes blazesym panic, so it is read only if the owner of the file could do
            // more harm in easier ways.
            None => {
                let is_trusted = metadata.uid() == 0 || Some(metadata.uid()) == sudo_uid;
                (is_trusted && has_safe_debug_info(&elf))
                    .then(|| debug_source(&descriptor_path(&object.file)))
            }
        };
        let opened = object.elf();
        let functions = opened
            .as_ref()
            .and_then(|elf| FunctionIndex::typed(elf, &object.path).ok())
            .unwrap_or_default();
        let is_libc = object.name.starts_with("libc.so") || object.name.starts_with("libc-");
        let bottoms = match is_libc && !functions.has_local_symbols {
            true => nameless_bottoms(&elf),
            false => Vec::new(),
        };
        ObjectLayout {
            segments: segments(&elf),
            debug_file,
            functions,
            has_all: false,
            frame_pointers: opened.as_ref().map(FramePointers::read),
            inlining,
            bottoms,
        }
    }

    /// The frames at an offset, innermost first.
    fn frames(
        &mut self,
        symbolizer: &Symbolizer,
        object: &CachedObject,
        offset: u64,
        is_return: bool,
    ) -> Vec<StackFrame> {
        let address = self.address(offset);
        let past = u64::from(is_return);
        let name = &object.name;
        let mut frames = self.inlined(symbolizer, address);
        let is_nameless_bottom = self.bottoms.iter().any(|range| range.contains(&address));
        let (text, is_bottom) = match self.function(object, address) {
            Some(function) => {
                let symbol = demangle_bounded(&function.name);
                let distance = address - function.addr + past;
                (
                    format!("{symbol}+{distance:#x} [{name}]"),
                    is_bottom(&function.name, name),
                )
            }
            None => (format!("{:#x} [{name}]", address.wrapping_add(past)), false),
        };
        let frame_pointers = self.frame_pointers.as_ref();
        frames.push(StackFrame {
            bottom: is_bottom || is_nameless_bottom,
            leads_on: frame_pointers.is_some_and(|known| known.is_set(address)),
            ..StackFrame::new(text)
        });
        frames
    }

    /// The function at an address.
    fn function(&mut self, object: &CachedObject, address: u64) -> Option<&FunctionSymbol> {
        if self.functions.at(address).is_none() && !self.has_all {
            self.has_all = true;
            let read = |elf: ElfFile| FunctionIndex::complete(&elf, &object.path).ok();
            if let Some(functions) = object.elf().and_then(read) {
                self.functions = functions;
            }
        }
        self.functions.at(address)
    }

    /// The functions that are inlined at an address.
    fn inlined(&mut self, symbolizer: &Symbolizer, address: u64) -> Vec<StackFrame> {
        let Some(source) = &self.inlining else {
            return Vec::new();
        };
        let Ok(found) = symbolizer.symbolize_single(source, Input::VirtOffset(address)) else {
            // Damaged, or compressed in an unsupported way. Not tried again.
            self.inlining = None;
            return Vec::new();
        };
        let functions = found.into_sym().map(|symbol| symbol.inlined).unwrap_or_default();
        let frame = |function: &InlinedFn| {
            let text = format!("{} [inlined]", demangle_bounded(&function.name));
            StackFrame {
                inlined: true,
                leads_on: true,
                ..StackFrame::new(text)
            }
        };
        functions.iter().rev().map(frame).collect()
    }

    /// The virtual address of an offset, as in the file, before relocation.
    fn address(&self, offset: u64) -> u64 {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.offsets.contains(&offset));
        segment.map_or(offset, |segment| {
            (offset - segment.offsets.start).wrapping_add(segment.address)
        })
    }
}

/// Whether threads begin in a function, by its name in glibc, musl and Go.
pub fn is_bottom(symbol: &str, object: &str) -> bool {
    let name = symbol.split('@').next().unwrap_or_default();
    let name = name.strip_prefix("__GI_").unwrap_or(name);
    match name {
        "_start" | "_start_c" | "_dl_start" | "_dl_start_user" | "libc_start_main_stage2" => true,
        "start_thread"
        | "clone"
        | "__clone"
        | "clone3"
        | "__clone3"
        | "runtime.goexit"
        | "runtime.goexit.abi0" => true,
        // A program may have functions with these names too.
        "start" | "start_c11" => object.starts_with("ld-musl") || object.starts_with("libc.musl"),
        _ => name.starts_with("__libc_start_main") || name.starts_with("__libc_start_call_main"),
    }
}

fn segments<'data>(elf: &impl object::Object<'data>) -> Vec<CodeSegment> {
    let code = elf.segments().filter(|segment| match segment.flags() {
        SegmentFlags::Elf { p_flags } => p_flags & elf::PF_X != 0,
        _ => false,
    });
    let segment = code.map(|segment| {
        let (offset, size) = segment.file_range();
        CodeSegment {
            offsets: offset..offset.saturating_add(size),
            address: segment.address(),
        }
    });
    segment.collect()
}

/// Whether a file contains debug information that is small enough and does not refer to other files: a link could lead
/// to a device, or to a pipe that never answers.
fn has_safe_debug_info<'data>(elf: &impl object::Object<'data>) -> bool {
    let size = elf
        .section_by_name(".debug_info")
        .map_or(0, |section| section.size());
    let is_link = |section| elf.section_by_name(section).is_some();
    (1..=MAX_DEBUG_INFO_BYTES).contains(&size) && !LINK_SECTIONS.into_iter().any(is_link)
}

/// The distribution's debug file, if it is installed.
fn debug_file<'data>(elf: &impl object::Object<'data>, debug_dir: &Path) -> Option<PathBuf> {
    let id = elf.build_id().ok()??;
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (directory, file) = digits.split_at_checked(2)?;
    let path = debug_dir
        .join(".build-id")
        .join(directory)
        .join(format!("{file}.debug"));
    path.is_file().then_some(path)
}

/// In a C library without symbols, the unnamed code before `__libc_start_main` and `pthread_create` calls `main` and
/// the first function of a thread: glibc's `__libc_start_call_main` and `start_thread`.
fn nameless_bottoms<'data>(elf: &impl object::Object<'data>) -> Vec<Range<u64>> {
    let functions: Vec<_> = elf
        .dynamic_symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .collect();
    let starters = functions
        .iter()
        .filter(|symbol| matches!(symbol.name(), Ok("__libc_start_main" | "pthread_create")));
    let nameless = starters.map(|starter| {
        let ends = functions
            .iter()
            .map(|symbol| symbol.address().wrapping_add(symbol.size()));
        let previous = ends
            .filter(|&end| end <= starter.address())
            .max()
            .unwrap_or(starter.address());
        previous..starter.address()
    });
    nameless.collect()
}

fn debug_source(path: &Path) -> Source<'static> {
    let mut elf = source::Elf::new(path);
    elf.debug_syms = true;
    Source::from(elf)
}

/// A path to an open file that stays valid when the file is removed or in another mount namespace.
fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The last component of a path, without the mark of a removed file.
pub fn object_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}

/// The file of a mapping.
pub struct OpenedFile {
    file: File,
    /// Where it is for this tool, or was: `/proc/PID/root/...` if the process has another root directory.
    path: PathBuf,
}

/// Opens the file of a mapping: through the mapping itself, else by its path in the process's or this tool's mount
/// namespace, if it is still the same file.
pub fn open_mapped(
    proc_root: &Path,
    pid: u32,
    mapping: &CodeMapping,
    mapped: &MappedFile,
) -> Option<OpenedFile> {
    let process = proc_root.join(pid.to_string());
    let by_range = process
        .join("map_files")
        .join(format!("{:x}-{:x}", mapping.start, mapping.end));
    let root = process.join("root");
    let inside = root.join(below_root(&root, &mapped.path));
    let file = open_regular(&by_range, None)
        .or_else(|| open_regular(&inside, Some(mapped.key.inode)))
        .or_else(|| open_regular(&mapped.path, Some(mapped.key.inode)))?;
    let is_foreign = identity(&root).is_some_and(|found| Some(found) != identity(Path::new("/")));
    let path = match is_foreign || identity(&mapped.path) != file.metadata().ok().map(inode_of) {
        true => inside,
        false => mapped.path.clone(),
    };
    Some(OpenedFile { file, path })
}

/// A path of a memory map, relative to the root directory of the process. The kernel prints the path from the root of a
/// chroot on, or with the path to it, if the reader is outside.
fn below_root<'p>(root: &Path, mapped: &'p Path) -> &'p Path {
    let outside = fs::read_link(root).ok();
    outside
        .and_then(|outside| mapped.strip_prefix(outside).ok())
        .or_else(|| mapped.strip_prefix("/").ok())
        .unwrap_or(mapped)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(inode_of)
}

fn inode_of(metadata: fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Opens a regular file, and nothing else: opening a device or a pipe may block or have effects. Only the inode
/// identifies it, since memory maps and `stat` have different devices on some file systems.
fn open_regular(path: &Path, inode: Option<u64>) -> Option<File> {
    let fits =
        |metadata: &fs::Metadata| metadata.is_file() && inode.is_none_or(|inode| metadata.ino() == inode);
    fs::metadata(path).ok().filter(fits)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    // The path may lead elsewhere by now.
    file.metadata()
        .is_ok_and(|metadata| fits(&metadata))
        .then_some(file)
}
