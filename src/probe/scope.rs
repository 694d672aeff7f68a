// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which processes a run traces, and which of them get breakpoints.

pub mod breakpoints;
pub mod filter;
pub mod members;
pub mod proc_match;
