//! Stacks: from addresses to names.

pub mod demangle;
pub mod symbolize;
