// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Measures what each kind of trap costs on this machine.
//!
//! Probes with empty programs are attached to functions of this process, for this process only, and the functions are
//! called in a loop.

use std::arch::global_asm;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys as sys_bpf;
use libbpf_rs::skel::SkelBuilder;

use crate::bpf::load;
use crate::bpf::prices::PricesSkelBuilder;
use crate::find::host::proc::Proc;
use crate::probe::attach::{AttachMode, Attacher, ProbeProgram};
use crate::probe::hits::TrapKind;
use crate::probe::point::{Cookie, Ends, ProbePoint};
use crate::probe::scope::filter::ProcessFilter;

// Probes sit on the first instruction of each function. The kernel emulates that of the first and the third one, as it
// does for most functions, and single-steps that of the second one. The third is also called from self_test.rs, which
// may be in another codegen unit.
unsafe extern "C" {
    fn ubpf_price_emulated();
    fn ubpf_price_stepped();
    pub(super) fn ubpf_price_returning();
}

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text",
    ".p2align 4",
    "ubpf_price_emulated: push rbp; pop rbp; ret",
    ".p2align 4",
    "ubpf_price_stepped: xor eax, eax; ret",
    ".p2align 4",
    ".globl ubpf_price_returning",
    ".hidden ubpf_price_returning",
    "ubpf_price_returning: push rbp; pop rbp; ret",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text",
    ".p2align 4",
    "ubpf_price_emulated: b 1f; 1: ret",
    ".p2align 4",
    "ubpf_price_stepped: mov x0, xzr; ret",
    ".p2align 4",
    ".globl ubpf_price_returning",
    ".hidden ubpf_price_returning",
    "ubpf_price_returning: b 2f; 2: ret",
    ".popsection",
);

/// Time that the kernel takes for a trap, without the BPF program that it runs; nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct TrapPrices {
    /// A breakpoint on an instruction that the kernel emulates.
    pub emulated: f64,
    /// A breakpoint on an instruction that the kernel single-steps out of line.
    pub stepped: f64,
    /// A return probe, in addition to the breakpoint at the entry.
    pub returning: f64,
}

impl TrapPrices {
    /// Measures the prices. Enables the kernel's BPF run-time statistics while it measures.
    ///
    /// # Errors
    /// Run-time statistics cannot be enabled, or the probes cannot be attached.
    pub fn measure(mode: AttachMode) -> Result<Self> {
        let _stats = enable_run_stats()?;
        Self::measure_with_stats(mode)
    }

    /// As [`TrapPrices::measure`], when the statistics are enabled already: they are part of the price.
    pub(super) fn measure_with_stats(mode: AttachMode) -> Result<Self> {
        let mut storage = MaybeUninit::uninit();
        let mut open = PricesSkelBuilder::default().open(&mut storage)?;
        mode.prepare([&mut open.progs.price_entry, &mut open.progs.price_return]);
        let skel = load(open)?;
        let programs = vec![
            ProbeProgram {
                program: &skel.progs.price_return,
                runs: Ends::Return,
            },
            ProbeProgram {
                program: &skel.progs.price_entry,
                runs: Ends::Entry,
            },
        ];
        let this_process = ProcessFilter::of_process(std::process::id());
        let mut attacher = Attacher::new(mode, &this_process, programs)?;
        let file = File::open("/proc/self/exe").context("failed to open /proc/self/exe")?;
        attacher.attach(&file, &own_points()?)?;
        let [emulated, stepped, both] =
            ns_per_call([ubpf_price_emulated, ubpf_price_stepped, ubpf_price_returning]);
        let (runs, run_ns) = attacher.runs()?;
        ensure!(runs >= u64::from(4 * ROUNDS * CALLS), "its probes were not hit");
        // Detaching takes longer than the measurement.
        attacher.detach_in_background();
        let program = run_ns as f64 / runs as f64;
        // On an emulated machine, a timed run of the program can take longer than the whole trap does at other times.
        let price = |ns: f64| ns.max(0.0);
        Ok(Self {
            emulated: price(emulated - program),
            stepped: price(stepped - program),
            returning: price(both - emulated - program),
        })
    }

    /// The price of one hit of this kind.
    pub fn of(&self, kind: TrapKind) -> f64 {
        match kind {
            TrapKind::Emulated => self.emulated,
            TrapKind::Stepped => self.stepped,
            TrapKind::Return => self.returning,
            TrapKind::ReturnOfEmulated => self.emulated + self.returning,
            TrapKind::ReturnOfStepped => self.stepped + self.returning,
        }
    }
}

/// The first instructions of the three functions, as offsets in the executable of this process.
pub(super) fn own_points() -> Result<[ProbePoint; 3]> {
    let mappings = Proc::host()
        .mappings(std::process::id())
        .context("failed to read the memory map of this process")?;
    let point = |function: unsafe extern "C" fn(), ends| -> Result<ProbePoint> {
        let address = function as usize as u64;
        let mapping = mappings
            .iter()
            .find(|mapping| (mapping.start..mapping.end).contains(&address))
            .context("failed to find this program in its memory map")?;
        let offset = address - mapping.start + mapping.offset;
        Ok(ProbePoint {
            offset,
            cookie: Cookie::default(),
            ends,
            semaphore: None,
            movable: None,
            stepped: false,
        })
    };
    Ok([
        point(ubpf_price_emulated, Ends::Entry)?,
        point(ubpf_price_stepped, Ends::Entry)?,
        point(ubpf_price_returning, Ends::Both)?,
    ])
}

const ROUNDS: u32 = 16;
/// Calls of each function in a round.
const CALLS: u32 = 48;

/// Time of one call of each function, nanoseconds, in the fastest of several rounds. The functions take turns within a
/// round, so that a disturbance that lasts affects all of them. Wall time, since the CPU-time clock is coarse on some
/// machines.
fn ns_per_call<const N: usize>(functions: [unsafe extern "C" fn(); N]) -> [f64; N] {
    let mut best = [Duration::MAX; N];
    for _ in 0..ROUNDS {
        for (best, function) in best.iter_mut().zip(functions) {
            let start = Instant::now();
            for _ in 0..CALLS {
                // SAFETY: one of the functions above, which change no memory and no callee-saved register.
                unsafe { function() };
            }
            *best = start.elapsed().min(*best);
        }
    }
    best.map(|time| time.as_nanos() as f64 / f64::from(CALLS))
}

/// Enables BPF run-time statistics until the descriptor is closed (5.8). They cover all BPF programs of the machine,
/// and cost two clock reads per run.
pub(super) fn enable_run_stats() -> Result<OwnedFd> {
    // SAFETY: passes an integer only.
    let fd = unsafe { sys_bpf::bpf_enable_stats(sys_bpf::BPF_STATS_RUN_TIME) };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd)).context("failed to enable BPF run-time statistics");
    }
    // SAFETY: a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
