// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The addresses that code loads into registers, and those that it calls.

#[cfg(any(test, target_arch = "aarch64"))]
mod arm64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use arm64::{calls, loads};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{calls, loads};

/// What an instruction loads into a register. Virtual addresses, before relocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedAddress {
    /// This number, which may be an address.
    Value(u64),
    /// The pointer at this address.
    PointerAt(u64),
}
