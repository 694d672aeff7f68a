// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! What the dynamic loader's file layout depends on: the architecture.

#[cfg(target_arch = "aarch64")]
pub use aarch64::{CACHE_ABI, LIB, LIBRARY_DIRS, NAME};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{CACHE_ABI, LIB, LIBRARY_DIRS, NAME};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    pub const NAME: &str = "x86_64";
    /// The ABI byte of entries in `ld.so.cache`.
    pub const CACHE_ABI: u32 = 0x0300;
    pub const LIBRARY_DIRS: [&str; 6] = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ];
    /// Values of `$LIB`: on Debian and elsewhere.
    pub const LIB: [&str; 2] = ["lib/x86_64-linux-gnu", "lib64"];
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    pub const NAME: &str = "aarch64";
    /// The ABI byte of entries in `ld.so.cache`.
    pub const CACHE_ABI: u32 = 0x0a00;
    pub const LIBRARY_DIRS: [&str; 6] = [
        "/lib/aarch64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ];
    /// Values of `$LIB`: on Debian and elsewhere.
    pub const LIB: [&str; 2] = ["lib/aarch64-linux-gnu", "lib64"];
}

/// The directories below `glibc-hwcaps` that glibc uses on this processor, best first.
#[cfg(target_arch = "x86_64")]
pub fn processor_levels() -> Vec<&'static str> {
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
        .filter(|&(_, is_usable)| is_usable)
        .map(|(name, _)| name)
        .collect()
}

/// glibc has no such directories for this architecture.
#[cfg(target_arch = "aarch64")]
pub fn processor_levels() -> Vec<&'static str> {
    Vec::new()
}
