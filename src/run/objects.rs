// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The BPF object of a tool in the kernel: its maps once, and its programs in parts that share them.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys::{bpf_map__fd, bpf_object__prepare};
use libbpf_rs::skel::Skel;
use libbpf_rs::{AsRawLibbpf, MapCore, Object, ObjectBuilder, OpenObject};

use super::programs::{LoadedPrograms, ProgramChoice};
use crate::bpf::{OpenToolSkel, ToolSkelBuilder, load};
use crate::probe::attach::AttachMode;

/// Opens the object of a tool. It stays open until the process exits.
///
/// # Errors
/// libbpf refuses it.
pub fn open_skeleton<B: ToolSkelBuilder>() -> Result<B::Open> {
    let storage: &'static mut MaybeUninit<OpenObject> = Box::leak(Box::new(MaybeUninit::uninit()));
    B::default()
        .open(storage)
        .context("failed to open the BPF object")
}

/// Creates the maps and loads the chosen programs, in two parts at the same time if both have some: the verifier takes
/// 8 ms for each end of a call. `more` opens the object once more. Returns the skeleton, and all programs.
///
/// # Errors
/// The kernel refuses a map or a program.
pub fn load_parts<O: OpenToolSkel>(
    mut open: O,
    more: &ObjectSource,
    choice: ProgramChoice,
    mode: AttachMode,
) -> Result<(&'static O::Loaded, Vec<LoadedPrograms>)>
where
    O::Loaded: 'static,
{
    let (main, other) = choice.parts();
    main.select(open.open_object_mut(), mode);
    let Some(other) = other else {
        let skel: &'static O::Loaded = Box::leak(Box::new(load(open)?));
        let programs = LoadedPrograms::new(main, skel.object());
        return Ok((skel, vec![programs]));
    };
    let maps = SharedMaps::create(open.open_object_mut())?;
    let (skel, others) = thread::scope(|scope| {
        let thread = scope.spawn(|| more.load(&maps, other, mode));
        let skel = load(open);
        (skel, thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    // Its counters are read until the process exits, which is also when the kernel frees it.
    let skel: &'static O::Loaded = Box::leak(Box::new(skel?));
    let others = Box::leak(Box::new(others?));
    Ok((
        skel,
        vec![
            LoadedPrograms::new(main, skel.object()),
            LoadedPrograms::new(other, others),
        ],
    ))
}

/// An object that can be opened again, for more of its programs.
pub struct ObjectSource {
    elf: fn() -> io::Result<&'static [u8]>,
    name: OsString,
}

impl ObjectSource {
    /// Of the object that `opened` was opened from.
    pub fn new<B: ToolSkelBuilder>(opened: &OpenObject) -> ObjectSource {
        ObjectSource {
            elf: B::elf,
            // It is a part of the names of some maps.
            name: opened.name().unwrap_or_default().to_owned(),
        }
    }

    /// Loads other programs of a loaded object, with the same maps.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn load(&self, maps: &SharedMaps, choice: ProgramChoice, mode: AttachMode) -> Result<Object> {
        let mut builder = ObjectBuilder::default();
        builder.name(self.name.to_string_lossy())?;
        let mut object = builder
            .open_memory((self.elf)()?)
            .context("failed to open the BPF object")?;
        choice.select(&mut object, mode);
        maps.share_with(&mut object)?;
        object.load().context("failed to load the BPF programs")
    }
}

/// The maps of an object, by name.
pub struct SharedMaps(Vec<(OsString, OwnedFd)>);

impl SharedMaps {
    /// Creates the maps of an open object, whose programs are loaded later.
    fn create(object: &mut OpenObject) -> Result<SharedMaps> {
        // SAFETY: the pointer is to an open object, which is not used otherwise meanwhile.
        let status = unsafe { bpf_object__prepare(object.as_libbpf_object().as_ptr()) };
        if status < 0 {
            let error = io::Error::from_raw_os_error(-status);
            return Err(error).context("failed to create the BPF maps");
        }
        let maps = object.maps_mut().map(|map| {
            // SAFETY: the pointer is to a map of the object.
            let fd = unsafe { bpf_map__fd(map.as_libbpf_object().as_ptr()) };
            ensure!(fd >= 0, "a BPF map was not created");
            // SAFETY: the object, which lives on, owns the file descriptor.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            Ok((map.name().to_owned(), fd.try_clone_to_owned()?))
        });
        Ok(SharedMaps(maps.collect::<Result<_>>()?))
    }

    /// Those of a loaded object.
    ///
    /// # Errors
    /// File descriptors run out.
    pub fn of(object: &Object) -> Result<SharedMaps> {
        let maps = object
            .maps()
            .map(|map| Ok((map.name().to_owned(), map.as_fd().try_clone_to_owned()?)));
        Ok(SharedMaps(maps.collect::<Result<_>>()?))
    }

    /// Makes an open object use these maps instead of its own.
    fn share_with(&self, object: &mut OpenObject) -> Result<()> {
        for mut map in object.maps_mut() {
            let shared = self.0.iter().find(|(name, _)| name == map.name());
            let (_, fd) = shared.context("the BPF object has other maps")?;
            map.reuse_fd(fd.as_fd()).context("failed to share a BPF map")?;
        }
        Ok(())
    }
}
