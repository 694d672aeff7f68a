// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The BPF objects of `src/bpf` with their skeletons: build.rs makes a module for each `NAME.bpf.c`.

use std::io;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use fdeflate::Decompressor;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

/// Implements [`ToolSkelBuilder`] and its companions for one skeleton. build.rs writes a call for each object that has
/// the filter's constants.
macro_rules! impl_tool_skeleton {
    ($builder:ident, $open:ident, $loaded:ident) => {
        impl $crate::bpf::ToolSkelBuilder for $builder {
            type Open = $open<'static>;

            fn elf() -> std::io::Result<&'static [u8]> {
                OBJECT.elf()
            }
        }

        impl $crate::bpf::OpenToolSkel for $open<'static> {
            type Rodata = types::rodata;
            type Loaded = $loaded<'static>;

            fn rodata(&mut self) -> anyhow::Result<&mut types::rodata> {
                $crate::bpf::mapped(self.maps.rodata_data.as_deref_mut())
            }

            fn set_run_constants(&mut self, constants: &$crate::bpf::RunConstants) -> anyhow::Result<()> {
                let rodata = self.rodata()?;
                let slots = rodata.wanted_comms.len();
                rodata.filter_comms = $crate::bpf::pattern_count(&constants.comms, slots)?;
                for (slot, comm) in rodata.wanted_comms.iter_mut().zip(&constants.comms) {
                    (slot.value, slot.mask) = (comm.value, comm.mask);
                }
                (rodata.pid_ns_dev, rodata.pid_ns_ino) = constants.pid_namespace.unwrap_or((0, 0));
                rodata.filter_pid = constants.only_pid.unwrap_or(0);
                rodata.filter_pids = constants.filter_pids;
                rodata.filter_uid = constants.uid.is_some();
                rodata.wanted_uid = constants.uid.unwrap_or(0);
                rodata.filter_cgroups = constants.cgroups;
                rodata.has_cookies = constants.has_cookies;
                rodata.wake_at = constants.wake_at;
                let task = constants.task_offsets.unwrap_or_default();
                rodata.task_offsets.alt_stack = task.alt_stack;
                rodata.task_offsets.utask = task.utask;
                rodata.task_offsets.return_probes = task.return_probes;
                rodata.task_offsets.stack = task.stack;
                rodata.task_offsets.next = task.next;
                Ok(())
            }
        }

        impl $crate::bpf::ToolSkel for $loaded<'static> {
            fn counters(&self) -> anyhow::Result<$crate::bpf::RunCounters<'_>> {
                let bss = $crate::bpf::mapped(self.maps.bss_data.as_deref())?;
                Ok($crate::bpf::RunCounters {
                    lost: &bss.lost,
                    unmatched: &bss.unmatched,
                    hits: &bss.hits,
                    called: &bss.called,
                })
            }
        }
    };
}
use impl_tool_skeleton;

/// Asserts at compile time that a Rust type has the layout of a C type: its size, and the offsets of these fields.
macro_rules! assert_same_layout {
    ($rust:ty, $c:ty, $($field:ident),+) => {
        const _: () = {
            assert!(size_of::<$rust>() == size_of::<$c>());
            $(assert!(std::mem::offset_of!($rust, $field) == std::mem::offset_of!($c, $field));)+
        };
    };
}
pub(crate) use assert_same_layout;

include!(concat!(env!("OUT_DIR"), "/skeletons.rs"));

/// The skeleton of an object with the filter's constants and the counters of events, as the builder of a run uses it.
pub trait ToolSkelBuilder: SkelBuilder<'static, Output = <Self as ToolSkelBuilder>::Open> + Default {
    type Open: OpenToolSkel;

    /// The object.
    ///
    /// # Errors
    /// The binary is damaged.
    fn elf() -> io::Result<&'static [u8]>;
}

/// An opened object, whose constants and map sizes can still be changed.
pub trait OpenToolSkel: OpenSkel<'static, Output = <Self as OpenToolSkel>::Loaded> {
    /// The object's constants, those of the tool included.
    type Rodata;
    type Loaded: ToolSkel;

    fn rodata(&mut self) -> Result<&mut Self::Rodata>;

    /// Sets the constants that all objects share. Fails if the filter has too many thread names.
    fn set_run_constants(&mut self, constants: &RunConstants) -> Result<()>;
}

/// A loaded object.
pub trait ToolSkel: Skel<'static> {
    /// The counters that all objects share. The programs add to them while they are borrowed: read them as atomics.
    fn counters(&self) -> Result<RunCounters<'_>>;
}

