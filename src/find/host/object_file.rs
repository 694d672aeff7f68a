// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Opened files of processes, and which of them are one inode to the kernel.

use std::cell::OnceCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, fstatfs};

use crate::find::elf::ElfFile;

/// Bytes of a file on overlayfs that are compared: ELF header, segments and build id.
const HEAD: usize = 4096;

/// When a file last changed: seconds and nanoseconds.
pub type ChangeTime = (i64, i64);

/// An opened file that some process maps or could map.
#[derive(Debug)]
pub struct ObjectFile {
    /// Open for reading.
    pub file: File,
    /// Which inode it is.
    pub id: FileId,
    /// When it had last changed as it was opened.
    pub changed: ChangeTime,
    /// The path in the mount namespace of its process, for messages.
    pub path: PathBuf,
    elf: OnceCell<Rc<ElfFile>>,
}

impl ObjectFile {
    /// A file that is already open.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(file: File, path: PathBuf) -> io::Result<ObjectFile> {
        let id = FileId::of(&file)?;
        let changed = change_time(&file)?;
        Ok(ObjectFile {
            file,
            id,
            changed,
            path,
            elf: OnceCell::new(),
        })
    }

    /// Whether the file is as it was when it was opened.
    ///
    /// # Errors
    /// It can no longer be read.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        Ok(change_time(&self.file)? == self.changed)
    }

    /// Opens a file by path.
    ///
    /// # Errors
    /// Those of [`open_regular`].
    pub fn at(path: &Path) -> io::Result<ObjectFile> {
        ObjectFile::new(open_regular(path)?, path.to_path_buf())
    }

    /// Opens a file by path, and parses its ELF headers.
    ///
    /// # Errors
    /// It cannot be opened, or those of [`ElfFile::open`].
    pub fn with_elf(path: &Path) -> Result<(ObjectFile, Rc<ElfFile>)> {
        let object = ObjectFile::at(path).with_context(|| format!("failed to open {}", path.display()))?;
        let elf = object.elf()?;
        Ok((object, elf))
    }

    /// The file as an ELF file. Its headers are parsed on the first call only.
    ///
    /// # Errors
    /// Those of [`ElfFile::open`].
    pub fn elf(&self) -> Result<Rc<ElfFile>> {
        if let Some(elf) = self.elf.get() {
            return Ok(elf.clone());
        }
        let elf = Rc::new(ElfFile::open(self.file.try_clone()?, &self.path)?);
        Ok(self.elf.get_or_init(|| elf).clone())
    }
}

/// The inode of an opened file, as the kernel's uprobes see it.
///
/// On most file systems that is device and inode number. A file on overlayfs stands for a file of a lower
/// file system, which is what a probe is attached to: N containers of one image are N overlays, hence N
/// devices, over one file. The lower file is not accessible, but its times, size and content show through.
/// Its change time, which is set only when the image is unpacked, differs between copies in different images.
/// Its inode number shows through too; overlayfs may use the upper half for itself, so only the lower half
/// counts. The head of the file guards against coincidence.
///
/// Known limit: with `metacopy=on`, a file whose owner was changed in a container has its own attributes over
/// shared content and is taken for another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(InodeIdentity);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum InodeIdentity {
    Inode { dev: u64, ino: u64 },
    Overlay(FileFingerprint),
}

impl FileId {
    /// The identity of an opened file.
    ///
    /// # Errors
    /// The file cannot be read.
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

/// The properties of a file that show through an overlay.
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

/// A set of files with each inode once, even if a container shows it through an overlay and the host does
/// not.
#[derive(Default, Debug)]
pub struct FileSet {
    ids: HashSet<FileId>,
    /// Whether a file with this fingerprint was seen through an overlay. Two files that were not differ by
    /// `ids`.
    fingerprints: HashMap<FileFingerprint, bool>,
}

impl FileSet {
    /// Adds a file. False if its inode is in the set already.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn insert(&mut self, object: &ObjectFile) -> io::Result<bool> {
        let through_overlay = matches!(object.id, FileId(InodeIdentity::Overlay(_)));
        let known = self.fingerprints.entry(FileFingerprint::of(&object.file)?);
        let is_alias = matches!(&known, Entry::Occupied(known) if through_overlay || *known.get());
        *known.or_default() |= through_overlay;
        Ok(self.ids.insert(object.id) && !is_alias)
    }
}

/// Opens a regular file for reading.
///
/// # Errors
/// The file does not exist, may not be read, or is a pipe, a device or the like.
pub fn open_regular(path: &Path) -> io::Result<File> {
    reopen(
        &OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)?,
    )
}

/// Opens the file behind an `O_PATH` descriptor for reading. That way its type is checked before it is
/// opened: opening a device can have side effects, and opening a pipe can block.
pub(super) fn reopen(handle: &File) -> io::Result<File> {
    if !handle.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn change_time(file: &File) -> io::Result<ChangeTime> {
    let meta = file.metadata()?;
    Ok((meta.ctime(), meta.ctime_nsec()))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::find::elf::image::ElfImage;

    /// A directory that is removed at the end of the test.
    struct TestDir(PathBuf);

    impl TestDir {
        fn new(name: &str) -> TestDir {
            let path = std::env::temp_dir().join(format!("find-object-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            TestDir(path)
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).unwrap();
            path
        }
    }

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn id_of(path: &Path) -> FileId {
        FileId::of(&open_regular(path).unwrap()).unwrap()
    }

    #[test]
    fn pipes_devices_and_directories_are_rejected_without_blocking() {
        let dir = TestDir::new("pipe");
        let pipe = dir.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let kind = |path: &Path| open_regular(path).unwrap_err().kind();
        for path in [&pipe, Path::new("/dev/zero"), &dir.0] {
            assert_eq!(kind(path), ErrorKind::InvalidInput);
        }
        assert_eq!(kind(&dir.0.join("absent")), ErrorKind::NotFound);
    }

    #[test]
    fn hard_links_are_one_file_and_copies_are_not() {
        let dir = TestDir::new("identity");
        let (one, copy) = (dir.write("one", "text"), dir.write("copy", "text"));
        let link = dir.0.join("link");
        fs::hard_link(&one, &link).unwrap();
        assert_eq!(id_of(&one), id_of(&link));
        assert_ne!(id_of(&one), id_of(&copy));
        let object = ObjectFile::at(&one).unwrap();
        assert_eq!((object.id, object.path), (id_of(&link), one));
    }

    #[test]
    fn elf_is_parsed_once() {
        let dir = TestDir::new("elf");
        let object = ObjectFile::at(&dir.write("elf", ElfImage::default().bytes())).unwrap();
        assert!(Rc::ptr_eq(&object.elf().unwrap(), &object.elf().unwrap()));
        let text = ObjectFile::at(&dir.write("text", "not an ELF file")).unwrap();
        assert!(text.elf().is_err());
    }
}
