//! ELF files that were seen in memory maps: kept open, so that they can be read when the process is gone, and
//! asked for the function at an offset.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use blazesym::symbolize::evict::{self, Evict};
use blazesym::symbolize::source::{self, Source};
use blazesym::symbolize::{InlinedFn, Input, Symbolizer};
use object::{
    Object as _, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache, SegmentFlags, SymbolKind, elf,
};

use super::memory::{FileKey, MappedFile, Mapping};
use super::{Frame, is_bottom, printable};
use crate::find::stack::demangle::demangle;

/// Files that are kept open. Each costs up to three descriptors: ours, blazesym's, and that of its debug
/// file.
pub(super) const MAX_OPEN: usize = 256;
/// Frames that are remembered, over all files.
const MAX_FRAMES: usize = 1 << 16;
/// Labels that are passed over on the way to the start of a function.
const MAX_LABELS: usize = 64;
/// A file that says to be larger is not read: its tables may be as large as it says.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// Debug information of a file that is larger takes longer to read than the names of inlined functions are
/// worth.
const MAX_DEBUG_INFO_BYTES: u64 = 64 << 20;
/// Sections that send the reader of debug information to other files, by names that whoever made the file
/// could choose.
const LINK_SECTIONS: [&str; 3] = [".gnu_debuglink", ".gnu_debugaltlink", ".debug_sup"];

/// The open files by device and inode number.
pub(super) struct Objects {
    symbolizer: Symbolizer,
    debug_dir: PathBuf,
    /// The user who runs this tool through sudo.
    person: Option<u32>,
    open: HashMap<FileKey, Object>,
    /// Counts look-ups, to know which file was not used for the longest time.
    clock: u64,
    remembered: usize,
}

impl Objects {
    /// `debug_dir` is where distributions put debug files, each under `.build-id/NN/REST.debug`.
    pub fn new(debug_dir: PathBuf) -> Objects {
        // Without reload a path is looked at once only: ours are those of descriptors, which stand for one
        // file until they are evicted.
        let symbolizer = Symbolizer::builder()
            .enable_auto_reload(false)
            .enable_demangling(false)
            .build();
        Objects {
            symbolizer,
            debug_dir,
            person: std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()),
            open: HashMap::new(),
            clock: 0,
            remembered: 0,
        }
    }

    pub fn is_open(&self, key: FileKey) -> bool {
        self.open.contains_key(&key)
    }

    /// Keeps a file; the one that was not used for the longest time makes room.
    pub fn keep(&mut self, mapped: &MappedFile, file: File) {
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
        let object = Object {
            file,
            name,
            layout: None,
            frames: HashMap::new(),
            used: self.clock,
        };
        self.open.insert(mapped.key, object);
    }

    /// The frames at an offset of a file, innermost first: what was inlined there, and the function. `None`
    /// for a file that is not open. For a return address the offset is that of the byte before it.
    pub fn frames(&mut self, key: FileKey, offset: u64, is_return: bool) -> Option<Rc<[Frame]>> {
        self.clock += 1;
        let object = self.open.get_mut(&key)?;
        object.used = self.clock;
        if let Some(frames) = object.frames.get(&(offset, is_return)) {
            return Some(Rc::clone(frames));
        }
        if object.layout.is_none() {
            object.layout = Some(Layout::read(
                &object.file,
                &object.name,
                &self.debug_dir,
                self.person,
            ));
        }
        let layout = object.layout.as_mut()?;
        let frames: Rc<[Frame]> = layout
            .frames(&self.symbolizer, &object.name, offset, is_return)
            .into();
        self.remember(key, (offset, is_return), Rc::clone(&frames));
        Some(frames)
    }

    fn remember(&mut self, key: FileKey, place: (u64, bool), frames: Rc<[Frame]>) {
        if self.remembered >= MAX_FRAMES {
            self.remembered = 0;
            self.open.values_mut().for_each(|object| object.frames.clear());
        }
        if let Some(object) = self.open.get_mut(&key) {
            self.remembered += 1;
            object.frames.insert(place, frames);
        }
    }

    fn close(&mut self, key: FileKey) {
        let Some(object) = self.open.remove(&key) else {
            return;
        };
        self.remembered -= object.frames.len();
        let debug_file = object.layout.and_then(|layout| layout.debug_file);
        for path in [Some(descriptor_path(&object.file)), debug_file]
            .into_iter()
            .flatten()
        {
            // Forgetting what was never read is no failure, and there is no other.
            let _ = self.symbolizer.evict(&Evict::from(evict::Elf::new(path)));
        }
    }
}

