//! Which processes a run is about, and which of them get breakpoints.

pub mod filter;
pub mod hold_guard;
pub mod members;
pub mod proc_match;
pub mod watcher;
