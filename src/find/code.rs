// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Machine code: instruction boundaries, and where to put probes.

pub mod call_start;
pub mod closed;
pub mod instructions;
pub mod loads;
pub mod placement;