/// The constants that all objects of a run share.
#[derive(Clone, Default)]
pub struct RunConstants {
    /// Device and inode of the PID namespace that numbers processes; None for the initial one.
    pub pid_namespace: Option<(u64, u64)>,
    /// The only process to report.
    pub only_pid: Option<u32>,
    /// Report only processes in the map `pids`.
    pub filter_pids: bool,
    /// The only user to report.
    pub uid: Option<u32>,
    /// Thread names to report, at most 8; all if empty.
    pub comms: Vec<CommConstant>,
    /// Length of the used part of the map `cgroups`; 0 to report all control groups.
    pub cgroups: u32,
    /// The kernel has `bpf_get_attach_cookie` (5.15).
    pub has_cookies: bool,
    /// Bytes in the ring that wake the reader.
    pub wake_at: u64,
    /// For programs that match returns with entries.
    pub task_offsets: Option<TaskOffsets>,
}

/// Offsets of members of the kernel's structs, in bytes. `task.bpf.h` says which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    pub alt_stack: u32,
    pub utask: u32,
    pub return_probes: u32,
    pub stack: u32,
    pub next: u32,
}

/// A pattern of thread names: `(comm & mask) == value`.
#[derive(Clone, Copy)]
pub struct CommConstant {
    pub value: [u64; 2],
    pub mask: [u64; 2],
}

/// The counters that all objects of a run share, in memory that the kernel writes to.
pub struct RunCounters<'a> {
    /// Events that found the ring full.
    pub lost: &'a u64,
    /// Calls of which only the entry or only the return was seen.
    pub unmatched: &'a u64,
    /// Program runs by CPU and kind of trap: see `HitCounters`.
    pub hits: &'a [u64],
    /// Bytes of called functions: see `CalledFunctions`.
    pub called: &'a [u8],
}

/// Loads the programs and maps of a skeleton into the kernel.
pub fn load<'obj, S: OpenSkel<'obj>>(open: S) -> Result<S::Output> {
    open.load().context("failed to load the BPF programs")
}

fn mapped<T>(data: Option<T>) -> Result<T> {
    data.context("the BPF object has no memory for its variables")
}

fn pattern_count(comms: &[CommConstant], slots: usize) -> Result<u32> {
    ensure!(comms.len() <= slots, "too many thread names (maximum {slots})");
    Ok(u32::try_from(comms.len())?)
}

/// A BPF object, compressed in the binary and unpacked when it is first opened: a run needs one to four of
/// them.
pub struct EmbeddedObject {
    compressed: &'static [u8],
    elf_bytes: usize,
    elf: OnceLock<Vec<u8>>,
}

impl EmbeddedObject {
    /// `compressed` is a zlib stream of `elf_bytes` bytes.
    const fn new(compressed: &'static [u8], elf_bytes: usize) -> Self {
        Self {
            compressed,
            elf_bytes,
            elf: OnceLock::new(),
        }
    }

    /// The ELF file.
    pub fn elf(&self) -> io::Result<&[u8]> {
        if let Some(elf) = self.elf.get() {
            return Ok(elf);
        }
        let mut elf = vec![0; self.elf_bytes];
        let mut decompressor = Decompressor::new();
        match decompressor.read(self.compressed, &mut elf, 0, true) {
            Ok((_, bytes)) if bytes == self.elf_bytes => Ok(self.elf.get_or_init(|| elf)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "corrupt BPF object in the binary",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;

    #[test]
    fn constants_reach_the_object() {
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = functrace::FunctraceSkelBuilder::default()
            .open(storage)
            .expect("an object");
        let comm = CommConstant {
            value: [1, 2],
            mask: [3, 4],
        };
        let mut constants = RunConstants {
            uid: Some(7),
            comms: vec![comm; 8],
            wake_at: 9,
            ..RunConstants::default()
        };
        open.set_run_constants(&constants).expect("eight names fit");
        let rodata = open.rodata().expect("constants");
        assert!(rodata.filter_uid);
        assert_eq!(
            (rodata.wanted_uid, rodata.filter_comms, rodata.wake_at),
            (7, 8, 9)
        );
        assert_eq!(rodata.wanted_comms[7].mask, [3, 4]);

        constants.comms.push(comm);
        assert!(open.set_run_constants(&constants).is_err());
    }

    #[test]
    fn corrupt_object_is_an_error() {
        assert!(EmbeddedObject::new(&[0xff; 8], 100).elf().is_err());
        let short = functrace::OBJECT.elf_bytes + 1;
        assert!(
            EmbeddedObject::new(functrace::OBJECT.compressed, short)
                .elf()
                .is_err()
        );
    }
}
