//! The BPF objects. build.rs generates one module, with a skeleton, for each `src/bpf/*.bpf.c`.

use anyhow::{Context, Result};
use libbpf_rs::skel::OpenSkel;

include!(concat!(env!("OUT_DIR"), "/skeletons.rs"));

/// Loads the programs and maps of a skeleton into the kernel.
pub fn load<'obj, S: OpenSkel<'obj>>(open: S) -> Result<S::Output> {
    open.load().context("failed to load the BPF programs")
}