struct Object {
    file: File,
    /// The last part of the path, fit to be printed.
    name: String,
    /// Read when the first address is looked up.
    layout: Option<Layout>,
    /// What is known, by offset and whether that belongs to a return address.
    frames: HashMap<(u64, bool), Rc<[Frame]>>,
    used: u64,
}

/// What there is to know of an ELF file before its symbols are read.
#[derive(Default)]
struct Layout {
    segments: Vec<Segment>,
    debug_file: Option<PathBuf>,
    /// Symbol tables, in the order in which they are asked.
    symbols: Vec<Source<'static>>,
    /// Debug information, which knows what was inlined. It is not asked for functions: blazesym gives those
    /// in several parts, as compilers like to make them, a wrong offset.
    inlining: Option<Source<'static>>,
    /// Addresses without a symbol that are known to be in functions at the bottom of a stack.
    bottoms: Vec<Range<u64>>,
}

/// Bytes of the file that are loaded as code.
struct Segment {
    offsets: Range<u64>,
    address: u64,
}

impl Layout {
    /// A file that is not ELF, or is damaged, has no segments and no symbols.
    fn read(file: &File, name: &str, debug_dir: &Path, person: Option<u32>) -> Layout {
        let Some(metadata) = file
            .metadata()
            .ok()
            .filter(|metadata| metadata.len() <= MAX_FILE_BYTES)
        else {
            return Layout::default();
        };
        let cache = ReadCache::new(file);
        let Ok(elf) = object::File::parse(&cache) else {
            return Layout::default();
        };
        let own_path = descriptor_path(file);
        let has_symbols = elf.section_by_name(".symtab").is_some();
        let debug_file = if has_symbols {
            None
        } else {
            debug_file(&elf, debug_dir)
        };
        // Its own names first: exported ones are those that people know, `read` rather than
        // `__GI___libc_read`.
        let symbol_files = [Some(&own_path), debug_file.as_ref()];
        let symbols = symbol_files
            .into_iter()
            .flatten()
            .map(|path| elf_source(path, false))
            .collect();
        let inlining = match &debug_file {
            Some(path) => Some(elf_source(path, true)),
            // Debug information that was made to do harm makes blazesym panic, so it is only read from those
            // who could do more harm in easier ways.
            None => {
                let is_trusted = metadata.uid() == 0 || Some(metadata.uid()) == person;
                (is_trusted && has_safe_debug_info(&elf)).then(|| elf_source(&own_path, true))
            }
        };
        let is_libc = name.starts_with("libc.so") || name.starts_with("libc-");
        let is_nameless = is_libc && !has_symbols && debug_file.is_none();
        let bottoms = if is_nameless {
            nameless_bottoms(&elf)
        } else {
            Vec::new()
        };
        Layout {
            segments: segments(&elf),
            debug_file,
            symbols,
            inlining,
            bottoms,
        }
    }

    /// The frames at an offset, innermost first.
    fn frames(&mut self, symbolizer: &Symbolizer, name: &str, offset: u64, is_return: bool) -> Vec<Frame> {
        let address = self.address(offset);
        let past = u64::from(is_return);
        let mut frames = self.inlined(symbolizer, address);
        let find = |source| enclosing(symbolizer, source, address);
        frames.push(match self.symbols.iter().find_map(find) {
            Some((symbol, distance)) => {
                let text = format!(
                    "{}+{:#x} [{name}]",
                    printable(&demangle(&symbol)),
                    distance + past
                );
                Frame {
                    bottom: is_bottom(&symbol, name),
                    ..Frame::new(text)
                }
            }
            None => {
                let bottom = self.bottoms.iter().any(|range| range.contains(&address));
                Frame {
                    bottom,
                    ..Frame::new(format!("{:#x} [{name}]", address.wrapping_add(past)))
                }
            }
        });
        frames
    }

    /// The functions that the compiler put into others at an address.
    fn inlined(&mut self, symbolizer: &Symbolizer, address: u64) -> Vec<Frame> {
        let Some(source) = &self.inlining else {
            return Vec::new();
        };
        let Ok(found) = symbolizer.symbolize_single(source, Input::VirtOffset(address)) else {
            // Damaged, or compressed in a way that is not supported. It is not asked again.
            self.inlining = None;
            return Vec::new();
        };
        let functions = found.into_sym().map(|symbol| symbol.inlined).unwrap_or_default();
        let frame = |function: &InlinedFn| {
            let text = format!("{} [inlined]", printable(&demangle(&function.name)));
            Frame {
                inlined: true,
                ..Frame::new(text)
            }
        };
        functions.iter().rev().map(frame).collect()
    }

