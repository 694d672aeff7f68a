// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! Which files are searched, which functions they hold, and where in them probes are placed.

mod alternatives;
mod copies;
pub mod errors;
pub mod files;
pub mod finder;
pub mod functions;
pub mod placing;
pub mod spec_target;
pub mod traced;
mod uncalled;
