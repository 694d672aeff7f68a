//! Stacks: addresses as names.

pub mod demangle;
pub mod symbolize;