    /// The address of an offset as the file itself has it, before it is moved in memory.
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

/// The name of the function at an address, and how far into it that is.
///
/// For blazesym a label inside a function hides the rest of it, such as the `$x` and `$d` that tell code from
/// data on arm64. What is before the label is still found, and says how far it reaches.
fn enclosing<'a>(symbolizer: &'a Symbolizer, source: &Source, address: u64) -> Option<(Cow<'a, str>, u64)> {
    let find = |at| {
        symbolizer
            .symbolize_single(source, Input::VirtOffset(at))
            .ok()?
            .into_sym()
    };
    let nearest = find(address)?;
    let (mut start, mut size) = (nearest.addr, nearest.size);
    for _ in 0..MAX_LABELS {
        let Some(before) = start.checked_sub(1).filter(|_| size.is_none()).and_then(find) else {
            break;
        };
        let distance = address.saturating_sub(before.addr);
        if before.size.is_some_and(|size| distance < size as u64) {
            return Some((before.name, distance));
        }
        (start, size) = (before.addr, before.size);
    }
    let is_function = !nearest.name.is_empty() && !nearest.name.starts_with('$');
    is_function.then_some((nearest.name, nearest.offset as u64))
}

fn segments<'data>(elf: &impl object::Object<'data>) -> Vec<Segment> {
    let code = elf.segments().filter(|segment| match segment.flags() {
        SegmentFlags::Elf { p_flags } => p_flags & elf::PF_X != 0,
        _ => false,
    });
    let segment = code.map(|segment| {
        let (offset, size) = segment.file_range();
        Segment {
            offsets: offset..offset.saturating_add(size),
            address: segment.address(),
        }
    });
    segment.collect()
}

/// Whether a file has debug information of its own, of a size that is read in a moment, and none that leads
/// elsewhere: a link could be made to lead to a device, or to a pipe that never answers.
fn has_safe_debug_info<'data>(elf: &impl object::Object<'data>) -> bool {
    let size = elf
        .section_by_name(".debug_info")
        .map_or(0, |section| section.size());
    let is_link = |section| elf.section_by_name(section).is_some();
    (1..=MAX_DEBUG_INFO_BYTES).contains(&size) && !LINK_SECTIONS.into_iter().any(is_link)
}

/// The debug file of the distribution for a file, where it is installed.
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

/// In a C library without symbols, the nameless code before `__libc_start_main` and `pthread_create` calls
/// `main` and the first function of a thread: glibc's `__libc_start_call_main` and `start_thread`.
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

fn elf_source(path: &Path, debug_syms: bool) -> Source<'static> {
    let mut elf = source::Elf::new(path);
    elf.debug_syms = debug_syms;
    Source::from(elf)
}

/// A path to an open file that stays right when the file is removed, or is in another mount namespace.
fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The last part of a path, without the mark of a file that was removed.
pub(super) fn object_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    printable(name.strip_suffix(" (deleted)").unwrap_or(&name)).into_owned()
}

/// Opens the file behind a mapping: through the mapping itself, or else by its path as the process or as this
/// tool sees it, where that still is the same file.
pub(super) fn open_mapped(
    proc_root: &Path,
    pid: u32,
    mapping: &Mapping,
    mapped: &MappedFile,
) -> Option<File> {
    let process = proc_root.join(pid.to_string());
    let by_range = process
        .join("map_files")
        .join(format!("{:x}-{:x}", mapping.start, mapping.end));
    let inside = process
        .join("root")
        .join(mapped.path.strip_prefix("/").unwrap_or(&mapped.path));
    open_regular(&by_range, None)
        .or_else(|| open_regular(&inside, Some(mapped.key.inode)))
        .or_else(|| open_regular(&mapped.path, Some(mapped.key.inode)))
}

/// Opens a regular file, and nothing that answers late or does something when it is opened. The inode number
/// alone tells whether it is the right one, since memory maps and `stat` do not agree about devices on some
/// file systems.
fn open_regular(path: &Path, inode: Option<u64>) -> Option<File> {
    let fits =
        |metadata: &fs::Metadata| metadata.is_file() && inode.is_none_or(|inode| metadata.ino() == inode);
    fs::metadata(path).ok().filter(fits)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    // What the path leads to may have changed meanwhile.
    file.metadata()
        .is_ok_and(|metadata| fits(&metadata))
        .then_some(file)
}
