//! Machine code: instruction boundaries, and where to put probes.

pub mod instructions;
pub mod placement;
