// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Debug information: signatures of functions, types, and where arguments are passed.

pub mod abi;
pub mod dwarf;
pub mod prototypes;
pub mod signatures;
pub mod types;
