//! One run of a tool, from its options to the summary.

pub mod cost_report;
pub mod session;
