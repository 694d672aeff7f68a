// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Machine code: which instructions can be probed, and where in a function a probe costs least.

pub mod instructions;
pub mod placement;
