//! One run of a tool, from its options to the summary.

pub mod session;
